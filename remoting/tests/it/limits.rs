//! Limits of connections, bytes in, bytes out.

use bytes::Bytes;
use qmq_remoting::{CloseReason, ServerConfig};

use crate::raw::{Raw, request, until};
use crate::service::{ECHO, LARGE, PARK, Running, echo, len_body};

const KIB: usize = 1024;

#[tokio::test]
async fn connections_above_the_limit_are_closed_at_once() {
    let config = ServerConfig {
        connections_max: 2,
        ..ServerConfig::default()
    };
    let server = Running::start(config).await;
    let mut first = Raw::connect(server.addr).await;
    let mut second = Raw::connect(server.addr).await;
    first.ask(ECHO, 1, b"").await;
    second.ask(ECHO, 1, b"").await;
    let mut third = Raw::connect(server.addr).await;
    assert_eq!(third.frame().await, None);
    assert_eq!(server.stats.connections_refused(), 1);

    drop(second);
    until("one closed", || server.stats.connections_open() == 1).await;
    let mut fourth = Raw::connect(server.addr).await;
    assert_eq!(fourth.ask(ECHO, 1, b"in").await.body, "in");
    assert_eq!(first.ask(ECHO, 2, b"still").await.body, "still");
    assert_eq!(server.stats.connections_closed(CloseReason::Peer), 1);
}

#[test]
fn contradicting_limits_are_refused() {
    let good = ServerConfig::default;
    assert_eq!(good().validate(), Ok(()));
    let bad = [
        ServerConfig {
            body_bytes_max: i32::MAX as usize,
            ..good()
        },
        ServerConfig {
            connection_bytes_max: good().body_bytes_max,
            ..good()
        },
        ServerConfig {
            outbox_bytes_max: good().body_bytes_max,
            ..good()
        },
        ServerConfig {
            in_flight_bytes_max: good().connection_bytes_max - 1,
            ..good()
        },
        ServerConfig {
            connections_max: 0,
            ..good()
        },
    ];
    for config in bad {
        assert!(config.validate().is_err(), "{config:?}");
    }
}

/// Bodies of 64 KiB at most, two such frames per connection, four in all.
fn small() -> ServerConfig {
    ServerConfig {
        body_bytes_max: 64 * KIB,
        connection_bytes_max: 2 * (64 * KIB + 24),
        in_flight_bytes_max: 4 * (64 * KIB + 24),
        ..ServerConfig::default()
    }
}

/// Sends `count` requests that the test must answer, in the background.
fn send_parked(client: Raw, count: i32, len: usize) -> tokio::task::JoinHandle<Raw> {
    tokio::spawn(async move {
        let mut client = client;
        for opaque in 0..count {
            client.send(PARK, opaque, &vec![1; len]).await;
        }
        client
    })
}

#[tokio::test]
async fn connection_is_not_read_while_its_bytes_are_unanswered() {
    let config = small();
    let limit = config.connection_bytes_max;
    let mut server = Running::start(config).await;
    let sender = send_parked(Raw::connect(server.addr).await, 40, 64 * KIB);
    let mut answered = 0;
    while answered < 40 {
        let first = server.next_parked().await;
        let second = server.next_parked().await;
        assert!(server.stats.bytes_in_flight() <= limit);
        // Two fill it: there is no third, and others are served.
        let mut other = Raw::connect(server.addr).await;
        assert_eq!(other.ask(ECHO, 1, b"other").await.body, "other");
        assert!(server.parked.try_recv().is_err());
        echo(first);
        echo(second);
        answered += 2;
    }
    let mut client = sender.await.expect("no panic");
    for _ in 0..40 {
        assert_eq!(client.frame().await.expect("a reply").body.len(), 64 * KIB);
    }
    until("settled", || server.stats.bytes_in_flight() == 0).await;
    assert_eq!(server.stats.budget_waits(), 0);
}

#[tokio::test]
async fn nothing_is_read_while_the_budget_is_spent() {
    let config = small();
    let limit = config.in_flight_bytes_max;
    let mut server = Running::start(config).await;
    let mut senders = Vec::new();
    for _ in 0..2 {
        senders.push(send_parked(Raw::connect(server.addr).await, 2, 64 * KIB));
    }
    let mut parked = Vec::new();
    for _ in 0..4 {
        parked.push(server.next_parked().await);
    }
    assert_eq!(server.stats.bytes_in_flight(), limit);

    let mut other = Raw::connect(server.addr).await;
    other.send(ECHO, 1, b"waits").await;
    until("it waits", || server.stats.budget_waits() == 1).await;
    assert_eq!(server.stats.requests(), 4);
    parked.drain(..1).for_each(echo);
    assert_eq!(other.frame().await.expect("a reply").body, "waits");
    parked.into_iter().for_each(echo);
    until("settled", || server.stats.bytes_in_flight() == 0).await;
}

#[tokio::test]
async fn begun_frames_that_fill_the_budget_are_completed_one_by_one() {
    let config = small();
    let limit = config.in_flight_bytes_max;
    let frame = request(PARK, 1, &[1; 64 * KIB]);
    let frame_bytes_max = frame.len();
    let mut server = Running::start(config).await;
    // Together 4.5 frames, none of them whole.
    let mut clients = Vec::new();
    for _ in 0..6 {
        let mut client = Raw::connect(server.addr).await;
        client.write(&frame[..frame.len() * 3 / 4]).await;
        clients.push(client);
    }
    until("the budget is spent", || {
        server.stats.bytes_in_flight() >= limit
    })
    .await;
    for client in &mut clients {
        client.write(&frame[frame.len() * 3 / 4..]).await;
    }
    for _ in 0..6 {
        let parked = server.next_parked().await;
        assert!(server.stats.bytes_in_flight() <= limit + frame_bytes_max);
        echo(parked);
    }
    for client in &mut clients {
        assert_eq!(client.frame().await.expect("a reply").body.len(), 64 * KIB);
    }
    until("settled", || server.stats.bytes_in_flight() == 0).await;
}

#[tokio::test]
async fn full_outbox_closes_its_connection_and_no_other() {
    let config = ServerConfig {
        body_bytes_max: KIB,
        outbox_bytes_max: 256 * KIB,
        ..ServerConfig::default()
    };
    let mut server = Running::start(config).await;
    let mut other = Raw::connect(server.addr).await;
    let mut greedy = Raw::connect(server.addr).await;
    for opaque in 0..500 {
        greedy.send(PARK, opaque, b"").await;
    }
    // It reads nothing, and sockets take some megabytes at most.
    let reply = Bytes::from(vec![1; 64 * KIB]);
    let mut room_left = usize::MAX;
    for _ in 0..500 {
        let (_, responder) = server.next_parked().await;
        if responder.is_connected() {
            room_left = responder.room();
        }
        responder.send_bytes(0, reply.clone());
        assert_eq!(other.ask(ECHO, 1, b"works").await.body, "works");
        assert!(server.stats.outbox_bytes() <= 256 * KIB);
    }
    assert!(room_left < reply.len() + 24, "{room_left}");
    until("closed", || {
        server.stats.connections_closed(CloseReason::OutboxFull) == 1
    })
    .await;
    assert_eq!(server.stats.connections_open(), 1);
    assert_eq!(server.stats.outbox_bytes(), 0);
}

#[tokio::test]
async fn too_many_replies_close_the_connection_too() {
    let config = ServerConfig {
        outbox_frames_max: 10,
        ..ServerConfig::default()
    };
    let mut server = Running::start(config).await;
    let mut client = Raw::connect(server.addr).await;
    for opaque in 0..11 {
        client.send(PARK, opaque, b"").await;
    }
    let mut parked = Vec::new();
    for _ in 0..11 {
        parked.push(server.next_parked().await);
    }
    // The writer runs on this thread, so it cannot take any of them meanwhile.
    parked.into_iter().for_each(echo);
    assert_eq!(client.frame().await, None);
    until("counted", || {
        server.stats.connections_closed(CloseReason::OutboxFull) == 1
    })
    .await;
}

#[tokio::test]
async fn slow_reader_is_not_read_and_gets_every_reply() {
    let config = ServerConfig {
        body_bytes_max: KIB,
        outbox_bytes_max: 256 * KIB,
        ..ServerConfig::default()
    };
    let server = Running::start(config).await;
    let mut client = Raw::connect(server.addr).await;
    // All of them come in one read, and would overflow the outbox many times.
    let burst: Vec<Bytes> = (0..100)
        .map(|opaque| request(LARGE, opaque, &len_body(100_000)))
        .collect();
    client.write(&burst.concat()).await;
    until("it stops", || server.stats.outbox_bytes() > 128 * KIB).await;
    for opaque in 0..100 {
        let reply = client.frame().await.expect("a reply");
        assert_eq!((reply.header.opaque, reply.body.len()), (opaque, 100_000));
    }
    assert_eq!(server.stats.requests(), 100);
}
