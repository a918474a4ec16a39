//! Frames in, replies out: order, splitting, what is ignored, what closes a connection.

use bytes::{Bytes, BytesMut};
use qmq_protocol::{Frame, Header};
use qmq_remoting::{CloseReason, ServerConfig};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::raw::{Raw, request, until};
use crate::service::{DROP, ECHO, GATE, LARGE, PANIC, PARK, Running, echo, len_body};

#[tokio::test]
async fn replies_leave_in_the_order_of_answers() {
    let mut server = Running::start(ServerConfig::default()).await;
    let mut client = Raw::connect(server.addr).await;
    let count = 100;
    for opaque in 0..count {
        client.send(PARK, opaque, &opaque.to_be_bytes()).await;
    }
    let mut parked = Vec::new();
    for _ in 0..count {
        parked.push(server.next_parked().await);
    }
    parked.into_iter().rev().for_each(echo);
    for opaque in (0..count).rev() {
        let reply = client.frame().await.expect("a reply");
        assert_eq!(reply.header.opaque, opaque);
        assert_eq!(reply.body[..], opaque.to_be_bytes());
    }
    assert_eq!(server.stats.requests(), 100);
    assert_eq!(server.stats.bytes_in_flight(), 0);
}

#[tokio::test]
async fn parked_request_does_not_delay_the_next() {
    let mut server = Running::start(ServerConfig::default()).await;
    let mut client = Raw::connect(server.addr).await;
    client.send(PARK, 1, b"slow").await;
    let slow = server.next_parked().await;
    assert_eq!(client.ask(ECHO, 2, b"fast").await.body, "fast");
    echo(slow);
    assert_eq!(client.frame().await.expect("a reply").body, "slow");
}

#[tokio::test]
async fn awaited_call_holds_up_its_own_connection_only() {
    let server = Running::start(ServerConfig::default()).await;
    let mut held = Raw::connect(server.addr).await;
    held.write(&[request(GATE, 1, b""), request(ECHO, 2, b"behind")].concat())
        .await;
    until("it waits", || server.stats.requests() == 1).await;
    let mut other = Raw::connect(server.addr).await;
    assert_eq!(other.ask(ECHO, 3, b"free").await.body, "free");
    assert_eq!(server.stats.requests(), 2);
    server.gate.add_permits(1);
    assert_eq!(held.frame().await.expect("a reply").header.opaque, 1);
    assert_eq!(held.frame().await.expect("a reply").body, "behind");
}

#[tokio::test]
async fn repeated_opaque_gets_a_reply_for_each_request() {
    let mut server = Running::start(ServerConfig::default()).await;
    let mut client = Raw::connect(server.addr).await;
    for body in ["a", "b", "c"] {
        client.send(PARK, 0, body.as_bytes()).await;
    }
    let mut parked = Vec::new();
    for _ in 0..3 {
        parked.push(server.next_parked().await);
    }
    parked.swap(0, 2);
    parked.into_iter().for_each(echo);
    let mut replies = Vec::new();
    for _ in 0..3 {
        let reply = client.frame().await.expect("a reply");
        assert_eq!(reply.header.opaque, 0);
        replies.push(reply.body);
    }
    assert_eq!(replies, ["c", "b", "a"]);
}

#[tokio::test]
async fn header_is_echoed_and_the_request_code_is_not_looked_at() {
    let server = Running::start(ServerConfig::default()).await;
    let mut client = Raw::connect(server.addr).await;
    for request_code in [-1, 0, 11] {
        let header = Header {
            code: ECHO,
            version: 3,
            opaque: -7,
            flag: 0,
            request_code,
        };
        let mut bytes = BytesMut::new();
        header.put_frame(&mut bytes, |_| {});
        client.write(&bytes).await;
        let reply = client.frame().await.expect("a reply");
        let expected = Header {
            code: 0,
            version: 3,
            opaque: -7,
            flag: 1,
            request_code: ECHO,
        };
        assert_eq!(
            reply,
            Frame {
                header: expected,
                body: Bytes::new()
            }
        );
    }
}

#[tokio::test]
async fn frames_come_in_any_pieces() {
    let server = Running::start(ServerConfig::default()).await;
    let client = Raw::connect(server.addr).await;
    let seed = rand::rng().random();
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);

    let bodies: Vec<Vec<u8>> = (0..200)
        .map(|_| {
            let len = if random.random_ratio(1, 20) {
                100_000
            } else {
                100
            };
            vec![random.random(); random.random_range(0..len)]
        })
        .collect();
    let mut bytes = BytesMut::new();
    for (opaque, body) in (0..).zip(&bodies) {
        bytes.extend_from_slice(&request(ECHO, opaque, body));
    }
    let (mut reading, mut writing) = client.split();
    let sender = tokio::spawn(async move {
        let mut left = &bytes[..];
        while !left.is_empty() {
            let max = if random.random_bool(0.5) { 30 } else { 50_000 };
            let (piece, rest) = left.split_at(random.random_range(1..=max).min(left.len()));
            writing.write(piece).await;
            tokio::task::yield_now().await;
            left = rest;
        }
        writing
    });
    for (opaque, body) in (0..).zip(&bodies) {
        let reply = reading.frame().await.expect("a reply");
        assert_eq!(reply.header.opaque, opaque);
        assert!(reply.body == body, "body of {opaque}");
    }
    sender.await.expect("no panic");
}

#[tokio::test]
async fn what_is_no_frame_closes_its_connection_and_no_other() {
    let server = Running::start(ServerConfig::default()).await;
    let mut other = Raw::connect(server.addr).await;
    other.ask(ECHO, 1, b"before").await;
    let good = request(ECHO, 5, b"good");
    let broken = |at: usize, bytes: &[u8]| {
        let mut frame = good.to_vec();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let bad = [
        broken(6, &[0xDE, 0xC1, 0x0A, 0xDF]),
        broken(4, &20_i16.to_be_bytes()),
        broken(4, &16_i16.to_be_bytes()),
        broken(0, &i32::MAX.to_be_bytes()),
        broken(0, &(-1_i32).to_be_bytes()),
        broken(0, &19_i32.to_be_bytes()),
        broken(0, &(20 + 16 * 1024 * 1024 + 1_i32).to_be_bytes()),
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n".to_vec(),
    ];
    for (closed, bytes) in (1..).zip(&bad) {
        let mut client = Raw::connect(server.addr).await;
        // What came before it is answered.
        client.write(&[&good[..], bytes].concat()).await;
        assert_eq!(client.frame().await.expect("a reply").body, "good");
        assert_eq!(client.frame().await, None);
        until("counted", || {
            server.stats.connections_closed(CloseReason::BadFrame) == closed
        })
        .await;
    }
    assert_eq!(other.ask(ECHO, 2, b"after").await.body, "after");
    assert_eq!(server.stats.bytes_in_flight(), 0);
    assert_eq!(server.stats.connections_open(), 1);
}

#[tokio::test]
async fn prefix_is_judged_before_the_frame_is_complete() {
    let server = Running::start(ServerConfig::default()).await;
    let mut client = Raw::connect(server.addr).await;
    client.write(&[0, 0, 0, 24, 0, 18, 1, 2, 3, 4]).await;
    assert_eq!(client.frame().await, None);
}

#[tokio::test]
async fn responses_are_ignored_one_way_requests_not_answered() {
    let mut server = Running::start(ServerConfig::default()).await;
    let mut client = Raw::connect(server.addr).await;
    for (flag, code) in [
        (1, ECHO),
        (3, PARK),
        (2, ECHO),
        (2, LARGE),
        (2, 100),
        (2, 99),
    ] {
        let header = Header {
            flag,
            ..Header::request(code, 1)
        };
        let mut bytes = BytesMut::new();
        header.put_frame(&mut bytes, |out| out.extend_from_slice(&len_body(9)));
        client.write(&bytes).await;
    }
    assert_eq!(client.ask(ECHO, 2, b"").await.header.opaque, 2);
    assert!(server.parked.try_recv().is_err());
    assert_eq!(server.stats.requests(), 5);
    until("settled", || server.stats.bytes_in_flight() == 0).await;
}

#[tokio::test]
async fn heartbeat_is_answered_by_the_server_unknown_codes_by_the_service() {
    let server = Running::start(ServerConfig::default()).await;
    let mut client = Raw::connect(server.addr).await;
    let reply = client.ask(100, 4, b"").await;
    assert_eq!((reply.header.code, reply.header.request_code), (100, 100));
    assert!(reply.body.is_empty() && reply.header.is_response());
    let reply = client.ask(77, 5, b"what is this").await;
    assert_eq!((reply.header.code, reply.header.request_code), (3, 77));
    assert!(reply.body.is_empty());
}

#[tokio::test]
async fn body_in_parts_arrives_as_one() {
    let mut server = Running::start(ServerConfig::default()).await;
    let mut client = Raw::connect(server.addr).await;
    let sizes = [0, 1, 100, 511, 512, 5, 300_000, 0, 70_000, 9_000, 3];
    let parts = || {
        let fill = |(fill, len): (u8, &usize)| Bytes::from(vec![fill; *len]);
        // More chunks than one write takes.
        let many = (0..=255).map(|fill| Bytes::from(vec![fill; 700]));
        let parts = (0..).zip(&sizes).map(fill).chain(many);
        parts.collect::<Vec<_>>()
    };
    let body = || [&b"head"[..], &parts().concat()].concat();
    for opaque in 0..3 {
        client.send(PARK, opaque, b"").await;
        let (_, responder) = server.next_parked().await;
        responder.send_parts(0, b"head", parts());
        // Something behind it.
        for _ in 0..50 {
            client.send(LARGE, 9, &len_body(5000)).await;
        }
        assert!(client.frame().await.expect("a reply").body == body());
        for _ in 0..50 {
            assert!(client.frame().await.expect("a reply").body == vec![7; 5000]);
        }
    }
    assert_eq!(server.stats.outbox_bytes(), 0);
}

#[tokio::test]
async fn dropped_responder_sends_nothing_and_gives_its_bytes_back() {
    let server = Running::start(ServerConfig::default()).await;
    let mut client = Raw::connect(server.addr).await;
    client.send(DROP, 1, &[0; 1000]).await;
    assert_eq!(client.ask(ECHO, 2, b"next").await.body, "next");
    until("settled", || server.stats.bytes_in_flight() == 0).await;
}

#[tokio::test]
async fn panic_of_the_service_closes_one_connection() {
    let mut server = Running::start(ServerConfig::default()).await;
    let mut other = Raw::connect(server.addr).await;
    let mut client = Raw::connect(server.addr).await;
    client.send(PARK, 1, b"").await;
    let (parked, responder) = server.next_parked().await;
    client.send(PANIC, 2, &[0; 1000]).await;
    assert_eq!(client.frame().await, None);
    until("counted", || {
        server.stats.connections_closed(CloseReason::Panicked) == 1
    })
    .await;

    assert!(parked.connection.is_closed() && !responder.is_connected());
    parked.connection.closed().await;
    drop(responder);
    assert_eq!(other.ask(ECHO, 3, b"alive").await.body, "alive");
    until("settled", || server.stats.bytes_in_flight() == 0).await;
    assert_eq!(server.stats.connections_open(), 1);
}

#[tokio::test]
async fn panic_while_encoding_leaves_nothing_of_the_reply() {
    let mut server = Running::start(ServerConfig::default()).await;
    let mut client = Raw::connect(server.addr).await;
    client.send(PARK, 1, b"").await;
    let (_, responder) = server.next_parked().await;
    let encoding = tokio::spawn(async move {
        responder.send(0, |out| {
            out.extend_from_slice(b"half");
            panic!("as the test demands");
        });
    });
    assert!(encoding.await.is_err());
    assert_eq!(client.ask(ECHO, 2, b"whole").await.body, "whole");
}
