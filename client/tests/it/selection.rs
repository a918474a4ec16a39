//! Which messages a consumer wants, and in which way: tags, broadcast, environment, most once, as a
//! stream.

use std::time::Duration;

use qmq_client::{BuildError, Consumer, ConsumerBuilder, Delivery, NackError, Producer, TagMatch};
use qmq_model::Message;
use qmq_model::message::property;

use crate::fake::PATIENCE;
use crate::fake::broker::{FakeBroker, message};
use crate::fake::meta::FakeMeta;

const SUBJECT: &str = "order.changed";

async fn one_broker() -> (FakeMeta, FakeBroker) {
    let broker = FakeBroker::start().await;
    (
        FakeMeta::start(&[("group-1", broker.address())]).await,
        broker,
    )
}

fn builder(meta: &FakeMeta, client_id: &str) -> ConsumerBuilder {
    Consumer::builder(&meta.url, "app")
        .client_id(client_id)
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

async fn consume(consumer: &Consumer, count: usize) -> Vec<String> {
    let ack = |delivery: Delivery| {
        let id = delivery.message().message_id.clone();
        delivery.ack();
        id
    };
    pull_all(consumer, count)
        .await
        .into_iter()
        .map(ack)
        .collect()
}

fn tagged(id: &str, tags: &[&str]) -> Message {
    let mut message = message(SUBJECT, id);
    tags.iter().for_each(|tag| message.add_tag(*tag).unwrap());
    message
}

fn some_tagged() -> [Message; 6] {
    [
        tagged("a", &["a"]),
        tagged("none", &[]),
        tagged("b", &["b"]),
        tagged("ab", &["a", "b"]),
        tagged("c", &["c"]),
        tagged("abc", &["a", "b", "c"]),
    ]
}

#[tokio::test]
async fn tags_choose_messages_with_any_or_all_of_them() {
    let (meta, broker) = one_broker().await;
    broker.store_messages(SUBJECT, some_tagged());
    let subscribe = |group: &str, tag_match| {
        let builder = builder(&meta, "it@@1").tags(tag_match, ["a", "b"]);
        builder.subscribe(SUBJECT, group).unwrap()
    };
    let any = subscribe("any", TagMatch::Any);
    assert_eq!(consume(&any, 4).await, ["a", "b", "ab", "abc"]);
    let all = subscribe("all", TagMatch::All);
    assert_eq!(consume(&all, 2).await, ["ab", "abc"]);
    let no_tags: [&str; 0] = [];
    let every = builder(&meta, "it@@1").tags(TagMatch::All, no_tags);
    let every = every.subscribe(SUBJECT, "every").unwrap();
    assert_eq!(consume(&every, 6).await.len(), 6, "no tags is no filter");
}

#[tokio::test]
async fn every_broadcast_consumer_gets_every_message() {
    let (meta, broker) = one_broker().await;
    broker.store(SUBJECT, (0..20).map(|n| format!("m-{n}")));
    let expected: Vec<_> = (0..20).map(|n| format!("m-{n}")).collect();
    for client_id in ["it@@1", "it@@2"] {
        let builder = builder(&meta, client_id).keep_alive(Duration::from_millis(20));
        let consumer = builder.subscribe_broadcast(SUBJECT).unwrap();
        assert_eq!(consume(&consumer, 20).await, expected);
        consumer.close(PATIENCE).await.unwrap();
        let state = broker.state.borrow();
        let acked = state.acks.iter().filter(|ack| ack.consumer_id == client_id);
        assert_eq!(acked.map(|ack| ack.last).max(), Some(19));
    }
    let state = broker.state.borrow();
    assert!(
        state
            .pulls
            .iter()
            .all(|pull| pull.is_broadcast && pull.group == pull.consumer_id)
    );
    assert!(
        state.acks.iter().all(|ack| ack.is_broadcast),
        "empty acks too"
    );
    assert!(
        meta.state
            .borrow()
            .registrations
            .iter()
            .all(|seen| seen.group == seen.client_id),
        "the client id is the group"
    );
}

#[tokio::test]
async fn holes_that_a_filter_leaves_in_a_broadcast_are_not_acked_over() {
    let (meta, broker) = one_broker().await;
    broker.store_messages(SUBJECT, some_tagged());
    let builder = builder(&meta, "it@@1").tags(TagMatch::Any, ["a"]);
    let consumer = builder.subscribe_broadcast(SUBJECT).unwrap();
    let deliveries = pull_all(&consumer, 3).await;
    let numbers: Vec<_> = deliveries.iter().map(Delivery::pull_sequence).collect();
    assert_eq!(numbers, [0, 3, 5], "the numbers of the messages");
    deliveries.into_iter().for_each(Delivery::ack);
    // The fake asserts that every number in a range was handed out.
    broker.wait_acked(SUBJECT, 5).await;
}

#[tokio::test]
async fn a_failed_broadcast_message_comes_again_to_its_consumer_only() {
    let (meta, broker) = one_broker().await;
    broker.store(SUBJECT, ["m".to_owned()]);
    let failing = builder(&meta, "it@@1")
        .subscribe_broadcast(SUBJECT)
        .unwrap();
    let other = builder(&meta, "it@@2")
        .subscribe_broadcast(SUBJECT)
        .unwrap();
    pull_all(&failing, 1).await.remove(0).nack().await.unwrap();
    assert_eq!(broker.stored("%RETRY%order.changed%it@@1").len(), 1);
    assert_eq!(pull_all(&failing, 1).await[0].times(), 2);
    assert_eq!(pull_all(&other, 1).await[0].times(), 1);
}

#[tokio::test]
async fn an_environment_renames_the_group_and_is_asked_for() {
    let (meta, broker) = one_broker().await;
    let producer = Producer::builder(&meta.url, "shop").environment("beta", "u1");
    let producer = producer.build().unwrap();
    producer.send(producer.message(SUBJECT)).await.unwrap();
    let stored = broker.stored(SUBJECT);
    assert_eq!(stored[0].property(property::ENVIRONMENT), Some("beta"));
    assert_eq!(stored[0].property(property::SUB_ENVIRONMENT), Some("u1"));

    let consumer = builder(&meta, "it@@1").environment("beta", "u1");
    let consumer = consumer.subscribe(SUBJECT, "billing").unwrap();
    pull_all(&consumer, 1).await.remove(0).nack().await.unwrap();
    let retry = "%RETRY%order.changed%billing_beta_u1";
    assert_eq!(
        broker.stored(retry).len(),
        1,
        "the retry subject is of the renamed group"
    );
    assert_eq!(pull_all(&consumer, 1).await[0].times(), 2);
    let environment = Some(("beta".to_owned(), "u1".to_owned()));
    let state = broker.state.borrow();
    for pull in &state.pulls {
        assert_eq!(
            (&*pull.group, &pull.environment),
            ("billing_beta_u1", &environment)
        );
    }
}

#[tokio::test]
async fn most_once_acks_before_handling_and_drops_repeats() {
    let (meta, broker) = one_broker().await;
    let mut repeated = message(SUBJECT, "repeated");
    repeated.set_property(property::TIMES, "2");
    broker.store_messages(
        SUBJECT,
        [
            message(SUBJECT, "first"),
            repeated,
            message(SUBJECT, "last"),
        ],
    );
    let consumer = builder(&meta, "it@@1").consume_most_once();
    let consumer = consumer.subscribe(SUBJECT, "billing").unwrap();
    let mut deliveries = pull_all(&consumer, 2).await;
    let ids: Vec<_> = deliveries
        .iter()
        .map(|delivery| &*delivery.message().message_id)
        .collect();
    assert_eq!(ids, ["first", "last"]);
    broker.wait_acked(SUBJECT, 2).await;
    let error = deliveries.remove(0).nack().await.unwrap_err();
    assert!(matches!(error, NackError::AlreadyAcked), "{error}");
    assert!(broker.sent_ids().is_empty());
    consumer.close(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn deliveries_come_as_a_stream_that_ends_with_the_consumer() {
    let (meta, broker) = one_broker().await;
    broker.store(SUBJECT, (0..120).map(|n| format!("m-{n}")));
    let consumer = builder(&meta, "it@@1")
        .subscribe(SUBJECT, "billing")
        .unwrap();
    let mut deliveries = consumer.deliveries();
    for n in 0..120 {
        // A future that is dropped early loses nothing.
        let early = tokio::time::timeout(Duration::ZERO, deliveries.next()).await;
        let delivery = match early {
            Ok(delivery) => delivery,
            Err(_) => deliveries.next().await,
        };
        let delivery = delivery.unwrap();
        assert_eq!(delivery.message().message_id, format!("m-{n}"));
        delivery.ack();
    }
    broker.wait_acked(SUBJECT, 119).await;
    let (next, closed) = tokio::join!(deliveries.next(), consumer.close(PATIENCE));
    assert!(next.is_none() && closed.is_ok());
    assert!(deliveries.next().await.is_none(), "it stays at its end");
}

#[tokio::test]
async fn what_a_consumer_wants_is_checked() {
    let (meta, _broker) = one_broker().await;
    let bad = [
        builder(&meta, "it@@1").tags(TagMatch::Any, [""]),
        builder(&meta, "it@@1").tags(TagMatch::All, vec!["t"; 128]),
        builder(&meta, "it@@1").environment("", "u1"),
    ];
    for builder in bad {
        let error = builder.subscribe(SUBJECT, "billing").err().unwrap();
        assert!(matches!(error, BuildError::Setting { .. }), "{error}");
    }
    let stray = builder(&meta, "it@@1").environment("a b", "u1");
    let error = stray.subscribe(SUBJECT, "billing").err().unwrap();
    assert!(matches!(error, BuildError::Name { .. }), "{error}");
}
