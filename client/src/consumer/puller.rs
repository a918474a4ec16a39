//! The pull loop of one queue and broker group.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use qmq_model::Message;
use qmq_model::message::property;
use qmq_model::names::SubjectKind;

use qmq_protocol::command::pull::{PullRequest, PullResponse};
use qmq_protocol::frame::VERSION;
use qmq_protocol::{CommandCode, Decode, Encode, Frame, ResultCode};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::ack_queue::Admission;
use super::delivery::Delivery;
use super::group_queue::GroupQueue;
use super::inbox::{Demand, Inbox};
use super::queue::Leftovers;
use crate::retry::Backoff;

/// How far before the requested wait an empty reply still counts as "waited": clocks and timers of
/// two machines are not that exact.
const EARLY_SLACK: Duration = Duration::from_millis(50);

/// Bounds of pulls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PullLimits {
    /// Most messages of one pull.
    pub batch: usize,
    /// Longest time a broker holds a pull for which it has nothing.
    pub wait: Duration,
    /// What network and broker may add to that.
    pub allowance: Duration,
    /// Most messages of one queue and broker group that are not confirmed.
    pub unacked_max: usize,
}

/// Pulls one queue from one broker group until it is stopped.
pub(crate) struct Puller {
    /// What is pulled, and what is held of it.
    pub queue: Arc<GroupQueue>,
    /// Where messages go.
    pub inbox: Arc<Inbox<Delivery>>,
    /// Whether an operator has taken the consumer offline.
    pub offline: watch::Receiver<bool>,
    /// Ends pulling.
    pub stop: CancellationToken,
}

/// What a pull came to.
enum Pulled {
    /// Messages, or nothing within the full wait, or a reply to ask again for: go on at once.
    Go,
    /// Nothing, too early: the broker would be asked in a hot loop.
    Early,
    /// No usable reply.
    Problem(String),
}

impl Puller {
    pub(crate) async fn run(mut self) {
        let mut demand = self.inbox.watch_demand();
        let mut failures = 0;
        let stop = self.stop.clone();
        while let Some((wanted, wait)) = stop.run_until_cancelled(self.ready(&mut demand)).await {
            let key = self.queue.route.key();
            let pull = self.pull(wanted, wait);
            let pulled = match self.queue.rules.leftovers {
                Leftovers::Keep => stop.run_until_cancelled(pull).await,
                // What the broker has assigned in the meantime is to be given back.
                Leftovers::GiveBack => Some(pull.await),
            };
            let Some(pulled) = pulled else { return };
            match pulled {
                Pulled::Go => {
                    failures = 0;
                    continue;
                }
                Pulled::Early => debug!(subject = key.subject, "empty reply before its time"),
                Pulled::Problem(problem) => {
                    let (subject, group) = (&key.subject, &key.group);
                    warn!(
                        subject,
                        group,
                        broker_group = &*self.queue.broker_group,
                        problem,
                        "pull failed"
                    );
                }
            }
            failures += 1;
            let pause = Backoff::CONSUME.delay(failures, rand::random());
            let paused = stop.run_until_cancelled(tokio::time::sleep(pause)).await;
            if paused.is_none() {
                return;
            }
        }
    }

    /// Waits until a pull makes sense; how many messages it is for and how long it may wait.
    async fn ready(&mut self, demand: &mut watch::Receiver<Demand>) -> (usize, Duration) {
        let mut reach = self.queue.reach.clone();
        let limits = self.queue.rules.limits;
        loop {
            let wish = *demand.borrow_and_update();
            let is_online = !*self.offline.borrow_and_update();
            let is_listed = reach.borrow_and_update().is_listed;
            let room = limits.unacked_max.saturating_sub(self.queue.acks().len());
            let wanted = wish.messages.min(limits.batch).min(room);
            let left = wish
                .until
                .map(|until| until.saturating_duration_since(Instant::now()));
            let wait = left.map_or(limits.wait, |left| left.min(limits.wait));
            if wanted > 0 && is_online && is_listed && !wait.is_zero() {
                return (wanted, wait);
            }
            let changed = async {
                tokio::select! {
                    changed = demand.changed() => changed,
                    changed = reach.changed() => changed,
                    changed = self.offline.changed() => changed,
                    () = self.queue.confirmed() => Ok(()),
                }
            };
            if changed.await.is_err() {
                // The consumer is gone and this task is about to be dropped.
                std::future::pending::<()>().await;
            }
        }
    }

    async fn pull(&self, wanted: usize, wait: Duration) -> Pulled {
        let key = self.queue.route.key();
        let (pull_begin, pull_last) = self.queue.acks().held();
        let request = PullRequest {
            subject: &key.subject,
            group: &key.group,
            consumer_id: &key.client_id,
            request_num: i32::try_from(wanted).unwrap_or(i32::MAX),
            offset: -1,
            pull_begin,
            pull_last,
            timeout_ms: i64::try_from(wait.as_millis()).unwrap_or(i64::MAX),
            is_broadcast: self.queue.rules.selection.is_broadcast,
            filters: self.queue.rules.selection.filters(),
        };
        let address = Arc::clone(&self.queue.reach.borrow().master);
        let write = |out: &mut BytesMut| request.encode(VERSION, out);
        let (asked, longest) = (Instant::now(), wait + self.queue.rules.limits.allowance);
        let reply = self
            .queue
            .link
            .call(&address, CommandCode::PullMessage, write, longest)
            .await;
        match reply {
            Ok(frame) if frame.header.code == ResultCode::Success.code() => self.receive(&frame),
            Ok(frame) if frame.header.code == ResultCode::NoMessage.code() => {
                if asked.elapsed() + EARLY_SLACK < wait {
                    Pulled::Early
                } else {
                    Pulled::Go
                }
            }
            Ok(frame) => {
                self.queue.route.request_refresh();
                Pulled::Problem(format!("{address} answers with code {}", frame.header.code))
            }
            Err(error) => {
                self.queue.route.request_refresh();
                Pulled::Problem(error.to_string())
            }
        }
    }

    fn receive(&self, frame: &Frame) -> Pulled {
        let response = match PullResponse::decode(frame.header.version, &frame.body) {
            Ok(response) if response.first.0 >= 0 || response.is_empty() => response,
            Ok(response) => return Pulled::Problem(format!("pull sequence {}", response.first)),
            Err(error) => return Pulled::Problem(error.to_string()),
        };
        let skip = match self.queue.acks().admit(response.first.0, response.len()) {
            Admission::Take { skip } if skip < response.len() => skip,
            Admission::Take { .. } => return Pulled::Early,
            Admission::AskAgain => {
                debug!(
                    first = response.first.0,
                    "pull reply leaves numbers out, asking again"
                );
                return Pulled::Go;
            }
        };
        let mut deliveries = Vec::with_capacity(response.len() - skip);
        for pulled in response.messages().skip(skip) {
            let sequence = pulled.sequence.0;
            self.queue.acks().push(sequence);
            match self.for_us(Message::from_payload(&pulled.payload)) {
                Some(message) => {
                    deliveries.push(Delivery::new(message, Arc::clone(&self.queue), sequence));
                }
                None => self.queue.complete(sequence),
            }
        }
        self.inbox.put(deliveries);
        Pulled::Go
    }

    /// The message as the application sees it; `None` when it is meant for another group only, or was
    /// delivered before and must not be again.
    fn for_us(&self, mut message: Message) -> Option<Message> {
        let key = self.queue.route.key();
        if self.queue.rules.selection.is_most_once && message.times() > 1 {
            return None;
        }
        // What lies in a dead-letter subject is for whoever listens there: its messages still name
        // the group that gave them up.
        if let SubjectKind::DeadLetter { .. } = SubjectKind::of(&key.subject) {
            message.subject.clone_from(&key.subject);
            return Some(message);
        }
        if message
            .property(property::CONSUMER_GROUP)
            .is_some_and(|only| only != key.group)
        {
            return None;
        }
        SubjectKind::real_subject(&key.subject).clone_into(&mut message.subject);
        Some(message)
    }
}
