//! The pulling half of the probe of `isolation`: at fixed times it pulls one message that is there.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use bytes::BytesMut;
use qmq_protocol::command::ack::AckRequest;
use qmq_protocol::command::pull::PullResponse;
use qmq_protocol::frame::VERSION;
use qmq_protocol::{Decode, ResultCode};

use crate::bench::connection::{Connection, Reply};
use crate::bench::content::Content;
use crate::bench::latency::Latency;
use crate::bench::ledger::Received;
use crate::bench::receiver::{Pull, client_id, put_ack};
use crate::bench::timeline::{Nanos, Pace, SECOND, Timeline, Window};
use crate::bench::waiter::Waiter;

/// Longest wait for one answer.
const ANSWER_WAIT: Nanos = 30 * SECOND;
/// Requests by number.
const PULL: i32 = 1;
const ACK: i32 = 2;
/// Most messages of a pull when latency is not measured any more.
const REST_PULL: i32 = 1000;

/// The only consumer of a quiet subject.
pub(crate) struct Puller<'a> {
    content: &'a Content,
    group: &'a str,
    client: String,
    connection: Connection,
    waiter: Waiter,
    timeline: Timeline,
    scratch: BytesMut,
    /// Last pull sequence that was received.
    last: i64,
    /// What came so far.
    pub(crate) received: Received,
    count: u64,
}

impl<'a> Puller<'a> {
    /// # Errors
    /// When there is no connection.
    pub(crate) fn open(
        server: SocketAddr,
        content: &'a Content,
        group: &'a str,
        client: &str,
        timeline: Timeline,
    ) -> Result<Self> {
        let connection = Connection::open(server)?;
        let waiter = Waiter::new()?;
        waiter.add(&connection, 0)?;
        Ok(Self {
            content,
            group,
            client: client_id(client, 0),
            connection,
            waiter,
            timeline,
            scratch: BytesMut::new(),
            last: -1,
            received: Received::default(),
            count: 0,
        })
    }

    /// Pulls one message at each due time up to the end of `window`; returns how long the pulls
    /// within it took from their due times.
    ///
    /// # Errors
    /// When the broker does not answer, or has no message.
    pub(crate) fn run(&mut self, pace: Pace, window: Window) -> Result<Latency> {
        let mut latency = Latency::new();
        for number in 0.. {
            let due = pace.due(number).context("a probe has a rate")?;
            if due >= window.end {
                break;
            }
            loop {
                let now = self.timeline.now();
                if now >= due {
                    break;
                }
                self.waiter.wait(due - now, &mut Vec::new())?;
            }
            ensure!(self.pull(1)? > 0, "a pull finds nothing of what was sent");
            if window.contains(due) {
                latency.record(self.timeline.now() - due);
            }
        }
        Ok(latency)
    }

    /// Pulls until `count` messages have come in all, or no more do.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub(crate) fn finish(&mut self, count: u64) -> Result<()> {
        while self.count < count && self.pull(REST_PULL)? > 0 {}
        Ok(())
    }

    /// Pulls and acks; returns how many messages came.
    fn pull(&mut self, count: i32) -> Result<usize> {
        let pull = Pull {
            subject: &self.content.subjects()[0],
            group: self.group,
            client: &self.client,
            count,
            last: self.last,
            wait_ms: 0,
        };
        pull.put(PULL, &mut self.scratch, &mut self.connection.out);
        let reply = self.answer(PULL)?;
        if reply.code == ResultCode::NoMessage.code() {
            return Ok(0);
        }
        let is_good = reply.code == ResultCode::Success.code();
        ensure!(is_good, "a pull is answered with code {}", reply.code);
        let body = self.connection.body(&reply);
        let response = PullResponse::decode(VERSION, body).context("bad reply to a pull")?;
        for message in response.messages() {
            self.received.note(self.content.check(0, &message.payload));
            self.last = message.sequence.0;
        }
        let pulled = response.len();
        self.count += pulled as u64;
        let ack = AckRequest {
            subject: &self.content.subjects()[0],
            group: self.group,
            consumer_id: &self.client,
            pull_begin: response.first.0,
            pull_last: self.last,
            is_broadcast: false,
        };
        put_ack(&ack, ACK, &mut self.scratch, &mut self.connection.out);
        // Its answer is passed over by the next pull.
        self.connection.flush()?;
        Ok(pulled)
    }

    /// Writes what is to be sent and waits for the answer to request `opaque`; others are passed
    /// over.
    fn answer(&mut self, opaque: i32) -> Result<Reply> {
        let limit = self.timeline.now() + ANSWER_WAIT;
        loop {
            self.connection.flush()?;
            self.connection.fill()?;
            while let Some(reply) = self.connection.take()? {
                if reply.opaque == opaque {
                    return Ok(reply);
                }
            }
            let now = self.timeline.now();
            if now >= limit {
                bail!("{} does not answer the probe", self.connection.peer());
            }
            self.waiter.wait(limit - now, &mut Vec::new())?;
        }
    }
}
