//! Clients of version 3, which C++ and Erlang applications have, and those of version 7.

use bytes::BytesMut;
use qmq_model::Message;
use qmq_protocol::command::ack::AckRequest;
use qmq_protocol::command::pull::{PullRequest, PullResponse};
use qmq_protocol::command::send::{SendResponse, put_message_for_version};
use qmq_protocol::{CommandCode, Decode, Encode, Frame};

use crate::harness::{Pull, Reply, TestBroker, message};
use crate::raw::Raw;

const LEGACY: i16 = 3;

/// (message id, result) of every entry of a send reply.
fn entries(reply: &Frame) -> Vec<(String, i32)> {
    let response = SendResponse::decode(LEGACY, &reply.body).unwrap();
    let text = |id: &[u8]| String::from_utf8_lossy(id).into_owned();
    response
        .failures()
        .map(|entry| (text(entry.message_id), entry.result.code()))
        .collect()
}

fn legacy_body(messages: &[Message]) -> BytesMut {
    let mut body = BytesMut::new();
    for message in messages {
        put_message_for_version(LEGACY, &message.to_payload().unwrap(), &mut body);
    }
    body
}

fn listed(pairs: &[(&str, i32)]) -> Vec<(String, i32)> {
    let owned = pairs.iter().map(|(id, result)| ((*id).to_owned(), *result));
    owned.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_producer_is_told_of_every_message_in_its_order() {
    let broker = TestBroker::start().await;
    let pull = Pull::new("a.b", "g", "c");
    broker.pull(pull).await;
    let mut producer = Raw::connect(&broker);
    let mut long_id = message("a.b", "x");
    long_id.message_id = "i".repeat(100);
    let mut body = legacy_body(&[message("a.b", "1"), long_id.clone(), message("a.b", "2")]);
    let reply = producer.ask(LEGACY, CommandCode::SendMessage, &body);
    let id = long_id.message_id.as_str();
    assert_eq!(reply.header.code, 0);
    assert_eq!(entries(&reply), listed(&[("1", 0), (id, 0), ("2", 0)]));

    // An illegal subject between good ones: the name is made illegal behind our own check.
    body = legacy_body(&[
        message("a.b", "3"),
        message("a.b", "4"),
        message("a.b", "5"),
    ]);
    let second = body.len() / 3;
    let at = second + body[second..].windows(3).position(|w| w == b"a.b").unwrap();
    body[at + 1] = b'/';
    let reply = producer.ask(LEGACY, CommandCode::SendMessage, &body);
    assert_eq!(entries(&reply), listed(&[("3", 0), ("4", 5), ("5", 0)]));
    assert_eq!(
        broker.pull(pull).await,
        Reply::messages(0, &["1", id, "2", "3", "5"])
    );
}

/// What is refused with a number that C++ clients have no branch for is told in one they have.
#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_producer_is_refused_in_numbers_it_knows() {
    let fs = qmq_store::fs::faulty::FaultyFs::new(1);
    let broker = TestBroker::over(fs, &[("message.bytes.max", "2048")]).await;
    let mut producer = Raw::connect(&broker);
    let mut big = message("a.b", "big");
    big.set_property("k", "x".repeat(3_000));
    let body = legacy_body(&[big]);
    let reply = producer.ask(LEGACY, CommandCode::SendMessage, &body);
    assert_eq!(entries(&reply), listed(&[("big", 1)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_legacy_request_is_refused_with_a_list() {
    let broker = TestBroker::start().await;
    let pull = Pull::new("a.b", "g", "c");
    broker.pull(pull).await;
    let mut producer = Raw::connect(&broker);
    let body = legacy_body(&[message("a.b", "1"), message("a.b", "2")]);
    let reply = producer.ask(LEGACY, CommandCode::SendMessage, &body[..body.len() - 1]);
    assert_eq!(reply.header.code, 51);
    assert_eq!(entries(&reply), listed(&[("1", 1)]));
    // A checksum in front, as everybody else sends it, is not of this dialect.
    let body = crate::harness::body_of(&[message("a.b", "3")]);
    let reply = producer.ask(LEGACY, CommandCode::SendMessage, &body);
    assert_eq!((reply.header.code, entries(&reply)), (51, Vec::new()));
    assert_eq!(broker.pull(pull).await, Reply::nothing());
}

/// Versions below 8 know neither filters nor tags, nor broadcast in acks.
#[tokio::test(flavor = "multi_thread")]
async fn old_consumers_are_served_without_tags() {
    let broker = TestBroker::start().await;
    for (version, consumer) in [(LEGACY, "three"), (7, "seven"), (8, "eight")] {
        let request = PullRequest {
            subject: "a.b",
            group: consumer,
            consumer_id: consumer,
            request_num: 10,
            offset: -1,
            pull_begin: -1,
            pull_last: -1,
            timeout_ms: -1,
            is_broadcast: false,
            filters: Vec::new(),
        };
        let mut client = Raw::connect(&broker);
        let mut body = BytesMut::new();
        request.encode(version, &mut body);
        let reply = client.ask(version, CommandCode::PullMessage, &body);
        assert_eq!(reply.header.code, 4, "first contact of {consumer}");
        let tagged = Message {
            tags: ["t".to_owned()].into(),
            ..message("a.b", consumer)
        };
        assert_eq!(broker.send(&[tagged]).await.header.code, 0);
        let reply = client.ask(version, CommandCode::PullMessage, &body);
        let pulled = PullResponse::decode(version, &reply.body).unwrap();
        let tags: Vec<u8> = pulled
            .messages()
            .map(|message| message.payload.tag_count)
            .collect();
        assert_eq!(tags, [u8::from(version >= 8)], "{consumer}");

        let ack = AckRequest {
            subject: "a.b",
            group: consumer,
            consumer_id: consumer,
            pull_begin: 0,
            pull_last: 0,
            is_broadcast: false,
        };
        let mut acked = BytesMut::new();
        ack.encode(version, &mut acked);
        let reply = client.ask(version, CommandCode::Ack, &acked);
        assert_eq!(reply.header.code, 0);
        let reply = client.ask(version, CommandCode::PullMessage, &body);
        assert_eq!(reply.header.code, 4, "{consumer} has acked all there is");
    }
}
