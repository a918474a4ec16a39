//! What leaves, when, where to, and what becomes of it.

use std::time::Duration;

use qmq_protocol::command::send::SendResult;

use crate::fake::{FakeBroker, Mode};
use crate::harness::{Cluster, after, of};

#[tokio::test]
async fn a_message_leaves_at_its_time_and_not_before_byte_for_byte() {
    let cluster = Cluster::start().await;
    let messages = [after(10, "1"), after(11, "2"), after(86_400, "3")];
    cluster.store(&messages).await;
    cluster.clock.advance(Duration::from_millis(9_999));
    // One that is due now shows that what is due was looked for.
    cluster.store(&[after(0, "now")]).await;
    cluster.broker.took(&["now"]).await;
    cluster.clock.advance(Duration::from_millis(1));
    cluster.broker.took(&["now", "1"]).await;
    cluster.after(1);
    cluster.broker.took(&["now", "1", "2"]).await;
    cluster.wait_for_pending(1).await;
    let seen = cluster.broker.state.borrow();
    assert_eq!(seen.taken[1].payload, messages[0].to_payload().unwrap());
    assert!(seen.taken.iter().all(|got| got.crc_matches));
    assert!(seen.requests.iter().all(|request| !request.is_empty()));
    drop(seen);
    assert_eq!(cluster.metric("qmq_messages_past_total"), 1);
    assert_eq!(cluster.states("1").await, ["delivered"]);
    cluster.delay.stop().await;
}

#[tokio::test]
async fn without_an_answer_the_same_bytes_go_to_the_same_group_again() {
    let cluster = Cluster::start().await;
    let other = FakeBroker::start().await;
    cluster.broker.set(Mode::Silent);
    cluster.store(&[after(1, "1"), after(1, "2")]).await;
    cluster.after(1);
    cluster.broker.wait_for(|seen| seen.came("1") >= 1).await;
    // Another group takes messages now, and must not get these.
    cluster
        .meta
        .names(&[("g", &cluster.broker), ("other", &other)]);
    cluster
        .broker
        .wait_for(|seen| seen.came("1") >= 3 && seen.came("2") >= 3)
        .await;
    assert_eq!(cluster.states("1").await, ["dispatching"]);
    cluster.broker.set(Mode::Take);
    cluster.wait_for_pending(0).await;
    assert_eq!(cluster.states("1").await, ["delivered"]);
    let seen = cluster.broker.state.borrow();
    let bytes = after(1, "1").to_payload().unwrap();
    let repeats = seen.requests.iter().flatten().filter(|got| got.id == "1");
    assert!(repeats.into_iter().all(|got| got.payload == bytes));
    drop(seen);
    assert_eq!(other.state.borrow().requests.len(), 0);
    cluster.delay.stop().await;
}

#[tokio::test]
async fn a_broker_that_takes_nothing_now_is_passed_by_at_once() {
    let cluster = Cluster::start().await;
    let other = FakeBroker::start().await;
    let groups = [("g", &cluster.broker), ("other", &other)];
    cluster.meta.names(&groups);
    cluster.broker.set(Mode::Code(52));
    let ids: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    let messages: Vec<_> = ids.iter().map(|id| after(1, id)).collect();
    cluster.store(&messages).await;
    cluster.after(1);
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    other.took(&ids).await;
    cluster.wait_for_pending(0).await;
    cluster.delay.stop().await;
}

#[tokio::test]
async fn a_message_is_delivered_only_when_it_was_confirmed_itself() {
    let cluster = Cluster::start().await;
    cluster
        .broker
        .set(Mode::Result("bad", SendResult::BrokerReadOnly));
    cluster.store(&[after(1, "good"), after(1, "bad")]).await;
    cluster.after(1);
    cluster.wait_for_state("good", "delivered").await;
    cluster.broker.wait_for(|seen| seen.came("bad") >= 2).await;
    assert_ne!(cluster.states("bad").await, ["delivered"]);
    cluster.broker.set(Mode::Take);
    cluster.wait_for_state("bad", "delivered").await;
    assert_eq!(cluster.broker.state.borrow().came("good"), 1);
    cluster.delay.stop().await;
}

#[tokio::test]
async fn a_subject_without_a_route_waits_alone() {
    let cluster = Cluster::start().await;
    let lost: Vec<_> = (0..8).map(|n| of(&format!("lost.{n}"), 1, "l")).collect();
    cluster.store(&lost).await;
    cluster.store(&[after(2, "1")]).await;
    cluster.after(2);
    cluster.broker.took(&["1"]).await;
    cluster.wait_for_pending(8).await;
    cluster.delay.stop().await;
}

#[tokio::test]
async fn a_group_that_never_answers_holds_up_nobody_else() {
    let cluster = Cluster::start().await;
    cluster.broker.set(Mode::Silent);
    let stuck: Vec<_> = (0..100).map(|n| after(1, &format!("s{n}"))).collect();
    cluster.store(&stuck).await;
    cluster.after(1);
    cluster
        .broker
        .wait_for(|seen| !seen.requests.is_empty())
        .await;
    let other = FakeBroker::start().await;
    cluster.meta.names(&[("other", &other)]);
    cluster.store(&[of("c.d", 2, "1")]).await;
    cluster.after(1);
    other.wait_for(|seen| seen.taken_ids().contains(&"1")).await;
    cluster.delay.stop().await;
}

#[tokio::test]
async fn a_group_that_is_gone_gives_its_messages_to_another_one() {
    let cluster = Cluster::start().await;
    cluster.broker.set(Mode::Silent);
    cluster.store(&[after(1, "1")]).await;
    cluster.after(1);
    cluster.broker.wait_for(|seen| seen.came("1") >= 1).await;
    let other = FakeBroker::start().await;
    cluster.meta.names(&[("other", &other)]);
    other.took(&["1"]).await;
    cluster.wait_for_state("1", "delivered").await;
    cluster.delay.stop().await;
}
