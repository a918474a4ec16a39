//! A MariaDB that is stopped, or hangs, while clients and brokers go on, and comes back.

use std::time::Instant;

use qmq_model::BrokerState::{Read, ReadWrite};
use qmq_protocol::command::broker_register::BrokerRequestType::Heartbeat;
use qmq_protocol::command::client_register::ClientType;

use crate::node::{G1, Node, PATIENCE, Place, question};

async fn start(place: &Place) -> Node {
    let node = place.start().await;
    node.bring_online(G1).await;
    let known = question("order.paid", ClientType::Consumer);
    node.ask_until(known, |answer| answer.names() == ["g1"])
        .await;
    node
}

/// Clients of a known subject, each of them new.
async fn is_served_from_memory(node: &Node) {
    for number in 0..50 {
        let id = format!("client-{number}");
        for kind in [ClientType::Consumer, ClientType::Producer] {
            let mut newcomer = question("order.paid", kind);
            newcomer.client_id = &id;
            let answer = node.ask(newcomer).await;
            assert_eq!((answer.code, answer.names()), (0, vec!["g1"]));
        }
    }
    assert_eq!(node.report(G1, Heartbeat, ReadWrite).await, 0);
}

async fn is_back(node: &Node) {
    node.ready_until(200).await;
    node.count_until("databaseAway 0").await;
    let consumer = question("order.new", ClientType::Consumer);
    node.ask_until(consumer, |answer| answer.names() == ["g1"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_stops_empties_no_answer_and_comes_back() {
    let (place, server) = Place::on_own_mariadb();
    let node = start(&place).await;
    for _ in 0..2 {
        server.stop();
        is_served_from_memory(&node).await;
        let reason = node.ready_until(503).await;
        assert!(reason.starts_with("database: "), "{reason}");
        node.count_until("databaseAway 1").await;
        is_served_from_memory(&node).await;
        let unknown = question("order.unknown", ClientType::Consumer);
        assert_eq!(node.ask(unknown).await.code, 51, "an error, no empty list");
        server.start_again().unwrap();
        is_back(&node).await;
    }
    node.stop().await;
}

/// Connections stay open and nothing is answered: the worst way to be away.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_hangs_costs_one_deadline_and_comes_back() {
    let (place, server) = Place::on_own_mariadb();
    let node = start(&place).await;
    server.pause().unwrap();
    is_served_from_memory(&node).await;
    node.ready_until(503).await;
    is_served_from_memory(&node).await;
    // With a deadline of 1.5 s for each of them it would be far longer than we are patient.
    let begin = Instant::now();
    for _ in 0..200 {
        assert_eq!(node.report(G1, Heartbeat, Read).await, 51);
    }
    assert!(begin.elapsed() < PATIENCE * 2, "{:?}", begin.elapsed());
    server.resume().unwrap();
    is_back(&node).await;
    node.stop().await;
}
