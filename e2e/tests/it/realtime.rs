//! Realtime messages through our own client: who gets what, and what an orderly restart keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use qmq_client::{Consumer, Delivery, Producer};
use qmq_e2e::{Cluster, Load, Plan, Sabotage, wait};

const APP_CODE: &str = "qmq-e2e";
const NUMBER: &str = "number";
/// Number of messages that only show whether a group is handed anything yet.
const PROBE: i32 = -1;
const RECEIVE_MAX: Duration = Duration::from_secs(120);
const PULL_WAIT: Duration = Duration::from_millis(200);

/// A cluster with the clients of one test.
struct Scene {
    cluster: Cluster,
    runtime: tokio::runtime::Runtime,
    producer: Producer,
    meta: String,
}

impl Scene {
    fn new() -> Self {
        let cluster = Cluster::with_broker().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let meta = cluster.meta_address().unwrap();
        let producer = {
            let _runtime = runtime.enter();
            Producer::builder(&meta, APP_CODE).build().unwrap()
        };
        Self {
            cluster,
            runtime,
            producer,
            meta,
        }
    }

    /// A consumer with an identity; it is handed messages on return.
    fn consumer(&self, subject: &str, group: &str, client_id: &str) -> Consumer {
        let consumer = self.returning_consumer(subject, group, client_id);
        wait::until("a group is handed messages", RECEIVE_MAX, || {
            self.send(subject, PROBE..PROBE + 1);
            let deliveries = self.pull(&consumer, 1_000);
            let arrived = !deliveries.is_empty();
            deliveries.into_iter().for_each(Delivery::ack);
            Ok(arrived.then_some(()))
        })
        .unwrap();
        consumer
    }

    /// A consumer of a group that exists.
    fn returning_consumer(&self, subject: &str, group: &str, client_id: &str) -> Consumer {
        let _runtime = self.runtime.enter();
        let builder = Consumer::builder(&self.meta, APP_CODE)
            .client_id(client_id)
            .unacked_max(10_000);
        builder.subscribe(subject, group).unwrap()
    }

    fn send(&self, subject: &str, numbers: std::ops::Range<i32>) {
        self.runtime.block_on(async {
            for number in numbers {
                let mut message = self.producer.message(subject);
                message.set_property(NUMBER, number.to_string());
                self.producer.send(message).await.unwrap();
            }
        });
    }

    fn pull(&self, consumer: &Consumer, max: usize) -> Vec<Delivery> {
        self.runtime.block_on(consumer.pull(max, PULL_WAIT))
    }

    /// Pulls until `count` different numbers have come, in order of arrival; probes are acked.
    fn take(&self, consumer: &Consumer, count: usize) -> Vec<(i32, Delivery)> {
        let mut taken: Vec<(i32, Delivery)> = Vec::new();
        wait::until("messages arrive", RECEIVE_MAX, || {
            for delivery in self.pull(consumer, 1_000) {
                match number(&delivery) {
                    PROBE => delivery.ack(),
                    number => taken.push((number, delivery)),
                }
            }
            Ok((taken.len() >= count).then_some(()))
        })
        .unwrap();
        taken
    }

    fn close(&self, consumer: &Consumer) {
        self.runtime.block_on(consumer.close(RECEIVE_MAX)).unwrap();
    }
}

fn number(delivery: &Delivery) -> i32 {
    delivery
        .message()
        .property(NUMBER)
        .unwrap()
        .parse()
        .unwrap()
}

fn ack_all(taken: Vec<(i32, Delivery)>) -> Vec<i32> {
    taken
        .into_iter()
        .map(|(number, delivery)| {
            delivery.ack();
            number
        })
        .collect()
}

#[test]
fn every_group_gets_every_message_in_order() {
    let scene = Scene::new();
    let consumers = ["one", "other"].map(|group| scene.consumer("e2e.order", group, "client"));
    scene.send("e2e.order", 0..300);
    for consumer in &consumers {
        let numbers = ack_all(scene.take(consumer, 300));
        assert_eq!(numbers, (0..300).collect::<Vec<_>>());
        scene.close(consumer);
    }
}

#[test]
fn consumers_of_a_group_share() {
    let scene = Scene::new();
    let consumers = ["first", "second"].map(|id| scene.consumer("e2e.share", "group", id));
    scene.send("e2e.share", 0..400);
    let mut seen: BTreeMap<i32, usize> = BTreeMap::new();
    wait::until("the group gets every message", RECEIVE_MAX, || {
        for consumer in &consumers {
            for delivery in scene.pull(consumer, 20) {
                *seen.entry(number(&delivery)).or_default() += 1;
                delivery.ack();
            }
        }
        seen.remove(&PROBE);
        Ok((seen.len() >= 400).then_some(()))
    })
    .unwrap();
    assert!(
        seen.values().all(|&times| times == 1),
        "handed out twice: {seen:?}"
    );
}

#[test]
fn orderly_restart_keeps_messages_and_progress() {
    let mut scene = Scene::new();
    let consumer = scene.consumer("e2e.restart", "group", "client");
    scene.send("e2e.restart", 0..100);
    let mut taken = scene.take(&consumer, 100);
    let held = taken.split_off(60);
    ack_all(taken);
    // Acked is 0..60; the rest goes back unhandled.
    let unacked: BTreeSet<i32> = held.iter().map(|(number, _)| *number).collect();
    drop(held);
    scene.close(&consumer);
    drop(consumer);

    let broker = &mut scene.cluster.broker().server;
    broker.stop().unwrap();
    broker.start().unwrap();

    let consumer = scene.returning_consumer("e2e.restart", "group", "client");
    let again = ack_all(scene.take(&consumer, unacked.len()));
    assert_eq!(again.into_iter().collect::<BTreeSet<_>>(), unacked);
    scene.send("e2e.restart", 100..110);
    let numbers = ack_all(scene.take(&consumer, 10));
    assert_eq!(
        numbers,
        (100..110).collect::<Vec<_>>(),
        "nothing that was acked comes again"
    );
}

#[test]
fn orderly_stop_under_load_loses_nothing() {
    let mut scene = Scene::new();
    let plan = Plan {
        subject: "e2e.stop".to_owned(),
        senders: 8,
        seed: rand::random(),
        sabotage: Sabotage::Nothing,
    };
    let load = Load::start(scene.runtime.handle(), &scene.meta, plan).unwrap();
    for _ in 0..3 {
        load.await_acknowledged(300).unwrap();
        let broker = &mut scene.cluster.broker().server;
        broker.stop().unwrap();
        broker.start().unwrap();
    }
    load.await_acknowledged(300).unwrap();
    let summary = load.finish(RECEIVE_MAX).unwrap().check().unwrap();
    println!("{summary:?}");
}

#[test]
fn clients_live_on_while_the_metaserver_is_away() {
    let mut scene = Scene::new();
    let consumer = scene.consumer("e2e.meta", "group", "client");
    scene.cluster.metaserver.kill().unwrap();
    scene.send("e2e.meta", 0..50);
    assert_eq!(
        ack_all(scene.take(&consumer, 50)),
        (0..50).collect::<Vec<_>>()
    );
}

#[test]
fn broker_that_nobody_registered_says_what_to_do() {
    let cluster = Cluster::start().unwrap();
    let mut broker = cluster.new_broker("unknown", &[]).unwrap();
    broker.server.launch().unwrap();
    let status = broker.server.await_end().unwrap();
    assert!(!status.success());
    let log = broker.server.log_tail();
    let command = [
        "AddBroker",
        "--hostname=host-of-unknown",
        &format!("--servePort={}", broker.port),
    ];
    for part in command {
        assert!(log.contains(part), "no {part:?} in {log}");
    }
}

#[test]
fn servers_tell_how_they_are() {
    let mut cluster = Cluster::with_broker().unwrap();
    for path in ["/healthz", "/readyz", "/metrics"] {
        let (status, body) = cluster.metaserver.get("http", path).unwrap();
        assert_eq!(status, 200, "metaserver {path}: {body}");
        let (status, body) = cluster.broker().server.get("admin", path).unwrap();
        assert_eq!(status, 200, "broker {path}: {body}");
    }
    let brokers = cluster.tools(&[
        "ListBrokers",
        "--metaserver",
        &cluster.http_authority().unwrap(),
    ]);
    let brokers = brokers.unwrap();
    assert!(brokers.contains("host-of-g1"), "{brokers}");
}
