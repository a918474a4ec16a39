//! Clients that send nonsense: they get an answer or are closed, and nobody else notices.

use std::io::Write;
use std::net::TcpStream;

use bytes::BytesMut;
use qmq_protocol::command::ack::AckRequest;
use qmq_protocol::{CommandCode, Encode, Header};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

use crate::harness::{PATIENCE, Pull, Reply, TestBroker, body_of, message};
use crate::raw::Raw;

#[tokio::test]
async fn bodies_cut_at_every_byte_are_answered_with_51() {
    let broker = TestBroker::start().await;
    let pull = Pull::new("a.b", "g", "c");
    broker.pull(pull).await;
    let send = body_of(&[message("a.b", "1")]);
    let mut ack = BytesMut::new();
    let request = AckRequest {
        subject: "a.b",
        group: "g",
        consumer_id: "c",
        pull_begin: 0,
        pull_last: 7,
        is_broadcast: false,
    };
    request.encode(9, &mut ack);
    for (code, body) in [(CommandCode::SendMessage, send), (CommandCode::Ack, ack)] {
        for len in 1..body.len() {
            let part = &body[..len];
            let write = |out: &mut BytesMut| out.extend_from_slice(part);
            let reply = broker.client.request(code, write, PATIENCE).await.unwrap();
            assert_eq!(reply.header.code, 51, "{code:?} cut at {len}");
        }
    }
    broker.store("a.b", &["2"]).await;
    assert_eq!(broker.pull(pull).await, Reply::messages(0, &["2"]));
}

#[tokio::test]
async fn random_bodies_hurt_nobody() {
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let broker = TestBroker::start().await;
    let pull = Pull::new("a.b", "g", "c");
    broker.pull(pull).await;
    let stranger = broker.connect().await;
    for code in [CommandCode::SendMessage, CommandCode::Ack] {
        let mut asked = Vec::new();
        for _ in 0..500 {
            let mut body = vec![0; rng.random_range(1..200)];
            rng.fill_bytes(&mut body);
            let stranger = stranger.clone();
            // At once: answers that a client would repeat without a pause are held back.
            asked.push(tokio::spawn(async move {
                let write = |out: &mut BytesMut| out.extend_from_slice(&body);
                let reply = stranger.request(code, write, PATIENCE).await.unwrap();
                assert!([0, 51].contains(&reply.header.code), "{code:?} {body:?}");
            }));
        }
        for reply in asked {
            reply.await.unwrap();
        }
    }
    broker.store("a.b", &["1"]).await;
    assert_eq!(broker.pull(pull).await, Reply::messages(0, &["1"]));
}

#[tokio::test]
async fn what_is_no_frame_closes_that_connection_only() {
    let broker = TestBroker::start().await;
    for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64], &[0; 64]] {
        let mut stranger = TcpStream::connect(broker.address()).unwrap();
        stranger.write_all(nonsense).unwrap();
        let closed = tokio::task::spawn_blocking(move || {
            std::io::Read::read(&mut stranger, &mut [0; 16]).map_or(true, |read| read == 0)
        });
        assert!(closed.await.unwrap());
    }
    broker.store("a.b", &["1"]).await;
}

#[tokio::test]
async fn thousands_of_waiting_pulls_of_one_consumer_are_bounded() {
    let broker = TestBroker::start().await;
    let stranger = broker.connect().await;
    let patient = Pull {
        timeout: 60_000,
        ..Pull::new("a.b", "g", "greedy")
    };
    let pulls: Vec<_> = (0..200)
        .map(|_| {
            let stranger = stranger.clone();
            tokio::spawn(async move { crate::harness::pull_on(&stranger, patient).await })
        })
        .collect();
    // All but the last few are answered at once, long before their deadline.
    let mut answered = 0;
    for pull in pulls {
        if answered < 150 {
            assert_eq!(pull.await.unwrap(), Reply::nothing());
            answered += 1;
        } else {
            pull.abort();
        }
    }
    broker.store("a.b", &["1"]).await;
}

/// Java's broker and metaserver write -1 there as clients, C# writes 0. What is looked at is the
/// code alone, also when the request code names another command.
#[tokio::test(flavor = "multi_thread")]
async fn requests_are_told_apart_by_their_code_alone() {
    let broker = TestBroker::start().await;
    broker.pull(Pull::new("a.b", "g", "c")).await;
    let mut stranger = Raw::connect(&broker);
    let tried = [
        ("1", -1),
        ("2", 0),
        ("3", CommandCode::Ack.code()),
        ("4", 9_999),
    ];
    for (id, request_code) in tried {
        let body = body_of(&[message("a.b", id)]);
        let header = Header {
            request_code,
            ..Header::request(CommandCode::SendMessage.code(), 5)
        };
        let mut frame = BytesMut::new();
        header.put_frame(&mut frame, |out| out.extend_from_slice(&body));
        stranger.write(&frame);
        let reply = stranger.frame().unwrap();
        assert_eq!((reply.header.code, reply.body.len()), (0, 0));
        assert_eq!(reply.header.request_code, CommandCode::SendMessage.code());
    }
    // Each of them was a send.
    let pulled = broker.pull(Pull::new("a.b", "g", "c")).await;
    assert_eq!(pulled, Reply::messages(0, &["1", "2", "3", "4"]));
}
