//! Random load on several threads with budgets so small that everything waits for everything.

use std::time::Duration;

use qmq_remoting::{Request, Responder, ServerConfig};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::raw::{Raw, request, until};
use crate::service::{ECHO, LARGE, PARK, Running, echo, len_body};

const KIB: usize = 1024;
const CLIENTS: u64 = 12;
const REQUESTS: i32 = 200;
/// Nothing may stand still, on a slow machine either.
const PATIENCE: Duration = Duration::from_secs(60);

/// Writes all requests while it reads the replies in any order.
async fn client(raw: Raw, mut random: SmallRng) {
    let mut len_of_reply = Vec::new();
    let mut bytes = Vec::new();
    for opaque in 0..REQUESTS {
        let large = random.random_range(0..20_000_u32);
        let body = vec![9; random.random_range(0..8 * KIB)];
        let (code, body, len) = match random.random_range(0..3) {
            0 => (LARGE, len_body(large).to_vec(), large as usize),
            1 => (PARK, body.clone(), body.len()),
            _ => (ECHO, body.clone(), body.len()),
        };
        len_of_reply.push(len);
        bytes.extend_from_slice(&request(code, opaque, &body));
    }
    let (mut reading, mut writing) = raw.split();
    let writes = async {
        let mut left = &bytes[..];
        while !left.is_empty() {
            let (piece, rest) = left.split_at(random.random_range(1..30_000).min(left.len()));
            writing.write(piece).await;
            left = rest;
        }
    };
    let reads = async {
        for _ in 0..REQUESTS {
            let reply = reading.frame().await.expect("a reply");
            let index = usize::try_from(reply.header.opaque).expect("ours");
            let len = std::mem::replace(&mut len_of_reply[index], usize::MAX);
            assert_eq!(reply.body.len(), len, "reply {index}");
        }
    };
    tokio::join!(writes, reads);
}

/// Answers in random order, leaving fewer requests parked than fit into the budgets.
async fn answer(mut parked: mpsc::Receiver<(Request, Responder)>, mut random: SmallRng) {
    let mut waiting = Vec::new();
    loop {
        match timeout(Duration::from_millis(1), parked.recv()).await {
            Ok(Some(one)) => waiting.push(one),
            Ok(None) => return,
            Err(_) => waiting.drain(..).for_each(echo),
        }
        while waiting.len() > 3 {
            echo(waiting.swap_remove(random.random_range(0..waiting.len())));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everything_is_answered_once_and_every_byte_given_back() {
    let seed: u64 = rand::rng().random();
    println!("seed {seed}");
    let config = ServerConfig {
        body_bytes_max: 8 * KIB,
        connection_bytes_max: 9 * KIB,
        in_flight_bytes_max: 40 * KIB,
        outbox_bytes_max: 64 * KIB,
        ..ServerConfig::default()
    };
    let limit = config.in_flight_bytes_max + config.body_bytes_max + 24;
    let Running {
        addr,
        stats,
        parked,
        ..
    } = Running::start(config).await;
    let answers = tokio::spawn(answer(parked, SmallRng::seed_from_u64(seed)));
    let mut clients = JoinSet::new();
    for number in 1..=CLIENTS {
        let random = SmallRng::seed_from_u64(seed.wrapping_add(number));
        clients.spawn(async move { client(Raw::connect(addr).await, random).await });
    }
    let all = async {
        while let Some(client) = clients.join_next().await {
            client.expect("every reply");
            assert!(stats.bytes_in_flight() <= limit);
        }
    };
    timeout(PATIENCE, all).await.expect("in time");
    until("settled", || {
        stats.bytes_in_flight() == 0 && stats.outbox_bytes() == 0
    })
    .await;
    assert_eq!(
        stats.requests(),
        CLIENTS * u64::try_from(REQUESTS).expect("positive")
    );
    assert!(stats.budget_waits() > 0);
    answers.abort();
}
