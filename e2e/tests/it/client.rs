//! What our client does beyond sending and receiving: tags, broadcast, retries up to the dead-letter
//! subject, properties of every kind, a stop that gives back.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use qmq_client::{
    Consumer, ConsumerBuilder, Delivery, Failure, Leftovers, Message, Producer, Redelivery,
    TagMatch,
};
use qmq_e2e::{Cluster, wait};

const APP_CODE: &str = "qmq-e2e";
const NUMBER: &str = "number";
/// Number of messages that only show whether a group is handed anything yet.
const PROBE: i64 = -1;
const RECEIVE_MAX: Duration = Duration::from_secs(60);
const PULL_WAIT: Duration = Duration::from_millis(200);
/// How long a broker of these tests holds back what is to be retried.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// The broker counts whole milliseconds.
const CLOCK_SLACK: Duration = Duration::from_millis(2);

/// A cluster with a producer.
struct Scene {
    _cluster: Cluster,
    runtime: tokio::runtime::Runtime,
    producer: Producer,
    meta: String,
}

impl Scene {
    fn new() -> Self {
        let mut cluster = Cluster::start().unwrap();
        let settings = [("message.retry.delay.seconds", "1")];
        cluster.add_broker("g1", &settings).unwrap();
        Self::with(cluster)
    }

    fn with(cluster: Cluster) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let meta = cluster.meta_address().unwrap();
        let producer = {
            let _runtime = runtime.enter();
            Producer::builder(&meta, APP_CODE).build().unwrap()
        };
        Self {
            _cluster: cluster,
            runtime,
            producer,
            meta,
        }
    }

    fn builder(&self, client_id: &str) -> ConsumerBuilder {
        Consumer::builder(&self.meta, APP_CODE).client_id(client_id)
    }

    fn subscribe(&self, builder: &ConsumerBuilder, subject: &str, group: &str) -> Consumer {
        let _runtime = self.runtime.enter();
        builder.subscribe(subject, group).unwrap()
    }

    fn broadcast(&self, builder: &ConsumerBuilder, subject: &str) -> Consumer {
        let _runtime = self.runtime.enter();
        builder.subscribe_broadcast(subject).unwrap()
    }

    /// Sends until the consumer is handed something: what is sent from then on comes.
    fn warm_up(&self, consumer: &Consumer, subject: &str, tags: &[&str]) {
        wait::until("a group is handed messages", RECEIVE_MAX, || {
            self.send(subject, PROBE, tags);
            let deliveries = self.runtime.block_on(consumer.pull(1_000, PULL_WAIT));
            let has_come = !deliveries.is_empty();
            deliveries.into_iter().for_each(Delivery::ack);
            Ok(has_come.then_some(()))
        })
        .unwrap();
    }

    fn send(&self, subject: &str, number: i64, tags: &[&str]) {
        let mut message = self.producer.message(subject);
        message.set_integer(NUMBER, number);
        tags.iter().for_each(|tag| message.add_tag(*tag).unwrap());
        self.runtime.block_on(self.producer.send(message)).unwrap();
    }

    /// Pulls until `count` messages have come; probes are acked and do not count.
    fn take(&self, consumer: &Consumer, count: usize) -> Vec<Delivery> {
        let mut taken = Vec::new();
        wait::until("messages arrive", RECEIVE_MAX, || {
            for delivery in self.runtime.block_on(consumer.pull(1_000, PULL_WAIT)) {
                match number(&delivery) {
                    PROBE => delivery.ack(),
                    _ => taken.push(delivery),
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

fn number(delivery: &Delivery) -> i64 {
    delivery.message().integer(NUMBER).unwrap().unwrap()
}

fn ack_all(taken: Vec<Delivery>) -> Vec<i64> {
    let numbers = taken.iter().map(number).collect();
    taken.into_iter().for_each(Delivery::ack);
    numbers
}

#[test]
fn tags_choose_messages() {
    let scene = Scene::new();
    let subject = "e2e.tags";
    let wants = |tag_match| scene.builder("client").tags(tag_match, ["a", "b"]);
    let any = scene.subscribe(&wants(TagMatch::Any), subject, "any");
    let all = scene.subscribe(&wants(TagMatch::All), subject, "all");
    // In a broadcast a filter leaves holes among the numbers.
    let everyone = scene.broadcast(&wants(TagMatch::All), subject);
    for consumer in [&any, &all, &everyone] {
        scene.warm_up(consumer, subject, &["a", "b"]);
    }
    let tags: [&[&str]; 6] = [
        &["a"],
        &[],
        &["c", "b"],
        &["b", "a"],
        &["c"],
        &["a", "b", "c"],
    ];
    for (number, tags) in (0..).zip(tags) {
        scene.send(subject, number, tags);
    }
    for consumer in [&all, &everyone] {
        assert_eq!(ack_all(scene.take(consumer, 2)), [3, 5]);
        scene.close(consumer);
    }
    let taken = scene.take(&any, 4);
    assert_eq!(taken.iter().map(number).collect::<Vec<_>>(), [0, 2, 3, 5]);
    // What comes again by the retry subject is chosen by the same tags.
    let mut taken = taken.into_iter();
    let failed = taken.next().unwrap();
    scene.runtime.block_on(failed.nack()).unwrap();
    taken.for_each(Delivery::ack);
    assert_eq!(ack_all(scene.take(&any, 1)), [0]);
    scene.close(&any);
}

#[test]
fn a_broadcast_reaches_every_client_and_goes_on_after_a_restart() {
    let scene = Scene::new();
    let subject = "e2e.broadcast";
    let open = |client_id| scene.broadcast(&scene.builder(client_id), subject);
    let consumers = ["one", "other"].map(open);
    for consumer in &consumers {
        scene.warm_up(consumer, subject, &[]);
    }
    (0..50).for_each(|number| scene.send(subject, number, &[]));
    for consumer in &consumers {
        let numbers = ack_all(scene.take(consumer, 50));
        assert_eq!(numbers, (0..50).collect::<Vec<_>>());
        scene.close(consumer);
    }
    (50..60).for_each(|number| scene.send(subject, number, &[]));
    let again = open("one");
    let numbers = ack_all(scene.take(&again, 10));
    assert_eq!(numbers, (50..60).collect::<Vec<_>>(), "no history");
    scene.close(&again);
}

#[test]
fn failed_messages_are_retried_and_end_in_the_dead_letter_subject() {
    let scene = Scene::new();
    let (subject, dead_letter) = ("e2e.retry", "%DEAD_RETRY%e2e.retry%group");
    let builder = scene.builder("client").max_retries(3);
    let consumer = scene.subscribe(&builder, subject, "group");
    scene.warm_up(&consumer, subject, &[]);
    let undertaker = scene.subscribe(&scene.builder("client"), dead_letter, "undertaker");
    scene.warm_up(&undertaker, dead_letter, &[]);
    scene.send(subject, 7, &["vip"]);
    let mut failed: Option<Instant> = None;
    for times in 1..=3 {
        let delivery = scene.take(&consumer, 1).remove(0);
        let held_back = failed.map(|at| at.elapsed() + CLOCK_SLACK);
        assert!(
            held_back.is_none_or(|time| time >= RETRY_DELAY),
            "{held_back:?}"
        );
        assert_eq!((number(&delivery), delivery.times()), (7, times));
        assert_eq!(delivery.message().subject, subject);
        failed = Some(Instant::now());
        let place = scene.runtime.block_on(delivery.nack()).unwrap();
        let expected = if times < 3 {
            Redelivery::Retry
        } else {
            Redelivery::DeadLetter
        };
        assert_eq!(place, expected);
    }
    let dead = scene.take(&undertaker, 1).remove(0);
    assert_eq!((number(&dead), dead.times()), (7, 4));
    assert!(dead.message().tags.contains("vip"));
    dead.ack();
    scene.close(&undertaker);
    scene.close(&consumer);
}

#[test]
fn a_retry_at_a_time_comes_then_and_to_its_group_alone() {
    let mut cluster = Cluster::with_broker().unwrap();
    cluster.add_delay_server("d1", &[]).unwrap();
    let scene = Scene::with(cluster);
    let (subject, after) = ("e2e.retry.at", Duration::from_millis(1_500));
    let mine = scene.subscribe(&scene.builder("client"), subject, "mine");
    let other = scene.subscribe(&scene.builder("client"), subject, "other");
    for consumer in [&mine, &other] {
        scene.warm_up(consumer, subject, &[]);
    }
    (0..10).for_each(|number| scene.send(subject, number, &["vip"]));
    let failed = Instant::now();
    for delivery in scene.take(&mine, 10) {
        let place = scene.runtime.block_on(delivery.nack_after(after)).unwrap();
        assert_eq!(place, Redelivery::Delayed);
    }
    let again = scene.take(&mine, 10);
    assert!(failed.elapsed() + CLOCK_SLACK >= after, "too early");
    assert!(again.iter().all(|delivery| delivery.times() == 2));
    assert!(
        again
            .iter()
            .all(|delivery| delivery.message().tags.contains("vip"))
    );
    let numbers: BTreeSet<_> = ack_all(again).into_iter().collect();
    assert_eq!(numbers, (0..10).collect());
    // Behind the copies: had the other group been handed those, there would be more.
    scene.send(subject, 10, &[]);
    let numbers = ack_all(scene.take(&other, 11));
    assert_eq!(numbers, (0..11).collect::<Vec<_>>());
    scene.close(&mine);
    scene.close(&other);
}

#[test]
fn a_handler_that_fails_at_first_handles_everything() {
    let scene = Scene::new();
    let subject = "e2e.handler";
    let consumer = scene.subscribe(&scene.builder("client"), subject, "group");
    scene.warm_up(&consumer, subject, &[]);
    (0..20).for_each(|number| scene.send(subject, number, &[]));
    let (done, finished) = std::sync::mpsc::channel();
    let handler = move |message: Message| {
        let done = done.clone();
        async move {
            let number = message.integer(NUMBER)?.ok_or("no number")?;
            // Every second one fails once; the time is for a delay server, which is not there.
            match number % 4 {
                1 if message.times() == 1 => return Err(Failure::from("not yet")),
                3 if message.times() == 1 => {
                    return Err(Failure::retry_after(Duration::from_millis(500), "not yet"));
                }
                _ => done.send((number, message.times()))?,
            }
            Ok(())
        }
    };
    let running = consumer.clone();
    let run = scene
        .runtime
        .spawn(async move { running.run(handler, 4).await });
    let mut handled = BTreeSet::new();
    while handled.len() < 20 {
        let (number, times) = finished.recv_timeout(RECEIVE_MAX).unwrap();
        if number != PROBE {
            assert_eq!(times, if number % 2 == 1 { 2 } else { 1 }, "{number}");
            assert!(handled.insert(number), "{number} came twice");
        }
    }
    scene.close(&consumer);
    scene.runtime.block_on(run).unwrap();
}

#[test]
fn a_consumer_that_stops_gives_back_what_it_has_not_handled() {
    let scene = Scene::new();
    let subject = "e2e.stop";
    let leaves = scene.builder("leaves").on_close(Leftovers::GiveBack);
    let leaves = leaves.pull_wait(Duration::from_millis(300));
    let leaving = scene.subscribe(&leaves, subject, "group");
    scene.warm_up(&leaving, subject, &[]);
    (0..20).for_each(|number| scene.send(subject, number, &[]));
    let first = scene.runtime.block_on(async {
        let mut deliveries = leaving.deliveries();
        loop {
            let delivery = deliveries.next().await.unwrap();
            match number(&delivery) {
                PROBE => delivery.ack(),
                number => {
                    delivery.ack();
                    return number;
                }
            }
        }
    });
    assert_eq!(first, 0);
    scene.close(&leaving);
    let staying = scene.subscribe(&scene.builder("stays"), subject, "group");
    let taken = scene.take(&staying, 19);
    assert!(
        taken.iter().all(|delivery| delivery.times() == 1),
        "giving back does not count"
    );
    let numbers: BTreeSet<_> = taken.iter().map(number).collect();
    assert_eq!(numbers, (1..20).collect(), "each once, none lost");
    assert_eq!(taken.len(), 19);
    ack_all(taken);
    scene.close(&staying);
}

#[test]
fn properties_of_every_kind_arrive() {
    let scene = Scene::new();
    let subject = "e2e.properties";
    let consumer = scene.subscribe(&scene.builder("client"), subject, "group");
    scene.warm_up(&consumer, subject, &[]);
    let mut sent = scene.producer.message(subject);
    sent.set_integer(NUMBER, i64::MAX);
    sent.set_boolean("paid", true);
    sent.set_float("price", 1.5e10);
    sent.set_time("at", sent.created);
    let long = "订单🚀 ".repeat(100_000);
    sent.set_large("long", &long);
    let expected = sent.clone();
    scene.runtime.block_on(scene.producer.send(sent)).unwrap();
    let delivery = scene.take(&consumer, 1).remove(0);
    let got = delivery.message();
    assert_eq!(got.properties, expected.properties);
    assert_eq!(got.message_id, expected.message_id);
    assert_eq!(number(&delivery), i64::MAX);
    assert_eq!(got.boolean("paid"), Some(true));
    assert_eq!(got.float("price"), Ok(Some(1.5e10)));
    assert_eq!(got.time("at"), Ok(Some(expected.created)));
    assert_eq!(got.large("long").as_deref(), Some(&*long));
    delivery.ack();
    scene.close(&consumer);
}
