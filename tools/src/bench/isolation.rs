//! `isolation`: whether one saturated subject is felt on another. A probe sends to a quiet subject
//! and pulls from it, both at fixed times; first nothing else happens, then senders and slow
//! consumers load another subject. The probe pulls what was sent before anything is measured, so
//! that a slow send does not make a slow pull.

use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};

use crate::bench::latency::Latency;
use crate::bench::plan::IsolationPlan;
use crate::bench::probe::Puller;
use crate::bench::receiver::{Consumed, Shared};
use crate::bench::report::Report;
use crate::bench::run::{
    FILL_CONNECTIONS, Session, Watched, fill, join, put_check, put_latency, put_sent,
};
use crate::bench::sender::{SendPlan, Sent};
use crate::bench::timeline::{Pace, nanos};

/// Most messages of a pull of a slow consumer.
const SLOW_PULL: i32 = 100;
/// Requests of the probe in flight. More wait, and their wait counts.
const PROBE_IN_FLIGHT: usize = 1024;
/// Seconds of pulls that are prepared beyond those that are made.
const SPARE_SECONDS: f64 = 2.0;

/// What the probe found in one phase.
struct Phase {
    sent: Sent,
    pull: Latency,
}

/// Runs both phases. `probe` has the quiet subject, `load` the loaded one.
///
/// # Errors
/// When the run could not be made.
pub(crate) fn run(load: &Session, probe: &Session, plan: &IsolationPlan) -> Result<Report> {
    let filled = fill(probe, pulls(plan))?;
    let (server, group) = (probe.servers[0], probe.groups[0].as_str());
    ensure!(
        probe.servers.len() == 1,
        "isolation is measured on one broker"
    );
    let timeline = probe.timeline;
    let mut puller = Puller::open(server, &probe.content, group, &probe.client, timeline)?;
    let send = probe_plan(probe, plan, FILL_CONNECTIONS);
    let idle = phase(probe, &mut puller, &send, || Ok(()))?.0;
    let send = probe_plan(probe, plan, FILL_CONNECTIONS + 1);
    let (loaded, load_run) = phase(probe, &mut puller, &send, || load_once(load, plan))?;
    let mut expected = filled;
    expected.absorb(&idle.sent);
    expected.absorb(&loaded.sent);
    puller.finish(expected.acknowledged.count())?;

    let (sent, consumed, watched) = load_run;
    let mut report = load.report("isolation", plan, watched.seconds)?;
    report.messages = sent.in_window;
    watched.put(load, &mut report);
    put_sent(&mut report, &sent);
    put_check(&mut report, load, &sent, &consumed);
    let verdict = puller.received.verdict(group, &expected.acknowledged);
    report.verdicts.push(verdict);
    for (reason, count) in &expected.refused {
        let fault = format!("{count} messages of the probe refused: {reason}");
        report.faults.push(fault);
    }
    put_ratio(
        &mut report,
        ["send", "idle send", "loaded send"],
        [&idle.sent.latency, &loaded.sent.latency],
        plan.ratio_max,
    );
    put_ratio(
        &mut report,
        ["pull", "idle pull", "loaded pull"],
        [&idle.pull, &loaded.pull],
        plan.ratio_max,
    );
    Ok(report)
}

/// How many messages the probe pulls in both phases, and some more.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast of a float saturates, and rates are above zero"
)]
fn pulls(plan: &IsolationPlan) -> u64 {
    let seconds = 2.0 * (plan.sending.warm_up + plan.sending.duration) + SPARE_SECONDS;
    (plan.probe_rate * seconds).ceil() as u64
}

/// The senders of the probe in the phase that begins now; they are lane `lane`.
fn probe_plan(probe: &Session, plan: &IsolationPlan, lane: usize) -> SendPlan {
    SendPlan {
        lanes: 1,
        first_lane: lane,
        in_flight: PROBE_IN_FLIGHT,
        batch: 1,
        rate: Some(plan.probe_rate),
        ..probe.send_plan(&plan.sending)
    }
}

/// Sends and pulls with the probe while `meanwhile` runs.
fn phase<T: Send>(
    probe: &Session,
    puller: &mut Puller<'_>,
    send: &SendPlan,
    meanwhile: impl FnOnce() -> Result<T> + Send,
) -> Result<(Phase, T)> {
    let senders = probe.start_senders(send);
    // Pulls are due between two sends, not at the same moments.
    let pace = match Pace::of_lane(send.rate, 1, 0, 1, send.start) {
        Pace::Every { first, period } => Pace::Every {
            first: first + nanos(Duration::from_secs_f64(period / 2e9)),
            period,
        },
        Pace::Free => Pace::Free,
    };
    let (pull, other) = thread::scope(|scope| {
        let pulling = scope.spawn(|| puller.run(pace, send.window));
        let other = meanwhile();
        let pull = pulling.join().map_err(|_| anyhow!("the probe panicked"));
        (pull, other)
    });
    let sent = join(senders, Sent::new(), Sent::absorb)?;
    let pull = pull??;
    Ok((Phase { sent, pull }, other?))
}

/// Loads the other subject for one phase.
fn load_once(load: &Session, plan: &IsolationPlan) -> Result<(Sent, Consumed, Watched)> {
    let send = load.send_plan(&plan.sending);
    let mut receive = load.receive_plan(&plan.common, plan.slow_consumers, SLOW_PULL, send.window);
    receive.pause = nanos(Duration::from_secs_f64(plan.slow_pause));
    let shared = Shared::new(load.groups.len());
    let receivers = load.start_receivers(&receive, &shared);
    let senders = load.start_senders(&send);
    let watched = load.watch(send.window);
    let sent = join(senders, Sent::new(), Sent::absorb);
    let expected = sent.as_ref().map_or(0, |sent| sent.acknowledged.count());
    shared.finish(expected, load.timeline.now());
    let none = Consumed::new(load.groups.len());
    let consumed = join(receivers, none, Consumed::absorb);
    Ok((sent?, consumed?, watched))
}

/// Puts an idle and a loaded latency into the report, and what one is of the other.
fn put_ratio(
    report: &mut Report,
    [name, idle_name, loaded_name]: [&'static str; 3],
    [idle, loaded]: [&Latency; 2],
    ratio_max: f64,
) {
    put_latency(report, idle_name, idle);
    put_latency(report, loaded_name, loaded);
    let (Some(idle), Some(loaded)) = (idle.summary(), loaded.summary()) else {
        let fault = format!("no {name} of the probe was measured");
        report.faults.push(fault);
        return;
    };
    let ratio = loaded.p99 / idle.p99;
    report.ratios.insert(name, ratio);
    if ratio > ratio_max {
        report.faults.push(format!(
            "loaded p99 of a {name} is {ratio:.2} times the idle one, more than {ratio_max}"
        ));
    }
}
