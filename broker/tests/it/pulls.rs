//! Waiting, sharing, coming again.

use std::time::Instant;

use crate::harness::{Pull, Reply, TestBroker, message, pull_frame, pull_on, send};

#[tokio::test]
async fn a_waiting_pull_is_woken_by_the_message() {
    let broker = TestBroker::start().await;
    let pull = Pull {
        timeout: 15_000,
        ..Pull::new("a.b", "g", "c")
    };
    let waiting = broker.connect().await;
    let waits = async { pull_on(&waiting, pull).await };
    let sends = async {
        // The group exists from its first contact on: an own pull shows when that is recorded.
        let other = Pull::new("a.b", "g", "other");
        broker.pull(other).await;
        broker.store("a.b", &["1"]).await;
    };
    let started = Instant::now();
    let (reply, ()) = tokio::join!(waits, sends);
    assert_eq!(reply, Reply::messages(0, &["1"]));
    assert!(
        started.elapsed().as_millis() < 15_000,
        "it was woken, it did not time out"
    );
}

#[tokio::test]
async fn a_pull_that_does_not_wait_is_not_held_up_by_one_that_does() {
    let broker = TestBroker::start().await;
    let waiting = broker.connect().await;
    let long = Pull {
        timeout: 60_000,
        ..Pull::new("a.b", "g", "c1")
    };
    let task = tokio::spawn(async move { pull_on(&waiting, long).await });
    assert_eq!(
        broker.pull(Pull::new("a.b", "g", "c2")).await,
        Reply::nothing()
    );
    task.abort();
}

#[tokio::test]
async fn a_pull_gives_up_at_its_deadline() {
    let broker = TestBroker::start().await;
    let pull = Pull {
        timeout: 50,
        ..Pull::new("a.b", "g", "c")
    };
    assert_eq!(broker.pull(pull).await, Reply::nothing());
}

#[tokio::test]
async fn bad_parameters_find_no_message() {
    let broker = TestBroker::start().await;
    broker.store("a.b", &["1"]).await;
    let good = Pull::new("a.b", "g", "c");
    let bad = [
        Pull {
            subject: "",
            ..good
        },
        Pull {
            subject: "a/b",
            ..good
        },
        Pull { group: "", ..good },
        Pull {
            group: "g\r",
            ..good
        },
        Pull {
            consumer: "",
            ..good
        },
        Pull { count: 0, ..good },
        Pull { count: -1, ..good },
    ];
    for pull in bad {
        assert_eq!(broker.pull(pull).await, Reply::nothing());
    }
    assert_eq!(
        broker
            .pull(Pull {
                count: 2_000_000_000,
                ..good
            })
            .await,
        Reply::nothing()
    );
}

#[tokio::test]
async fn two_groups_each_get_all_and_two_consumers_share() {
    let broker = TestBroker::start().await;
    let (c1, c2) = (Pull::new("a.b", "g", "c1"), Pull::new("a.b", "g", "c2"));
    let other = Pull::new("a.b", "other", "c1");
    for pull in [c1, c2, other] {
        broker.pull(pull).await;
    }
    broker.store("a.b", &["1", "2", "3", "4"]).await;
    assert_eq!(
        broker.pull(Pull { count: 2, ..c1 }).await,
        Reply::messages(0, &["1", "2"])
    );
    assert_eq!(broker.pull(c2).await, Reply::messages(0, &["3", "4"]));
    assert_eq!(
        broker.pull(other).await,
        Reply::messages(0, &["1", "2", "3", "4"])
    );
}

#[tokio::test]
async fn what_was_not_acked_comes_again_after_restarts_of_consumer_and_broker() {
    let broker = TestBroker::start().await;
    let pull = Pull::new("a.b", "g", "c");
    broker.pull(pull).await;
    broker.store("a.b", &["1", "2", "3"]).await;
    assert_eq!(
        broker.pull(pull).await,
        Reply::messages(0, &["1", "2", "3"])
    );
    assert_eq!(broker.ack(pull, 0, 0).await, 0);
    // It holds all of them: nothing comes.
    assert_eq!(
        broker.pull(Pull { last: 2, ..pull }).await,
        Reply::nothing()
    );
    assert_eq!(broker.pull(pull).await, Reply::messages(1, &["2", "3"]));
    let broker = broker.restart().await;
    assert_eq!(broker.pull(pull).await, Reply::messages(1, &["2", "3"]));
    assert_eq!(broker.ack(pull, 1, 2).await, 0);
    assert_eq!(broker.pull(pull).await, Reply::nothing());
}

#[tokio::test]
async fn the_position_of_a_group_survives_before_its_first_message() {
    let broker = TestBroker::start().await;
    let pull = Pull::new("a.b", "g", "c");
    broker.store("a.b", &["before"]).await;
    assert_eq!(broker.pull(pull).await, Reply::nothing());
    broker.store("a.b", &["after"]).await;
    let broker = broker.restart().await;
    assert_eq!(broker.pull(pull).await, Reply::messages(0, &["after"]));
}

#[tokio::test]
async fn a_reply_has_a_limit_in_bytes_as_well() {
    let broker = TestBroker::over(
        qmq_store::fs::faulty::FaultyFs::new(1),
        &[("pull.reply.bytes.max", "1024")],
    )
    .await;
    let pull = Pull::new("a.b", "g", "c");
    broker.pull(pull).await;
    let mut big = message("a.b", "big");
    big.set_property("k", "x".repeat(5_000));
    send(&broker.client, &[big, message("a.b", "small")]).await;
    // A message over the limit still goes out, alone.
    assert_eq!(broker.pull(pull).await, Reply::messages(0, &["big"]));
    assert_eq!(
        broker.pull(Pull { last: 0, ..pull }).await,
        Reply::messages(1, &["small"])
    );
}

#[tokio::test]
async fn the_delay_bit_does_not_reach_consumers() {
    let broker = TestBroker::start().await;
    let pull = Pull::new("a.b", "g", "c");
    broker.pull(pull).await;
    let mut delayed = message("a.b", "1");
    delayed.due = Some(qmq_model::UnixMillis(1_700_000_009_000));
    send(&broker.client, &[delayed]).await;
    let frame = pull_frame(&broker.client, pull).await;
    assert_eq!(frame.body[16], 0, "flag byte of the first message");
}

#[tokio::test]
async fn broadcast_consumers_each_get_all_with_message_sequences() {
    let broker = TestBroker::start().await;
    let one = Pull {
        broadcast: true,
        ..Pull::new("a.b", "host@@1", "host@@1")
    };
    let two = Pull {
        broadcast: true,
        ..Pull::new("a.b", "host@@2", "host@@2")
    };
    broker.store("a.b", &["old"]).await;
    broker.pull(one).await;
    broker.pull(two).await;
    broker.store("a.b", &["1", "2"]).await;
    for pull in [one, two] {
        assert_eq!(broker.pull(pull).await, Reply::messages(1, &["1", "2"]));
        // A restart before the first ack brings these again, not old history.
        assert_eq!(broker.pull(pull).await, Reply::messages(1, &["1", "2"]));
        assert_eq!(broker.ack(pull, 1, 2).await, 0);
        assert_eq!(broker.pull(pull).await, Reply::nothing());
    }
}

#[tokio::test]
async fn an_undecodable_pull_is_answered_with_51() {
    let broker = TestBroker::start().await;
    let write = |out: &mut bytes::BytesMut| out.extend_from_slice(&[0, 3, b'a', b'.']);
    let code = qmq_protocol::CommandCode::PullMessage;
    let reply = broker
        .client
        .request(code, write, crate::harness::PATIENCE)
        .await
        .unwrap();
    assert_eq!(reply.header.code, 51);
}

/// A message arrives at the very moment a consumer looks and finds nothing, again and again: each
/// must wake it. The next one is sent only after the last one came, so one lost wake-up stops all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_wake_up_is_lost() {
    const ROUNDS: i64 = 500;
    let broker = TestBroker::start().await;
    broker.pull(Pull::new("a.b", "g", "c")).await;
    let consumer = broker.connect().await;
    let (came, mut arrivals) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        for last in -1..ROUNDS - 1 {
            let waiting = Pull {
                last,
                timeout: 60_000,
                ..Pull::new("a.b", "g", "c")
            };
            came.send(pull_on(&consumer, waiting).await).await.unwrap();
        }
    });
    for round in 0..ROUNDS {
        let id = round.to_string();
        broker.store("a.b", &[&id]).await;
        let patience = std::time::Duration::from_secs(20);
        let reply = tokio::time::timeout(patience, arrivals.recv())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(reply, Reply::messages(round, &[&id]));
    }
}

#[tokio::test]
async fn a_backlog_comes_whole_from_memory_and_from_the_disk() {
    for is_warm in [false, true] {
        let broker = TestBroker::without_recent().await;
        broker.fs.set_warm(is_warm);
        let (one, other) = (Pull::new("a.b", "g", "c"), Pull::new("a.c", "g", "c"));
        broker.pull(one).await;
        broker.pull(other).await;
        let ids: Vec<_> = (0..100).map(|id| id.to_string()).collect();
        let ids: Vec<_> = ids.iter().map(String::as_str).collect();
        for ids in ids.chunks(10) {
            broker.store("a.b", ids).await;
            broker.store("a.c", ids).await;
        }
        for pull in [one, other] {
            for (begin, last) in [(0, 29), (30, 99)] {
                let pull = Pull {
                    last: begin - 1,
                    count: i32::try_from(last - begin + 1).unwrap(),
                    ..pull
                };
                let part = &ids[usize::try_from(begin).unwrap()..=usize::try_from(last).unwrap()];
                assert_eq!(broker.pull(pull).await, Reply::messages(begin, part));
            }
        }
    }
}
