//! What a producer promises: batches, repeats, and a typed final result for each message.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use qmq_client::{BuildError, Producer, ProducerBuilder, SendErrorKind};
use qmq_model::message::property;
use qmq_model::{Message, UnixMillis};
use tokio::task::JoinSet;

use crate::fake::broker::{FakeBroker, Script};
use crate::fake::meta::{FakeMeta, Mode};
use crate::fake::{PATIENCE, wait_for};

async fn one_broker() -> (FakeMeta, FakeBroker) {
    let broker = FakeBroker::start().await;
    (
        FakeMeta::start(&[("group-1", broker.address())]).await,
        broker,
    )
}

fn builder(meta: &FakeMeta) -> ProducerBuilder {
    Producer::builder(&meta.url, "shop").client_id("it@@1")
}

fn named(producer: &Producer, id: &str) -> Message {
    let mut message = producer.message("order.changed");
    id.clone_into(&mut message.message_id);
    message
}

#[tokio::test]
async fn a_message_arrives_as_it_was_made() {
    let (meta, broker) = one_broker().await;
    let producer = builder(&meta).build().unwrap();
    let mut message = producer.message("order.changed");
    message.set_property("orderId", "12");
    message.tags.insert("vip".into());
    let created = message.created;
    assert_eq!(
        message.property(property::CREATE_TIME),
        Some(&*created.to_string())
    );
    let expires = created.plus(Duration::from_secs(900)).to_string();
    assert_eq!(message.property(property::EXPIRE_TIME), Some(&*expires));
    assert_eq!(message.property(property::APP_CODE), Some("shop"));
    let id = message.message_id.clone();
    producer.send(message).await.unwrap();
    assert_eq!(broker.sent_ids(), [id]);
    let registered = meta.state.borrow().registrations[0].clone();
    assert_eq!(
        (registered.subject.as_str(), registered.client_type),
        ("order.changed", 1)
    );
    assert_eq!(
        (&*registered.client_id, &*registered.app_code),
        ("it@@1", "shop")
    );
}

#[tokio::test]
async fn concurrent_sends_share_requests() {
    let (meta, broker) = one_broker().await;
    let producer = builder(&meta)
        .in_flight_max(2)
        .batch_max(30)
        .build()
        .unwrap();
    broker.state.send_modify(|state| state.holds_sends = true);
    let mut sends = JoinSet::new();
    for n in 0..100 {
        let (producer, message) = (producer.clone(), named(&producer, &format!("m-{n}")));
        sends.spawn(async move { producer.send(message).await });
    }
    while producer.pending() < 100 {
        tokio::task::yield_now().await;
    }
    broker.state.send_modify(|state| state.holds_sends = false);
    sends
        .join_all()
        .await
        .into_iter()
        .for_each(|result| result.unwrap());
    let requests: Vec<usize> = broker.state.borrow().sends.iter().map(Vec::len).collect();
    assert_eq!(requests.iter().sum::<usize>(), 100);
    assert!(requests.len() <= 10, "requests of {requests:?} messages");
    assert!(
        requests.iter().all(|messages| *messages <= 30),
        "requests of {requests:?} messages"
    );
    assert_eq!(producer.pending(), 0);
}

#[tokio::test]
async fn partial_failures_are_judged_message_by_message() {
    let (meta, broker) = one_broker().await;
    let producer = builder(&meta).in_flight_max(1).build().unwrap();
    producer.send(named(&producer, "warm-up")).await.unwrap();
    broker.state.send_modify(|state| state.holds_sends = true);
    let failing = ["busy", "dup", "unassigned", "readonly", "blocked", "store"];
    let results = failing.map(String::from).into_iter().zip(1..).collect();
    broker.state.send_modify(|state| state.fail_once = results);
    let mut sends = JoinSet::new();
    for id in [
        "good",
        "busy",
        "dup",
        "unassigned",
        "readonly",
        "blocked",
        "store",
    ] {
        let (producer, message) = (producer.clone(), named(&producer, id));
        sends.spawn(async move { (id, producer.send(message).await) });
    }
    while producer.pending() < 7 {
        tokio::task::yield_now().await;
    }
    broker.state.send_modify(|state| state.holds_sends = false);
    for (id, result) in sends.join_all().await {
        match id {
            "busy" => assert_eq!(result.unwrap_err().kind(), SendErrorKind::Busy),
            "blocked" => assert_eq!(result.unwrap_err().kind(), SendErrorKind::Blocked),
            _ => assert_eq!(result, Ok(()), "{id}"),
        }
    }
    let sent = broker.sent_ids();
    let times = |id: &str| sent.iter().filter(|sent| *sent == id).count();
    for id in ["good", "dup", "busy", "blocked"] {
        assert_eq!(times(id), 1, "{id} is final");
    }
    for id in ["unassigned", "readonly", "store"] {
        assert_eq!(times(id), 2, "{id} is repeated");
    }
}

#[tokio::test]
async fn a_rejected_request_is_repeated_to_another_group() {
    let (one, two) = (FakeBroker::start().await, FakeBroker::start().await);
    let groups = [("group-1", one.address()), ("group-2", two.address())];
    let meta = FakeMeta::start(&groups).await;
    let producer = builder(&meta).build().unwrap();
    one.script_sends(std::iter::repeat_n(Script::Code(52), 100));
    for n in 0..20 {
        producer
            .send(named(&producer, &format!("m-{n}")))
            .await
            .unwrap();
    }
    assert_eq!(two.sent_ids().into_iter().collect::<HashSet<_>>().len(), 20);
    let rejected = one.sent_ids().len();
    assert!(
        rejected <= 2,
        "a group that rejects is left alone, but got {rejected} sends"
    );
    // The route was asked for again at once.
    wait_for(&meta.state, |state| {
        (state.registrations.len() >= 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_lost_reply_is_an_unknown_outcome() {
    let (meta, broker) = one_broker().await;
    let producer = builder(&meta)
        .attempts_max(2)
        .request_timeout(Duration::from_millis(50))
        .build()
        .unwrap();
    broker.script_sends([Script::Silence, Script::Code(52)]);
    let error = producer.send(named(&producer, "m")).await.unwrap_err();
    assert_eq!(error.kind(), SendErrorKind::Rejected);
    assert_eq!(error.attempts(), 2);
    assert!(
        error.outcome_unknown(),
        "the first attempt stored it: {error}"
    );
    assert!(error.is_retryable());
    assert!(error.to_string().contains("may have been stored"));
}

#[tokio::test]
async fn a_send_without_an_answer_is_repeated_to_the_same_group_first() {
    let (one, two) = (FakeBroker::start().await, FakeBroker::start().await);
    let groups = [("group-1", one.address()), ("group-2", two.address())];
    let meta = FakeMeta::start(&groups).await;
    let producer = builder(&meta)
        .request_timeout(Duration::from_millis(100))
        .build()
        .unwrap();
    // Whichever comes first stores it and says nothing, then refuses for a known reason.
    for broker in [&one, &two] {
        broker.script_sends([Script::Silence, Script::Code(52)]);
    }
    producer.send(named(&producer, "m")).await.unwrap();
    let mut sent = [one.sent_ids().len(), two.sent_ids().len()];
    sent.sort_unstable();
    assert_eq!(
        sent,
        [0, 3],
        "a second group would have stored a second copy"
    );
}

#[tokio::test]
async fn a_group_that_never_answers_is_given_up_after_a_bounded_number_of_attempts() {
    let (silent, good) = (FakeBroker::start().await, FakeBroker::start().await);
    let groups = [("group-1", silent.address()), ("group-2", good.address())];
    let meta = FakeMeta::start(&groups).await;
    silent.script_sends(std::iter::repeat_n(Script::Silence, 100));
    let producer = builder(&meta)
        .request_timeout(Duration::from_millis(100))
        .same_group_attempts_max(3)
        .build()
        .unwrap();
    for n in 0..4 {
        let message = named(&producer, &format!("m-{n}"));
        producer.send(message).await.unwrap();
    }
    let sent = silent.sent_ids();
    assert!(!sent.is_empty(), "one in two begins there");
    for id in &sent {
        let attempts = sent.iter().filter(|other| *other == id).count();
        assert!(
            attempts <= 3,
            "{id} was sent {attempts} times to a silent broker"
        );
    }
    assert_eq!(sent.iter().filter(|id| *id == &sent[0]).count(), 3);
}

#[tokio::test]
async fn an_unreachable_broker_is_a_known_outcome() {
    let meta = {
        let gone = FakeBroker::start().await;
        FakeMeta::start(&[("group-1", gone.address())]).await
    };
    let producer = builder(&meta).attempts_max(3).build().unwrap();
    let error = producer.send(named(&producer, "m")).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.attempts()),
        (SendErrorKind::Connect, 3)
    );
    assert!(!error.outcome_unknown());
}

#[tokio::test]
async fn attempts_end_after_ten() {
    let (meta, broker) = one_broker().await;
    let producer = builder(&meta).build().unwrap();
    broker.script_sends(std::iter::repeat_n(Script::Code(52), 20));
    let error = producer.send(named(&producer, "m")).await.unwrap_err();
    assert_eq!(error.attempts(), 10);
    assert_eq!(broker.sent_ids().len(), 10);
}

#[tokio::test]
async fn bad_messages_fail_at_once_and_alone() {
    let (meta, broker) = one_broker().await;
    let producer = builder(&meta).build().unwrap();
    for subject in ["a b", "a/b", "", "%RETRY%half"] {
        let error = producer.send(producer.message(subject)).await.unwrap_err();
        assert_eq!(error.kind(), SendErrorKind::Message, "{subject:?}");
        assert!(!error.is_retryable() && !error.outcome_unknown());
    }
    let mut huge = producer.message("order.changed");
    for n in 0..600 {
        huge.set_property(&format!("k{n}"), "x".repeat(32_000));
    }
    let error = producer.send(huge).await.unwrap_err();
    assert_eq!(error.kind(), SendErrorKind::Message);
    assert!(
        meta.state.borrow().registrations.is_empty(),
        "nobody was asked"
    );
    assert!(broker.sent_ids().is_empty());
}

#[tokio::test]
async fn without_a_route_a_send_fails_in_time() {
    let (meta, broker) = one_broker().await;
    meta.set_mode(Mode::Empty);
    let producer = builder(&meta)
        .route_wait(Duration::from_millis(100))
        .build()
        .unwrap();
    let begun = Instant::now();
    let error = producer.send(named(&producer, "m")).await.unwrap_err();
    assert_eq!(error.kind(), SendErrorKind::NoRoute);
    assert!(error.to_string().contains("no broker group"), "{error}");
    assert!(begun.elapsed() < PATIENCE);
    assert!(broker.sent_ids().is_empty());
}

#[tokio::test]
async fn a_delayed_message_never_goes_to_a_broker() {
    let (meta, broker) = one_broker().await;
    let producer = builder(&meta)
        .route_wait(Duration::from_secs(1))
        .build()
        .unwrap();
    let mut delayed = named(&producer, "later");
    delayed.due = Some(delayed.created.plus(Duration::from_secs(3600)));
    producer.send(delayed).await.unwrap();
    assert_eq!(
        meta.state.borrow().registrations[0].client_type,
        4,
        "delay servers were asked for"
    );
    let mut past = named(&producer, "past");
    past.due = Some(UnixMillis(1));
    producer.send(past).await.unwrap();
    assert_eq!(meta.state.borrow().registrations[1].client_type, 1);
    assert_eq!(broker.sent_ids(), ["later", "past"]);
}

#[tokio::test]
async fn a_full_queue_refuses_or_waits() {
    let (meta, broker) = one_broker().await;
    let producer = builder(&meta).queue_max(1).build().unwrap();
    broker.state.send_modify(|state| state.holds_sends = true);
    let first = tokio::spawn({
        let (producer, message) = (producer.clone(), named(&producer, "first"));
        async move { producer.send(message).await }
    });
    while producer.pending() < 1 {
        tokio::task::yield_now().await;
    }
    let error = producer
        .try_send(named(&producer, "refused"))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), SendErrorKind::QueueFull);
    let waits = producer.send(named(&producer, "second"));
    let release = async {
        tokio::task::yield_now().await;
        broker.state.send_modify(|state| state.holds_sends = false);
    };
    let (second, ()) = tokio::join!(waits, release);
    assert_eq!((first.await.unwrap(), second), (Ok(()), Ok(())));
    assert_eq!(broker.sent_ids(), ["first", "second"]);
}

#[tokio::test]
async fn close_waits_for_results_and_ends_what_has_none() {
    let (meta, broker) = one_broker().await;
    let producer = builder(&meta).build().unwrap();
    broker.state.send_modify(|state| state.holds_sends = true);
    let send = tokio::spawn({
        let (producer, message) = (producer.clone(), named(&producer, "m"));
        async move { producer.send(message).await }
    });
    wait_for(&meta.state, |state| state.registrations.first().map(drop)).await;
    while producer.pending() < 1 {
        tokio::task::yield_now().await;
    }
    let error = producer.flush(Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error.left, 1);
    let error = producer.close(Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error.left, 1);
    let error = send.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), SendErrorKind::Closed);
    let error = producer.send(named(&producer, "late")).await.unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (SendErrorKind::Closed, 0));
    assert!(!error.outcome_unknown());
}

#[tokio::test]
async fn settings_and_urls_are_checked_when_built() {
    let url = "http://127.0.0.1:1/meta/address";
    assert!(Producer::builder(url, "a").build().is_ok());
    let bad = [
        Producer::builder("127.0.0.1:8080", "a"),
        Producer::builder(url, "a").client_id("with space"),
        Producer::builder(url, "a").queue_max(0),
        Producer::builder(url, "a").queue_bytes_max(1),
        Producer::builder(url, "a").batch_max(0),
        Producer::builder(url, "a").in_flight_max(0),
        Producer::builder(url, "a").attempts_max(0),
        Producer::builder(url, "a").same_group_attempts_max(0),
    ];
    assert!(bad.into_iter().all(|builder| builder.build().is_err()));
    let outside = std::thread::spawn(move || Producer::builder(url, "a").build());
    assert!(matches!(
        outside.join().unwrap(),
        Err(BuildError::NoRuntime)
    ));
}
