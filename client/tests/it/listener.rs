//! What a consumer promises when it runs a handler.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use qmq_client::{Consumer, Message};
use tokio::sync::{Notify, watch};

use crate::fake::broker::FakeBroker;
use crate::fake::meta::FakeMeta;
use crate::fake::{PATIENCE, wait_for};

const SUBJECT: &str = "order.changed";
const RETRY: &str = "%RETRY%order.changed%billing";

struct Setting {
    meta: FakeMeta,
    broker: FakeBroker,
}

impl Setting {
    async fn with_messages(count: usize) -> Self {
        let broker = FakeBroker::start().await;
        let meta = FakeMeta::start(&[("group-1", broker.address())]).await;
        broker.store(SUBJECT, (0..count).map(|n| format!("m-{n}")));
        Self { meta, broker }
    }

    fn consumer(&self) -> Consumer {
        let builder = Consumer::builder(&self.meta.url, "app").client_id("it@@1");
        builder
            .ack_linger(Duration::from_millis(10))
            .subscribe(SUBJECT, "billing")
            .unwrap()
    }
}

#[tokio::test]
async fn handles_every_message_with_bounded_concurrency() {
    let setting = Setting::with_messages(300).await;
    let consumer = setting.consumer();
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let handler = {
        let (running, most) = (Arc::clone(&running), Arc::clone(&most));
        move |_: Message| {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                running.fetch_sub(1, Ordering::SeqCst);
                Ok::<_, String>(())
            }
        }
    };
    let run = consumer.run(handler, 4);
    let stop = async {
        setting.broker.wait_acked(SUBJECT, 299).await;
        consumer.close(PATIENCE).await.unwrap();
    };
    tokio::join!(run, stop);
    assert!(most.load(Ordering::SeqCst) <= 4);
}

#[tokio::test]
async fn failed_and_panicked_messages_come_again_by_the_retry_subject() {
    let setting = Setting::with_messages(3).await;
    let consumer = setting.consumer();
    let attempts = Arc::new(Mutex::new(HashMap::<String, usize>::new()));
    let handler = {
        let attempts = Arc::clone(&attempts);
        move |message: Message| {
            let attempts = Arc::clone(&attempts);
            async move {
                let attempt = {
                    let mut attempts = attempts.lock().unwrap();
                    let attempt = attempts.entry(message.message_id.clone()).or_default();
                    *attempt += 1;
                    assert_eq!(usize::try_from(message.times()), Ok(*attempt));
                    *attempt
                };
                match (&*message.message_id, attempt) {
                    ("m-0", 1..3) => Err("not yet"),
                    ("m-1", 1) => panic!("a handler panics, which this test wants"),
                    _ => Ok(()),
                }
            }
        }
    };
    let stop = async {
        setting.broker.wait_acked(SUBJECT, 2).await;
        // Twice the first, once the second.
        setting.broker.wait_acked(RETRY, 2).await;
        consumer.close(PATIENCE).await.unwrap();
    };
    // One slot: a failed message must not block the others while it waits.
    tokio::join!(consumer.run(handler, 1), stop);
    let attempts = attempts.lock().unwrap();
    assert_eq!(
        (attempts["m-0"], attempts["m-1"], attempts["m-2"]),
        (3, 2, 1)
    );
}

#[tokio::test]
async fn close_waits_for_running_handlers_and_confirms_them() {
    let setting = Setting::with_messages(5).await;
    let consumer = setting.consumer();
    let begun = Arc::new(watch::Sender::new(0));
    let release = Arc::new(Notify::new());
    let handler = {
        let (begun, release) = (Arc::clone(&begun), Arc::clone(&release));
        move |_: Message| {
            let (begun, release) = (Arc::clone(&begun), Arc::clone(&release));
            async move {
                let released = release.notified();
                begun.send_modify(|count| *count += 1);
                released.await;
                Ok::<_, String>(())
            }
        }
    };
    let run = tokio::spawn({
        let consumer = consumer.clone();
        async move { consumer.run(handler, 2).await }
    });
    wait_for(&begun, |count| (*count == 2).then_some(())).await;
    let close = tokio::spawn({
        let consumer = consumer.clone();
        async move { consumer.close(PATIENCE).await }
    });
    while !consumer.is_closed() {
        tokio::task::yield_now().await;
    }
    release.notify_waiters();
    close.await.unwrap().unwrap();
    run.await.unwrap();
    assert_eq!(*begun.borrow(), 2, "no handler begins after the stop");
    let state = setting.broker.state.borrow();
    let last = state
        .acks
        .iter()
        .filter(|ack| ack.subject == SUBJECT)
        .map(|ack| ack.last)
        .max();
    assert_eq!(last, Some(1));
}

#[tokio::test]
async fn close_gives_up_on_stuck_handlers() {
    let setting = Setting::with_messages(1).await;
    let consumer = setting.consumer();
    let begun = Arc::new(watch::Sender::new(0));
    let handler = {
        let begun = Arc::clone(&begun);
        move |_: Message| {
            begun.send_modify(|count| *count += 1);
            std::future::pending::<Result<(), String>>()
        }
    };
    let run = tokio::spawn({
        let consumer = consumer.clone();
        async move { consumer.run(handler, 1).await }
    });
    wait_for(&begun, |count| (*count == 1).then_some(())).await;
    let error = consumer.close(Duration::from_millis(50)).await.unwrap_err();
    assert_eq!((error.what, error.left), ("handlers still running", 1));
    run.abort();
}
