//! `produce`, `consume` and `e2e`: from the options to the report.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use qmq_model::{Clock, SystemClock};
use serde::Serialize;

use crate::bench::content::Content;
use crate::bench::discover;
use crate::bench::latency::Latency;
use crate::bench::plan::{Common, ConsumePlan, EndToEndPlan, ProducePlan, Receiving, Sending};
use crate::bench::receiver::{self, Consumed, ReceivePlan, Shared};
use crate::bench::report::{Report, SCHEMA};
use crate::bench::sender::{self, Delivery, SendPlan, Sent};
use crate::bench::server::{Process, Sample, Usage};
use crate::bench::timeline::{Nanos, SECOND, Timeline, Window, nanos};

/// How a backlog is made: few large requests.
pub(crate) const FILL_CONNECTIONS: usize = 2;
const FILL_IN_FLIGHT: usize = 8;
const FILL_BYTES: usize = 128 * 1024;
const FILL_BATCH_MAX: usize = 100;
/// How long making a backlog may take.
const FILL_WAIT: Duration = Duration::from_secs(3600);
/// Most messages of a pull by which a run of `produce` is checked.
const CHECK_PULL: i32 = 1000;
/// Time between the start of a run and the first request: threads connect meanwhile.
const START_WAIT: Duration = Duration::from_millis(50);

/// What all commands need once they know their servers.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) timeline: Timeline,
    pub(crate) started_ms: i64,
    pub(crate) servers: Vec<SocketAddr>,
    pub(crate) content: Arc<Content>,
    pub(crate) groups: Vec<String>,
    pub(crate) client: String,
    pub(crate) process: Option<Process>,
    threads: usize,
    patience: Nanos,
    /// Whether its threads give way to all others of the machine.
    pub(crate) gives_way: bool,
}

/// Niceness of threads that give way: the highest.
const NICE_MAX: i32 = 19;

/// Makes the thread that calls it the last in line for a processor.
fn give_way_if(gives_way: bool) -> Result<()> {
    if gives_way {
        rustix::process::nice(NICE_MAX).context("cannot lower the priority of a thread")?;
    }
    Ok(())
}

impl Session {
    /// Finds the servers and makes `groups` consumer groups known to them.
    ///
    /// # Errors
    /// When nobody answers.
    pub(crate) async fn open(common: &Common, groups: usize, timeline: Timeline) -> Result<Self> {
        let subjects: Vec<_> = (0..common.subjects)
            .map(|index| common.subject_name(index))
            .collect();
        let servers = discover::servers(common, &subjects).await?;
        let run = run_number(&subjects);
        let client = format!("qb-{run:08x}");
        let groups: Vec<_> = (0..groups)
            .map(|group| format!("bench-{run:08x}-{group}"))
            .collect();
        discover::create_groups(&servers, &subjects, &groups, &client).await?;
        let process = match common.server_pid {
            Some(pid) => Some(Process::of_pid(pid)),
            None => servers
                .iter()
                .find_map(|server| Process::of_address(*server)),
        };
        Ok(Self {
            timeline,
            started_ms: SystemClock.now().0,
            servers,
            content: Content::new(run, subjects, common.size, timeline),
            groups,
            client,
            process,
            threads: common.threads,
            gives_way: false,
            patience: nanos(common.patience()),
        })
    }

    /// A plan that sends from shortly after now on.
    pub(crate) fn send_plan(&self, sending: &Sending) -> SendPlan {
        let start = self.timeline.now() + nanos(START_WAIT);
        SendPlan {
            servers: self.servers.clone(),
            lanes: sending.connections,
            first_lane: 0,
            in_flight: sending.in_flight,
            batch: sending.batch,
            rate: sending.rate,
            limit: None,
            delivery: Delivery::Now,
            start,
            window: Window::after(start, sending.warm_up(), sending.duration()),
        }
    }

    pub(crate) fn receive_plan(
        &self,
        common: &Common,
        consumers: usize,
        pull: i32,
        window: Window,
    ) -> ReceivePlan {
        ReceivePlan {
            servers: self.servers.clone(),
            groups: self.groups.clone(),
            client: self.client.clone(),
            consumers,
            pull,
            pause: 0,
            patience: self.patience,
            window,
            sabotage: common.sabotage,
        }
    }

    /// Starts the senders; their lanes are shared out among the threads.
    pub(crate) fn start_senders(&self, plan: &SendPlan) -> Vec<JoinHandle<Result<Sent>>> {
        let start = |lanes: Range<usize>| {
            let (plan, content) = (plan.clone(), Arc::clone(&self.content));
            let (timeline, gives_way) = (self.timeline, self.gives_way);
            thread::spawn(move || {
                give_way_if(gives_way)?;
                sender::run(&plan, lanes, &content, timeline)
            })
        };
        shares(plan.lanes, self.threads).map(start).collect()
    }

    /// Starts the receivers.
    pub(crate) fn start_receivers(
        &self,
        plan: &ReceivePlan,
        shared: &Arc<Shared>,
    ) -> Vec<JoinHandle<Result<Consumed>>> {
        let start = |consumers: Range<usize>| {
            let consumers: Vec<_> = consumers.collect();
            let (plan, content) = (plan.clone(), Arc::clone(&self.content));
            let (shared, timeline) = (Arc::clone(shared), self.timeline);
            let gives_way = self.gives_way;
            thread::spawn(move || {
                give_way_if(gives_way)?;
                receiver::run(&plan, &consumers, &content, &shared, timeline)
            })
        };
        shares(plan.consumers, self.threads).map(start).collect()
    }

    /// Sleeps through the window; returns what was used within it by server and generator.
    pub(crate) fn watch(&self, window: Window) -> Watched {
        self.sleep_until(window.begin);
        let begin = self.samples();
        self.sleep_until(window.end);
        Watched {
            begin,
            end: self.samples(),
            seconds: window.seconds(),
        }
    }

    pub(crate) fn sleep_until(&self, at: Nanos) {
        let now = self.timeline.now();
        thread::sleep(Duration::from_nanos(at.saturating_sub(now)));
    }

    pub(crate) fn samples(&self) -> [Option<Sample>; 2] {
        let server = self.process.as_ref().and_then(Process::sample);
        [server, Process::own().sample()]
    }

    /// A report without results.
    pub(crate) fn report(
        &self,
        command: &'static str,
        plan: &impl Serialize,
        seconds: f64,
    ) -> Result<Report> {
        Ok(Report {
            schema: SCHEMA,
            command,
            version: env!("CARGO_PKG_VERSION"),
            started_ms: self.started_ms,
            servers: self.servers.iter().map(ToString::to_string).collect(),
            plan: serde_json::to_value(plan).context("the options as JSON")?,
            valid: false,
            checked: true,
            faults: Vec::new(),
            seconds,
            message_bytes: self.content.sent_bytes(),
            messages_per_second: None,
            messages: 0,
            refused: BTreeMap::new(),
            unanswered: 0,
            unsent: 0,
            latency_us: BTreeMap::new(),
            ratios: BTreeMap::new(),
            verdicts: Vec::new(),
            server: None,
            generator: None,
        })
    }
}

/// Samples at both ends of what was measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watched {
    pub(crate) begin: [Option<Sample>; 2],
    pub(crate) end: [Option<Sample>; 2],
    pub(crate) seconds: f64,
}

impl Watched {
    /// Puts the use per message into the report.
    pub(crate) fn put(&self, session: &Session, report: &mut Report) {
        let usage = |process: &Process, at: usize| -> Option<Usage> {
            let (begin, end) = (self.begin[at]?, self.end[at]?);
            Some(process.usage(begin, end, self.seconds, report.messages))
        };
        let server = session.process.as_ref();
        let server = server.and_then(|process| usage(process, 0));
        let generator = usage(&Process::own(), 1);
        report.server = server;
        report.generator = generator;
    }
}

/// Waits for all threads; their results together.
///
/// # Errors
/// The first of theirs.
pub(crate) fn join<T>(
    threads: Vec<JoinHandle<Result<T>>>,
    mut all: T,
    absorb: impl Fn(&mut T, &T),
) -> Result<T> {
    for thread in threads {
        let part = thread.join().map_err(|_| anyhow!("a thread panicked"))??;
        absorb(&mut all, &part);
    }
    Ok(all)
}

pub(crate) fn put_latency(report: &mut Report, name: &'static str, latency: &Latency) {
    let summary = latency.summary();
    report
        .latency_us
        .extend(summary.map(|summary| (name, summary)));
}

/// Puts what senders saw into the report.
pub(crate) fn put_sent(report: &mut Report, sent: &Sent) {
    report.refused.clone_from(&sent.refused);
    report.unanswered = sent.unanswered;
    report.unsent = sent.unsent;
    put_latency(report, "send", &sent.latency);
    put_latency(report, "lag", &sent.lag);
}

/// Puts the check into the report.
pub(crate) fn put_check(report: &mut Report, session: &Session, sent: &Sent, consumed: &Consumed) {
    let groups = consumed.groups.iter().zip(&session.groups);
    report.verdicts = groups
        .map(|(received, group)| received.verdict(group, &sent.acknowledged))
        .collect();
    if consumed.acks_refused > 0 {
        let fault = format!(
            "{} acks were not answered with success",
            consumed.acks_refused
        );
        report.faults.push(fault);
    }
}

/// `bench produce`: sends, then receives what was acknowledged to check it.
///
/// # Errors
/// When the run could not be made.
pub(crate) fn produce(session: &Session, plan: &ProducePlan) -> Result<Report> {
    let send = session.send_plan(&plan.sending);
    let senders = session.start_senders(&send);
    let watched = session.watch(send.window);
    let sent = join(senders, Sent::new(), Sent::absorb)?;
    let mut report = session.report("produce", plan, send.window.seconds())?;
    report.messages = sent.in_window;
    watched.put(session, &mut report);
    put_sent(&mut report, &sent);
    report.checked = !plan.no_check;
    if report.checked {
        let receive = session.receive_plan(&plan.common, 1, CHECK_PULL, send.window);
        let consumed = drain(session, &receive, &sent)?;
        put_check(&mut report, session, &sent, &consumed);
    }
    Ok(report)
}

/// Receives everything that was acknowledged.
fn drain(session: &Session, receive: &ReceivePlan, sent: &Sent) -> Result<Consumed> {
    let shared = Shared::new(session.groups.len());
    shared.finish(sent.acknowledged.count(), session.timeline.now());
    let receivers = session.start_receivers(receive, &shared);
    let none = Consumed::new(session.groups.len());
    join(receivers, none, Consumed::absorb)
}

/// `bench consume`: makes a backlog, then measures how fast it is received and acked.
///
/// # Errors
/// When the run could not be made.
pub(crate) fn consume(session: &Session, plan: &ConsumePlan) -> Result<Report> {
    let sent = fill(session, plan.messages)?;
    let begin = session.timeline.now();
    let first = session.samples();
    let window = Window {
        begin,
        end: Nanos::MAX,
    };
    let Receiving {
        consumers, pull, ..
    } = plan.receiving;
    let receive = session.receive_plan(&plan.common, consumers, pull, window);
    let consumed = drain(session, &receive, &sent)?;
    let seconds = consumed.last.saturating_sub(begin).max(1) as f64 / SECOND as f64;
    let mut report = session.report("consume", plan, seconds)?;
    report.messages = consumed.in_window;
    let watched = Watched {
        begin: first,
        end: session.samples(),
        seconds,
    };
    watched.put(session, &mut report);
    report.refused.clone_from(&sent.refused);
    report.unanswered = sent.unanswered;
    put_latency(&mut report, "pull", &consumed.pull);
    put_check(&mut report, session, &sent, &consumed);
    Ok(report)
}

/// Sends at least `messages` as a backlog.
///
/// # Errors
/// When a connection cannot be made or is lost.
pub(crate) fn fill(session: &Session, messages: u64) -> Result<Sent> {
    let batch = (FILL_BYTES / session.content.sent_bytes()).clamp(1, FILL_BATCH_MAX);
    let lanes = FILL_CONNECTIONS;
    // Whole requests only: a few messages more than asked for.
    let per_lane = messages
        .div_ceil(lanes as u64)
        .next_multiple_of(batch as u64);
    let start = session.timeline.now();
    let send = SendPlan {
        servers: session.servers.clone(),
        lanes,
        first_lane: 0,
        in_flight: FILL_IN_FLIGHT,
        batch,
        rate: None,
        limit: Some(per_lane),
        delivery: Delivery::Now,
        start,
        window: Window::after(start, Duration::ZERO, FILL_WAIT),
    };
    let senders = session.start_senders(&send);
    join(senders, Sent::new(), Sent::absorb)
}

/// `bench e2e`: sends and receives at the same time.
///
/// # Errors
/// When the run could not be made.
pub(crate) fn end_to_end(session: &Session, plan: &EndToEndPlan) -> Result<Report> {
    let send = session.send_plan(&plan.sending);
    let Receiving {
        consumers, pull, ..
    } = plan.receiving;
    let receive = session.receive_plan(&plan.common, consumers, pull, send.window);
    let shared = Shared::new(session.groups.len());
    let receivers = session.start_receivers(&receive, &shared);
    let senders = session.start_senders(&send);
    let watched = session.watch(send.window);
    let sent = join(senders, Sent::new(), Sent::absorb);
    // Also after a failure: receivers must not wait for messages that do not come.
    let expected = sent.as_ref().map_or(0, |sent| sent.acknowledged.count());
    shared.finish(expected, session.timeline.now());
    let none = Consumed::new(session.groups.len());
    let consumed = join(receivers, none, Consumed::absorb);
    let (sent, consumed) = (sent?, consumed?);
    let mut report = session.report("e2e", plan, send.window.seconds())?;
    report.messages = sent.in_window;
    watched.put(session, &mut report);
    put_sent(&mut report, &sent);
    put_latency(&mut report, "delivery", &consumed.delivery);
    put_latency(&mut report, "pull", &consumed.pull);
    put_check(&mut report, session, &sent, &consumed);
    Ok(report)
}

/// `count` numbers in at most `threads` ranges of about the same length.
fn shares(count: usize, threads: usize) -> impl Iterator<Item = Range<usize>> {
    let threads = threads.clamp(1, count.max(1));
    (0..threads).map(move |at| count * at / threads..count * (at + 1) / threads)
}

/// A number that no other run of late has, nor another part of this one.
fn run_number(subjects: &[String]) -> u32 {
    let now = SystemClock.now().0.to_be_bytes();
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&now);
    subjects
        .iter()
        .for_each(|subject| hasher.update(subject.as_bytes()));
    hasher.update(&std::process::id().to_be_bytes());
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_everything_once() {
        for (count, threads) in [(1, 1), (4, 3), (3, 8), (64, 2), (0, 2)] {
            let all: Vec<_> = shares(count, threads).flatten().collect();
            assert_eq!(all, (0..count).collect::<Vec<_>>());
        }
    }
}
