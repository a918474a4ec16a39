//! What becomes of messages that are not handled: retry subject, delay server, dead-letter subject.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use qmq_client::{Consumer, ConsumerBuilder, Delivery, Failure, NackError, Redelivery};
use qmq_client::{Message, SendErrorKind};
use qmq_model::message::property;

use crate::fake::broker::{FakeBroker, Script, message};
use crate::fake::meta::FakeMeta;
use crate::fake::{PATIENCE, wait_for};

const SUBJECT: &str = "order.changed";
const RETRY: &str = "%RETRY%order.changed%billing";
const DEAD_LETTER: &str = "%DEAD_RETRY%order.changed%billing";

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

fn consumer(meta: &FakeMeta) -> Consumer {
    builder(meta).subscribe(SUBJECT, "billing").unwrap()
}

async fn pull_one(consumer: &Consumer) -> Delivery {
    let mut pulled = consumer.pull(1, PATIENCE).await;
    assert_eq!(pulled.len(), 1);
    pulled.remove(0)
}

#[tokio::test]
async fn a_nacked_message_comes_again_and_counts() {
    let (meta, broker) = one_broker().await;
    let mut original = message(SUBJECT, "m");
    original.set_property("orderId", "12");
    original.set_property(property::PULL_OFFSET, "77");
    original.tags.insert("vip".into());
    broker.store_messages(SUBJECT, [original]);
    let consumer = consumer(&meta);
    let delivery = pull_one(&consumer).await;
    assert_eq!(delivery.times(), 1);
    assert_eq!(delivery.nack().await.unwrap(), Redelivery::Retry);
    broker.wait_acked(SUBJECT, 0).await;

    let copies = broker.stored(RETRY);
    assert_eq!(copies.len(), 1);
    assert_eq!(copies[0].property(property::TIMES), Some("2"));
    assert_eq!(
        copies[0].property(property::CONSUMER_GROUP),
        Some("billing")
    );
    let created = copies[0].created;
    assert!(created > qmq_client::UnixMillis(1), "a time of its own");
    assert_eq!(copies[0].time(property::CREATE_TIME), Ok(Some(created)));
    assert_eq!(copies[0].property(property::PULL_OFFSET), None);

    let again = pull_one(&consumer).await;
    assert_eq!(
        (again.times(), again.message().subject.as_str()),
        (2, SUBJECT)
    );
    assert_eq!(again.message().message_id, "m");
    assert_eq!(again.message().property("orderId"), Some("12"));
    assert!(again.message().tags.contains("vip"), "copies keep the tags");
    again.ack();
    broker.wait_acked(RETRY, 0).await;
    consumer.close(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn the_original_is_acked_only_after_the_copy_is_confirmed() {
    let (meta, broker) = one_broker().await;
    broker.store(SUBJECT, ["m".to_owned()]);
    let consumer = builder(&meta)
        .keep_alive(Duration::from_millis(20))
        .subscribe(SUBJECT, "billing")
        .unwrap();
    let delivery = pull_one(&consumer).await;
    broker.state.send_modify(|state| state.holds_sends = true);
    let nack = tokio::spawn(delivery.nack());
    // While the copy is under way the consumer only says that it is alive.
    let seen = wait_for(&broker.state, |state| {
        let acks: Vec<_> = state
            .acks
            .iter()
            .filter(|ack| ack.subject == SUBJECT)
            .collect();
        (acks.len() >= 3).then(|| acks.iter().all(|ack| ack.last == -1))
    });
    assert!(seen.await && !nack.is_finished());
    broker.state.send_modify(|state| state.holds_sends = false);
    assert_eq!(nack.await.unwrap().unwrap(), Redelivery::Retry);
    broker.wait_acked(SUBJECT, 0).await;
}

#[tokio::test]
async fn an_unconfirmed_copy_is_an_error_that_keeps_the_message() {
    let (meta, broker) = one_broker().await;
    broker.store(SUBJECT, ["m".to_owned()]);
    let consumer = consumer(&meta);
    let delivery = pull_one(&consumer).await;
    // Busy is final for a send.
    let busy = [("m".to_owned(), 1)].into_iter().collect();
    broker.state.send_modify(|state| state.fail_once = busy);
    let error = delivery.nack().await.unwrap_err();
    assert!(error.to_string().contains(RETRY), "{error}");
    let NackError::Send { source, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(source.kind(), SendErrorKind::Busy);
    assert!(broker.state.borrow().acks.iter().all(|ack| ack.last == -1));
    let delivery = error.into_delivery().unwrap();
    assert_eq!(delivery.nack().await.unwrap(), Redelivery::Retry);
    broker.wait_acked(SUBJECT, 0).await;
}

#[tokio::test]
async fn deliveries_end_in_the_dead_letter_subject() {
    let (meta, broker) = one_broker().await;
    broker.store(SUBJECT, ["m".to_owned()]);
    let consumer = builder(&meta)
        .max_retries(3)
        .subscribe(SUBJECT, "billing")
        .unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let delivery = pull_one(&consumer).await;
        let times = delivery.times();
        seen.push((times, delivery.nack().await.unwrap()));
    }
    let retry = Redelivery::Retry;
    assert_eq!(seen, [(1, retry), (2, retry), (3, Redelivery::DeadLetter)]);
    let dead = broker.stored(DEAD_LETTER);
    assert_eq!((dead.len(), dead[0].times()), (1, 4));
    assert_eq!(dead[0].property(property::CONSUMER_GROUP), Some("billing"));
    broker.wait_acked(RETRY, 1).await;
}

#[tokio::test]
async fn the_maximum_of_a_message_counts_before_that_of_the_consumer() {
    let (meta, broker) = one_broker().await;
    let mut once = message(SUBJECT, "once");
    once.set_max_retries(1);
    broker.store_messages(SUBJECT, [once]);
    let consumer = consumer(&meta);
    let place = pull_one(&consumer).await.nack().await.unwrap();
    assert_eq!(place, Redelivery::DeadLetter);
}

#[tokio::test]
async fn a_retry_at_a_time_goes_through_the_real_subject_of_a_delay_server() {
    let (meta, broker) = one_broker().await;
    let delay_server = FakeBroker::start().await;
    let groups = vec![crate::fake::meta::group("delay-1", delay_server.address())];
    meta.state
        .send_modify(|state| state.delay_groups = Some(groups));
    broker.store(SUBJECT, ["m".to_owned()]);
    let consumer = consumer(&meta);
    let delivery = pull_one(&consumer).await;
    let after = Duration::from_secs(60);
    assert_eq!(
        delivery.nack_after(after).await.unwrap(),
        Redelivery::Delayed
    );
    broker.wait_acked(SUBJECT, 0).await;
    assert!(broker.stored(RETRY).is_empty());
    let copies = delay_server.stored(SUBJECT);
    assert_eq!((copies.len(), copies[0].times()), (1, 2));
    assert_eq!(
        copies[0].property(property::CONSUMER_GROUP),
        Some("billing")
    );
    let due = copies[0].due.expect("the delay bit is set");
    assert_eq!(due.since(copies[0].created), after);
    assert_eq!(copies[0].time(property::SCHEDULE_TIME), Ok(Some(due)));
}

#[tokio::test]
async fn without_a_delay_server_a_retry_at_a_time_uses_the_retry_subject() {
    let (meta, broker) = one_broker().await;
    meta.state
        .send_modify(|state| state.delay_groups = Some(Vec::new()));
    broker.store(SUBJECT, ["m".to_owned()]);
    let consumer = consumer(&meta);
    let delivery = pull_one(&consumer).await;
    let place = delivery.nack_after(Duration::from_secs(60)).await.unwrap();
    assert_eq!(place, Redelivery::Retry);
    let copies = broker.stored(RETRY);
    assert_eq!((copies[0].times(), copies[0].due), (2, None));
    broker.wait_acked(SUBJECT, 0).await;
}

#[tokio::test]
async fn a_copy_goes_to_any_group_that_takes_it() {
    let (one, two) = (FakeBroker::start().await, FakeBroker::start().await);
    let meta = FakeMeta::start(&[("one", one.address()), ("two", two.address())]).await;
    one.script_sends(std::iter::repeat_n(Script::Code(52), 100));
    one.store(SUBJECT, (0..5).map(|n| format!("m-{n}")));
    let consumer = consumer(&meta);
    for _ in 0..5 {
        let delivery = pull_one(&consumer).await;
        if delivery.times() == 1 {
            assert_eq!(delivery.broker_group(), "one");
            delivery.nack().await.unwrap();
        } else {
            delivery.ack();
        }
    }
    assert!(!two.stored(RETRY).is_empty() && one.stored(RETRY).is_empty());
}

#[tokio::test]
async fn a_dead_letter_subject_has_no_retry_subject() {
    let (meta, broker) = one_broker().await;
    broker.store(DEAD_LETTER, ["m".to_owned()]);
    let consumer = builder(&meta).subscribe(DEAD_LETTER, "billing").unwrap();
    let error = pull_one(&consumer).await.nack().await.unwrap_err();
    assert!(matches!(error, NackError::NoRetrySubject { .. }), "{error}");
    error.into_delivery().unwrap().ack();
    broker.wait_acked(DEAD_LETTER, 0).await;
    assert!(broker.sent_ids().is_empty());
}

#[tokio::test]
async fn a_handler_of_a_dead_letter_subject_gets_the_message_again() {
    let (meta, broker) = one_broker().await;
    broker.store(DEAD_LETTER, ["m".to_owned()]);
    let consumer = builder(&meta).subscribe(DEAD_LETTER, "billing").unwrap();
    let attempts = Arc::new(AtomicU32::new(0));
    let handler = {
        let attempts = Arc::clone(&attempts);
        move |_: Message| {
            let attempt = attempts.fetch_add(1, Ordering::SeqCst);
            async move { if attempt < 2 { Err("not yet") } else { Ok(()) } }
        }
    };
    let stop = async {
        broker.wait_acked(DEAD_LETTER, 0).await;
        consumer.close(PATIENCE).await.unwrap();
    };
    tokio::join!(consumer.run(handler, 1), stop);
    assert_eq!(attempts.load(Ordering::SeqCst), 3);
    assert!(broker.sent_ids().is_empty());
}

#[tokio::test]
async fn a_handler_may_say_when_to_try_again() {
    let (meta, broker) = one_broker().await;
    let delay_server = FakeBroker::start().await;
    let groups = vec![crate::fake::meta::group("delay-1", delay_server.address())];
    meta.state
        .send_modify(|state| state.delay_groups = Some(groups));
    broker.store(SUBJECT, ["m".to_owned()]);
    let consumer = consumer(&meta);
    let handler = |_: Message| async {
        Err(Failure::retry_after(
            Duration::from_secs(3600),
            "out of stock",
        ))
    };
    let stop = async {
        delay_server.wait_stored(SUBJECT, 1).await;
        broker.wait_acked(SUBJECT, 0).await;
        consumer.close(PATIENCE).await.unwrap();
    };
    tokio::join!(consumer.run(handler, 1), stop);
    assert!(broker.stored(RETRY).is_empty());
}

#[tokio::test]
async fn a_handler_that_always_fails_ends_in_the_dead_letter_subject() {
    let (meta, broker) = one_broker().await;
    broker.store(SUBJECT, (0..3).map(|n| format!("m-{n}")));
    // The first copy is refused for good: it is handed on again until it is taken.
    let busy = [("m-0".to_owned(), 1)].into_iter().collect();
    broker.state.send_modify(|state| state.fail_once = busy);
    let consumer = builder(&meta)
        .max_retries(4)
        .subscribe(SUBJECT, "billing")
        .unwrap();
    let attempts = Arc::new(AtomicU32::new(0));
    let handler = {
        let attempts = Arc::clone(&attempts);
        move |_: Message| {
            attempts.fetch_add(1, Ordering::SeqCst);
            async { Err("never") }
        }
    };
    let stop = async {
        broker.wait_stored(DEAD_LETTER, 3).await;
        broker.wait_acked(SUBJECT, 2).await;
        broker.wait_acked(RETRY, 8).await;
        consumer.close(PATIENCE).await.unwrap();
    };
    tokio::join!(consumer.run(handler, 2), stop);
    assert_eq!(attempts.load(Ordering::SeqCst), 3 * 4);
}
