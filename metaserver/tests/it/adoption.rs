//! A database of an original metaserver is taken as it is, worked on, and handed back: nothing of
//! it is lost or changed, and the original's statements still do what they did.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use qmq_model::BrokerRole;
use qmq_model::BrokerState::ReadWrite;
use qmq_protocol::command::broker_register::BrokerRequestType::Heartbeat;
use qmq_protocol::command::client_register::ClientType::{Consumer, DelayProducer, Producer};
use sqlx::{AnyPool, AssertSqlSafe, Executor, Row};

use crate::node::{G1, Master, Node, PATIENCE, Place, question};

const ORIGINAL: &str = include_str!("../fixtures/original.sql");
const WITH_EXT: &str = "ALTER TABLE broker_group ADD COLUMN ext TEXT; \
                        UPDATE broker_group SET ext = '{\"k\":\"v\"}', update_time = update_time";
const TABLES: [&str; 9] = [
    "broker",
    "broker_group",
    "client_meta_info",
    "client_offline_state",
    "datasource_config",
    "leader_election",
    "readonly_broker_group_setting",
    "subject_info",
    "subject_route",
];

#[tokio::test(flavor = "multi_thread")]
async fn an_original_database_is_adopted_and_handed_back() {
    adopt_and_hand_back(ORIGINAL.to_owned(), "NULL").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_with_the_column_ext_too() {
    adopt_and_hand_back(format!("{ORIGINAL}{WITH_EXT}"), "ext").await;
}

async fn adopt_and_hand_back(database: String, ext: &str) {
    let place = Place::on_mariadb();
    let sql = place.sql().await;
    sql.execute(sqlx::raw_sql(AssertSqlSafe(database)))
        .await
        .unwrap();
    let (rows, columns) = (all_rows(&sql).await, all_columns(&sql).await);
    let node = place.start().await;
    serves_what_it_found(&node).await;
    adds_to_it(&node, &sql).await;
    node.stop().await;

    let now = all_rows(&sql).await;
    for (table, rows) in &rows {
        let lost: Vec<_> = rows.difference(&now[table]).collect();
        assert!(lost.is_empty(), "{table} lost {lost:?}");
    }
    assert_eq!(all_columns(&sql).await, columns, "no column is altered");
    let node = place.start().await;
    serves_beside_an_original(&node, &sql, ext).await;
    node.stop().await;
}

/// What the rows of the original mean; odd ones hurt nobody but themselves.
async fn serves_what_it_found(node: &Node) {
    assert_eq!(node.report(G1, Heartbeat, ReadWrite).await, 0);
    let asked = |subject, kind| node.ask(question(subject, kind));
    assert_eq!(asked("order.paid", Consumer).await.names(), ["g1", "g2"]);
    let producer = asked("order.paid", Producer).await;
    assert_eq!(producer.names(), ["g1"], "g2 is marked readonly");
    assert!(producer.groups[0].updated_ms > 1_500_000_000_000);
    assert_eq!(asked("x", DelayProducer).await.names(), ["delay1"]);
    let mut switched_off = question("order.paid", Consumer);
    switched_off.consumer_group = "audit";
    assert!(!node.ask(switched_off).await.is_online);
    switched_off.client_id = "host@@0123";
    assert!(node.ask(switched_off).await.is_online, "an exception");
    let brokers = node.manage(&[("action", "ListBrokers")]).await;
    assert!(brokers.contains("192.168.0.4"), "{brokers}");
    assert!(
        brokers.contains("\"DELAY\"") && !brokers.contains("odd"),
        "{brokers}"
    );
    // Names are compared without case in this database: these two are one subject.
    let other_case = asked("ORDER.SENT", Consumer).await;
    assert_eq!(
        (other_case.subject.as_str(), other_case.names()),
        ("ORDER.SENT", vec!["g1"])
    );
}

async fn adds_to_it(node: &Node, sql: &AnyPool) {
    node.ask_until(question("order.new", Consumer), |answer| {
        answer.names() == ["g1"]
    })
    .await;
    let more = Master {
        group: "g3",
        address: "10.0.0.30:20881",
        role: BrokerRole::DelayMaster,
    };
    node.bring_online(more).await;
    node.ask_until(question("x", DelayProducer), |a| {
        a.names() == ["delay1", "g3"]
    })
    .await;
    // Clients are noted behind their answers.
    let noted = "SELECT COUNT(*) FROM client_meta_info WHERE subject_info = 'order.new'";
    let noted = async {
        while sqlx::query_scalar::<_, i64>(noted)
            .fetch_one(sql)
            .await
            .unwrap()
            == 0
        {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, noted)
        .await
        .expect("the client is noted");
}

/// Statements as an original metaserver runs them, and what comes of them here.
async fn serves_beside_an_original(node: &Node, sql: &AnyPool, ext: &str) {
    let groups = format!(
        "SELECT group_name, CAST(kind AS SIGNED), master_address, tag, {ext} FROM broker_group"
    );
    let groups = sqlx::query(AssertSqlSafe(groups)).fetch_all(sql).await;
    assert_eq!(groups.unwrap().len(), 6);
    let changed = [
        (
            "INSERT IGNORE INTO subject_route (subject_info, broker_group_json, version) \
          VALUES ('order.theirs', '[\"g1\"]', 1)",
            1,
        ),
        (
            "INSERT IGNORE INTO subject_route (subject_info, broker_group_json, version) \
          VALUES ('order.new', '[\"g2\"]', 1)",
            0,
        ),
        (
            "UPDATE subject_route SET broker_group_json = '[\"g1\",\"g2\"]', version = version + 1 \
          WHERE subject_info = 'order.new' AND version = 1",
            1,
        ),
        (
            "INSERT INTO broker_group (group_name, kind, master_address, broker_state, create_time) \
          VALUES ('g2', 1, '192.168.0.4:20881', 1, NOW()) ON DUPLICATE KEY UPDATE \
          master_address = VALUES(master_address), broker_state = VALUES(broker_state)",
            2,
        ),
        (
            "INSERT IGNORE INTO client_meta_info (subject_info, client_type, consumer_group, \
          client_id, app_code, room, create_time) \
          VALUES ('order.new', 2, 'group', 'client-1', 'app', '', NOW())",
            0,
        ),
        (
            "INSERT INTO client_offline_state (client_id, subject_info, consumer_group, state) \
          VALUES ('*', 'order.new', 'group', 1) ON DUPLICATE KEY UPDATE state = VALUES(state)",
            1,
        ),
        (
            "INSERT IGNORE INTO broker (group_name, hostname, ip, role, serve_port, sync_port) \
          VALUES ('g4', 'host-9', INET_ATON('10.0.0.9'), 0, 20881, 20882)",
            1,
        ),
    ];
    for (statement, rows) in changed {
        let done = sqlx::query(statement).execute(sql).await.unwrap();
        assert_eq!(done.rows_affected(), rows, "{statement}");
    }
    let both = |answer: &crate::node::Answer| answer.names() == ["g1", "g2"];
    node.ask_until(question("order.new", Consumer), |answer| {
        both(answer) && !answer.is_online
    })
    .await;
    node.ask_until(question("order.theirs", Consumer), |answer| {
        answer.names().contains(&"g1")
    })
    .await;
    let brokers = node.manage(&[("action", "ListBrokers")]).await;
    assert!(brokers.contains("\"g4\""), "{brokers}");
}

/// The rows of each table, each as one text.
async fn all_rows(sql: &AnyPool) -> BTreeMap<&'static str, BTreeSet<String>> {
    let columns = all_columns(sql).await;
    let mut all = BTreeMap::new();
    for table in TABLES {
        let names = columns.iter().filter(|column| column.0 == table);
        let names: Vec<String> = names
            .map(|(_, name, ..)| format!("COALESCE({name}, 'NULL')"))
            .collect();
        let rows = format!("SELECT CONCAT_WS('|', {}) FROM {table}", names.join(", "));
        let rows = sqlx::query_scalar(AssertSqlSafe(rows)).fetch_all(sql).await;
        all.insert(table, rows.unwrap().into_iter().collect());
    }
    all
}

/// Table, name, type and collation of each column of the original's tables.
async fn all_columns(sql: &AnyPool) -> Vec<(String, String, String, String)> {
    let query = "SELECT table_name, column_name, CAST(column_type AS CHAR), \
                 COALESCE(collation_name, '') FROM information_schema.columns \
                 WHERE table_schema = DATABASE() AND table_name NOT LIKE 'qmq\\_%' \
                 ORDER BY table_name, ordinal_position";
    let rows = sqlx::query(query).fetch_all(sql).await.unwrap();
    rows.iter()
        .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3)))
        .collect()
}
