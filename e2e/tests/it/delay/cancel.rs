//! Operators cancel and move messages at the moment they fall due, and the delay server is killed
//! meanwhile: what it answers is what happens.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use qmq_client::UnixMillis;
use qmq_e2e::cluster::TOKEN;
use qmq_e2e::{Cluster, Later, LaterPlan, LaterRun, ports, server, wait};
use qmq_model::{Clock, SystemClock};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tokio::runtime::Runtime;

use super::{number, seed};

const SUBJECT: &str = "e2e.later.cancel";
/// `QMQ_CANCELS` sets another number.
const CANCELS: u64 = 300;
const OPERATORS: u64 = 16;
/// From the send to the due time: longer than a send takes on a machine that is not busy.
const AHEAD: Duration = Duration::from_millis(150);
/// Cancels come this close to the due time, before and behind it.
const RACE_MS: i64 = 10;
/// Far enough ahead for an answer before it is due, and when that is asked for, before the due time.
const IN_TIME: Duration = Duration::from_secs(3);
const IN_TIME_MS: i64 = 2_900;
/// So long after the due time a message is on its way.
const TOO_LATE_MS: i64 = 500;
/// How far a message is moved: long enough to tell that it came at its old time.
const MOVED: Duration = Duration::from_secs(2);
/// Long after the test.
const FAR_AHEAD: Duration = Duration::from_secs(3600);
/// Time between two kills of the delay server.
const LIVES_MS: std::ops::Range<u64> = 500..2_000;
const COME_MAX: Duration = Duration::from_secs(120);

/// What was answered for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Cancelled,
    /// It has a new time.
    Moved,
    /// It was on its way.
    Dispatching,
    Delivered,
}

#[test]
fn the_answers_to_operators_are_true() {
    let seed = seed();
    let (mut cluster, delay_server) = cluster();
    let runtime = Runtime::new().unwrap();
    let mut later = later(&cluster, &runtime, seed);
    let answers = race(&mut cluster, &later, delay_server, seed);
    let cancelled = cancelled(&answers);
    later.settle(COME_MAX, &cancelled).unwrap();
    let of_kind = |wanted| answers.iter().filter(move |(_, answer)| *answer == wanted);
    let [moved, dispatching, delivered] =
        [Answer::Moved, Answer::Dispatching, Answer::Delivered].map(|kind| of_kind(kind).count());
    println!(
        "{} cancelled, {moved} moved, {dispatching} dispatching, {delivered} delivered",
        cancelled.len()
    );
    assert_eq!(lies(&answers, &later.end()), Vec::<String>::new());
    let all = [cancelled.len(), moved, dispatching + delivered];
    assert!(all.iter().all(|count| *count > 0), "no race: {all:?}");
    cluster.stop().unwrap();
}

#[test]
fn a_delay_server_that_forgets_a_cancel_is_noticed() {
    let (mut cluster, delay_server) = cluster();
    let runtime = Runtime::new().unwrap();
    let mut random = SmallRng::seed_from_u64(seed());
    let mut later = later(&cluster, &runtime, 0);
    let (id, _) = later.send_one(FAR_AHEAD, &mut random);
    let data = cluster.delay_server().data.clone();
    let before = data.with_extension("before");
    let copy = |from: &Path, to: &Path| {
        let copied = Command::new("cp").arg("-a").args([from, to]).status();
        assert!(copied.unwrap().success());
    };
    cluster.delay_server().server.kill().unwrap();
    copy(&data, &before);
    cluster.delay_server().server.start().unwrap();
    let answers = [(id.clone(), ask(delay_server, &id, None).unwrap())];
    assert_eq!(answers[0].1, Answer::Cancelled);
    cluster.delay_server().server.kill().unwrap();
    std::fs::remove_dir_all(&data).unwrap();
    copy(&before, &data);
    cluster.delay_server().server.start().unwrap();
    // It is pending again; not to wait for its time.
    let now = SystemClock.now();
    assert_eq!(ask(delay_server, &id, Some(now)).unwrap(), Answer::Moved);
    later.moved(&id, now);
    later.settle(COME_MAX, &HashSet::new()).unwrap();
    assert_eq!(lies(&answers, &later.end()).len(), 1);
}

/// A broker, and a delay server whose admin port is the same after every restart.
fn cluster() -> (Cluster, SocketAddr) {
    let mut cluster = Cluster::with_broker().unwrap();
    let port = ports::free().unwrap();
    let settings = [("admin.port", &*port.to_string())];
    cluster.add_delay_server("d1", &settings).unwrap();
    (cluster, SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

/// A consumer; all messages are sent by the operators.
fn later(cluster: &Cluster, runtime: &Runtime, seed: u64) -> Later {
    let plan = LaterPlan {
        subject: SUBJECT.to_owned(),
        messages: 0,
        lead: Duration::ZERO,
        over: Duration::ZERO,
        senders: 0,
        seed,
    };
    Later::start(runtime.handle(), &cluster.meta_address().unwrap(), &plan).unwrap()
}

fn cancelled(answers: &[(String, Answer)]) -> HashSet<String> {
    let is_cancelled = |answer: &Answer| *answer == Answer::Cancelled;
    let cancelled = answers.iter().filter(|(_, answer)| is_cancelled(answer));
    cancelled.map(|(id, _)| id.clone()).collect()
}

/// Answers that are not what happened, and messages that came before their time, above all those
/// that were moved.
fn lies(answers: &[(String, Answer)], run: &LaterRun) -> Vec<String> {
    let is_lie = |(id, answer): &&(String, Answer)| {
        let has_come = run.came.contains_key(id);
        has_come == (*answer == Answer::Cancelled)
    };
    let lies = answers.iter().filter(is_lie);
    let mut lies: Vec<_> = lies
        .map(|(id, answer)| format!("{id}: {answer:?}"))
        .collect();
    let account = run.clone().without(&cancelled(answers)).check();
    lies.extend(account.err());
    lies
}

/// Operators that each send a message and cancel or move it when it is due, while the delay server
/// is killed now and then; what each was answered.
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
                    answers.push(send_and_meddle(later, delay_server, &mut random));
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

fn send_and_meddle(
    later: &Later,
    delay_server: SocketAddr,
    random: &mut SmallRng,
) -> (String, Answer) {
    // Some are in time and some too late, also on a machine that is busy; the others race.
    let (ahead, distance) = match random.random_range(0..6) {
        0 => (IN_TIME, -IN_TIME_MS),
        1 => (AHEAD, TOO_LATE_MS),
        _ => (AHEAD, random.random_range(-RACE_MS..=RACE_MS)),
    };
    let (id, due) = later.send_one(ahead, random);
    let moment = due.0 + distance;
    let ahead = moment - SystemClock.now().0;
    thread::sleep(Duration::from_millis(ahead.try_into().unwrap_or(0)));
    // Without an answer it is not known what became of it: asked again when the server is there.
    let is_moved = random.random_ratio(1, 3);
    let (answer, due) = wait::until("an answer", COME_MAX, || {
        let due = is_moved.then(|| SystemClock.now().plus(MOVED));
        Ok(ask(delay_server, &id, due).ok().map(|answer| (answer, due)))
    })
    .unwrap();
    if let (Answer::Moved, Some(due)) = (answer, due) {
        later.moved(&id, due);
    }
    (id, answer)
}

/// Cancels a message, or moves it to `due`. It was acknowledged, so it must be known.
fn ask(delay_server: SocketAddr, id: &str, due: Option<UnixMillis>) -> Result<Answer> {
    let due = due.map(|due| due.to_string());
    let mut form = vec![("subject", SUBJECT), ("messageId", id)];
    form.extend(due.as_deref().map(|due| ("due", due)));
    let what = if due.is_some() {
        "reschedule"
    } else {
        "cancel"
    };
    let path = format!("/delay/{what}");
    let (status, body) = server::post(delay_server, &path, TOKEN, &form)?;
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
    } else if answers.contains(&"rescheduled") {
        Answer::Moved
    } else {
        assert!(answers.iter().all(is_cancelled), "{body}");
        Answer::Cancelled
    })
}
