//! Carries messages to brokers: lanes, requests, results, repeats.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use qmq_protocol::command::send::{CRC_BYTES, SendResponse, put_message};
use qmq_protocol::{CommandCode, Decode, Frame, ResultCode};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::lanes::{Batchable, LaneLimits, Lanes};
use crate::balance::{Health, RoundRobin};
use crate::error::{SendError, SendErrorKind};
use crate::link::{CallError, Link};
use crate::retry::{Backoff, Verdict, judge_message, judge_reply};
use crate::route::Route;
use crate::route::cache::RouteGroup;

/// A subject the producer sends to.
#[derive(Debug)]
pub(crate) struct Destination {
    /// Who serves it.
    pub route: Arc<Route>,
    /// Whose turn it is.
    pub turns: Mutex<RoundRobin>,
}

/// A message on its way.
#[derive(Debug)]
pub(crate) struct Pending {
    /// The message as brokers store it.
    pub payload: Bytes,
    /// Its id.
    pub message_id: Box<[u8]>,
    /// Where it goes.
    pub destination: Arc<Destination>,
    /// Name of the broker group of the last attempt; empty before the first.
    pub group: Arc<str>,
    /// Who waits for the result. Nobody may.
    pub reply: oneshot::Sender<Result<(), SendError>>,
    /// Requests that carried it.
    pub attempts: u32,
    /// Whether one of them may have stored it.
    pub outcome_unknown: bool,
    /// The broker group that may have stored it.
    pub unsure: Option<Unsure>,
    /// Room in the queue of the producer, given back with the result.
    pub room: [OwnedSemaphorePermit; 2],
}

/// A broker group that may have stored a message although it did not confirm it. It is asked again
/// first: there the broker notices the repeat, while another group would store a second copy.
#[derive(Debug)]
pub(crate) struct Unsure {
    group: Arc<str>,
    /// Further attempts it gets before others do.
    attempts_left: u32,
}

impl Batchable for Pending {
    fn wire_bytes(&self) -> usize {
        CRC_BYTES + self.payload.len()
    }

    fn message_id(&self) -> &[u8] {
        &self.message_id
    }
}

impl Pending {
    fn finish(self, result: Result<(), SendError>) {
        drop(self.room);
        // The sender may have stopped waiting; the result is of no use to anybody else.
        let _ = self.reply.send(result);
    }

    /// The index of the group that may have stored it, if that one gets another attempt.
    fn repeat_in(&mut self, groups: &[RouteGroup]) -> Option<usize> {
        let unsure = self
            .unsure
            .as_mut()
            .filter(|unsure| unsure.attempts_left > 0)?;
        unsure.attempts_left -= 1;
        groups.iter().position(|group| group.name == unsure.group)
    }

    fn fail(self, kind: SendErrorKind, detail: &str) {
        let error = SendError::new(kind, detail).after(self.attempts, self.outcome_unknown);
        debug!(
            subject = self.destination.route.key().subject,
            message_id = %String::from_utf8_lossy(&self.message_id),
            %error,
            "send failed"
        );
        self.finish(Err(error));
    }
}

/// How hard the dispatcher tries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DispatchLimits {
    /// Requests that may carry one message.
    pub attempts_max: u32,
    /// Of these, how many the same group gets once it may have stored the message, the one with the
    /// unknown outcome included.
    pub same_group_max: u32,
    /// Longest wait for the reply to one of them.
    pub request_wait: Duration,
    /// Bounds of a request.
    pub lane: LaneLimits,
}

/// Sends what is submitted, repeats what fails.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    link: Arc<Link>,
    limits: DispatchLimits,
    lanes: Mutex<Lanes<Pending>>,
    health: Mutex<Health>,
    /// Cancelled when nobody waits for results any more.
    abort: CancellationToken,
}

impl Dispatcher {
    /// Sends nothing yet.
    pub(crate) fn new(link: Arc<Link>, limits: DispatchLimits, abort: CancellationToken) -> Self {
        Self {
            link,
            limits,
            lanes: Mutex::new(Lanes::new(limits.lane)),
            health: Mutex::default(),
            abort,
        }
    }

    /// Puts a message into the lane of a broker: of the group that may have it, otherwise of
    /// another one than `avoided` if possible.
    pub(crate) fn submit(self: &Arc<Self>, mut pending: Pending, avoided: Option<&str>) {
        let groups = pending.destination.route.groups();
        let again = pending.repeat_in(&groups);
        let chosen = again.or_else(|| {
            let (health, now) = (lock(&self.health), Instant::now());
            lock(&pending.destination.turns).choose(
                groups.len(),
                |i| health.is_available(&groups[i].master, now),
                |i| Some(&*groups[i].master) == avoided,
            )
        });
        let Some(index) = chosen else {
            pending.fail(
                SendErrorKind::NoRoute,
                "no broker group serves the subject any more",
            );
            return;
        };
        let address = Arc::clone(&groups[index].master);
        pending.group = Arc::clone(&groups[index].name);
        if lock(&self.lanes).push(&address, pending) {
            let dispatcher = Arc::clone(self);
            // Ends when the lane is empty; every message of it gets a result.
            tokio::spawn(async move { dispatcher.drive(address).await });
        }
    }

    async fn drive(self: Arc<Self>, address: Arc<str>) {
        loop {
            let batch = lock(&self.lanes).next_batch(&address);
            let Some(batch) = batch else { return };
            self.send_batch(&address, batch).await;
        }
    }

    async fn send_batch(self: &Arc<Self>, address: &Arc<str>, mut batch: Vec<Pending>) {
        if self.abort.is_cancelled() {
            batch
                .into_iter()
                .for_each(|pending| pending.fail(SendErrorKind::Closed, CLOSED));
            return;
        }
        lock(&self.health).on_request(address, Instant::now());
        batch.iter_mut().for_each(|pending| pending.attempts += 1);
        let write = |out: &mut bytes::BytesMut| {
            batch
                .iter()
                .for_each(|pending| put_message(&pending.payload, out));
        };
        let call = self.link.call(
            address,
            CommandCode::SendMessage,
            write,
            self.limits.request_wait,
        );
        let Some(reply) = self.abort.run_until_cancelled(call).await else {
            for mut pending in batch {
                pending.outcome_unknown = true;
                pending.fail(SendErrorKind::Closed, CLOSED);
            }
            return;
        };
        self.note_health(address, &reply);
        self.settle(address, batch, &reply);
    }

    fn note_health(&self, address: &Arc<str>, reply: &Result<Frame, CallError>) {
        let mut health = lock(&self.health);
        match reply {
            Ok(_) => health.on_answer(address),
            Err(problem) => {
                if health.on_failure(address, Instant::now()) {
                    warn!(%address, %problem, "broker does not answer, others are preferred");
                }
            }
        }
    }

    /// Gives every message of a request its result, or another attempt.
    fn settle(
        self: &Arc<Self>,
        address: &Arc<str>,
        batch: Vec<Pending>,
        reply: &Result<Frame, CallError>,
    ) {
        let outcome = Outcome::of(reply);
        let mut again = Vec::new();
        for mut pending in batch {
            let (verdict, detail) = outcome.of_message(&pending.message_id);
            match verdict {
                Verdict::Stored => pending.finish(Ok(())),
                Verdict::Fail(kind) => pending.fail(kind, &detail),
                Verdict::Retry {
                    kind,
                    not_writable,
                    outcome_unknown,
                } => {
                    pending.outcome_unknown |= outcome_unknown;
                    if outcome_unknown && pending.unsure.is_none() {
                        pending.unsure = Some(Unsure {
                            group: Arc::clone(&pending.group),
                            attempts_left: self.limits.same_group_max - 1,
                        });
                    }
                    if not_writable && lock(&self.health).on_not_writable(address, Instant::now()) {
                        warn!(%address, detail, "broker takes no sends, others are preferred");
                    }
                    if not_writable || reply.is_err() {
                        pending.destination.route.request_refresh();
                    }
                    if pending.attempts >= self.limits.attempts_max {
                        pending.fail(kind, &detail);
                    } else {
                        again.push((pending, kind, detail));
                    }
                }
            }
        }
        if !again.is_empty() {
            self.send_again(address, again);
        }
    }

    fn send_again(
        self: &Arc<Self>,
        address: &Arc<str>,
        again: Vec<(Pending, SendErrorKind, String)>,
    ) {
        let attempts = again
            .iter()
            .map(|(pending, ..)| pending.attempts)
            .max()
            .unwrap_or(1);
        if let Some((_, kind, detail)) = again.first() {
            let messages = again.len();
            debug!(%address, ?kind, detail, messages, attempts, "send is repeated");
        }
        let pause = Backoff::SEND.delay(attempts, rand::random());
        let (dispatcher, address) = (Arc::clone(self), Arc::clone(address));
        // Bounded by the room of the producer, which the messages keep.
        tokio::spawn(async move {
            let abort = dispatcher.abort.clone();
            let paused = abort.run_until_cancelled(tokio::time::sleep(pause)).await;
            for (pending, ..) in again {
                match paused {
                    Some(()) => dispatcher.submit(pending, Some(&address)),
                    None => pending.fail(SendErrorKind::Closed, CLOSED),
                }
            }
        });
    }
}

const CLOSED: &str = "the producer was closed before there was a result";

/// What a reply says about the messages of its request.
enum Outcome<'a> {
    /// The same about all.
    All(Verdict, String),
    /// These failed, all others are stored.
    Failures(HashMap<&'a [u8], (i32, &'a str)>),
}

impl<'a> Outcome<'a> {
    fn of(reply: &'a Result<Frame, CallError>) -> Self {
        let retry = |kind, outcome_unknown| Verdict::Retry {
            kind,
            not_writable: false,
            outcome_unknown,
        };
        let frame = match reply {
            Ok(frame) => frame,
            Err(CallError::NotSent(text)) => {
                return Self::All(retry(SendErrorKind::Connect, false), text.clone());
            }
            Err(CallError::NoReply(text)) => {
                return Self::All(retry(SendErrorKind::Timeout, true), text.clone());
            }
        };
        let code = frame.header.code;
        if code != ResultCode::Success.code() {
            return Self::All(judge_reply(code), format!("reply code {code}"));
        }
        match SendResponse::decode(frame.header.version, &frame.body) {
            Ok(response) => Self::Failures(
                response
                    .failures()
                    .map(|failure| (failure.message_id, (failure.result.code(), failure.remark)))
                    .collect(),
            ),
            Err(error) => Self::All(retry(SendErrorKind::Server, true), error.to_string()),
        }
    }

    fn of_message(&self, message_id: &[u8]) -> (Verdict, String) {
        match self {
            Self::All(verdict, detail) => (*verdict, detail.clone()),
            Self::Failures(failures) => match failures.get(message_id) {
                None => (Verdict::Stored, String::new()),
                Some((code, remark)) => (judge_message(*code), format!("result {code} {remark}")),
            },
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
