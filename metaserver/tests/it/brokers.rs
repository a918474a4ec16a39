//! ReplaceBroker, SwapBrokers, ListBrokers in pages, AddDb, ListDbs, `/slave/meta`.

use qmq_metaserver::MetaserverConfig;

use crate::node::{Node, Place, http};

on_each_database! {
    a_broker_is_replaced_and_the_old_one_told,
    master_and_slave_swap_at_once,
    the_documented_swap_works,
    lists_come_in_pages,
    databases_are_added_changed_and_listed_without_passwords,
    backups_find_the_http_port_of_a_slave,
}

async fn add(node: &Node, group: &str, role: &str, hostname: &str, ip: &str) {
    let form = broker("AddBroker", group, role, hostname, ip);
    let reply = node.manage(&form).await;
    assert!(reply.starts_with("{\"status\":0,"), "{reply}");
}

fn broker<'a>(
    action: &'a str,
    group: &'a str,
    role: &'a str,
    hostname: &'a str,
    ip: &'a str,
) -> [(&'a str, &'a str); 7] {
    [
        ("action", action),
        ("brokerGroup", group),
        ("role", role),
        ("hostname", hostname),
        ("ip", ip),
        ("servePort", "20881"),
        ("syncPort", "20882"),
    ]
}

async fn a_broker_is_replaced_and_the_old_one_told(place: Place) {
    let node = place.start().await;
    add(&node, "g1", "0", "old", "10.0.0.1").await;
    add(&node, "g1", "1", "slave", "10.0.0.2").await;
    let reply = node
        .manage(&broker("ReplaceBroker", "g1", "0", "new", "10.0.0.9"))
        .await;
    let old = "{\"status\":0,\"message\":\"\",\"data\":{\"group\":\"g1\",\"role\":\"MASTER\",\
               \"hostname\":\"old\",\"ip\":\"10.0.0.1\",\"servePort\":20881,\"syncPort\":20882}}\n";
    assert_eq!(reply, old);
    let listed = node.manage(&[("action", "ListBrokers")]).await;
    assert!(
        listed.contains("\"hostname\":\"new\",\"ip\":\"10.0.0.9\""),
        "{listed}"
    );
    assert!(!listed.contains("\"old\""), "{listed}");
    for (form, expected) in [
        (
            broker("ReplaceBroker", "g2", "0", "x", "10.0.0.9"),
            "group g2 has no broker with role MASTER",
        ),
        (
            broker("ReplaceBroker", "g1", "0", "slave", "10.0.0.9"),
            "another broker has slave:20881",
        ),
        (
            broker("ReplaceBroker", "g1", "x", "new", "10.0.0.9"),
            "ReplaceBroker failed: role",
        ),
    ] {
        let reply = node.manage(&form).await;
        let refused = format!("{{\"status\":-1,\"message\":\"{expected}");
        assert!(reply.starts_with(&refused), "{reply}");
    }
    node.stop().await;
}

/// With the reference the documented way collides with a key: two rows may not have one place.
async fn master_and_slave_swap_at_once(place: Place) {
    let node = place.start().await;
    let swap = [("action", "SwapBrokers"), ("brokerGroup", "g1")];
    add(&node, "g1", "0", "m", "10.0.0.1").await;
    let alone = node.manage(&swap).await;
    assert!(
        alone.contains("has not both a master and a slave"),
        "{alone}"
    );
    add(&node, "g1", "1", "s", "10.0.0.2").await;
    add(&node, "g1", "4", "b", "10.0.0.3").await;
    add(&node, "g2", "5", "other", "10.0.0.4").await;
    let swapped = node.manage(&swap).await;
    let at = |role: &str, hostname: &str, ip: &str| {
        format!(
            "{{\"group\":\"g1\",\"role\":\"{role}\",\"hostname\":\"{hostname}\",\"ip\":\"{ip}\",\
             \"servePort\":20881,\"syncPort\":20882}}"
        )
    };
    let (master, slave) = (at("MASTER", "s", "10.0.0.2"), at("SLAVE", "m", "10.0.0.1"));
    let expected = format!("{{\"status\":0,\"message\":\"\",\"data\":[{master},{slave}]}}\n");
    assert_eq!(swapped, expected);
    let listed = node.manage(&[("action", "ListBrokers")]).await;
    assert!(
        listed.contains(&master) && listed.contains(&slave),
        "{listed}"
    );
    // Back again, and many at once: each is done wholly or not at all.
    let swaps: Vec<_> = (0..9).map(|_| node.manage(&swap)).collect();
    let mut done = 1;
    for swap in swaps {
        let reply = swap.await;
        done += usize::from(reply.starts_with("{\"status\":0,"));
    }
    let listed = node.manage(&[("action", "ListBrokers")]).await;
    assert_eq!(listed.contains(&master), done % 2 == 1, "{done}: {listed}");
    assert_eq!(listed.matches("\"hostname\":\"m\"").count(), 1, "{listed}");
    assert_eq!(listed.matches("\"hostname\":\"s\"").count(), 1, "{listed}");
    node.stop().await;
}

/// Two times ReplaceBroker, as the operations page of the reference says.
async fn the_documented_swap_works(place: Place) {
    let node = place.start().await;
    add(&node, "g1", "0", "m", "10.0.0.1").await;
    add(&node, "g1", "1", "s", "10.0.0.2").await;
    add(&node, "g2", "0", "other", "10.0.0.3").await;
    // Not so with a broker of another group.
    let foreign = node
        .manage(&broker("ReplaceBroker", "g1", "0", "other", "10.0.0.3"))
        .await;
    assert!(
        foreign.contains("another broker has other:20881"),
        "{foreign}"
    );
    for (role, hostname, ip, old) in [
        (
            "0",
            "s",
            "10.0.0.2",
            "\"role\":\"MASTER\",\"hostname\":\"m\"",
        ),
        (
            "1",
            "m",
            "10.0.0.1",
            "\"role\":\"SLAVE\",\"hostname\":\"m\"",
        ),
    ] {
        let reply = node
            .manage(&broker("ReplaceBroker", "g1", role, hostname, ip))
            .await;
        assert!(reply.starts_with("{\"status\":0,"), "{reply}");
        assert!(reply.contains(old), "{reply}");
    }
    let listed = node.manage(&[("action", "ListBrokers")]).await;
    for now in [
        "\"role\":\"MASTER\",\"hostname\":\"s\",\"ip\":\"10.0.0.2\"",
        "\"role\":\"SLAVE\",\"hostname\":\"m\",\"ip\":\"10.0.0.1\"",
    ] {
        assert!(listed.contains(now), "{listed}");
    }
    node.stop().await;
}

async fn lists_come_in_pages(place: Place) {
    let node = place.start().await;
    for (group, role, hostname) in [
        ("g2", "0", "h1"),
        ("g1", "0", "h2"),
        ("g2", "1", "h3"),
        ("g3", "0", "h4"),
    ] {
        add(&node, group, role, hostname, "10.0.0.1").await;
    }
    let page = async |after, limit| {
        let form = [
            ("action", "ListBrokers"),
            ("after", after),
            ("limit", limit),
        ];
        let reply = node.manage(&form).await;
        let hosts = reply.split("\"hostname\":\"").skip(1);
        let hosts = hosts.map(|rest| rest[..2].to_owned());
        hosts.collect::<Vec<_>>()
    };
    assert_eq!(page("", "").await, ["h1", "h2", "h3", "h4"]);
    assert_eq!(page("", "1").await, ["h2"]);
    assert_eq!(page("g1", "1").await, ["h1", "h3"], "a group is not cut");
    assert_eq!(page("g2", "9").await, ["h4"]);
    for limit in ["0", "-1", "x", "100001"] {
        let reply = node
            .manage(&[("action", "ListBrokers"), ("limit", limit)])
            .await;
        assert!(
            reply.starts_with("{\"status\":-1,\"message\":\"limit"),
            "{reply}"
        );
    }
    node.stop().await;
}

async fn databases_are_added_changed_and_listed_without_passwords(place: Place) {
    let node = place.start().await;
    let form = |password: &'static str, update: &'static str| {
        [
            ("action", "AddDb"),
            ("host", "db1"),
            ("port", "3306"),
            ("username", "app"),
            ("password", password),
            ("update", update),
        ]
    };
    let done = "{\"status\":0,\"message\":\"\",\"data\":\"success\"}\n";
    assert_eq!(node.manage(&form("old secret", "")).await, done);
    assert_eq!(node.manage(&form("old secret", "")).await, done);
    let refused = node.manage(&form("new secret", "")).await;
    assert!(
        refused.contains("\"status\":-1") && refused.contains("update=true"),
        "{refused}"
    );
    assert_eq!(node.manage(&form("new secret", "true")).await, done);
    let sql = place.sql().await;
    let stored: String = sqlx::query_scalar("SELECT password FROM datasource_config")
        .fetch_one(&sql)
        .await
        .unwrap();
    assert_eq!(stored, "new secret");
    let listed = node.manage(&[("action", "ListDbs")]).await;
    assert_eq!(
        listed,
        "{\"status\":0,\"message\":\"\",\"data\":[{\"url\":\"mmm://db1:3306\",\
         \"userName\":\"app\",\"password\":\"******\",\"status\":\"ONLINE\",\
         \"room\":\"default\"}]}\n"
    );
    for (key, value) in [
        ("host", "db1/evil?x="),
        ("host", "a@b"),
        ("host", ""),
        ("port", ""),
        ("port", "0"),
        ("port", "65536"),
        ("username", ""),
    ] {
        let mut form = form("x", "true");
        form.iter_mut().find(|(k, _)| *k == key).unwrap().1 = value;
        let reply = node.manage(&form).await;
        assert!(
            reply.starts_with("{\"status\":-1,"),
            "{key}={value}: {reply}"
        );
    }
    node.stop().await;
}

async fn backups_find_the_http_port_of_a_slave(place: Place) {
    let ports = place.path().join("broker-http-port-map.properties");
    let node = place
        .start_with(MetaserverConfig {
            slave_ports_file: Some(ports.clone()),
            ..place.config()
        })
        .await;
    add(&node, "g1", "0", "m", "10.0.0.1").await;
    add(&node, "g1", "1", "s", "10.0.0.2").await;
    add(&node, "g2", "6", "d", "10.0.0.3").await;
    let ask = async |query: &str| {
        let url = format!("{}/slave/meta{query}", node.http());
        let reply = http().get(url).send().await.unwrap();
        assert_eq!(reply.status(), 200);
        reply.text().await.unwrap()
    };
    assert_eq!(ask("?groupName=g1").await, "10.0.0.2:8080");
    std::fs::write(&ports, "s/20881 = 9090\nd/20881=nonsense\n").unwrap();
    assert_eq!(ask("?groupName=g1").await, "10.0.0.2:9090");
    assert_eq!(ask("?groupName=g2").await, "10.0.0.3:8080");
    assert_eq!(ask("?groupName=nobody").await, "");
    assert_eq!(ask("").await, "");
    node.lose_database().await;
    let url = format!("{}/slave/meta?groupName=g1", node.http());
    assert_eq!(http().get(url).send().await.unwrap().status(), 503);
    node.stop().await;
}
