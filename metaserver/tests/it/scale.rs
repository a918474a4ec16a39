//! More routes, groups and tags than one statement reads.

use std::time::Duration;

use qmq_protocol::command::client_register::ClientType;
use sqlx::{AnyPool, AssertSqlSafe};

use crate::node::{G1, G2, PATIENCE, Place, question};

on_each_database! {
    changes_and_deletions_are_seen_among_many_routes,
    changes_and_deletions_are_seen_among_many_groups_and_tags,
    what_was_taken_from_many_subjects_stays_away,
    heartbeats_of_many_groups_are_written_together,
    a_long_list_of_routes_comes_in_parts,
    a_list_that_is_lost_half_way_is_cut_off,
}

/// A pass over all routes takes four statements.
const SUBJECTS: usize = 3_500;

async fn changes_and_deletions_are_seen_among_many_routes(place: Place) {
    let node = place.start().await;
    node.bring_online(G1).await;
    node.stop().await;
    let sql = place.sql().await;
    let rows: Vec<String> = (0..SUBJECTS)
        .map(|number| {
            format!(
                "('s.{number}', '[\"g1\"]', 1, {now}, {now})",
                now = place.now()
            )
        })
        .collect();
    let many = format!(
        "INSERT INTO subject_route (subject_info, broker_group_json, version, create_time, \
         update_time) VALUES {}",
        rows.join(", ")
    );
    sqlx::query(AssertSqlSafe(many))
        .execute(&sql)
        .await
        .unwrap();

    let node = place.start().await;
    for number in [0, 999, 1000, 1001, SUBJECTS - 1] {
        let subject = format!("s.{number}");
        let answer = node.ask(question(&subject, ClientType::Consumer)).await;
        assert_eq!(answer.names(), ["g1"], "{subject}");
    }
    // What others change, add and delete is seen.
    let group = "INSERT INTO broker_group (group_name, kind, master_address, broker_state, \
                 create_time, update_time) VALUES ('g2', 1, '10.0.0.2:1', 2, {now}, {now})";
    let changed = "UPDATE subject_route SET broker_group_json = '[\"g1\",\"g2\"]', version = 2, \
                   update_time = {now} WHERE subject_info = 's.7'";
    let added = "INSERT INTO subject_route (subject_info, broker_group_json, version, \
                 create_time, update_time) VALUES ('s.new', '[\"g2\"]', 1, {now}, {now})";
    let deleted = "DELETE FROM subject_route WHERE subject_info = 's.9'";
    for statement in [group, changed, added, deleted] {
        let statement = AssertSqlSafe(statement.replace("{now}", place.now()));
        sqlx::query(statement).execute(&sql).await.unwrap();
    }
    node.ask_until(question("s.7", ClientType::Consumer), |answer| {
        answer.names() == ["g1", "g2"]
    })
    .await;
    node.ask_until(question("s.new", ClientType::Consumer), |answer| {
        answer.names().contains(&"g2")
    })
    .await;
    // A subject that lost its route is given one again: only then its row is back.
    let row = "SELECT COUNT(*) FROM subject_route WHERE subject_info = 's.9'";
    node.ask_until(question("s.9", ClientType::Consumer), |answer| {
        answer.names() == ["g1"]
    })
    .await;
    let written = async {
        while sqlx::query_scalar::<_, i64>(row)
            .fetch_one(&sql)
            .await
            .unwrap()
            == 0
        {
            node.ask(question("s.9", ClientType::Consumer)).await;
        }
    };
    tokio::time::timeout(PATIENCE, written)
        .await
        .expect("the deletion is noticed");
    node.stop().await;
}

/// A pass over all groups, or all tags, takes three statements.
const MANY: usize = 2_500;

async fn changes_and_deletions_are_seen_among_many_groups_and_tags(place: Place) {
    let node = place.start().await;
    let sql = place.sql().await;
    let group = |n: usize, tag: &str| {
        let address = format!("10.1.{}.{}:1", n / 250, n % 250);
        let now = place.now();
        format!("('b{n}', 1, '{address}', 1, '{tag}', {now}, {now})")
    };
    let groups = "broker_group (group_name, kind, master_address, broker_state, tag, \
                  create_time, update_time)";
    insert(&sql, groups, (0..MANY).map(|n| group(n, &format!("t{n}")))).await;
    let subject = |n: usize| {
        let now = place.now();
        format!("('s.{n}', 't{n}', {now}, {now})")
    };
    let tags = "subject_info (name, tag, create_time, update_time)";
    insert(&sql, tags, (0..MANY).map(subject)).await;
    // One group for subjects without a tag; each other one is for one subject.
    let common = group(MANY, "").replace(&format!("'b{MANY}'"), "'common'");
    insert(&sql, groups, std::iter::once(common)).await;
    for number in [0, 7, 10, 999, 1_000, 1_001, MANY - 1] {
        let (subject, group) = (format!("s.{number}"), format!("b{number}"));
        node.ask_until(question(&subject, ClientType::Consumer), |answer| {
            answer.names().contains(&group.as_str())
        })
        .await;
    }
    node.stop().await;

    let node = place.start().await;
    // What others change, add and delete is seen. A subject keeps the groups it has.
    let statements = [
        "UPDATE broker_group SET broker_state = 4, update_time = {now} WHERE group_name = 'b999'",
        "UPDATE subject_info SET tag = 't8', update_time = {now} WHERE name = 's.7'",
        "INSERT INTO subject_info (name, tag, create_time, update_time) \
         VALUES ('s.new', 't9', {now}, {now})",
        "DELETE FROM broker_group WHERE group_name = 'b1000'",
        "DELETE FROM subject_info WHERE name = 's.10'",
    ];
    for statement in statements {
        let statement = AssertSqlSafe(statement.replace("{now}", place.now()));
        sqlx::query(statement).execute(&sql).await.unwrap();
    }
    for (subject, here, gone) in [
        ("s.999", "", "b999"),
        ("s.1000", "common", "b1000"),
        ("s.7", "b8", ""),
        ("s.new", "b9", ""),
        ("s.10", "common", ""),
    ] {
        node.ask_until(question(subject, ClientType::Consumer), |answer| {
            let names = answer.names();
            (here.is_empty() || names.contains(&here)) && !names.contains(&gone)
        })
        .await;
    }
    node.stop().await;
}

async fn what_was_taken_from_many_subjects_stays_away(place: Place) {
    let node = place.start().await;
    let sql = place.sql().await;
    let now = place.now();
    let routes = "subject_route (subject_info, broker_group_json, version, create_time, \
                  update_time)";
    let route = |n| format!("('s.{n}', '[\"g1\"]', 2, {now}, {now})");
    insert(&sql, routes, (0..MANY).map(route)).await;
    let removed = "qmq_removed_group (subject, group_name)";
    insert(&sql, removed, (0..MANY).map(|n| format!("('s.{n}', 'g2')"))).await;
    node.bring_online(G1).await;
    node.bring_online(G2).await;
    for number in [0, 999, 1_000, 1_001, MANY - 1] {
        let subject = format!("s.{number}");
        for _ in 0..3 {
            let answer = node.ask(question(&subject, ClientType::Producer)).await;
            assert_eq!(answer.names(), ["g1"], "{subject}");
        }
    }
    // One from which nothing was taken is given both.
    node.ask_until(question("s.new", ClientType::Producer), |answer| {
        answer.names() == ["g1", "g2"]
    })
    .await;
    // An operator puts one back.
    let reply = node.change_route("AddSubjectBrokerGroup", "s.999", "g2");
    assert!(reply.await.contains("\"g2\""));
    let answer = node.ask(question("s.999", ClientType::Producer)).await;
    assert_eq!(answer.names(), ["g1", "g2"]);
    node.stop().await;
}

async fn a_long_list_of_routes_comes_in_parts(place: Place) {
    let node = place.start().await;
    let sql = place.sql().await;
    let now = place.now();
    let routes = "subject_route (subject_info, broker_group_json, version, create_time, \
                  update_time)";
    // The last 1000 and some in between cannot be read.
    let route = |n| {
        let is_broken = n % 100 == 5 || n >= MANY - 1_000;
        let groups = if is_broken { "[\"g1" } else { "[\"g1\"]" };
        format!("('s.{n:05}', '{groups}', 2, {now}, {now})")
    };
    insert(&sql, routes, (0..MANY).map(route)).await;
    let subjects = |json: &str| -> Vec<String> {
        let rows: Vec<serde_json::Value> = serde_json::from_str(json).unwrap();
        let subjects = rows.iter().map(|row| row["subject"].as_str().unwrap());
        subjects.map(str::to_owned).collect()
    };
    let expected: Vec<String> = (0..MANY - 1_000)
        .filter(|n| n % 100 != 5)
        .map(|n| format!("s.{n:05}"))
        .collect();
    let list = [("action", "ListSubjectRoutes")];
    let whole = node.manage(&list).await;
    assert_eq!(subjects(&whole), expected);
    assert!(whole.ends_with("}]\n"));
    let page = [list[0], ("after", "s.00200"), ("limit", "1200")];
    let page = subjects(&node.manage(&page).await);
    assert_eq!(page, expected[199..1_387]);
    let nothing = [list[0], ("after", "s.01499")];
    assert_eq!(node.manage(&nothing).await, "[]\n");
    node.stop().await;
}

/// It is no list then, and not a shorter one.
async fn a_list_that_is_lost_half_way_is_cut_off(place: Place) {
    let node = place.start().await;
    let sql = place.sql().await;
    let now = place.now();
    let routes = "subject_route (subject_info, broker_group_json, version, create_time, \
                  update_time)";
    // Each part is larger than what waits on the way to who does not read.
    let groups = format!("[\"{}\"]", "g".repeat(3_990));
    let route = |n| format!("('s.{n:05}', '{groups}', 2, {now}, {now})");
    insert(&sql, routes, (0..1_000).map(route)).await;
    for copy in 1..10 {
        let more = format!(
            "INSERT INTO {routes} SELECT REPLACE(subject_info, 's.', 's.{copy}.'), \
             broker_group_json, 1, {now}, {now} FROM subject_route WHERE subject_info LIKE 's.0%'"
        );
        sqlx::query(AssertSqlSafe(more))
            .execute(&sql)
            .await
            .unwrap();
    }
    let response = node.post(&[("action", "ListSubjectRoutes")]).send().await;
    node.lose_database().await;
    let read = response.unwrap().text().await;
    assert!(read.is_err(), "{} bytes came", read.unwrap().len());
    node.stop().await;
}

async fn heartbeats_of_many_groups_are_written_together(place: Place) {
    let node = place.start().await;
    let sql = place.sql().await;
    let now = place.now();
    let groups = "broker_group (group_name, kind, master_address, broker_state, tag, \
                  create_time, update_time)";
    let group = |n| format!("('b{n}', 1, '10.1.0.1:{}', 1, '', {now}, {now})", n + 1);
    insert(&sql, groups, (0..MANY).map(group)).await;
    node.stop().await;

    let node = place.start().await;
    // Half of them have been heard before.
    let heard = "qmq_broker_liveness (group_name, last_seen_ms)";
    insert(&sql, heard, (0..MANY / 2).map(|n| format!("('b{n}', 1)"))).await;
    for number in 0..MANY {
        let (group, address) = (format!("b{number}"), format!("10.1.0.1:{}", number + 1));
        let code = node.beat(&group, &address).await;
        assert_eq!(code, 0);
    }
    let written = "SELECT COUNT(*) FROM qmq_broker_liveness WHERE last_seen_ms > 1";
    let written = async {
        while sqlx::query_scalar::<_, i64>(written)
            .fetch_one(&sql)
            .await
            .unwrap()
            != i64::try_from(MANY).unwrap()
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, written)
        .await
        .expect("every heartbeat is written");
    node.stop().await;
}

async fn insert(sql: &AnyPool, into: &str, rows: impl Iterator<Item = String>) {
    let rows: Vec<String> = rows.collect();
    let insert = format!("INSERT INTO {into} VALUES {}", rows.join(", "));
    sqlx::query(AssertSqlSafe(insert))
        .execute(sql)
        .await
        .unwrap();
}
