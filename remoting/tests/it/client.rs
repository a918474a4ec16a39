//! Our client against our server, and against servers that misbehave.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use qmq_protocol::{CommandCode, FrameError, Header};
use qmq_remoting::{Client, ClientConfig, ConnectError, RequestError, ServerConfig};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, advance};

use crate::raw::{Raw, until};
use crate::service::{Running, echo};

const ECHO: CommandCode = CommandCode::SendMessage;
const PARK: CommandCode = CommandCode::PullMessage;
/// Longer than any test runs.
const LONG: Duration = Duration::from_secs(60);

async fn connect(addr: SocketAddr) -> Client {
    Client::connect(addr, ClientConfig::default())
        .await
        .expect("connected")
}

/// A client and the socket of a server that the test plays.
async fn pair(config: ClientConfig) -> (Client, Raw) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let addr = listener.local_addr().expect("bound").to_string();
    let (client, accepted) = tokio::join!(Client::connect(addr, config), listener.accept());
    (
        client.expect("connected"),
        Raw::of(accepted.expect("accepted").0),
    )
}

fn response(to: &Header, body: &[u8]) -> BytesMut {
    let mut bytes = BytesMut::new();
    to.response(0)
        .put_frame(&mut bytes, |out| out.extend_from_slice(body));
    bytes
}

#[tokio::test]
async fn many_requests_in_flight_each_get_their_own_reply() {
    let mut server = Running::start(ServerConfig::default()).await;
    let client = connect(server.addr).await;
    let mut requests = JoinSet::new();
    for number in 0..500_u32 {
        let client = client.clone();
        requests.spawn(async move {
            let write = |out: &mut BytesMut| out.extend_from_slice(&number.to_be_bytes());
            let reply = client.request(PARK, write, LONG).await.expect("a reply");
            assert_eq!(reply.body[..], number.to_be_bytes());
            assert_eq!(reply.header.request_code, PARK.code());
        });
    }
    let mut parked = Vec::new();
    for _ in 0..500 {
        parked.push(server.next_parked().await);
    }
    parked.into_iter().rev().for_each(echo);
    while let Some(done) = requests.join_next().await {
        done.expect("the right reply");
    }
    assert_eq!(server.stats.connections_accepted(), 1);
    assert_eq!(client.replies(), 500);
}

#[tokio::test]
async fn late_reply_is_dropped_and_the_connection_goes_on() {
    let (client, mut server) = pair(ClientConfig::default()).await;
    let short = Duration::from_millis(1);
    let error = client
        .request(ECHO, |_| {}, short)
        .await
        .expect_err("no reply");
    assert_eq!(error, RequestError::Timeout);
    assert!(error.is_sent());
    let late = server.frame().await.expect("the request").header;

    let next = client.request(ECHO, |_| {}, LONG);
    let answers = async {
        let header = server.frame().await.expect("the request").header;
        assert_ne!(header.opaque, late.opaque);
        server.write(&response(&late, b"late")).await;
        let unknown = Header {
            opaque: header.opaque.wrapping_add(1000),
            ..header
        };
        server.write(&response(&unknown, b"unknown")).await;
        // No reply, although it has the right number.
        let mut bytes = BytesMut::new();
        header.put_frame(&mut bytes, |_| {});
        server.write(&bytes).await;
        server.write(&response(&header, b"right")).await;
    };
    let (reply, ()) = tokio::join!(next, answers);
    assert_eq!(reply.expect("a reply").body, "right");
}

#[tokio::test]
async fn outcome_is_unknown_when_the_connection_ends_after_the_request_left() {
    let (client, mut server) = pair(ClientConfig::default()).await;
    let request = client.request(ECHO, |_| {}, LONG);
    let ends = async {
        server.frame().await.expect("the request");
        drop(server);
    };
    let (reply, ()) = tokio::join!(request, ends);
    let error = reply.expect_err("no reply");
    assert_eq!(error, RequestError::Closed { sent: true });
    assert!(error.is_sent());

    until("it is noticed", || client.is_closed()).await;
    let error = client
        .request(ECHO, |_| panic!("not encoded"), LONG)
        .await
        .expect_err("closed");
    assert_eq!(error, RequestError::Closed { sent: false });
    assert!(!error.is_sent());
}

#[tokio::test]
async fn request_behind_a_full_socket_was_not_sent() {
    let (client, server) = pair(ClientConfig::default()).await;
    // More than sockets take while nobody reads.
    let large = client.request(ECHO, |out| out.resize(out.len() + 40_000_000, 1), LONG);
    let small = client.request(ECHO, |_| {}, LONG);
    let ends = async {
        server.stream.readable().await.expect("the first bytes");
        drop(server);
    };
    let (large, small, ()) = tokio::join!(large, small, ends);
    assert_eq!(large, Err(RequestError::Closed { sent: true }));
    assert_eq!(small, Err(RequestError::Closed { sent: false }));
}

#[tokio::test]
async fn bad_reply_closes_the_connection() {
    let (client, mut server) = pair(ClientConfig::default()).await;
    let request = client.request(ECHO, |_| {}, LONG);
    let (reply, ()) = tokio::join!(request, server.write(b"HTTP/1.1 400 Bad Request\r\n"));
    let error = reply.expect_err("no reply");
    assert!(
        matches!(error, RequestError::Frame(FrameError::Magic(_))),
        "{error}"
    );
    assert!(error.is_sent() && client.is_closed());
    assert_eq!(
        server.frame().await.expect("the request").header.code,
        ECHO.code()
    );
    assert_eq!(server.frame().await, None);
}

#[tokio::test]
async fn requests_above_the_limit_are_refused_unsent() {
    let config = ClientConfig {
        in_flight_max: 2,
        ..ClientConfig::default()
    };
    let (client, _server) = pair(config).await;
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.request(PARK, |_| {}, LONG).await })
        })
        .collect();
    tokio::task::yield_now().await;
    let error = client
        .request(PARK, |_| panic!("not encoded"), LONG)
        .await
        .expect_err("refused");
    assert_eq!(error, RequestError::Overloaded);
    assert!(!error.is_sent());
    // Who gives up makes room.
    for task in waiting {
        task.abort();
        let _ = task.await;
    }
    let error = client.request(PARK, |_| {}, Duration::from_millis(1)).await;
    assert_eq!(error, Err(RequestError::Timeout));
}

#[tokio::test]
async fn too_many_bytes_are_refused_unsent() {
    let config = ClientConfig {
        body_bytes_max: 1000,
        outbox_bytes_max: 2000,
        ..ClientConfig::default()
    };
    let (client, mut server) = pair(config).await;
    let large = |out: &mut BytesMut| out.resize(out.len() + 2000, 1);
    assert_eq!(
        client.request(ECHO, large, LONG).await,
        Err(RequestError::Overloaded)
    );
    let request = client.request(ECHO, |out| out.extend_from_slice(b"small"), LONG);
    let answer = async {
        let frame = server.frame().await.expect("only the second");
        assert_eq!(frame.body, "small");
        server.write(&response(&frame.header, b"")).await;
    };
    tokio::join!(request, answer).0.expect("a reply");
}

#[tokio::test]
async fn connection_ends_with_the_last_client() {
    let server = Running::start(ServerConfig::default()).await;
    let client = connect(server.addr).await;
    let clone = client.clone();
    client.request(ECHO, |_| {}, LONG).await.expect("a reply");
    drop(client);
    clone.request(ECHO, |_| {}, LONG).await.expect("a reply");
    assert_eq!(server.stats.connections_open(), 1);
    drop(clone);
    until("closed", || server.stats.connections_open() == 0).await;
}

#[tokio::test]
async fn failed_connect_names_the_address() {
    let error = Client::connect("127.0.0.1:1", ClientConfig::default())
        .await
        .expect_err("refused");
    assert!(matches!(error, ConnectError::Io { .. }));
    assert!(
        error
            .to_string()
            .starts_with("cannot connect to 127.0.0.1:1: "),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn idle_connection_is_closed() {
    let (client, mut server) = pair(ClientConfig::default()).await;
    let since = Instant::now();
    assert_eq!(server.frame().await, None);
    let elapsed = since.elapsed().as_secs();
    assert!((120..=135).contains(&elapsed), "{elapsed} s");
    assert!(client.is_closed());
}

#[tokio::test(start_paused = true)]
async fn silent_server_is_asked_and_then_given_up() {
    let (client, mut server) = pair(ClientConfig::default()).await;
    let since = Instant::now();
    let request = client.request(PARK, |_| {}, 100 * LONG);
    let silence = async {
        assert_eq!(
            server.frame().await.expect("the request").header.code,
            PARK.code()
        );
        assert_eq!(server.frame().await.expect("a question").header.code, 100);
        assert_eq!(server.frame().await, None);
    };
    let (reply, ()) = tokio::join!(request, silence);
    assert_eq!(reply, Err(RequestError::Closed { sent: true }));
    let elapsed = since.elapsed().as_secs();
    assert!((30..=45).contains(&elapsed), "{elapsed} s");
}

#[tokio::test(start_paused = true)]
async fn server_that_answers_heartbeats_may_take_its_time() {
    let mut server = Running::start(ServerConfig::default()).await;
    let client = connect(server.addr).await;
    let other = client.clone();
    let request = tokio::spawn(async move { other.request(PARK, |_| {}, 100 * LONG).await });
    let parked = server.next_parked().await;
    for heartbeats in 1..20 {
        advance(Duration::from_secs(16)).await;
        until("a heartbeat", || client.replies() >= heartbeats).await;
    }
    echo(parked);
    request.await.expect("no panic").expect("a reply");
}
