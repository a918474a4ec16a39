//! Operators cancel messages at the moment they fall due, and the delay server is killed meanwhile:
//! what it answers is what happens.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use qmq_e2e::cluster::TOKEN;
use qmq_e2e::{Cluster, Later, LaterPlan, ports, server, wait};
use qmq_model::{Clock, SystemClock};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::{number, seed};

const SUBJECT: &str = "e2e.later.cancel";
/// `QMQ_CANCELS` sets another number.
const CANCELS: u64 = 300;
const OPERATORS: u64 = 16;
/// From the send to the due time: longer than a send takes on a machine that is not busy.
const AHEAD: Duration = Duration::from_millis(150);
/// Cancels come this close to the due time, before and behind it.
const RACE_MS: i64 = 10;
/// Time between two kills of the delay server.
const LIVES_MS: std::ops::Range<u64> = 500..2_000;
const COME_MAX: Duration = Duration::from_secs(120);

/// What was answered for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Cancelled,
    /// It was on its way.
    Dispatching,
    Delivered,
}

#[test]
fn the_answer_to_a_cancel_is_true() {
    let seed = seed();
    let mut cluster = Cluster::with_broker().unwrap();
    // The same after every restart.
    let port = ports::free().unwrap();
    let admin = ("admin.port", port.to_string());
    let settings = [(admin.0, admin.1.as_str())];
    cluster.add_delay_server("d1", &settings).unwrap();
    let delay_server = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let plan = LaterPlan {
        subject: SUBJECT.to_owned(),
        // All are sent by the operators.
        messages: 0,
        lead: Duration::ZERO,
        over: Duration::ZERO,
        senders: 0,
        seed,
    };
    let meta = cluster.meta_address().unwrap();
    let mut later = Later::start(runtime.handle(), &meta, &plan).unwrap();
    let answers = race(&mut cluster, &later, delay_server, seed);

    let cancelled = answers
        .iter()
        .filter(|(_, answer)| *answer == Answer::Cancelled);
    let cancelled: HashSet<String> = cancelled.map(|(id, _)| id.clone()).collect();
    later.settle(COME_MAX, &cancelled).unwrap();
    let count = |wanted| {
        answers
            .iter()
            .filter(|(_, answer)| *answer == wanted)
            .count()
    };
    println!(
        "{} cancelled, {} dispatching, {} delivered",
        cancelled.len(),
        count(Answer::Dispatching),
        count(Answer::Delivered)
    );
    let run = later.end();
    for (id, answer) in &answers {
        let has_come = run.came.contains_key(id);
        let is_cancelled = *answer == Answer::Cancelled;
        assert_ne!(has_come, is_cancelled, "{id} was answered {answer:?}");
    }
    assert!(
        !cancelled.is_empty() && cancelled.len() < answers.len(),
        "no race: {answers:?}"
    );
    cluster.stop().unwrap();
}

/// Operators that each send a message and cancel it when it is due, while the delay server is killed
/// now and then; what each was answered.
fn race(
    cluster: &mut Cluster,
    later: &Later,
    delay_server: SocketAddr,
    seed: u64,
) -> Vec<(String, Answer)> {
    let left = AtomicU64::new(number("QMQ_CANCELS", CANCELS));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let operators = (0..OPERATORS).map(|operator| {
            let mut random = SmallRng::seed_from_u64(seed ^ operator);
            let left = &left;
            scope.spawn(move || {
                let take = |left: u64| left.checked_sub(1);
                let mut answers = Vec::new();
                while left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                    .is_ok()
                {
                    answers.push(send_and_cancel(later, delay_server, &mut random));
                }
                answers
            })
        });
        let operators: Vec<_> = operators.collect();
        let killer = scope.spawn(|| {
            let mut random = SmallRng::seed_from_u64(seed);
            while !is_over.load(Ordering::Relaxed) {
                // Not to wait for anything: the moment of death is what is random here.
                thread::sleep(Duration::from_millis(random.random_range(LIVES_MS)));
                let delay_server = &mut cluster.delay_server().server;
                delay_server.kill().unwrap();
                delay_server.start().unwrap();
            }
        });
        let answers = operators
            .into_iter()
            .flat_map(|operator| operator.join().unwrap());
        let answers = answers.collect();
        is_over.store(true, Ordering::Relaxed);
        killer.join().unwrap();
        answers
    })
}

fn send_and_cancel(
    later: &Later,
    delay_server: SocketAddr,
    random: &mut SmallRng,
) -> (String, Answer) {
    let (id, due) = later.send_one(AHEAD, random);
    let moment = due.0 + random.random_range(-RACE_MS..=RACE_MS);
    let ahead = moment - SystemClock.now().0;
    // The race is for the moment at which it is due.
    thread::sleep(Duration::from_millis(ahead.try_into().unwrap_or(0)));
    // Without an answer it is not known what became of it: asked again when the server is there.
    let answer = wait::until("an answer to a cancel", COME_MAX, || {
        Ok(cancel(delay_server, &id).ok())
    });
    (id, answer.unwrap())
}

/// Cancels a message that was acknowledged, so that it must be known.
fn cancel(delay_server: SocketAddr, id: &str) -> Result<Answer> {
    let form = [("subject", SUBJECT), ("messageId", id)];
    let (status, body) = server::post(delay_server, "/delay/cancel", TOKEN, &form)?;
    anyhow::ensure!(status == 200, "status {status}: {body}");
    let said: Value = serde_json::from_str(&body)?;
    // A send that was repeated because its answer was lost is there twice.
    let entries = said["entries"].as_array().unwrap();
    let answers = entries
        .iter()
        .map(|entry| entry["answer"].as_str().unwrap());
    let answers: Vec<&str> = answers.collect();
    assert!(
        !answers.is_empty(),
        "{id} was acknowledged, and is unknown: {body}"
    );
    let is_cancelled = |answer: &&str| ["cancelled", "already cancelled"].contains(answer);
    Ok(if answers.contains(&"delivered") {
        Answer::Delivered
    } else if answers.contains(&"dispatching") {
        Answer::Dispatching
    } else {
        assert!(answers.iter().all(is_cancelled), "{body}");
        Answer::Cancelled
    })
}
