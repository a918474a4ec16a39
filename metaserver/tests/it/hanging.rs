//! A database that hangs, and more clients than may wait: whatever is known is answered at once.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::BytesMut;
use qmq_metaserver::MetaserverConfig;
use qmq_protocol::command::client_register::{ClientRegisterResponse, ClientType};
use qmq_protocol::frame::BODY_BYTES_MAX;
use qmq_protocol::{CommandCode, Decode, Encode, Frame, Header, split_frame};

use crate::node::{G1, PATIENCE, Place, ask, question};

on_each_database! {
    a_database_that_hangs_holds_up_only_those_who_need_it,
    one_client_more_than_may_wait_is_answered_with_what_is_known,
}

/// Clients that may wait for a route at a time.
const WAITING_CLIENTS_MAX: i32 = 10_000;

/// Somebody holds the database for good: every statement that writes hangs. With the reference the
/// network threads hung with it.
async fn a_database_that_hangs_holds_up_only_those_who_need_it(place: Place) {
    let node = place.start().await;
    node.bring_online(G1).await;
    let known = question("order.paid", ClientType::Consumer);
    node.ask_until(known, |answer| answer.names() == ["g1"])
        .await;
    let held = place.hold_writes().await;

    // One client asks for a subject that must be written down; behind it on the same connection,
    // a hundred others ask for what is known, each of which is to be noted in the database.
    let client = node.client();
    let unknown =
        tokio::spawn(
            async move { ask(&client, question("order.new", ClientType::Producer)).await },
        );
    let all = async {
        for number in 0..100 {
            let id = format!("client-{number}");
            let mut newcomer = known;
            newcomer.client_id = &id;
            assert_eq!(node.ask(newcomer).await.names(), ["g1"]);
        }
    };
    // A statement that hangs takes a second: with one for each of them it would be over 100 s.
    let answered = tokio::time::timeout(PATIENCE, all).await;
    answered.expect("what is known does not wait for the database");
    // Who does need it waits, and is served when it comes back.
    assert!(!unknown.is_finished());
    held.release().await;
    let answer = unknown.await.unwrap();
    assert_eq!((answer.code, answer.names()), (0, vec!["g1"]));
    node.stop().await;
}

/// The reference drops questions without a word when its queue is full.
async fn one_client_more_than_may_wait_is_answered_with_what_is_known(place: Place) {
    let config = MetaserverConfig {
        first_route_wait: Duration::from_secs(60),
        // Whoever waits looks again after each refresh.
        refresh_period: Duration::from_secs(60),
        ..place.config()
    };
    let node = place.start_with(config).await;
    let mut stream = TcpStream::connect(node.tcp()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = BytesMut::new();
    for opaque in 0..=WAITING_CLIENTS_MAX {
        let header = Header::request(CommandCode::ClientRegister.code(), opaque);
        let waiting = question("order.paid", ClientType::Consumer);
        header.put_frame(&mut bytes, |out| waiting.encode(9, out));
    }
    stream.write_all(&bytes).unwrap();
    // Nobody is there to serve the subject: ten thousand wait, the last one is told so at once.
    let mut received = BytesMut::new();
    let reply = next_frame(&mut stream, &mut received);
    assert_eq!(reply.header.opaque, WAITING_CLIENTS_MAX);
    let answer = ClientRegisterResponse::decode(9, &reply.body).unwrap();
    assert!(answer.groups.is_empty() && answer.timestamp_ms > 0);
    // The others are answered as soon as there is something to say.
    node.bring_online(G1).await;
    for _ in 0..WAITING_CLIENTS_MAX {
        let reply = next_frame(&mut stream, &mut received);
        let answer = ClientRegisterResponse::decode(9, &reply.body).unwrap();
        assert_eq!(answer.groups.len(), 1);
    }
    node.stop().await;
}

fn next_frame(stream: &mut TcpStream, received: &mut BytesMut) -> Frame {
    loop {
        if let Some(frame) = split_frame(received, BODY_BYTES_MAX).unwrap() {
            return frame;
        }
        let mut part = [0; 65_536];
        let read = stream.read(&mut part).unwrap();
        assert_ne!(read, 0, "closed");
        received.extend_from_slice(&part[..read]);
    }
}
