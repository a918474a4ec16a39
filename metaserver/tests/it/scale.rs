//! More routes than one statement reads.

use qmq_protocol::command::client_register::ClientType;
use sqlx::AssertSqlSafe;

use crate::node::{G1, Place, question};

on_each_database! {
    changes_and_deletions_are_seen_among_many_routes,
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
    tokio::time::timeout(crate::node::PATIENCE, written)
        .await
        .expect("the deletion is noticed");
    node.stop().await;
}
