//! Full disks, failing syncs, damage: what clients are told, and that nothing acknowledged is lost.

use std::time::Duration;

use qmq_daemon::member::Serving as _;
use qmq_protocol::CommandCode;
use qmq_store::fs::faulty::{FaultyFs, SyncFailure};

use crate::harness::{Pull, Reply, TestBroker, body_of, failures, message, raw_send};

#[tokio::test]
async fn a_full_disk_refuses_sends_until_there_is_room() {
    let broker = TestBroker::start().await;
    let pull = Pull::new("a.b", "g", "c");
    broker.pull(pull).await;
    broker.store("a.b", &["before"]).await;
    broker.fs.limit_space(Some(broker.fs.used()));
    let mut big = message("a.b", "big");
    big.set_property("k", "x".repeat(30_000));
    let reply = broker.send(&[big.clone(), message("a.b", "too")]).await;
    let listed = failures(&reply);
    assert_eq!(listed.iter().map(|f| f.1).collect::<Vec<_>>(), [6, 6]);
    assert!(listed[0].2.contains("full"), "{listed:?}");
    broker.fs.limit_space(None);
    assert_eq!(failures(&broker.send(&[big]).await), []);
    broker.store("a.b", &["after"]).await;
    assert_eq!(
        broker.pull(pull).await,
        Reply::messages(0, &["before", "big", "after"])
    );
    let broker = broker.restart().await;
    assert_eq!(
        broker.pull(pull).await,
        Reply::messages(0, &["before", "big", "after"])
    );
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_any_more() {
    let mut broker = TestBroker::start().await;
    let pull = Pull::new("a.b", "g", "c");
    broker.pull(pull).await;
    broker.store("a.b", &["safe"]).await;
    broker.fs.fail_sync_after(0, SyncFailure::DropDirty);
    let client = broker.connect().await;
    let body = body_of(&[message("a.b", "unknown")]);
    let send = client.request(
        CommandCode::SendMessage,
        |out: &mut bytes::BytesMut| out.extend_from_slice(&body),
        Duration::from_secs(20),
    );
    // The store is done for: the broker says so and gives no answer.
    tokio::select! {
        answer = send => panic!("answered {answer:?}"),
        error = broker.serving.failed() => assert!(format!("{error:#}").contains("store")),
    }
    let fs = broker.fs.clone();
    drop(broker);
    fs.power_cut(7);
    let broker = TestBroker::over(fs, &[]).await;
    let reply = broker.pull(pull).await;
    assert_eq!(reply.ids[0], "safe");
    broker.store("a.b", &["on we go"]).await;
}

#[tokio::test]
async fn acknowledged_messages_survive_a_power_cut() {
    let broker = TestBroker::start().await;
    let pull = Pull::new("a.b", "g", "c");
    broker.pull(pull).await;
    for id in ["1", "2", "3"] {
        broker.store("a.b", &[id]).await;
    }
    let fs = broker.fs.clone();
    fs.power_cut(3);
    drop(broker);
    let broker = TestBroker::over(fs, &[]).await;
    // Pull sequences go on with a jump after an unclean stop.
    assert_eq!(broker.pull(pull).await.ids, ["1", "2", "3"]);
}

#[tokio::test]
async fn pull_sequences_are_not_handed_out_twice_after_a_power_cut() {
    let broker = TestBroker::start().await;
    let pull = Pull::new("a.b", "g", "c");
    broker.pull(pull).await;
    broker.store("a.b", &["1"]).await;
    assert_eq!(broker.pull(pull).await, Reply::messages(0, &["1"]));
    let fs: FaultyFs = broker.fs.clone();
    fs.power_cut(5);
    drop(broker);
    let broker = TestBroker::over(fs, &[]).await;
    let again = broker.pull(pull).await;
    assert_eq!(again.ids, ["1"]);
    assert!(again.first == 0 || again.first >= 1 << 20, "{again:?}");
    // The ack of a consumer that lived through it, for numbers nobody knows any more.
    assert_eq!(broker.ack(pull, 1, 500).await, 0);
    broker.store("a.b", &["2"]).await;
    let next = broker
        .pull(Pull {
            last: again.first,
            ..pull
        })
        .await;
    assert_eq!(next.ids, ["2"]);
    assert!(next.first > again.first);
    let reply = raw_send(&broker.client, &body_of(&[message("a.b", "3")])).await;
    assert_eq!(failures(&reply), []);
}

#[tokio::test]
async fn a_failing_read_confirms_nothing_and_the_messages_come_again() {
    let broker = TestBroker::without_recent().await;
    let pull = Pull::new("a.b", "g", "c");
    broker.pull(pull).await;
    broker.store("a.b", &["1", "2"]).await;
    // A repeated pull writes nothing, so its read is the next call once the idle writer is done.
    assert_eq!(broker.pull(pull).await, Reply::messages(0, &["1", "2"]));
    let mut calls = 0;
    while calls != broker.fs.stats().calls {
        calls = broker.fs.stats().calls;
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    broker.fs.fail_after(0);
    let started = std::time::Instant::now();
    // Of one message: several that are read at once are tried one by one after a failure.
    let one = Pull { count: 1, ..pull };
    assert_eq!(broker.pull(one).await.code, 51);
    assert!(
        started.elapsed() >= Duration::from_millis(250),
        "errors are held back"
    );
    assert_eq!(broker.pull(pull).await, Reply::messages(0, &["1", "2"]));
}

#[tokio::test]
async fn a_message_that_rots_is_passed_over() {
    for is_warm in [false, true] {
        passes_over_what_rots(is_warm).await;
    }
}

async fn passes_over_what_rots(is_warm: bool) {
    let broker = TestBroker::without_recent().await;
    broker.fs.set_warm(is_warm);
    let pull = Pull::new("a.b", "g", "c");
    broker.pull(pull).await;
    broker.store("a.b", &["1", "2", "3"]).await;
    let path = std::path::Path::new("/store/messagelog/00000000000000000000");
    let bytes = broker.fs.peek(path).unwrap();
    let at = bytes
        .windows(10)
        .position(|window| window == b"value of 2")
        .unwrap();
    assert!(broker.fs.rot(path, at as u64, 1));
    // What stands before it comes; then it is known and passed over; what stands behind it comes.
    assert_eq!(broker.pull(pull).await, Reply::messages(0, &["1"]));
    let held = Pull { last: 0, ..pull };
    assert_eq!(broker.pull(held).await, Reply::messages(2, &["3"]));
}
