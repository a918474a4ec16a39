//! The database is away: what was known is still answered.

use qmq_model::BrokerRole;
use qmq_model::BrokerState::ReadWrite;
use qmq_protocol::command::broker_register::BrokerRequestType::{Heartbeat, Online};
use qmq_protocol::command::client_register::ClientType;
use sqlx::AssertSqlSafe;

use crate::node::{G1, Master, Place, ask, question};

on_each_database! {
    clients_keep_their_groups,
    bad_rows_are_skipped_one_by_one,
    a_database_that_is_busy_only_makes_newcomers_wait,
    a_crowd_of_new_subjects_is_served,
}

const D1: Master = Master {
    group: "d1",
    address: "10.0.0.2:20881",
    role: BrokerRole::DelayMaster,
};

/// The most important rule: an internal failure never gives a consumer an
/// empty list, because it would stop consuming.
async fn clients_keep_their_groups(place: Place) {
    let node = place.start().await;
    node.bring_online(G1).await;
    node.bring_online(D1).await;
    let consumer = question("order.paid", ClientType::Consumer);
    node.ask_until(consumer, |answer| answer.names() == ["g1"])
        .await;
    node.ask_until(question("x", ClientType::DelayProducer), |a| {
        a.names() == ["d1"]
    })
    .await;
    node.lose_database().await;

    // A client that was never seen, a retry subject, another group: all from memory.
    let mut newcomer = question("order.paid", ClientType::Consumer);
    newcomer.client_id = "client-2";
    newcomer.consumer_group = "another";
    let retry = question("%RETRY%order.paid%group", ClientType::Consumer);
    let producer = question("order.paid", ClientType::Producer);
    for asked in [consumer, newcomer, retry, producer] {
        let answer = node.ask(asked).await;
        assert_eq!(
            (answer.code, answer.names()),
            (0, vec!["g1"]),
            "{}",
            asked.subject
        );
        assert!(answer.timestamp_ms > 0);
    }
    let delayed = node
        .ask(question("order.paid", ClientType::DelayProducer))
        .await;
    assert_eq!(delayed.names(), ["d1"]);
    // Nothing is known about this one, and nothing can be assigned: an error, not an empty list.
    assert_eq!(
        node.ask(question("order.sent", ClientType::Consumer))
            .await
            .code,
        51
    );
    assert_eq!(
        node.ask(question("order.sent", ClientType::Producer))
            .await
            .code,
        51
    );

    assert_eq!(node.report(G1, Heartbeat, ReadWrite).await, 0);
    assert_eq!(node.report(G1, Online, ReadWrite).await, 51);
    let listed = node.manage(&[("action", "ListBrokers")]).await;
    assert!(listed.starts_with("{\"status\":-1,"), "{listed}");
    let reason = node.ready_until(503).await;
    assert!(reason.starts_with("database: does not answer"), "{reason}");
    node.count_until("databaseAway 1").await;
    node.stop().await;
}

/// One bad row stopped the Java metaserver from starting.
async fn bad_rows_are_skipped_one_by_one(place: Place) {
    let node = place.start().await;
    node.bring_online(G1).await;
    let consumer = question("order.paid", ClientType::Consumer);
    node.ask_until(consumer, |answer| answer.names() == ["g1"])
        .await;
    node.stop().await;
    let sql = place.sql().await;
    let now = place.now();
    for statement in [
        "INSERT INTO subject_route (subject_info, broker_group_json, version, create_time, \
         update_time) VALUES ('cut.off', '[\"g1\",\"g', 3, {now}, {now})",
        "INSERT INTO broker_group (group_name, kind, master_address, broker_state, create_time, \
         update_time) VALUES ('odd', 1, '10.0.0.9:1', 9, {now}, {now})",
        "INSERT INTO broker (group_name, hostname, ip, role, create_time, update_time) \
         VALUES ('odd', 'odd', 1, 77, {now}, {now})",
    ] {
        let statement = AssertSqlSafe(statement.replace("{now}", now));
        sqlx::query(statement).execute(&sql).await.unwrap();
    }
    let node = place.start().await;
    assert_eq!(node.ask(consumer).await.names(), ["g1"]);
    // The route that was cut off is written anew.
    let repaired = question("cut.off", ClientType::Consumer);
    node.ask_until(repaired, |answer| answer.names() == ["g1"])
        .await;
    let json: String =
        sqlx::query_scalar("SELECT broker_group_json FROM subject_route WHERE version = 4")
            .fetch_one(&sql)
            .await
            .unwrap();
    assert_eq!(json, "[\"g1\"]");
    let listed = node.manage(&[("action", "ListBrokers")]).await;
    assert_eq!(listed.matches("\"group\"").count(), 1, "{listed}");
    node.stop().await;
}

/// A Java consumer asks for its first route once and never again: it must not be told of trouble
/// that passes.
async fn a_database_that_is_busy_only_makes_newcomers_wait(place: Place) {
    let node = place.start().await;
    node.bring_online(G1).await;
    node.ask_until(question("order.paid", ClientType::Consumer), |answer| {
        answer.names() == ["g1"]
    })
    .await;
    let held = place.hold_writes().await;
    let client = node.client();
    let newcomer =
        tokio::spawn(
            async move { ask(&client, question("order.sent", ClientType::Consumer)).await },
        );
    // Somebody who cannot write is told so after the deadline of a statement: time enough for the
    // newcomer's route to fail, too.
    assert_eq!(node.report(G1, Online, ReadWrite).await, 51);
    assert_eq!(node.report(G1, Online, ReadWrite).await, 51);
    assert!(!newcomer.is_finished());
    held.release().await;
    let answer = newcomer.await.unwrap();
    assert_eq!((answer.code, answer.names()), (0, vec!["g1"]));
    node.stop().await;
}

/// The writes of one metaserver do not fail each other.
async fn a_crowd_of_new_subjects_is_served(place: Place) {
    let node = place.start().await;
    node.bring_online(G1).await;
    node.ask_until(question("order.paid", ClientType::Consumer), |answer| {
        answer.names() == ["g1"]
    })
    .await;
    let asked: Vec<_> = (0..200)
        .map(|number| {
            let client = node.client();
            tokio::spawn(async move {
                let subject = format!("subject.{number}");
                ask(&client, question(&subject, ClientType::Consumer)).await
            })
        })
        .collect();
    for answer in asked {
        let answer = answer.await.unwrap();
        assert_eq!((answer.code, answer.names()), (0, vec!["g1"]));
    }
    node.stop().await;
}
