//! What a client does with the answers of the metaserver.

use std::time::Duration;

use qmq_client::{Consumer, Delivery, Producer, SendErrorKind};
use qmq_protocol::command::client_register::ClientRequestType;

use crate::fake::broker::{FakeBroker, Script};
use crate::fake::meta::{FakeMeta, Mode};
use crate::fake::{PATIENCE, wait_for};

const SUBJECT: &str = "order.changed";

/// Makes a producer ask again, and waits for the answer.
async fn ask_again(meta: &FakeMeta, broker: &FakeBroker, producer: &Producer) {
    let before = meta.state.borrow().registrations.len();
    broker.script_sends([Script::Code(52)]);
    producer.send(producer.message(SUBJECT)).await.unwrap();
    wait_for(&meta.state, |state| {
        (state.registrations.len() > before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn groups_are_kept_when_the_metaserver_slips() {
    let broker = FakeBroker::start().await;
    let meta = FakeMeta::start(&[("group-1", broker.address())]).await;
    let producer = Producer::builder(&meta.url, "shop").build().unwrap();
    producer.send(producer.message(SUBJECT)).await.unwrap();
    for mode in [Mode::Empty, Mode::Refuse, Mode::Fail] {
        meta.set_mode(mode);
        ask_again(&meta, &broker, &producer).await;
        producer.send(producer.message(SUBJECT)).await.unwrap();
    }
    let registrations = &meta.state.borrow().registrations;
    assert_eq!(registrations[0].request_type, ClientRequestType::Online);
    let later = &registrations[1..];
    assert!(
        later
            .iter()
            .all(|seen| seen.request_type == ClientRequestType::Heartbeat)
    );
}

#[tokio::test]
async fn a_moved_broker_is_found() {
    let (old, new) = (FakeBroker::start().await, FakeBroker::start().await);
    let meta = FakeMeta::start(&[("group-1", old.address())]).await;
    let producer = Producer::builder(&meta.url, "shop").build().unwrap();
    producer.send(producer.message(SUBJECT)).await.unwrap();
    meta.set_groups(&[("group-1", new.address())]);
    old.script_sends(std::iter::repeat_n(Script::Code(52), 100));
    producer.send(producer.message(SUBJECT)).await.unwrap();
    assert_eq!(new.sent_ids().len(), 1);
}

#[tokio::test]
async fn a_consumer_waits_for_its_first_broker() {
    let broker = FakeBroker::start().await;
    let meta = FakeMeta::start(&[]).await;
    broker.store(SUBJECT, ["m".to_owned()]);
    let consumer = Consumer::builder(&meta.url, "app")
        .client_id("c")
        .subscribe(SUBJECT, "g")
        .unwrap();
    wait_for(&meta.state, |state| {
        (state.registrations.len() == 2).then_some(())
    })
    .await;
    meta.set_groups(&[("group-1", broker.address())]);
    let deliveries = consumer.pull(1, PATIENCE).await;
    assert_eq!(deliveries.len(), 1);
    deliveries.into_iter().for_each(Delivery::ack);
    consumer.close(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn an_unreachable_metaserver_is_named_in_the_error() {
    let producer = Producer::builder("http://127.0.0.1:9/meta/address", "shop")
        .route_wait(Duration::from_millis(500))
        .build()
        .unwrap();
    let error = producer.send(producer.message(SUBJECT)).await.unwrap_err();
    assert_eq!(error.kind(), SendErrorKind::NoRoute);
    assert!(
        error.to_string().contains("127.0.0.1:9/meta/address"),
        "{error}"
    );
}
