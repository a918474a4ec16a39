//! An orderly stop.

use std::time::Duration;

use qmq_remoting::{CloseReason, DrainReport, ServerConfig};
use tokio::net::TcpStream;

use crate::raw::{Raw, until};
use crate::service::{ECHO, GATE, LARGE, PARK, Running, echo, len_body};

#[tokio::test]
async fn started_requests_are_answered_and_no_others_taken() {
    let mut server = Running::start(ServerConfig::default()).await;
    let mut idle = Raw::connect(server.addr).await;
    idle.ask(ECHO, 1, b"").await;
    let mut busy = Raw::connect(server.addr).await;
    busy.send(PARK, 1, b"started").await;
    let parked = server.next_parked().await;

    server.stop.cancel();
    assert_eq!(idle.frame().await, None);
    until("it stops listening", || {
        server.stats.connections_open() == 1
    })
    .await;
    assert!(TcpStream::connect(server.addr).await.is_err());
    busy.send(ECHO, 2, b"too late").await;

    echo(parked);
    assert_eq!(busy.frame().await.expect("a reply").body, "started");
    assert_eq!(busy.frame().await, None);
    drop(busy);
    let report = server.served.await.expect("no panic");
    assert_eq!(
        report,
        DrainReport {
            connections: 2,
            cut: 0,
            unanswered: 0
        }
    );
    assert_eq!(server.stats.connections_closed(CloseReason::Drained), 2);
    assert_eq!(server.stats.requests(), 2);
}

#[tokio::test]
async fn large_reply_is_written_to_its_end() {
    let server = Running::start(ServerConfig::default()).await;
    let mut client = Raw::connect(server.addr).await;
    client.send(LARGE, 1, &len_body(20_000_000)).await;
    until("it is answered", || server.stats.outbox_bytes() > 0).await;
    server.stop.cancel();
    assert_eq!(
        client.frame().await.expect("a reply").body.len(),
        20_000_000
    );
    assert_eq!(client.frame().await, None);
    drop(client);
    let report = server.served.await.expect("no panic");
    assert_eq!(
        report,
        DrainReport {
            connections: 1,
            cut: 0,
            unanswered: 0
        }
    );
}

#[tokio::test]
async fn what_is_not_answered_in_time_is_cut_and_reported() {
    let drain = Duration::from_millis(50);
    let mut server = Running::start_with_drain(ServerConfig::default(), drain).await;
    let mut client = Raw::connect(server.addr).await;
    client.send(PARK, 1, b"").await;
    client.send(PARK, 2, b"").await;
    let parked = [server.next_parked().await, server.next_parked().await];
    let (connection, [first, second]) = (parked[0].0.connection.clone(), parked.map(|p| p.1));

    server.stop.cancel();
    let report = server.served.await.expect("no panic");
    assert_eq!(
        report,
        DrainReport {
            connections: 1,
            cut: 1,
            unanswered: 2
        }
    );
    assert!(connection.is_closed() && !first.is_connected());
    assert_eq!(client.frame().await, None);
    drop((first, second));
    assert_eq!(server.stats.bytes_in_flight(), 0);
}

#[tokio::test]
async fn dropped_responders_do_not_hold_up_a_stop() {
    let mut server = Running::start(ServerConfig::default()).await;
    let mut client = Raw::connect(server.addr).await;
    client.send(PARK, 1, b"").await;
    let parked = server.next_parked().await;
    server.stop.cancel();
    drop(parked);
    assert_eq!(client.frame().await, None);
    drop(client);
    assert_eq!(server.served.await.expect("no panic").cut, 0);
}

#[tokio::test]
async fn call_that_is_awaited_is_completed_by_a_stop() {
    let server = Running::start(ServerConfig::default()).await;
    let mut client = Raw::connect(server.addr).await;
    client.send(GATE, 1, b"").await;
    until("it waits", || server.stats.requests() == 1).await;
    server.stop.cancel();
    server.gate.add_permits(1);
    assert_eq!(client.frame().await.expect("a reply").header.opaque, 1);
    assert_eq!(client.frame().await, None);
    drop(client);
    assert_eq!(server.served.await.expect("no panic").cut, 0);
}
