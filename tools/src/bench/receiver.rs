//! Receivers: consumers of the groups, several on one connection, each with one pull in flight.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use clap::ValueEnum;
use qmq_model::{Clock, Payload, SystemClock};
use qmq_protocol::command::ack::AckRequest;
use qmq_protocol::command::pull::{PullRequest, PullResponse};
use qmq_protocol::frame::VERSION;
use qmq_protocol::{CommandCode, Decode, Encode, Header, ResultCode};
use serde::Serialize;

use crate::bench::connection::{Connection, Reply};
use crate::bench::content::Content;
use crate::bench::latency::Latency;
use crate::bench::ledger::Received;
use crate::bench::timeline::{Nanos, SECOND, Timeline, Window};
use crate::bench::waiter::Waiter;

/// How long the server may keep a pull that finds nothing, ms.
const PULL_WAIT_MS: i64 = 1_000;
/// Pause after an answer without messages that came at once: not every server waits.
const EMPTY_PAUSE: Nanos = SECOND / 1_000;
/// How often the end of the run is looked at.
const LOOK_AGAIN: Nanos = SECOND / 50;
/// Number of all ack requests; pulls have their consumer's, from 0 on.
const ACK: i32 = -1;

/// A fault that is put into what was received, to show that the check notices it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Sabotage {
    /// The first message is dropped.
    Lose,
    /// The first message counts twice.
    Duplicate,
    /// A bit of the first message is turned.
    Alter,
}

/// What all receivers of a run do.
#[derive(Clone, Debug)]
pub(crate) struct ReceivePlan {
    /// Servers: each consumer pulls from all of them.
    pub(crate) servers: Vec<SocketAddr>,
    /// Groups; each gets everything.
    pub(crate) groups: Vec<String>,
    /// Begin of the client ids.
    pub(crate) client: String,
    /// Connections per server in each group.
    pub(crate) consumers: usize,
    /// Most messages of a pull.
    pub(crate) pull: i32,
    /// Pause between two pulls while senders send: a slow consumer.
    pub(crate) pause: Nanos,
    /// How long nothing may come before what is missing counts as lost.
    pub(crate) patience: Nanos,
    /// What is measured.
    pub(crate) window: Window,
    /// A fault to put in.
    pub(crate) sabotage: Option<Sabotage>,
}

/// What senders and receivers tell each other.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Set when `expected` is known.
    pub(crate) is_sent: AtomicBool,
    /// Messages each group has to receive.
    pub(crate) expected: AtomicU64,
    /// Good messages by group.
    pub(crate) received: Vec<AtomicU64>,
    /// When the last message came.
    pub(crate) last: AtomicU64,
}

impl Shared {
    pub(crate) fn new(groups: usize) -> Arc<Self> {
        Arc::new(Self {
            is_sent: AtomicBool::new(false),
            expected: AtomicU64::new(u64::MAX),
            received: (0..groups).map(|_| AtomicU64::new(0)).collect(),
            last: AtomicU64::new(0),
        })
    }

    /// From now on receivers end when they have `expected` messages per group.
    pub(crate) fn finish(&self, expected: u64, now: Nanos) {
        self.expected.store(expected, Ordering::Release);
        self.last.fetch_max(now, Ordering::AcqRel);
        self.is_sent.store(true, Ordering::Release);
    }

    fn is_over(&self, now: Nanos, patience: Nanos) -> bool {
        if !self.is_sent.load(Ordering::Acquire) {
            return false;
        }
        let expected = self.expected.load(Ordering::Acquire);
        let has_all = |count: &AtomicU64| count.load(Ordering::Acquire) >= expected;
        let silence = now.saturating_sub(self.last.load(Ordering::Acquire));
        self.received.iter().all(has_all) || silence >= patience
    }
}

/// What came.
#[derive(Clone, Debug)]
pub(crate) struct Consumed {
    /// By group.
    pub(crate) groups: Vec<Received>,
    /// Good messages that came within the window, in all groups.
    pub(crate) in_window: u64,
    /// From the due time of a message to its receipt, for those due within the window.
    pub(crate) delivery: Latency,
    /// From a pull to its answer with messages, for pulls within the window.
    pub(crate) pull: Latency,
    /// Messages that came before the wall clock showed the time they were due.
    pub(crate) early: u64,
    /// Acks that were not answered with success.
    pub(crate) acks_refused: u64,
    /// When the last message came.
    pub(crate) last: Nanos,
}

impl Consumed {
    pub(crate) fn new(groups: usize) -> Self {
        Self {
            groups: vec![Received::default(); groups],
            in_window: 0,
            delivery: Latency::new(),
            pull: Latency::new(),
            early: 0,
            acks_refused: 0,
            last: 0,
        }
    }

    /// Adds what other consumers received.
    pub(crate) fn absorb(&mut self, other: &Self) {
        for (group, more) in self.groups.iter_mut().zip(&other.groups) {
            group.absorb(more);
        }
        self.in_window += other.in_window;
        self.delivery.absorb(&other.delivery);
        self.pull.absorb(&other.pull);
        self.early += other.early;
        self.acks_refused += other.acks_refused;
        self.last = self.last.max(other.last);
    }
}

/// Runs the consumers with these numbers to their end: when every group has what it shall get, or
/// nothing comes any more.
///
/// # Errors
/// When a connection cannot be made or is lost, or an answer cannot be read.
pub(crate) fn run(
    plan: &ReceivePlan,
    consumers: &[usize],
    content: &Arc<Content>,
    shared: &Arc<Shared>,
    timeline: Timeline,
) -> Result<Consumed> {
    let waiter = Waiter::new().context("cannot wait for sockets")?;
    let mut session = Session {
        plan,
        content,
        shared,
        timeline,
        consumed: Consumed::new(plan.groups.len()),
        sabotage: plan.sabotage.filter(|_| consumers.contains(&0)),
        scratch: BytesMut::new(),
    };
    let mut links = Vec::new();
    for consumer in consumers {
        for server in &plan.servers {
            let link = Link::open(plan, content, *consumer, *server)?;
            waiter.add(&link.connection, links.len())?;
            links.push(link);
        }
    }
    let mut ready = Vec::new();
    loop {
        let now = timeline.now();
        let mut wake = now + LOOK_AGAIN;
        for link in &mut links {
            wake = wake.min(session.ask(link)?);
        }
        if shared.is_over(now, plan.patience) && links.iter().all(|link| link.acks == 0) {
            return Ok(session.consumed);
        }
        let silence = now.saturating_sub(shared.last.load(Ordering::Acquire));
        if shared.is_sent.load(Ordering::Acquire) && silence > 2 * plan.patience {
            bail!("the server does not answer acks");
        }
        waiter.wait(wake.saturating_sub(timeline.now()), &mut ready)?;
        for token in &ready {
            session.read(&mut links[*token])?;
        }
    }
}

/// One connection with a consumer for each subject and group.
#[derive(Debug)]
struct Link {
    connection: Connection,
    client: String,
    consumers: Vec<Consumer>,
    /// Acks without an answer.
    acks: usize,
}

#[derive(Clone, Copy, Debug)]
struct Consumer {
    subject: usize,
    group: usize,
    /// Last pull sequence that was received.
    last: i64,
    /// When the pull in flight was sent.
    asked: Option<Nanos>,
    /// No pull before this.
    rest_until: Nanos,
}

impl Link {
    fn open(
        plan: &ReceivePlan,
        content: &Content,
        consumer: usize,
        server: SocketAddr,
    ) -> Result<Self> {
        let subjects = 0..content.subjects().len();
        let pairs = subjects.flat_map(|subject| {
            (0..plan.groups.len()).map(move |group| Consumer {
                subject,
                group,
                last: -1,
                asked: None,
                rest_until: 0,
            })
        });
        Ok(Self {
            connection: Connection::open(server)?,
            client: client_id(&plan.client, consumer),
            consumers: pairs.collect(),
            acks: 0,
        })
    }
}

/// Client id of a consumer.
pub(crate) fn client_id(client: &str, consumer: usize) -> String {
    format!("{client}-{consumer}")
}

/// When replies were read from a socket.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    now: Nanos,
    /// Due times are of the wall clock, so what is early is too.
    wall_ms: i64,
}

struct Session<'a> {
    plan: &'a ReceivePlan,
    content: &'a Content,
    shared: &'a Shared,
    timeline: Timeline,
    consumed: Consumed,
    sabotage: Option<Sabotage>,
    scratch: BytesMut,
}

impl Session<'_> {
    /// Sends the pulls that may be sent; returns when to come back.
    fn ask(&mut self, link: &mut Link) -> Result<Nanos> {
        let now = self.timeline.now();
        let mut wake = Nanos::MAX;
        for (opaque, consumer) in (0..).zip(&mut link.consumers) {
            if consumer.asked.is_some() {
                continue;
            }
            if consumer.rest_until > now {
                wake = wake.min(consumer.rest_until);
                continue;
            }
            let pull = Pull {
                subject: &self.content.subjects()[consumer.subject],
                group: &self.plan.groups[consumer.group],
                client: &link.client,
                count: self.plan.pull,
                last: consumer.last,
                wait_ms: PULL_WAIT_MS,
            };
            pull.put(opaque, &mut self.scratch, &mut link.connection.out);
            consumer.asked = Some(now);
        }
        link.connection.flush()?;
        Ok(wake)
    }

    fn read(&mut self, link: &mut Link) -> Result<()> {
        link.connection.fill()?;
        let at = Arrival {
            now: self.timeline.now(),
            wall_ms: SystemClock.now().0,
        };
        while let Some(reply) = link.connection.take()? {
            if reply.opaque == ACK {
                let is_good = reply.code == ResultCode::Success.code();
                self.consumed.acks_refused += u64::from(!is_good);
                link.acks = link.acks.saturating_sub(1);
                continue;
            }
            self.pulled(link, &reply, at)?;
        }
        self.ask(link)?;
        Ok(())
    }

    fn pulled(&mut self, link: &mut Link, reply: &Reply, at: Arrival) -> Result<()> {
        let which = usize::try_from(reply.opaque).context("an answer to no pull")?;
        let consumer = link.consumers.get_mut(which);
        let consumer = consumer.context("an answer to no pull")?;
        let asked = consumer.asked.take().context("two answers to one pull")?;
        if reply.code == ResultCode::NoMessage.code() {
            consumer.rest_until = asked + EMPTY_PAUSE;
            return Ok(());
        }
        if reply.code != ResultCode::Success.code() {
            bail!("a pull is answered with code {}", reply.code);
        }
        // The replies are looked at while the next request is on its way.
        let input = link.connection.lend_input();
        let answered = self.take_portion(link, which, &input[reply.body.clone()], asked, at);
        link.connection.give_back(input);
        answered
    }

    /// Takes the messages of a reply, after asking for the next ones.
    fn take_portion(
        &mut self,
        link: &mut Link,
        which: usize,
        body: &[u8],
        asked: Nanos,
        at: Arrival,
    ) -> Result<()> {
        let now = at.now;
        let consumer = &mut link.consumers[which];
        let response = PullResponse::decode(VERSION, body).context("bad reply to a pull")?;
        if response.is_empty() {
            consumer.rest_until = asked + EMPTY_PAUSE;
            return Ok(());
        }
        let is_fast = self.shared.is_sent.load(Ordering::Acquire);
        consumer.rest_until = now + if is_fast { 0 } else { self.plan.pause };
        let (first, count) = (response.first.0, response.len());
        consumer.last = first + i64::try_from(count).unwrap_or(i64::MAX) - 1;
        let consumer = *consumer;
        let ack = AckRequest {
            subject: &self.content.subjects()[consumer.subject],
            group: &self.plan.groups[consumer.group],
            consumer_id: &link.client,
            pull_begin: first,
            pull_last: consumer.last,
            is_broadcast: false,
        };
        put_ack(&ack, ACK, &mut self.scratch, &mut link.connection.out);
        link.acks += 1;
        self.ask(link)?;
        let good: u64 = response
            .messages()
            .map(|message| self.note(consumer, &message.payload, at))
            .sum();
        if self.plan.window.contains(asked) {
            self.consumed.pull.record(now - asked);
        }
        if self.plan.window.contains(now) {
            self.consumed.in_window += good;
        }
        self.consumed.last = now;
        self.shared.received[consumer.group].fetch_add(good, Ordering::AcqRel);
        self.shared.last.fetch_max(now, Ordering::AcqRel);
        Ok(())
    }

    /// Checks one message; returns 1 for a good one that is new.
    fn note(&mut self, consumer: Consumer, payload: &Payload<'_>, at: Arrival) -> u64 {
        let Arrival { now, wall_ms } = at;
        let seen = self.content.check(consumer.subject, payload);
        if let Ok(seen) = seen {
            if self.plan.window.contains(seen.due) {
                self.consumed.delivery.record(now.saturating_sub(seen.due));
            }
            let is_early = wall_ms < self.timeline.unix_ms(seen.due);
            self.consumed.early += u64::from(is_early);
        }
        let group = &mut self.consumed.groups[consumer.group];
        match self.sabotage.take() {
            None => u64::from(group.note(seen)),
            Some(Sabotage::Lose) => 0,
            Some(Sabotage::Duplicate) => u64::from(group.note(seen)) + u64::from(group.note(seen)),
            Some(Sabotage::Alter) => {
                let mut bytes = payload.bytes.to_vec();
                if let Some(last) = bytes.last_mut() {
                    *last ^= 1;
                }
                let (altered, _) = Payload::split_first(&bytes).expect("the structure is the same");
                u64::from(group.note(self.content.check(consumer.subject, &altered)))
            }
        }
    }
}

/// A pull request of a consumer.
pub(crate) struct Pull<'a> {
    pub(crate) subject: &'a str,
    pub(crate) group: &'a str,
    pub(crate) client: &'a str,
    pub(crate) count: i32,
    /// Last pull sequence that was received, -1 for none.
    pub(crate) last: i64,
    /// How long the server may wait for messages.
    pub(crate) wait_ms: i64,
}

impl Pull<'_> {
    /// Appends the whole request. `scratch` is left empty.
    pub(crate) fn put(&self, opaque: i32, scratch: &mut BytesMut, out: &mut Vec<u8>) {
        let header = Header::request(CommandCode::PullMessage.code(), opaque);
        header.put_frame(scratch, |body| self.encode(body));
        out.extend_from_slice(scratch);
        scratch.clear();
    }

    /// Appends the body of the request.
    pub(crate) fn encode(&self, body: &mut BytesMut) {
        let request = PullRequest {
            subject: self.subject,
            group: self.group,
            consumer_id: self.client,
            request_num: self.count,
            offset: -1,
            pull_begin: -1,
            pull_last: self.last,
            timeout_ms: self.wait_ms,
            is_broadcast: false,
            filters: Vec::new(),
        };
        request.encode(VERSION, body);
    }
}

/// Appends a whole ack request. `scratch` is left empty.
pub(crate) fn put_ack(
    ack: &AckRequest<'_>,
    opaque: i32,
    scratch: &mut BytesMut,
    out: &mut Vec<u8>,
) {
    let header = Header::request(CommandCode::Ack.code(), opaque);
    header.put_frame(scratch, |body| ack.encode(VERSION, body));
    out.extend_from_slice(scratch);
    scratch.clear();
}
