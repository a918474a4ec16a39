//! Time limits of a server, by a clock that the test moves.

use std::time::Duration;

use bytes::BytesMut;
use qmq_protocol::Header;
use qmq_remoting::{CloseReason, ServerConfig, ServerStats};
use tokio::time::{Instant, advance};

use crate::raw::{Raw, request, until};
use crate::service::{ECHO, LARGE, PARK, Running, echo, len_body};

const SECOND: Duration = Duration::from_secs(1);

/// Lets the clock run until the server closes the connection; tells how long that took.
async fn time_to_close(client: &mut Raw) -> Duration {
    let since = Instant::now();
    assert_eq!(client.frame().await, None);
    since.elapsed()
}

fn assert_about(elapsed: Duration, seconds: u64) {
    let expected = Duration::from_secs(seconds);
    assert!(
        elapsed >= expected && elapsed < expected + SECOND,
        "{elapsed:?}, not {expected:?}"
    );
}

async fn closed(stats: &ServerStats, reason: CloseReason) {
    until(reason.name(), || stats.connections_closed(reason) == 1).await;
    until("its bytes are given back", || stats.bytes_in_flight() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn first_frame_must_come_within_30_seconds() {
    let server = Running::start(ServerConfig::default()).await;
    let mut client = Raw::connect(server.addr).await;
    assert_about(time_to_close(&mut client).await, 30);
    closed(&server.stats, CloseReason::FirstFrameTimeout).await;
}

#[tokio::test(start_paused = true)]
async fn announced_frame_must_be_completed_within_30_seconds() {
    let server = Running::start(ServerConfig::default()).await;
    let mut client = Raw::connect(server.addr).await;
    client.ask(ECHO, 1, b"first").await;
    let mut bytes = BytesMut::new();
    Header::request(ECHO, 2).put(16 * 1024 * 1024, &mut bytes);
    client.write(&bytes).await;
    // Only what came counts, whatever was announced.
    until("it came", || server.stats.bytes_in_flight() == 24).await;
    assert_about(time_to_close(&mut client).await, 30);
    closed(&server.stats, CloseReason::FrameTimeout).await;
}

#[tokio::test(start_paused = true)]
async fn two_gibibytes_announced_are_refused_at_once() {
    let server = Running::start(ServerConfig::default()).await;
    let mut client = Raw::connect(server.addr).await;
    let mut bytes = request(ECHO, 1, b"").to_vec();
    bytes[..4].copy_from_slice(&i32::MAX.to_be_bytes());
    client.write(&bytes).await;
    assert_about(time_to_close(&mut client).await, 0);
    closed(&server.stats, CloseReason::BadFrame).await;
}

#[tokio::test(start_paused = true)]
async fn single_bytes_do_not_extend_the_time_for_a_frame() {
    let server = Running::start(ServerConfig::default()).await;
    let mut client = Raw::connect(server.addr).await;
    client.ask(ECHO, 1, b"first").await;
    let frame = request(ECHO, 2, b"never whole");
    for (arrived, byte) in (1..=29).zip(&frame[..]) {
        client.write(&[*byte]).await;
        until("it came", || server.stats.bytes_in_flight() == arrived).await;
        advance(SECOND).await;
    }
    assert_about(time_to_close(&mut client).await, 1);
    closed(&server.stats, CloseReason::FrameTimeout).await;
}

#[tokio::test(start_paused = true)]
async fn frame_completed_in_time_is_answered_and_resets_the_clock() {
    let server = Running::start(ServerConfig::default()).await;
    let mut client = Raw::connect(server.addr).await;
    client.ask(ECHO, 1, b"first").await;
    for opaque in 2..5 {
        let frame = request(ECHO, opaque, b"late");
        client.write(&frame[..20]).await;
        until("it came", || server.stats.bytes_in_flight() == 20).await;
        advance(29 * SECOND).await;
        client.write(&frame[20..]).await;
        assert_eq!(client.frame().await.expect("a reply").header.opaque, opaque);
        until("settled", || server.stats.bytes_in_flight() == 0).await;
        advance(200 * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn silence_is_allowed_for_300_seconds() {
    let server = Running::start(ServerConfig::default()).await;
    let mut client = Raw::connect(server.addr).await;
    client.ask(ECHO, 1, b"first").await;
    assert_about(time_to_close(&mut client).await, 300);
    closed(&server.stats, CloseReason::Idle).await;
}

#[tokio::test(start_paused = true)]
async fn heartbeats_keep_a_connection() {
    let server = Running::start(ServerConfig::default()).await;
    let mut client = Raw::connect(server.addr).await;
    for opaque in 0..20 {
        assert_eq!(client.ask(100, opaque, b"").await.header.code, 100);
        advance(240 * SECOND).await;
    }
    assert_eq!(server.stats.connections_open(), 1);
}

#[tokio::test(start_paused = true)]
async fn client_that_waits_for_an_answer_is_not_idle() {
    let mut server = Running::start(ServerConfig::default()).await;
    let mut client = Raw::connect(server.addr).await;
    client.send(PARK, 1, b"patient").await;
    let parked = server.next_parked().await;
    for _ in 0..10 {
        advance(299 * SECOND).await;
    }
    assert!(parked.1.is_connected());
    echo(parked);
    assert_eq!(client.frame().await.expect("a reply").body, "patient");
    // Its silence begins with the answer.
    let elapsed = time_to_close(&mut client).await;
    assert!(
        elapsed >= 299 * SECOND && elapsed <= 301 * SECOND,
        "{elapsed:?}"
    );
    closed(&server.stats, CloseReason::Idle).await;
}

/// Asks for more than sockets take, and reads nothing of it.
async fn stall(server: &Running) -> Raw {
    let mut client = Raw::connect(server.addr).await;
    client.send(LARGE, 1, &len_body(40_000_000)).await;
    until("it stalls", || server.stats.outbox_bytes() > 0).await;
    let mut left = usize::MAX;
    // Stalled is what does not move any more.
    while left != server.stats.outbox_bytes() {
        left = server.stats.outbox_bytes();
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    }
    client
}

#[tokio::test(start_paused = true)]
async fn client_that_takes_no_replies_is_closed_after_60_seconds() {
    let server = Running::start(ServerConfig::default()).await;
    let client = stall(&server).await;
    let mut other = Raw::connect(server.addr).await;
    for opaque in 0..59 {
        advance(SECOND).await;
        assert_eq!(other.ask(ECHO, opaque, b"works").await.body, "works");
    }
    assert_eq!(server.stats.connections_open(), 2);
    advance(2 * SECOND).await;
    closed(&server.stats, CloseReason::WriteTimeout).await;
    assert_eq!(server.stats.outbox_bytes(), 0);
    assert_eq!(other.ask(ECHO, 99, b"works").await.body, "works");
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn it_is_closed_after_a_second_when_memory_is_short() {
    let config = ServerConfig {
        outbox_total_bytes_max: 1_000_000,
        ..ServerConfig::default()
    };
    let server = Running::start(config).await;
    let client = stall(&server).await;
    advance(2 * SECOND).await;
    closed(&server.stats, CloseReason::WriteTimeout).await;
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn begun_frames_keep_the_budget_spent_for_30_seconds_at_most() {
    let body = 64 * 1024;
    let config = ServerConfig {
        body_bytes_max: body,
        connection_bytes_max: body + 24,
        in_flight_bytes_max: 2 * (body + 24),
        ..ServerConfig::default()
    };
    let limit = config.in_flight_bytes_max;
    let server = Running::start(config).await;
    let mut honest = Raw::connect(server.addr).await;
    honest.ask(ECHO, 1, b"first").await;
    let frame = request(ECHO, 1, &vec![1; body]);
    let mut hoarders = Vec::new();
    for _ in 0..3 {
        let mut client = Raw::connect(server.addr).await;
        client.write(&frame[..frame.len() - 1]).await;
        hoarders.push(client);
    }
    until("the budget is spent", || {
        server.stats.bytes_in_flight() >= limit
    })
    .await;
    honest.send(ECHO, 2, b"waits").await;
    until("it waits", || server.stats.budget_waits() >= 2).await;
    let since = Instant::now();
    assert_eq!(honest.frame().await.expect("a reply").body, "waits");
    assert!(since.elapsed() <= 31 * SECOND, "{:?}", since.elapsed());
    assert_eq!(server.stats.connections_closed(CloseReason::Idle), 0);
}
