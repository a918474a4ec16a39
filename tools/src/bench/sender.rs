//! Senders: each lane is a connection with a bounded number of requests in flight.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use qmq_protocol::command::send::{SendResponse, SendResult};
use qmq_protocol::frame::VERSION;
use qmq_protocol::{CommandCode, Decode, Header, ResultCode};

use crate::bench::connection::{Connection, Reply};
use crate::bench::content::{Content, Due, NUMBERS_MAX};
use crate::bench::latency::Latency;
use crate::bench::ledger::Messages;
use crate::bench::timeline::{Nanos, Pace, SECOND, Timeline, Window, rounded};
use crate::bench::waiter::Waiter;

/// How long answers, and requests that could not be sent in time, are waited for at the end.
const ANSWER_WAIT: Nanos = 30 * SECOND;
/// Longest sleep: the end of the run is looked at so often.
const LOOK_AGAIN: Nanos = SECOND / 20;
/// Kinds of refusals that are told apart.
const REFUSALS_MAX: usize = 20;

/// What all senders of a run do.
#[derive(Clone, Debug)]
pub(crate) struct SendPlan {
    /// Servers; lanes take turns.
    pub(crate) servers: Vec<SocketAddr>,
    /// Number of connections in the run.
    pub(crate) lanes: usize,
    /// First lane number: those below belong to others.
    pub(crate) first_lane: usize,
    /// Requests in flight per connection.
    pub(crate) in_flight: usize,
    /// Messages per request.
    pub(crate) batch: usize,
    /// Messages per second of all lanes together; `None` as fast as possible.
    pub(crate) rate: Option<f64>,
    /// Messages per lane, if not only time ends the run.
    pub(crate) limit: Option<u64>,
    /// When the messages are to be delivered.
    pub(crate) delivery: Delivery,
    /// When the first request is due.
    pub(crate) start: Nanos,
    /// What is measured. Nothing is due from its end on.
    pub(crate) window: Window,
}

/// When messages are to be delivered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Delivery {
    /// At once.
    Now,
    /// So long after their request is due.
    After(Nanos),
    /// One every `period` from `begin` on, over all lanes, whenever they are sent.
    Spread {
        /// When the first is due.
        begin: Nanos,
        /// Nanoseconds between two.
        period: f64,
    },
}

impl Delivery {
    /// When message `number` of lane `lane` is due, whose request is due at `sent`.
    pub(crate) fn due(self, sent: Nanos, lane: usize, lanes: usize, number: u64) -> Due {
        match self {
            Self::Now => Due::Now(sent),
            Self::After(delay) => Due::Later(whole_millis(sent + delay)),
            Self::Spread { begin, period } => {
                let place = number * lanes as u64 + lane as u64;
                Due::Later(whole_millis(begin + rounded(period * place as f64)))
            }
        }
    }
}

/// The next whole millisecond: due times have no parts of one.
fn whole_millis(at: Nanos) -> Nanos {
    at.next_multiple_of(SECOND / 1_000)
}

/// What became of the messages.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    /// Messages the server confirmed.
    pub(crate) acknowledged: Messages,
    /// Of these, the ones confirmed within the window.
    pub(crate) in_window: u64,
    /// From the due time of a request to its answer, for requests due within the window.
    pub(crate) latency: Latency,
    /// From the due time to the moment the request was handed to the system.
    pub(crate) lag: Latency,
    /// Refused messages by reason.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Sent without an answer.
    pub(crate) unanswered: u64,
    /// Due, but not even sent: the server did not keep up.
    pub(crate) unsent: u64,
}

impl Sent {
    pub(crate) fn new() -> Self {
        Self {
            acknowledged: Messages::default(),
            in_window: 0,
            latency: Latency::new(),
            lag: Latency::new(),
            refused: BTreeMap::new(),
            unanswered: 0,
            unsent: 0,
        }
    }

    /// Adds what other lanes sent.
    pub(crate) fn absorb(&mut self, other: &Self) {
        self.acknowledged.absorb(&other.acknowledged);
        self.in_window += other.in_window;
        self.latency.absorb(&other.latency);
        self.lag.absorb(&other.lag);
        for (reason, count) in &other.refused {
            *self.refused.entry(reason.clone()).or_default() += count;
        }
        self.unanswered += other.unanswered;
        self.unsent += other.unsent;
    }

    fn refuse(&mut self, count: u64, reason: impl FnOnce() -> String) {
        let mut reason = reason();
        if self.refused.len() >= REFUSALS_MAX && !self.refused.contains_key(&reason) {
            "other reasons".clone_into(&mut reason);
        }
        *self.refused.entry(reason).or_default() += count;
    }
}

/// Runs the lanes of one thread to their end.
///
/// # Errors
/// When a connection cannot be made or is lost.
pub(crate) fn run(
    plan: &SendPlan,
    lanes: Range<usize>,
    content: &Arc<Content>,
    timeline: Timeline,
) -> Result<Sent> {
    let waiter = Waiter::new().context("cannot wait for sockets")?;
    let mut sent = Sent::new();
    let lanes: Result<Vec<_>> = lanes.map(|lane| Lane::open(plan, lane)).collect();
    let mut lanes = lanes?;
    for (token, lane) in lanes.iter().enumerate() {
        waiter.add(&lane.connection, token)?;
    }
    let mut ready = Vec::new();
    loop {
        let now = timeline.now();
        let mut wake = now + LOOK_AGAIN;
        let mut is_over = true;
        for lane in &mut lanes {
            wake = wake.min(lane.pump(plan, content, timeline, &mut sent)?);
            is_over &= lane.is_over(plan, now);
        }
        if is_over || now >= plan.window.end.saturating_add(ANSWER_WAIT) {
            break;
        }
        waiter.wait(wake.saturating_sub(timeline.now()), &mut ready)?;
        for token in &ready {
            lanes[*token].read(plan, content, timeline, &mut sent)?;
        }
    }
    for lane in &lanes {
        lane.count_missing(plan, &mut sent);
    }
    Ok(sent)
}

/// A request that waits for its answer.
#[derive(Clone, Copy, Debug)]
struct Pending {
    due: Nanos,
    first: u64,
}

#[derive(Debug)]
struct Lane {
    lane: usize,
    connection: Connection,
    pace: Pace,
    request: u64,
    /// By opaque.
    slots: Vec<Option<Pending>>,
    free: Vec<i32>,
}

impl Lane {
    fn open(plan: &SendPlan, lane: usize) -> Result<Self> {
        let server = plan.servers[lane % plan.servers.len()];
        let slots = i32::try_from(plan.in_flight).context("too many in flight")?;
        Ok(Self {
            lane: plan.first_lane + lane,
            connection: Connection::open(server)?,
            pace: Pace::of_lane(plan.rate, plan.batch, lane, plan.lanes, plan.start),
            request: 0,
            slots: vec![None; plan.in_flight],
            free: (0..slots).rev().collect(),
        })
    }

    /// Sends what is due; returns when to come back.
    fn pump(
        &mut self,
        plan: &SendPlan,
        content: &Content,
        timeline: Timeline,
        sent: &mut Sent,
    ) -> Result<Nanos> {
        let now = timeline.now();
        let mut wake = Nanos::MAX;
        while self.connection.has_room() && !self.free.is_empty() {
            let Some(due) = self.next_due(plan, now) else {
                break;
            };
            if due > now {
                wake = due;
                break;
            }
            self.put_request(plan, content, due);
            if plan.window.contains(due) {
                sent.lag.record(now - due);
            }
        }
        self.connection.flush()?;
        Ok(wake)
    }

    /// When the next request is due; `None` when there is none.
    fn next_due(&self, plan: &SendPlan, now: Nanos) -> Option<Nanos> {
        let number = self.request * plan.batch as u64;
        let limit = plan.limit.unwrap_or(NUMBERS_MAX).min(NUMBERS_MAX);
        let due = self.pace.due(self.request).unwrap_or(now.max(plan.start));
        (due < plan.window.end && number + plan.batch as u64 <= limit).then_some(due)
    }

    fn put_request(&mut self, plan: &SendPlan, content: &Content, due: Nanos) {
        let slot = self.free.pop().expect("the caller looked");
        let first = self.request * plan.batch as u64;
        let out = &mut self.connection.out;
        let lane = self.lane - plan.first_lane;
        let due_of = |number| plan.delivery.due(due, lane, plan.lanes, number);
        put_send(self.lane, first, plan.batch, slot, due_of, content, out);
        *self.slot(slot).expect("a free slot") = Some(Pending { due, first });
        self.request += 1;
    }

    fn slot(&mut self, opaque: i32) -> Option<&mut Option<Pending>> {
        self.slots.get_mut(usize::try_from(opaque).ok()?)
    }

    /// Takes the answers that have arrived, and refills what they freed with one write.
    fn read(
        &mut self,
        plan: &SendPlan,
        content: &Content,
        timeline: Timeline,
        sent: &mut Sent,
    ) -> Result<()> {
        self.connection.fill()?;
        let now = timeline.now();
        while let Some(reply) = self.connection.take()? {
            let pending = self.slot(reply.opaque).and_then(Option::take);
            let pending = pending.context("the server answers what was not asked")?;
            self.free.push(reply.opaque);
            if plan.window.contains(pending.due) {
                sent.latency.record(now - pending.due);
            }
            let confirmed = self.judge(plan, pending, &reply, sent)?;
            if plan.window.contains(now) {
                sent.in_window += confirmed;
            }
        }
        self.pump(plan, content, timeline, sent)?;
        Ok(())
    }

    /// Notes which messages of a request were confirmed; returns how many.
    fn judge(
        &self,
        plan: &SendPlan,
        pending: Pending,
        reply: &Reply,
        sent: &mut Sent,
    ) -> Result<u64> {
        let batch = plan.batch as u64;
        if reply.code != ResultCode::Success.code() {
            sent.refuse(batch, || format!("reply code {}", reply.code));
            return Ok(0);
        }
        let body = self.connection.body(reply);
        let mut refused = Vec::new();
        if !body.is_empty() {
            let response = SendResponse::decode(VERSION, body).context("bad reply to a send")?;
            for failure in response.failures() {
                if !matches!(
                    failure.result,
                    SendResult::Success | SendResult::MessageDuplicate
                ) {
                    refused.push(failure.message_id);
                    let (code, remark) = (failure.result.code(), failure.remark);
                    sent.refuse(1, || format!("result {code} {remark}"));
                }
            }
            ensure!(refused.len() <= plan.batch, "more refused than was sent");
        }
        for number in pending.first..pending.first + batch {
            if refused.is_empty() || !refused.iter().any(|id| Content::is_id_of(id, number)) {
                sent.acknowledged.add(self.lane, number);
            }
        }
        Ok(batch - refused.len() as u64)
    }

    /// Nothing is due any more and everything is answered.
    fn is_over(&self, plan: &SendPlan, now: Nanos) -> bool {
        self.free.len() == self.slots.len() && self.next_due(plan, now).is_none()
    }

    /// Counts what got no answer, and what was due and never sent.
    fn count_missing(&self, plan: &SendPlan, sent: &mut Sent) {
        let batch = plan.batch as u64;
        let in_flight = self.slots.len() - self.free.len();
        sent.unanswered += in_flight as u64 * batch;
        let mut request = self.request;
        while self
            .pace
            .due(request)
            .is_some_and(|due| due < plan.window.end)
        {
            sent.unsent += batch;
            request += 1;
        }
    }
}

/// Appends a whole send request with `batch` messages from number `first` on.
pub(crate) fn put_send(
    lane: usize,
    first: u64,
    batch: usize,
    opaque: i32,
    due_of: impl Fn(u64) -> Due,
    content: &Content,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    Header::request(CommandCode::SendMessage.code(), opaque).put(0, out);
    for number in first..first + batch as u64 {
        content.put(lane, number, due_of(number), out);
    }
    let total = i32::try_from(out.len() - start - 4).expect("requests are bounded");
    out[start..start + 4].copy_from_slice(&total.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_are_spread_over_all_lanes_by_whole_milliseconds() {
        let millis = SECOND / 1_000;
        // 4 messages in 2 lanes, one every half millisecond.
        let spread = Delivery::Spread {
            begin: 7 * millis,
            period: 500_000.0,
        };
        let due = |lane, number| spread.due(1, lane, 2, number);
        let all = [due(0, 0), due(1, 0), due(0, 1), due(1, 1)];
        let expected = [7, 8, 8, 9].map(|at| Due::Later(at * millis));
        assert_eq!(all, expected);
        let after = Delivery::After(5 * millis);
        assert_eq!(after.due(1, 1, 2, 9), Due::Later(6 * millis));
        assert_eq!(Delivery::Now.due(1, 1, 2, 9), Due::Now(1));
    }
}
