//! Two metaservers on one database.

use std::collections::BTreeSet;

use qmq_metaserver::MetaserverConfig;
use qmq_metaserver::config::RuleValues;
use qmq_model::BrokerRole;
use qmq_protocol::command::client_register::ClientType;

use crate::node::{Master, Node, Place, question};

on_each_database! {
    two_nodes_that_assign_one_subject_agree,
    two_nodes_that_top_up_one_route_agree,
    two_nodes_start_at_once_on_nothing,
}

const MASTERS: [Master; 6] = [
    master("g0", "10.0.0.1:20881"),
    master("g1", "10.0.0.2:20881"),
    master("g2", "10.0.0.3:20881"),
    master("g3", "10.0.0.4:20881"),
    master("g4", "10.0.0.5:20881"),
    master("g5", "10.0.0.6:20881"),
];

const fn master(group: &'static str, address: &'static str) -> Master {
    Master {
        group,
        address,
        role: BrokerRole::Master,
    }
}

/// Each node draws groups at random; the row decides.
async fn two_nodes_that_assign_one_subject_agree(place: Place) {
    let nodes = [place.start().await, place.start().await];
    for master in MASTERS {
        nodes[0].bring_online(master).await;
    }
    for (number, node) in nodes.iter().enumerate() {
        knows_every_group(node, number).await;
    }
    for round in 0..30 {
        let subject = format!("subject.{round}");
        let producer = question(&subject, ClientType::Producer);
        let consumer = question(&subject, ClientType::Consumer);
        let (sent, received) = tokio::join!(nodes[0].ask(producer), nodes[1].ask(consumer));
        assert_eq!(sent.groups.len(), 2, "{subject}");
        assert_eq!(sent.names(), received.names(), "{subject}");
    }
    for node in nodes {
        node.stop().await;
    }
}

/// Waits until this node has assigned each of the six groups to something: one route of two
/// groups does not show that it has read the other four.
async fn knows_every_group(node: &Node, number: usize) {
    let mut seen = BTreeSet::new();
    let mut round = 0;
    while seen.len() < MASTERS.len() {
        let subject = format!("warm.up.{number}.{round}");
        let answer = node
            .ask_until(question(&subject, ClientType::Producer), |answer| {
                !answer.groups.is_empty()
            })
            .await;
        seen.extend(answer.names().into_iter().map(str::to_owned));
        round += 1;
    }
}

/// Both nodes see that a route is short of groups and add some; neither change is lost.
async fn two_nodes_that_top_up_one_route_agree(place: Place) {
    let narrow = place.start().await;
    narrow.bring_online(MASTERS[0]).await;
    let producer = question("order.paid", ClientType::Producer);
    narrow
        .ask_until(producer, |answer| answer.names() == ["g0"])
        .await;
    narrow.stop().await;

    let rules = RuleValues {
        group_num_min: 4,
        ..place.config().rules
    };
    let config = MetaserverConfig {
        rules,
        ..place.config()
    };
    let nodes = [
        place.start_with(config.clone()).await,
        place.start_with(config).await,
    ];
    for master in &MASTERS[1..] {
        nodes[0].bring_online(*master).await;
    }
    let full = |answer: &crate::node::Answer| answer.groups.len() >= 4;
    let (one, two) = tokio::join!(
        nodes[0].ask_until(producer, full),
        nodes[1].ask_until(producer, full)
    );
    assert_eq!(one.names(), two.names());
    assert!(one.names().contains(&"g0"), "{:?}", one.names());
    for node in nodes {
        node.stop().await;
    }
}

async fn two_nodes_start_at_once_on_nothing(kind: Place) {
    for _ in 0..10 {
        let place = kind.another();
        let (one, two) = tokio::join!(place.start(), place.start());
        one.bring_online(MASTERS[0]).await;
        let producer = question("order.paid", ClientType::Producer);
        two.ask_until(producer, |answer| answer.names() == ["g0"])
            .await;
        one.stop().await;
        two.stop().await;
    }
}
