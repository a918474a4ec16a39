//! The pool: one connection per address, reconnecting, back-off, limits.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use qmq_protocol::{CommandCode, Frame};
use qmq_remoting::{Pool, PoolConfig, PoolError, ServerConfig};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::advance;

use crate::raw::{Raw, until};
use crate::service::Running;

const ECHO: CommandCode = CommandCode::SendMessage;
const LONG: Duration = Duration::from_secs(60);
/// Nobody listens there.
const REFUSED: &str = "127.0.0.1:1";

async fn ask(pool: &Pool, addr: &str) -> Result<Frame, PoolError> {
    pool.request(
        addr,
        ECHO,
        |out: &mut BytesMut| out.extend_from_slice(b"hello"),
        LONG,
    )
    .await
}

#[tokio::test]
async fn one_connection_per_address_also_when_many_ask_at_once() {
    let servers = [
        Running::start(ServerConfig::default()).await,
        Running::start(ServerConfig::default()).await,
    ];
    let pool = Pool::new(PoolConfig::default());
    let mut requests = JoinSet::new();
    for number in 0..100 {
        let (pool, addr) = (pool.clone(), servers[number % 2].addr.to_string());
        requests.spawn(async move { ask(&pool, &addr).await.expect("a reply").body });
    }
    while let Some(body) = requests.join_next().await {
        assert_eq!(body.expect("no panic"), "hello");
    }
    for server in &servers {
        assert_eq!(server.stats.connections_accepted(), 1);
        assert_eq!(server.stats.requests(), 50);
    }
    assert_eq!(pool.addresses(), 2);
}

#[tokio::test]
async fn lost_connection_is_opened_again_at_once() {
    let server = Running::start(ServerConfig::default()).await;
    let addr = server.addr;
    let pool = Pool::new(PoolConfig::default());
    ask(&pool, &addr.to_string()).await.expect("a reply");
    server.stop.cancel();
    server.served.await.expect("no panic");

    let listener = TcpListener::bind(addr).await.expect("the same address");
    let serves = async {
        let mut raw = Raw::of(listener.accept().await.expect("accepted").0);
        let header = raw.frame().await.expect("a request").header;
        let mut bytes = BytesMut::new();
        header.response(0).put_frame(&mut bytes, |_| {});
        raw.write(&bytes).await;
    };
    let name = addr.to_string();
    let (reply, ()) = tokio::join!(ask(&pool, &name), serves);
    reply.expect("a reply");
}

#[tokio::test(start_paused = true)]
async fn fails_fast_between_attempts() {
    let pool = Pool::new(PoolConfig::default());
    let error = ask(&pool, REFUSED).await.expect_err("refused");
    assert!(matches!(error, PoolError::Connect(_)), "{error}");
    assert!(!error.is_sent());
    // The pause is at least half of 50, 100, 200 ... ms, and at most 5 s.
    for (attempts, pause) in (1..).zip([25, 50, 100, 200, 400, 800, 1600, 2500, 2500]) {
        advance(Duration::from_millis(pause - 2)).await;
        let error = ask(&pool, REFUSED).await.expect_err("too early");
        assert!(
            matches!(error, PoolError::BackingOff(_)),
            "after {attempts}: {error}"
        );
        advance(Duration::from_millis(pause + 3)).await;
        let error = ask(&pool, REFUSED).await.expect_err("refused again");
        assert!(
            matches!(error, PoolError::Connect(_)),
            "after {attempts}: {error}"
        );
    }
}

async fn closes_unanswered(listener: &TcpListener) {
    drop(listener.accept().await.expect("accepted"));
}

#[tokio::test(start_paused = true)]
async fn server_that_closes_unanswered_is_not_connected_to_without_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let addr: SocketAddr = listener.local_addr().expect("bound");
    let addr = addr.to_string();
    let pool = Pool::new(PoolConfig::default());
    let (reply, ()) = tokio::join!(ask(&pool, &addr), closes_unanswered(&listener));
    assert!(matches!(reply, Err(PoolError::Request(_))), "{reply:?}");
    let error = ask(&pool, &addr).await.expect_err("too early");
    assert!(matches!(error, PoolError::Unanswered), "{error}");
    advance(Duration::from_millis(51)).await;
    let (reply, ()) = tokio::join!(ask(&pool, &addr), closes_unanswered(&listener));
    assert!(matches!(reply, Err(PoolError::Request(_))), "{reply:?}");
}

#[tokio::test(start_paused = true)]
async fn number_of_addresses_is_limited_and_old_ones_are_forgotten() {
    let servers = [
        Running::start(ServerConfig::default()).await,
        Running::start(ServerConfig::default()).await,
    ];
    let [first, second] = servers.each_ref().map(|server| server.addr.to_string());
    let pool = Pool::new(PoolConfig {
        addresses_max: 1,
        ..PoolConfig::default()
    });
    ask(&pool, &first).await.expect("a reply");
    let error = ask(&pool, &second).await.expect_err("refused");
    assert!(matches!(error, PoolError::TooManyAddresses(1)), "{error}");

    advance(Duration::from_secs(136)).await;
    until("the idle one is closed", || {
        servers[0].stats.connections_open() == 0
    })
    .await;
    ask(&pool, &second).await.expect("a reply");
    assert_eq!(pool.addresses(), 1);
}

#[tokio::test]
async fn deadline_counts_from_before_the_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let addr = listener.local_addr().expect("bound").to_string();
    let pool = Pool::new(PoolConfig::default());
    let error = pool
        .request(&addr, ECHO, |_| {}, Duration::ZERO)
        .await
        .expect_err("no time");
    assert!(matches!(error, PoolError::Deadline), "{error}");
    let unanswered = pool.request(&addr, ECHO, |_| {}, Duration::from_millis(20));
    assert!(unanswered.await.expect_err("no reply").is_sent());
    let error = pool
        .request(&addr, ECHO, |_| panic!("not encoded"), Duration::ZERO)
        .await;
    assert!(matches!(error, Err(PoolError::Deadline)), "{error:?}");
}
