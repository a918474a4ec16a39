//! One pull queue of one broker group: what it holds, and the task that confirms it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use qmq_protocol::command::ack::AckRequest;
use qmq_protocol::frame::VERSION;
use qmq_protocol::{CommandCode, Encode, ResultCode};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::ack_queue::{AckQueue, AckRange, AckStep, Haste};
use super::queue::Rules;
use crate::link::{CallError, Link};
use crate::route::Route;

/// Longest wait for the reply to an ack.
const ACK_WAIT: Duration = Duration::from_secs(10);
/// An empty ack says only "I am alive".
const EMPTY: AckRange = AckRange {
    first: -1,
    last: -1,
};

/// Where a broker group is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    /// `ip:port` of its master, the last one known.
    pub master: Arc<str>,
    /// Whether the route lists the group now. Acks go out even if not.
    pub is_listed: bool,
}

/// Shared by the pull loop, the acker and the deliveries of (queue, broker group).
pub(crate) struct GroupQueue {
    /// Connections.
    pub link: Arc<Link>,
    /// The route of the queue: subject as pulled, group, client id.
    pub route: Arc<Route>,
    /// The broker group.
    pub broker_group: Arc<str>,
    /// Where it is.
    pub reach: watch::Receiver<Reach>,
    /// How messages are treated.
    pub rules: Arc<Rules>,
    acks: Mutex<AckQueue>,
    finished: Notify,
    has_room: Notify,
}

impl GroupQueue {
    /// Holds nothing yet.
    pub(crate) fn new(
        link: Arc<Link>,
        route: Arc<Route>,
        broker_group: Arc<str>,
        reach: watch::Receiver<Reach>,
        rules: Arc<Rules>,
    ) -> Self {
        let acks = Mutex::new(AckQueue::new(rules.policy, now()));
        let (finished, has_room) = (Notify::new(), Notify::new());
        Self {
            link,
            route,
            broker_group,
            reach,
            rules,
            acks,
            finished,
            has_room,
        }
    }

    /// What was received and not confirmed. Hold it for a few lines only.
    pub(crate) fn acks(&self) -> MutexGuard<'_, AckQueue> {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something was confirmed since the last wait.
    pub(crate) async fn confirmed(&self) {
        self.has_room.notified().await;
    }

    /// The application is done with a message.
    pub(crate) fn complete(&self, sequence: i64) {
        self.acks().complete(sequence, now());
        self.finished.notify_one();
    }

    /// Confirms what is finished, and keeps the consumer alive while nothing is. Ends once
    /// `stopping` is cancelled and nothing can be confirmed any more.
    pub(crate) async fn keep_confirming(&self, stopping: CancellationToken) {
        loop {
            let haste = if stopping.is_cancelled() {
                Haste::Stopping
            } else {
                Haste::Normal
            };
            let (step, confirmable) = {
                let acks = self.acks();
                (acks.step(now(), haste), acks.confirmable())
            };
            match step {
                AckStep::Send(range) => self.send(range).await,
                AckStep::KeepAlive => self.keep_alive().await,
                AckStep::WaitUntil(_) if haste == Haste::Stopping && confirmable == 0 => return,
                AckStep::WaitUntil(at) => {
                    let stop = async {
                        match haste {
                            Haste::Normal => stopping.cancelled().await,
                            Haste::Stopping => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        () = self.finished.notified() => {}
                        () = tokio::time::sleep_until(at.into()) => {}
                        () = stop => {}
                    }
                }
            }
        }
    }

    async fn send(&self, range: AckRange) {
        match self.call(range).await {
            Ok(()) => {
                self.acks().confirmed(range, now());
                self.has_room.notify_one();
            }
            Err(problem) => self.on_failure(&problem, range),
        }
    }

    async fn keep_alive(&self) {
        let is_needed = self.reach.borrow().is_listed || self.acks().len() > 0;
        // A group that is gone and whose messages are all confirmed need not know about us.
        let result = if is_needed {
            self.call(EMPTY).await
        } else {
            Ok(())
        };
        match result {
            Ok(()) => self.acks().kept_alive(now()),
            Err(problem) => self.on_failure(&problem, EMPTY),
        }
    }

    fn on_failure(&self, problem: &str, range: AckRange) {
        let key = self.route.key();
        warn!(
            subject = key.subject,
            group = key.group,
            broker_group = &*self.broker_group,
            first = range.first,
            last = range.last,
            problem,
            "ack failed, will be repeated"
        );
        self.acks().failed(now(), rand::random());
        self.route.request_refresh();
    }

    async fn call(&self, range: AckRange) -> Result<(), String> {
        let key = self.route.key();
        let request = AckRequest {
            subject: &key.subject,
            group: &key.group,
            consumer_id: &key.client_id,
            pull_begin: range.first,
            pull_last: range.last,
            is_broadcast: self.rules.selection.is_broadcast,
        };
        let address = Arc::clone(&self.reach.borrow().master);
        let write = |out: &mut BytesMut| request.encode(VERSION, out);
        let reply = self
            .link
            .call(&address, CommandCode::Ack, write, ACK_WAIT)
            .await;
        match reply {
            Ok(frame) if frame.header.code == ResultCode::Success.code() => {
                debug!(
                    subject = key.subject,
                    first = range.first,
                    last = range.last,
                    "acked"
                );
                Ok(())
            }
            Ok(frame) => Err(format!("{address} answers with code {}", frame.header.code)),
            Err(CallError::NotSent(text) | CallError::NoReply(text)) => Err(text),
        }
    }
}

impl std::fmt::Debug for GroupQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupQueue")
            .field("route", &self.route)
            .field("broker_group", &self.broker_group)
            .finish_non_exhaustive()
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}
