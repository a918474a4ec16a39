//! What an orderly stop does with messages that nobody has handled.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use qmq_client::{Consumer, ConsumerBuilder, Delivery, Leftovers, Message};
use tokio::sync::{Notify, watch};

use crate::fake::broker::{FakeBroker, message};
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

fn builder(meta: &FakeMeta, leftovers: Leftovers) -> ConsumerBuilder {
    Consumer::builder(&meta.url, "app")
        .client_id("it@@1")
        .pull_wait(Duration::from_millis(100))
        .ack_linger(Duration::from_millis(10))
        .on_close(leftovers)
}

/// A consumer with a handler that is at work on its first message, and what lets it finish.
async fn at_work(
    builder: &ConsumerBuilder,
) -> (Consumer, Arc<Notify>, tokio::task::JoinHandle<()>) {
    let consumer = builder.subscribe(SUBJECT, "billing").unwrap();
    let begun = Arc::new(watch::Sender::new(false));
    let release = Arc::new(Notify::new());
    let handler = {
        let (begun, release) = (Arc::clone(&begun), Arc::clone(&release));
        move |_: Message| {
            let (begun, release) = (Arc::clone(&begun), Arc::clone(&release));
            async move {
                begun.send_replace(true);
                release.notified().await;
                Ok::<_, String>(())
            }
        }
    };
    let run = tokio::spawn({
        let consumer = consumer.clone();
        async move { consumer.run(handler, 1).await }
    });
    wait_for(&begun, |begun| begun.then_some(())).await;
    (consumer, release, run)
}

#[tokio::test]
async fn what_is_given_back_is_in_the_retry_subject_and_does_not_count() {
    let (meta, broker) = one_broker().await;
    let mut tried = message(SUBJECT, "m-5");
    tried.set_property("qmq_times", "7");
    broker.store(SUBJECT, (0..5).map(|n| format!("m-{n}")));
    broker.store_messages(SUBJECT, [tried]);
    let (consumer, release, run) = at_work(&builder(&meta, Leftovers::GiveBack)).await;
    release.notify_one();
    consumer.close(PATIENCE).await.unwrap();
    run.await.unwrap();
    let given_back = broker.stored(RETRY);
    let ids: BTreeSet<_> = given_back
        .iter()
        .map(|message| &*message.message_id)
        .collect();
    assert_eq!(ids, BTreeSet::from(["m-1", "m-2", "m-3", "m-4", "m-5"]));
    for message in &given_back {
        let times = if message.message_id == "m-5" { 7 } else { 1 };
        assert_eq!(message.times(), times);
    }
    let state = broker.state.borrow();
    assert!(
        state.queues[SUBJECT].is_acked(),
        "nothing is left with this client id"
    );
}

#[tokio::test]
async fn what_is_kept_comes_again_to_the_same_client_id() {
    let (meta, broker) = one_broker().await;
    broker.store(SUBJECT, (0..6).map(|n| format!("m-{n}")));
    let keep = builder(&meta, Leftovers::Keep);
    let (consumer, release, run) = at_work(&keep).await;
    release.notify_one();
    consumer.close(PATIENCE).await.unwrap();
    run.await.unwrap();
    assert!(broker.sent_ids().is_empty());
    let again = keep.subscribe(SUBJECT, "billing").unwrap();
    let mut ids = Vec::new();
    while ids.len() < 5 {
        for delivery in again.pull(5, PATIENCE).await {
            ids.push(delivery.message().message_id.clone());
            delivery.ack();
        }
    }
    assert_eq!(ids, ["m-1", "m-2", "m-3", "m-4", "m-5"]);
}

#[tokio::test]
async fn messages_of_the_last_pull_are_given_back_too() {
    let (meta, broker) = one_broker().await;
    let builder = builder(&meta, Leftovers::GiveBack);
    let consumer = builder.subscribe(SUBJECT, "billing").unwrap();
    broker.state.send_modify(|state| state.holds_pulls = true);
    broker.store(SUBJECT, ["late".to_owned()]);
    let wish = tokio::spawn({
        let consumer = consumer.clone();
        async move { consumer.pull(10, PATIENCE).await }
    });
    // The message is assigned to this client id, and its reply is under way when the stop comes.
    wait_for(&broker.state, |state| {
        let queue = state.queues.get(SUBJECT)?;
        (!queue.is_acked()).then_some(())
    })
    .await;
    let close = tokio::spawn({
        let consumer = consumer.clone();
        async move { consumer.close(PATIENCE).await }
    });
    assert!(wish.await.unwrap().is_empty(), "the consumer stops");
    broker.state.send_modify(|state| state.holds_pulls = false);
    close.await.unwrap().unwrap();
    assert_eq!(broker.stored(RETRY).len(), 1);
    assert!(broker.state.borrow().queues[SUBJECT].is_acked());
}

#[tokio::test]
async fn finished_messages_are_confirmed_although_a_handler_is_stuck() {
    let (meta, broker) = one_broker().await;
    broker.store(SUBJECT, (0..3).map(|n| format!("m-{n}")));
    let builder = builder(&meta, Leftovers::Keep).ack_linger(Duration::from_secs(60));
    let consumer = builder.subscribe(SUBJECT, "billing").unwrap();
    let begun = Arc::new(watch::Sender::new(0));
    let handler = {
        let begun = Arc::clone(&begun);
        move |message: Message| {
            begun.send_modify(|begun| *begun += 1);
            let is_stuck = message.message_id == "m-2";
            async move {
                if is_stuck {
                    std::future::pending::<()>().await;
                }
                Ok::<_, String>(())
            }
        }
    };
    let run = tokio::spawn({
        let consumer = consumer.clone();
        async move { consumer.run(handler, 1).await }
    });
    wait_for(&begun, |begun| (*begun == 3).then_some(())).await;
    let error = consumer.close(Duration::ZERO).await.unwrap_err();
    assert_eq!((error.what, error.left), ("handlers still running", 1));
    broker.wait_acked(SUBJECT, 1).await;
    run.abort();
}

#[tokio::test]
async fn what_cannot_be_given_back_is_reported_and_kept() {
    let (meta, broker) = one_broker().await;
    broker.store(SUBJECT, (0..3).map(|n| format!("m-{n}")));
    let (consumer, release, run) = at_work(&builder(&meta, Leftovers::GiveBack)).await;
    let busy = (0..3).map(|n| (format!("m-{n}"), 1)).collect();
    broker.state.send_modify(|state| state.fail_once = busy);
    release.notify_one();
    let error = consumer.close(PATIENCE).await.unwrap_err();
    assert_eq!((error.what, error.left), ("messages not given back", 2));
    run.await.unwrap();
    let again = builder(&meta, Leftovers::Keep)
        .subscribe(SUBJECT, "billing")
        .unwrap();
    let first: Vec<Delivery> = again.pull(1, PATIENCE).await;
    assert_eq!(first[0].message().message_id, "m-1");
}

#[tokio::test]
async fn a_broadcast_consumer_has_nobody_to_give_back_to() {
    let (meta, broker) = one_broker().await;
    broker.store(SUBJECT, (0..3).map(|n| format!("m-{n}")));
    let builder = builder(&meta, Leftovers::GiveBack);
    let consumer = builder.subscribe_broadcast(SUBJECT).unwrap();
    let mut deliveries = consumer.deliveries();
    deliveries.next().await.unwrap().ack();
    consumer.close(PATIENCE).await.unwrap();
    assert!(broker.sent_ids().is_empty());
    let again = builder.subscribe_broadcast(SUBJECT).unwrap();
    let first = again.pull(1, PATIENCE).await;
    assert_eq!(first[0].message().message_id, "m-1");
}
