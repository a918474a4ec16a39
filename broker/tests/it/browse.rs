//! BROWSE, and messages that are not stored.

use std::sync::Arc;

use bytes::BytesMut;
use qmq_model::{Message, Subject};
use qmq_protocol::command::browse::{BrowseRequest, BrowseResponse, From, Place};
use qmq_protocol::{CommandCode, Decode, Encode, Frame};
use qmq_store::fs::faulty::FaultyFs;

use crate::harness::{PATIENCE, Pull, Reply, TestBroker, failures, message};

const SUBJECT: &str = "order.changed";

/// What a look at a subject found: where to go on, the end, and (sequence, id) of each message.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    next: i64,
    end: i64,
    messages: Vec<(i64, String)>,
}

impl Seen {
    fn ids(&self) -> Vec<&str> {
        self.messages.iter().map(|(_, id)| id.as_str()).collect()
    }
}

async fn ask(broker: &TestBroker, request: BrowseRequest<'_>) -> Frame {
    let write = |out: &mut BytesMut| request.encode(10, out);
    let asked = broker.client.request(CommandCode::Browse, write, PATIENCE);
    asked.await.unwrap()
}

async fn look(broker: &TestBroker, place: Place, from: From, count: i32) -> Seen {
    let request = BrowseRequest {
        subject: SUBJECT,
        place,
        from,
        count,
    };
    let frame = ask(broker, request).await;
    assert_eq!(frame.header.code, 0);
    let response = BrowseResponse::decode(10, &frame.body).unwrap();
    let read = |(sequence, payload): &(i64, qmq_model::Payload<'_>)| {
        (*sequence, Message::from_payload(payload).message_id)
    };
    Seen {
        next: response.next,
        end: response.end,
        messages: response.messages.iter().map(read).collect(),
    }
}

fn unretained(id: &str) -> Message {
    let mut message = message(SUBJECT, id);
    message.set_property("qmq_retain", "0");
    message
}

#[tokio::test]
async fn messages_are_shown_and_nothing_is_consumed() {
    for broker in [
        TestBroker::start().await,
        TestBroker::without_recent().await,
    ] {
        broker.store(SUBJECT, &["a", "b", "c", "d", "e"]).await;
        let first = look(&broker, Place::Stored, From::Sequence(0), 2).await;
        assert_eq!((first.next, first.end), (2, 5));
        assert_eq!(first.messages, [(0, "a".into()), (1, "b".into())]);
        let rest = look(&broker, Place::Stored, From::Sequence(first.next), 100).await;
        assert_eq!((rest.ids(), rest.next), (vec!["c", "d", "e"], 5));
        let newest = look(&broker, Place::Stored, From::Newest(2), 100).await;
        assert_eq!(newest.ids(), ["d", "e"]);
        let all = look(&broker, Place::Stored, From::Newest(i64::MAX), i32::MAX).await;
        assert_eq!(all.ids().len(), 5);
        let long_ago = look(&broker, Place::Stored, From::Time(0), 1).await;
        assert_eq!(long_ago.ids(), ["a"]);
        let later = look(&broker, Place::Stored, From::Time(i64::MAX), 1).await;
        assert_eq!((later.next, later.end, later.messages.len()), (5, 5, 0));
        let beyond = look(&broker, Place::Stored, From::Sequence(99), 1).await;
        assert_eq!((beyond.next, beyond.messages.len()), (5, 0));

        let subject = Subject::new(SUBJECT).unwrap();
        let shards = broker.late.get().unwrap();
        assert!(
            shards.describe(&subject).await.is_empty(),
            "nobody consumes"
        );
        let pull = Pull::new(SUBJECT, "g", "c");
        assert_eq!(
            broker.pull(pull).await,
            Reply::nothing(),
            "a new group begins here"
        );
        broker.store(SUBJECT, &["f"]).await;
        look(&broker, Place::Stored, From::Newest(1), 1).await;
        assert_eq!(broker.pull_until_some(pull).await.ids, ["f"]);
        broker.stop().await;
    }
}

#[tokio::test]
async fn a_portion_is_bounded_by_bytes() {
    let fs = FaultyFs::new(1);
    let broker = TestBroker::over(fs, &[("pull.reply.bytes.max", "1024")]).await;
    let mut large = message(SUBJECT, "a");
    large.set_property("text", "x".repeat(2000));
    let other = Message {
        message_id: "b".into(),
        ..large.clone()
    };
    let reply = broker.send(&[large, other]).await;
    assert_eq!(failures(&reply), vec![]);
    let one = look(&broker, Place::Stored, From::Sequence(0), 10).await;
    assert_eq!((one.ids(), one.next, one.end), (vec!["a"], 1, 2));
    broker.stop().await;
}

#[tokio::test]
async fn a_message_with_retain_0_is_kept_in_memory_only() {
    let broker = TestBroker::start().await;
    let sent = [
        message(SUBJECT, "stored-1"),
        unretained("memory-1"),
        message(SUBJECT, "stored-2"),
        unretained("memory-2"),
    ];
    let reply = broker.send(&sent).await;
    assert_eq!((reply.header.code, failures(&reply)), (0, vec![]));
    let reply = broker.send(&[unretained("memory-3")]).await;
    assert_eq!((reply.header.code, failures(&reply)), (0, vec![]));

    let stored = look(&broker, Place::Stored, From::Sequence(0), 100).await;
    assert_eq!(stored.ids(), ["stored-1", "stored-2"]);
    assert_eq!(stored.end, 2, "no sequence is spent");
    let memory = look(&broker, Place::Memory, From::Sequence(0), 100).await;
    assert_eq!(memory.ids(), ["memory-1", "memory-2", "memory-3"]);
    let newest = look(&broker, Place::Memory, From::Newest(1), 100).await;
    assert_eq!(newest.ids(), ["memory-3"]);
    assert_eq!(newest.next, newest.end);

    let broker = broker.restart().await;
    let memory = look(&broker, Place::Memory, From::Sequence(newest.next), 100).await;
    assert_eq!(memory.messages, []);
    assert!(memory.end > newest.end, "sequences go up over a restart");
    broker.send(&[unretained("memory-4")]).await;
    let memory = look(&broker, Place::Memory, From::Sequence(newest.next), 100).await;
    assert_eq!(memory.ids(), ["memory-4"]);
    broker.stop().await;
}

#[tokio::test]
async fn what_is_too_large_for_memory_is_refused_and_the_rest_taken() {
    let broker = TestBroker::start().await;
    let mut large = unretained("large");
    for part in 0..40 {
        large.set_property(&format!("part{part}"), "x".repeat(30_000));
    }
    let reply = broker
        .send(&[message(SUBJECT, "a"), large, unretained("b")])
        .await;
    let failures = failures(&reply);
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert_eq!((failures[0].0.as_str(), failures[0].1), ("large", 6));
    let memory = look(&broker, Place::Memory, From::Sequence(0), 100).await;
    assert_eq!(memory.ids(), ["b"]);
    let stored = look(&broker, Place::Stored, From::Sequence(0), 100).await;
    assert_eq!(stored.ids(), ["a"]);
    broker.stop().await;
}

#[tokio::test]
async fn a_retry_subject_is_always_stored() {
    let broker = TestBroker::start().await;
    let mut retry = unretained("again");
    retry.subject = format!("%RETRY%{SUBJECT}%g");
    let reply = broker.send(std::slice::from_ref(&retry)).await;
    assert_eq!((reply.header.code, failures(&reply)), (0, vec![]));
    let request = BrowseRequest {
        subject: &retry.subject,
        place: Place::Stored,
        from: From::Sequence(0),
        count: 10,
    };
    let frame = ask(&broker, request).await;
    let response = BrowseResponse::decode(10, &frame.body).unwrap();
    assert_eq!(response.messages.len(), 1);
    broker.stop().await;
}

#[tokio::test]
async fn questions_without_sense_are_refused() {
    let broker = TestBroker::start().await;
    let unknown = look(&broker, Place::Stored, From::Sequence(0), 1).await;
    assert_eq!(
        (unknown.next, unknown.end, unknown.messages.len()),
        (0, 0, 0)
    );
    for (subject, count) in [("", 1), ("a b", 1), (SUBJECT, 0), (SUBJECT, -1)] {
        let request = BrowseRequest {
            subject,
            place: Place::Stored,
            from: From::Sequence(0),
            count,
        };
        assert_eq!(
            ask(&broker, request).await.header.code,
            53,
            "{subject:?} {count}"
        );
    }
    let write = |out: &mut BytesMut| out.extend_from_slice(b"\0\x01s\x07");
    let reply = broker.client.request(CommandCode::Browse, write, PATIENCE);
    assert_eq!(reply.await.unwrap().header.code, 51);
    broker.stop().await;
}

#[tokio::test]
async fn many_may_look_at_once() {
    let broker = Arc::new(TestBroker::without_recent().await);
    broker.store(SUBJECT, &["a", "b"]).await;
    let looks: Vec<_> = (0..20)
        .map(|_| {
            let broker = Arc::clone(&broker);
            tokio::spawn(async move {
                look(&broker, Place::Stored, From::Sequence(0), 9)
                    .await
                    .messages
                    .len()
            })
        })
        .collect();
    for seen in looks {
        assert_eq!(seen.await.unwrap(), 2);
    }
}
