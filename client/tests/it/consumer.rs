//! What a consumer promises when messages are pulled: order of acks, keep-alive, re-delivery.

use std::time::{Duration, Instant};

use qmq_client::{BuildError, Consumer, ConsumerBuilder, Delivery};
use qmq_model::message::property;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::fake::broker::{FakeBroker, Script, message};
use crate::fake::meta::FakeMeta;
use crate::fake::{PATIENCE, wait_for};

const SUBJECT: &str = "order.changed";
const RETRY: &str = "%RETRY%order.changed%billing";

async fn one_broker() -> (FakeMeta, FakeBroker) {
    let broker = FakeBroker::start().await;
    (
        FakeMeta::start(&[("group-1", broker.address())]).await,
        broker,
    )
}

fn builder(meta: &FakeMeta) -> ConsumerBuilder {
    Consumer::builder(&meta.url, "app")
        .client_id("it@@1")
        .ack_linger(Duration::from_millis(10))
}

async fn pull_all(consumer: &Consumer, count: usize) -> Vec<Delivery> {
    let mut all = Vec::new();
    while all.len() < count {
        let some = consumer.pull(count - all.len(), PATIENCE).await;
        assert!(!some.is_empty(), "{} of {count} came", all.len());
        all.extend(some);
    }
    all
}

fn ids(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries
        .iter()
        .map(|delivery| delivery.message().message_id.as_str())
        .collect()
}

fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("m-{n}")).collect()
}

#[tokio::test]
async fn pulls_hand_out_every_message_once_and_confirm_it() {
    let (meta, broker) = one_broker().await;
    broker.store(SUBJECT, numbered(0..120));
    let consumer = builder(&meta).subscribe(SUBJECT, "billing").unwrap();
    for count in [70, 50] {
        pull_all(&consumer, count)
            .await
            .into_iter()
            .for_each(Delivery::ack);
    }
    broker.wait_acked(SUBJECT, 119).await;
    let state = broker.state.borrow();
    let pulls = state.pulls.iter().filter(|pull| pull.subject == SUBJECT);
    for pull in pulls {
        assert_eq!((&*pull.group, &*pull.consumer_id), ("billing", "it@@1"));
        assert!((1..=50).contains(&pull.num));
    }
    let registrations = &meta.state.borrow().registrations;
    let subjects: Vec<_> = registrations
        .iter()
        .map(|seen| seen.subject.as_str())
        .collect();
    assert!(
        subjects.contains(&SUBJECT) && subjects.contains(&RETRY),
        "{subjects:?}"
    );
    assert!(
        registrations
            .iter()
            .all(|seen| seen.client_type == 2 && seen.group == "billing")
    );
}

#[tokio::test]
async fn acks_are_ranges_in_order_whatever_the_order_of_completion() {
    for seed in 0..10 {
        let mut random = SmallRng::seed_from_u64(seed);
        let (meta, broker) = one_broker().await;
        broker.store(SUBJECT, numbered(0..200));
        let fails = (0..40).map(|_| match random.random_range(0..4) {
            0 => Script::Code(51),
            _ => Script::Serve,
        });
        broker.script_acks(fails.collect::<Vec<_>>());
        let consumer = builder(&meta)
            .ack_linger(Duration::from_millis(1))
            .unacked_max(60)
            .subscribe(SUBJECT, "billing")
            .unwrap();
        let mut held = Vec::new();
        let mut handed_out = 0;
        while handed_out < 200 {
            // At least what the consumer still waits for must be finished before more can come.
            let more = consumer
                .pull(random.random_range(1..30), Duration::from_millis(100))
                .await;
            handed_out += more.len();
            held.extend(more);
            held.shuffle(&mut random);
            let keep = if held.len() < 20 {
                random.random_range(0..=held.len())
            } else {
                0
            };
            held.drain(keep..).for_each(Delivery::ack);
        }
        held.into_iter().for_each(Delivery::ack);
        // The fake asserts that every range starts where the one before ended.
        consumer
            .close(PATIENCE)
            .await
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let state = broker.state.borrow();
        let last = state
            .acks
            .iter()
            .filter(|ack| ack.subject == SUBJECT)
            .map(|ack| ack.last)
            .max();
        assert_eq!(last, Some(199), "seed {seed}");
    }
}

#[tokio::test]
async fn an_open_message_holds_up_the_acks_behind_it() {
    let (meta, broker) = one_broker().await;
    broker.store(SUBJECT, numbered(0..10));
    let consumer = builder(&meta).subscribe(SUBJECT, "billing").unwrap();
    let mut deliveries = pull_all(&consumer, 10).await;
    let open = deliveries.remove(4);
    assert_eq!(open.pull_sequence(), 4);
    deliveries.into_iter().for_each(Delivery::ack);
    broker.wait_acked(SUBJECT, 3).await;
    assert!(broker.state.borrow().acks.iter().all(|ack| ack.last <= 3));
    open.ack();
    broker.wait_acked(SUBJECT, 9).await;
}

#[tokio::test]
async fn a_slow_consumer_says_that_it_is_alive() {
    let (meta, broker) = one_broker().await;
    broker.store(SUBJECT, numbered(0..1));
    let consumer = builder(&meta)
        .keep_alive(Duration::from_millis(30))
        .subscribe(SUBJECT, "billing")
        .unwrap();
    let delivery = pull_all(&consumer, 1).await.remove(0);
    wait_for(&broker.state, |state| {
        let alive = |subject: &str| {
            let empty = state
                .acks
                .iter()
                .filter(|ack| ack.subject == subject && ack.last == -1);
            empty.count() >= 3
        };
        (alive(SUBJECT) && alive(RETRY)).then_some(())
    })
    .await;
    assert!(
        broker
            .state
            .borrow()
            .acks
            .iter()
            .all(|ack| (ack.begin, ack.last) == (-1, -1))
    );
    delivery.ack();
    broker.wait_acked(SUBJECT, 0).await;
}

#[tokio::test]
async fn a_restarted_consumer_gets_what_it_had_not_acked() {
    let (meta, broker) = one_broker().await;
    broker.store(SUBJECT, numbered(0..30));
    let first = builder(&meta).subscribe(SUBJECT, "billing").unwrap();
    let mut deliveries = pull_all(&first, 30).await;
    let open: Vec<_> = deliveries.drain(10..).collect();
    deliveries.into_iter().for_each(Delivery::ack);
    first.close(PATIENCE).await.unwrap();
    assert!(first.pull(1, PATIENCE).await.is_empty() && first.is_closed());
    drop(open);

    let pulls_before = broker.state.borrow().pulls.len();
    let second = builder(&meta).subscribe(SUBJECT, "billing").unwrap();
    let again = pull_all(&second, 20).await;
    assert_eq!(ids(&again), numbered(10..30));
    assert_eq!(again[0].pull_sequence(), 10);
    {
        let state = broker.state.borrow();
        let pulls: Vec<_> = state.pulls[pulls_before..]
            .iter()
            .filter(|pull| pull.subject == SUBJECT)
            .collect();
        assert_eq!(
            (pulls[0].begin, pulls[0].last),
            (-1, -1),
            "as after a start"
        );
    }
    again.into_iter().for_each(Delivery::ack);
    broker.wait_acked(SUBJECT, 29).await;
}

#[tokio::test]
async fn a_pull_names_what_is_held_and_what_came_last() {
    let (meta, broker) = one_broker().await;
    broker.store(SUBJECT, numbered(0..6));
    let consumer = builder(&meta).subscribe(SUBJECT, "billing").unwrap();
    let mut deliveries = pull_all(&consumer, 6).await;
    deliveries.drain(..2).for_each(Delivery::ack);
    pull_until_seen(&consumer, &broker, (2, 5)).await;
    deliveries.into_iter().for_each(Delivery::ack);
    pull_until_seen(&consumer, &broker, (-1, 5)).await;
}

/// Pulls until a request names these first and last pull sequences: it takes a moment until the
/// consumer knows that its acks arrived.
async fn pull_until_seen(consumer: &Consumer, broker: &FakeBroker, held: (i64, i64)) {
    let seen = || {
        let state = broker.state.borrow();
        let mut pulls = state.pulls.iter().filter(|pull| pull.subject == SUBJECT);
        pulls.any(|pull| (pull.begin, pull.last) == held)
    };
    let begun = Instant::now();
    while !seen() {
        assert!(begun.elapsed() < PATIENCE, "no pull named {held:?}");
        assert!(
            consumer
                .pull(1, Duration::from_millis(100))
                .await
                .is_empty()
        );
    }
}

#[tokio::test]
async fn messages_of_a_lost_reply_come_again() {
    let (meta, broker) = one_broker().await;
    broker.store(SUBJECT, numbered(0..10));
    broker.script_pulls([Script::Lose]);
    let consumer = builder(&meta)
        .pull_wait(Duration::from_millis(50))
        .pull_allowance(Duration::from_millis(50))
        .subscribe(SUBJECT, "billing")
        .unwrap();
    let deliveries = pull_all(&consumer, 10).await;
    assert_eq!(ids(&deliveries), numbered(0..10));
    deliveries.into_iter().for_each(Delivery::ack);
    broker.wait_acked(SUBJECT, 9).await;
}

#[tokio::test]
async fn void_pull_sequences_are_stepped_over() {
    let (meta, broker) = one_broker().await;
    broker.store(SUBJECT, numbered(0..4));
    let consumer = builder(&meta).subscribe(SUBJECT, "billing").unwrap();
    let first = pull_all(&consumer, 4).await;
    broker.script_pulls([Script::Skip(100)]);
    // The pull that is under way is served as before, the next one skips.
    broker.store(SUBJECT, numbered(4..6));
    let second = pull_all(&consumer, 2).await;
    assert_eq!(ids(&second), numbered(4..6));
    let last = second[1].pull_sequence();
    first.into_iter().chain(second).for_each(Delivery::ack);
    broker.wait_acked(SUBJECT, last).await;
}

#[tokio::test]
async fn retry_messages_come_under_the_real_subject_and_foreign_ones_not_at_all() {
    let (meta, broker) = one_broker().await;
    let mut foreign = message(SUBJECT, "foreign");
    foreign.set_property(property::CONSUMER_GROUP, "other");
    let mut ours = message(SUBJECT, "ours");
    ours.set_property(property::CONSUMER_GROUP, "billing");
    broker.store_messages(SUBJECT, [foreign, ours]);
    broker.store_messages(RETRY, [message(RETRY, "retried")]);
    let consumer = builder(&meta).subscribe(SUBJECT, "billing").unwrap();
    let deliveries = pull_all(&consumer, 2).await;
    let mut seen = ids(&deliveries);
    seen.sort_unstable();
    assert_eq!(seen, ["ours", "retried"]);
    assert!(
        deliveries
            .iter()
            .all(|delivery| delivery.message().subject == SUBJECT)
    );
    deliveries.into_iter().for_each(Delivery::ack);
    broker.wait_acked(SUBJECT, 1).await;
    broker.wait_acked(RETRY, 0).await;
}

#[tokio::test]
async fn a_dead_letter_consumer_gets_messages_of_every_group() {
    let dead = "%DEAD_RETRY%order.changed%billing";
    let (meta, broker) = one_broker().await;
    let mut given_up = message(dead, "given-up");
    given_up.set_property(property::CONSUMER_GROUP, "billing");
    broker.store_messages(dead, [given_up]);
    let consumer = builder(&meta).subscribe(dead, "watchers").unwrap();
    let deliveries = pull_all(&consumer, 1).await;
    assert_eq!(deliveries[0].message().subject, dead);
    deliveries.into_iter().for_each(Delivery::ack);
    assert!(
        meta.state
            .borrow()
            .registrations
            .iter()
            .all(|seen| seen.subject == dead)
    );
}

#[tokio::test]
async fn quick_errors_do_not_make_a_hot_loop() {
    let (meta, broker) = one_broker().await;
    broker.script_pulls([Script::Code(51), Script::Code(4), Script::Code(51)]);
    broker.store(SUBJECT, numbered(0..1));
    let consumer = builder(&meta).subscribe(SUBJECT, "billing").unwrap();
    let begun = Instant::now();
    let deliveries = pull_all(&consumer, 1).await;
    // Three pauses of at least 50, 100 and 200 ms.
    assert!(
        begun.elapsed() >= Duration::from_millis(350),
        "{:?}",
        begun.elapsed()
    );
    deliveries.into_iter().for_each(Delivery::ack);
}

#[tokio::test]
async fn nothing_is_pulled_without_demand_or_beyond_the_bound() {
    let (meta, broker) = one_broker().await;
    broker.store(SUBJECT, numbered(0..100));
    let consumer = builder(&meta)
        .unacked_max(7)
        .subscribe(SUBJECT, "billing")
        .unwrap();
    wait_for(&meta.state, |state| {
        (state.registrations.len() == 2).then_some(())
    })
    .await;
    assert!(broker.state.borrow().pulls.is_empty());
    let deliveries = pull_all(&consumer, 7).await;
    assert!(
        consumer
            .pull(10, Duration::from_millis(100))
            .await
            .is_empty(),
        "the bound is reached"
    );
    deliveries.into_iter().for_each(Delivery::ack);
    let more = pull_all(&consumer, 1).await;
    assert_eq!(ids(&more), ["m-7"]);
    more.into_iter().for_each(Delivery::ack);
}

#[tokio::test]
async fn an_operator_can_take_a_consumer_offline() {
    let (meta, broker) = one_broker().await;
    meta.state.send_modify(|state| state.is_offline = true);
    broker.store(SUBJECT, numbered(0..1));
    let consumer = builder(&meta).subscribe(SUBJECT, "billing").unwrap();
    wait_for(&meta.state, |state| {
        (state.registrations.len() == 2).then_some(())
    })
    .await;
    assert!(
        consumer
            .pull(1, Duration::from_millis(300))
            .await
            .is_empty()
    );
    let pulls = broker.state.borrow().pulls.len();
    assert_eq!(pulls, 0, "an offline consumer does not pull");
}

#[tokio::test]
async fn one_process_cannot_subscribe_twice() {
    let (meta, _broker) = one_broker().await;
    let builder = builder(&meta);
    let first = builder.subscribe(SUBJECT, "billing").unwrap();
    let twice = builder.subscribe(SUBJECT, "billing").err().unwrap();
    assert!(matches!(twice, BuildError::AlreadySubscribed { .. }));
    let other = builder
        .clone()
        .client_id("it@@2")
        .subscribe(SUBJECT, "billing")
        .unwrap();
    first.close(PATIENCE).await.unwrap();
    let again = builder.subscribe(SUBJECT, "billing").unwrap();
    drop(first);
    assert!(
        builder.subscribe(SUBJECT, "billing").is_err(),
        "the closed one is long forgotten"
    );
    drop((again, other));
    assert!(builder.subscribe(SUBJECT, "billing").is_ok());
}

#[tokio::test]
async fn bad_names_and_settings_are_refused() {
    let url = "http://127.0.0.1:1/meta/address";
    let good = || Consumer::builder(url, "a").client_id("c");
    assert!(good().subscribe("a", "g").is_ok());
    assert!(good().subscribe("a b", "g").is_err());
    assert!(good().subscribe("a", "g/h").is_err());
    let bad = [
        good().client_id("with space"),
        good().pull_batch(0),
        good().unacked_max(0),
        good().ack_batch(0),
        good().pull_wait(Duration::ZERO),
        good().keep_alive(Duration::from_secs(300)),
    ];
    assert!(
        bad.into_iter()
            .all(|builder| builder.subscribe("a", "g").is_err())
    );
}
