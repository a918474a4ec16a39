//! What an ack confirms, and what it does not.

use crate::harness::{Pull, Reply, TestBroker};

#[tokio::test]
async fn acks_of_anything_else_succeed_and_confirm_nothing() {
    let broker = TestBroker::start().await;
    let pull = Pull::new("a.b", "g", "c");
    assert_eq!(broker.ack(pull, 0, 100).await, 0, "unknown group");
    broker.pull(pull).await;
    broker.store("a.b", &["1", "2"]).await;
    assert_eq!(
        broker.ack(pull, 0, 100).await,
        0,
        "before anything was pulled"
    );
    assert_eq!(broker.pull(pull).await, Reply::messages(0, &["1", "2"]));
    assert_eq!(broker.ack(pull, -1, -1).await, 0, "a sign of life");
    assert_eq!(broker.ack(pull, 5, 2).await, 0, "reversed");
    assert_eq!(
        broker.ack(pull, 2, i64::MAX).await,
        0,
        "beyond what was pulled"
    );
    assert_eq!(broker.pull(pull).await, Reply::messages(0, &["1", "2"]));
}

#[tokio::test]
async fn a_repeated_ack_succeeds() {
    let broker = TestBroker::start().await;
    let pull = Pull::new("a.b", "g", "c");
    broker.pull(pull).await;
    broker.store("a.b", &["1", "2"]).await;
    broker.pull(pull).await;
    assert_eq!(broker.ack(pull, 0, 1).await, 0);
    assert_eq!(broker.ack(pull, 0, 1).await, 0);
    assert_eq!(broker.pull(pull).await, Reply::nothing());
}

#[tokio::test]
async fn skipped_messages_are_not_acked() {
    let broker = TestBroker::start().await;
    let pull = Pull::new("a.b", "g", "c");
    broker.pull(pull).await;
    broker.store("a.b", &["1", "2", "3"]).await;
    broker.pull(pull).await;
    assert_eq!(broker.ack(pull, 1, 1).await, 0);
    assert_eq!(broker.pull(pull).await, Reply::messages(0, &["1"]));
    assert_eq!(
        broker.pull(Pull { last: 0, ..pull }).await,
        Reply::messages(2, &["3"])
    );
}

#[tokio::test]
async fn an_ack_without_a_name_is_an_error() {
    let broker = TestBroker::start().await;
    assert_eq!(broker.ack(Pull::new("", "g", "c"), 0, 0).await, 51);
    assert_eq!(broker.ack(Pull::new("a.b", "", "c"), 0, 0).await, 51);
}
