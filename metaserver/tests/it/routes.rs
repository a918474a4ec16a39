//! The routes of subjects: listing, adding, removing and extending; what is removed stays removed.

use qmq_model::BrokerRole;
use qmq_protocol::command::client_register::ClientType;

use crate::node::{G1, G2, Master, Node, Place, question};

on_each_database! {
    groups_and_routes_are_listed_without_an_envelope,
    a_new_subject_gets_a_tag_once,
    a_group_is_added_to_a_route,
    a_removed_group_is_not_put_back,
    what_cannot_be_removed_is_named,
    routes_are_extended_by_a_group_that_exists,
    a_route_never_outgrows_its_column,
}

const G3: Master = master("g3", "10.0.0.3:20881", BrokerRole::Master);
const DELAY: Master = master("d1", "10.0.0.4:20881", BrokerRole::DelayMaster);

const fn master(group: &'static str, address: &'static str, role: BrokerRole) -> Master {
    Master {
        group,
        address,
        role,
    }
}

const EMPTY_MAP: &str = "{\"status\":0,\"message\":\"\",\"data\":{}}\n";

async fn route(node: &Node, subject: &str, groups: &[&str]) {
    let consumer = question(subject, ClientType::Consumer);
    node.ask_until(consumer, |answer| answer.names() == groups)
        .await;
}

async fn extend(node: &Node, subject: &str, related: &str, added: &str) -> String {
    let form = [
        ("action", "ExtendSubjectRoute"),
        ("relatedSubject", subject),
        ("relatedBrokerGroup", related),
        ("newBrokerGroup", added),
    ];
    node.manage(&form).await
}

async fn groups_and_routes_are_listed_without_an_envelope(place: Place) {
    let node = place.start().await;
    node.bring_online(G1).await;
    node.bring_online(DELAY).await;
    route(&node, "order.paid", &["g1"]).await;
    route(&node, "order.sent", &["g1"]).await;
    let groups = node.manage(&[("action", "ListBrokerGroups")]).await;
    let first = "[{\"groupName\":\"d1\",\"master\":\"10.0.0.4:20881\",\"slaves\":null,\
                 \"updateTime\":";
    assert!(groups.starts_with(first), "{groups}");
    let end = ",\"brokerState\":\"RW\",\"tag\":\"\",\"kind\":\"NORMAL\",\"ext\":null}]\n";
    assert!(groups.ends_with(end), "{groups}");
    let routes = node.manage(&[("action", "ListSubjectRoutes")]).await;
    let first = "[{\"subject\":\"order.paid\",\"brokerGroups\":[\"g1\"],\"version\":1,\
                 \"updateTime\":";
    assert!(routes.starts_with(first), "{routes}");
    let page = [
        ("action", "ListSubjectRoutes"),
        ("after", "order.paid"),
        ("limit", "1"),
    ];
    let page = node.manage(&page).await;
    assert!(page.starts_with("[{\"subject\":\"order.sent\","), "{page}");
    let groups = [("action", "ListBrokerGroups"), ("limit", "1")];
    let groups = node.manage(&groups).await;
    assert_eq!(groups.matches("groupName").count(), 1, "{groups}");
    node.lose_database().await;
    for action in ["ListBrokerGroups", "ListSubjectRoutes"] {
        let reply = node.manage(&[("action", action)]).await;
        assert!(reply.starts_with("{\"status\":-1,"), "{reply}");
    }
    node.stop().await;
}

async fn a_new_subject_gets_a_tag_once(place: Place) {
    let node = place.start().await;
    let form = |subject: &'static str, tag: &'static str| {
        [
            ("action", "AddNewSubject"),
            ("subject", subject),
            ("tag", tag),
        ]
    };
    let added = node.manage(&form("order.paid", "pay")).await;
    let first = "{\"data\":{\"name\":\"order.paid\",\"tag\":\"pay\",\"updateTime\":";
    assert!(added.starts_with(first), "{added}");
    let again = node.manage(&form("order.paid", "other")).await;
    assert!(
        again.contains("\"error\":\"the subject exists\""),
        "{again}"
    );
    assert!(again.contains("\"tag\":\"pay\""), "{again}");
    for (subject, tag) in [
        ("", "pay"),
        ("s", ""),
        ("a b", "pay"),
        ("%RETRY%s%g", "pay"),
        ("s", "a-tag-that-is-longer-than-its-column"),
    ] {
        let reply = node.manage(&form(subject, tag)).await;
        assert!(reply.starts_with("{\"error\":"), "{reply}");
    }
    // It is given groups with its tag only, others those without.
    node.bring_online(G2).await;
    let sql = place.sql().await;
    sqlx::query("UPDATE broker_group SET tag = 'pay' WHERE group_name = 'g2'")
        .execute(&sql)
        .await
        .unwrap();
    // ONLINE is answered when all that was written before has been read again.
    node.bring_online(G1).await;
    route(&node, "order.paid", &["g2"]).await;
    route(&node, "order.sent", &["g1"]).await;
    node.stop().await;
}

async fn a_group_is_added_to_a_route(place: Place) {
    let node = place.start().await;
    node.bring_online(G1).await;
    node.bring_online(G2).await;
    route(&node, "s", &["g1", "g2"]).await;
    node.bring_online(G3).await;
    node.bring_online(DELAY).await;
    let add = async |subject, group| {
        node.change_route("AddSubjectBrokerGroup", subject, group)
            .await
    };
    let added = add("s", "g3").await;
    assert!(
        added.starts_with("{\"subject\":\"s\",\"brokerGroups\":["),
        "{added}"
    );
    assert!(added.contains("\"g3\"],\"version\":2,"), "{added}");
    route(&node, "s", &["g1", "g2", "g3"]).await;
    assert!(add("s", "g3").await.starts_with("{\"subject\":\"s\","));
    for (subject, group, expected) in [
        ("s", "nobody", "never online"),
        ("s", "d1", "for delayed messages"),
        ("unknown", "g1", "has no route"),
        ("", "g1", "is empty"),
        ("s", "", "is empty"),
    ] {
        let reply = add(subject, group).await;
        assert!(reply.starts_with("{\"error\":"), "{reply}");
        assert!(reply.contains(expected), "{reply}");
    }
    node.stop().await;
}

/// The reference puts it back with the next question of any client.
async fn a_removed_group_is_not_put_back(place: Place) {
    let node = place.start().await;
    let other = place.start().await;
    node.bring_online(G1).await;
    node.bring_online(G2).await;
    route(&node, "s", &["g1", "g2"]).await;
    route(&other, "s", &["g1", "g2"]).await;
    let removed = node
        .change_route("RemoveSubjectBrokerGroup", "s", "g2")
        .await;
    assert_eq!(removed, EMPTY_MAP);
    // Neither by this metaserver nor by one that has not heard of it yet, and not later either.
    route(&node, "s", &["g1"]).await;
    route(&other, "s", &["g1"]).await;
    other.stop().await;
    let other = place.start().await;
    route(&other, "s", &["g1"]).await;
    route(&other, "another", &["g1", "g2"]).await;
    assert_eq!(stored(&place, "s").await, ("[\"g1\"]".to_owned(), 2));
    // A third may come, and the operator may take it back.
    node.bring_online(G3).await;
    route(&other, "s", &["g1", "g3"]).await;
    let added = node.change_route("AddSubjectBrokerGroup", "s", "g2").await;
    assert!(added.starts_with("{\"subject\":\"s\","), "{added}");
    route(&other, "s", &["g1", "g2", "g3"]).await;
    let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM qmq_removed_group")
        .fetch_one(&place.sql().await)
        .await
        .unwrap();
    assert_eq!(count, 0);
    node.stop().await;
    other.stop().await;
}

async fn stored(place: &Place, subject: &str) -> (String, i64) {
    let query = "SELECT broker_group_json, CAST(version AS SIGNED) FROM subject_route \
                 WHERE subject_info = ?";
    sqlx::query_as(query)
        .bind(subject)
        .fetch_one(&place.sql().await)
        .await
        .unwrap()
}

async fn what_cannot_be_removed_is_named(place: Place) {
    let node = place.start().await;
    node.bring_online(G1).await;
    route(&node, "only.g1", &["g1"]).await;
    node.bring_online(G2).await;
    route(&node, "both", &["g1", "g2"]).await;
    let remove = async |subject, group| {
        node.change_route("RemoveSubjectBrokerGroup", subject, group)
            .await
    };
    assert!(remove("", "g1").await.starts_with("{\"status\":-1,"));
    assert!(remove("both", "").await.starts_with("{\"status\":-1,"));
    let unknown = remove("unknown", "g1").await;
    assert!(
        unknown.starts_with("{\"status\":-1,") && unknown.ends_with("\"data\":{}}\n"),
        "{unknown}"
    );
    assert_eq!(remove("both", "g9").await, EMPTY_MAP, "nothing to do");
    // The first may have been topped up meanwhile: everywhere, g2 goes first.
    assert_eq!(remove("*", "g2").await, EMPTY_MAP);
    let all = remove("*", "g1").await;
    let data = "\"data\":{\"both\":\"its last group cannot be removed\",\
                \"only.g1\":\"its last group cannot be removed\"}}\n";
    assert!(all.starts_with("{\"status\":-1,"), "{all}");
    assert!(all.ends_with(data), "{all}");
    route(&node, "both", &["g1"]).await;
    let left: Vec<String> = sqlx::query_scalar("SELECT group_name FROM qmq_removed_group")
        .fetch_all(&place.sql().await)
        .await
        .unwrap();
    assert!(left.iter().all(|group| group == "g2"), "{left:?}");
    node.stop().await;
}

async fn routes_are_extended_by_a_group_that_exists(place: Place) {
    let node = place.start().await;
    node.bring_online(G1).await;
    for subject in ["a", "b", "c"] {
        route(&node, subject, &["g1"]).await;
    }
    // Silent clients: nothing tops up.
    node.bring_online(G2).await;
    node.bring_online(DELAY).await;
    let done =
        |count| format!("{{\"status\":0,\"message\":\"\",\"data\":\"{count} routes extended\"}}\n");
    assert_eq!(extend(&node, "a", "g1", "g2").await, done(1));
    assert_eq!(extend(&node, "a", "g1", "g2").await, done(0));
    assert_eq!(extend(&node, "a", "g9", "g2").await, done(0));
    assert_eq!(extend(&node, "nothing", "g1", "g2").await, done(0));
    assert_eq!(extend(&node, "*", "g1", "g2").await, done(2));
    for subject in ["a", "b", "c"] {
        route(&node, subject, &["g1", "g2"]).await;
    }
    for (subject, related, added) in [
        ("", "g1", "g2"),
        ("a", "", "g2"),
        ("a", "g1", ""),
        ("a", "g1", "nobody"),
        ("a", "g1", "d1"),
    ] {
        let reply = extend(&node, subject, related, added).await;
        assert!(reply.starts_with("{\"status\":-1,"), "{reply}");
    }
    node.stop().await;
}

/// The column of the original has 300 characters; what is longer is cut there and no list any more.
async fn a_route_never_outgrows_its_column(place: Place) {
    place.start().await.stop().await;
    if place.has_widths() {
        let original = "ALTER TABLE subject_route MODIFY broker_group_json VARCHAR(300) NOT NULL";
        let altered = sqlx::query(original).execute(&place.sql().await).await;
        altered.unwrap();
    }
    let node = place.start().await;
    node.bring_online(G1).await;
    node.bring_online(G2).await;
    let sql = place.sql().await;
    let names = (0..9).map(|n| format!("{n}{}", "x".repeat(28)));
    let names: Vec<String> = names.chain(["y".to_owned()]).collect();
    let json = format!("[\"g1\",\"{}\"]", names.join("\",\""));
    assert!(json.len() > 295 && json.len() <= 300, "{}", json.len());
    let now = place.now();
    let query = format!(
        "INSERT INTO subject_route (subject_info, broker_group_json, version, create_time, \
         update_time) VALUES ('long', ?, 1, {now}, {now})"
    );
    let query = sqlx::query(sqlx::AssertSqlSafe(query));
    query.bind(json).execute(&sql).await.unwrap();
    if !place.has_widths() {
        let added = node
            .change_route("AddSubjectBrokerGroup", "long", "g2")
            .await;
        assert!(added.starts_with("{\"subject\":\"long\""), "{added}");
        return node.stop().await;
    }
    let reply = node
        .change_route("AddSubjectBrokerGroup", "long", "g2")
        .await;
    assert!(reply.contains("longer than its column"), "{reply}");
    assert!(
        reply.contains("\"subjectRoute\":{\"subject\":\"long\""),
        "{reply}"
    );
    let reply = extend(&node, "*", "g1", "g2").await;
    assert!(reply.contains("longer than its column"), "{reply}");
    assert_eq!(stored(&place, "long").await.1, 1);
    node.stop().await;
}
