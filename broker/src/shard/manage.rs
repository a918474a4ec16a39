//! Moves groups, and tells about them.

use qmq_model::{ConsumerGroup, ConsumerId, MessageSequence, Subject, UnixMillis};
use qmq_protocol::ResultCode;
use qmq_remoting::Responder;
use qmq_store::Control;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::{Input, SUBSCRIPTIONS_MAX, Shard, Shards, SubscriptionKey};
use crate::config::RuleValues;
use crate::portion::kept;

/// Where a group is to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetTo {
    /// Behind the newest message.
    Latest,
    /// At the oldest message that is kept.
    Earliest,
    /// At the first message that was stored at this time or later.
    Time(UnixMillis),
}

/// A group is to be moved. Messages that its consumers hold stay theirs.
#[derive(Clone, Debug)]
pub struct Reset {
    /// Which group of which subject.
    pub key: SubscriptionKey,
    /// Where to.
    pub to: ResetTo,
}

/// What is known of one group of a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupReport {
    /// Its name.
    pub group: ConsumerGroup,
    /// Whether every consumer gets every message.
    pub broadcast: bool,
    /// Next message it gets.
    pub next: MessageSequence,
    /// Behind the last message there is.
    pub end: MessageSequence,
    /// Its consumers, sorted by id.
    pub members: Vec<MemberReport>,
}

/// What is known of one consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberReport {
    /// Its id.
    pub consumer: ConsumerId,
    /// Messages it holds and has not acked.
    pub unacked: u64,
    /// Pull sequence of the next message it gets.
    pub next_pull: i64,
    /// When it was last heard of; after a start of the broker, when that was.
    pub last_seen: UnixMillis,
    /// Pulls of it that are waiting now.
    pub waiting: usize,
}

/// Where one group stands in one subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which group of which subject.
    pub key: SubscriptionKey,
    /// Whether every consumer gets every message.
    pub broadcast: bool,
    /// Next message it gets.
    pub next: MessageSequence,
}

impl Shards {
    /// Moves a group. It is answered once that is durable.
    pub async fn reset(&self, reset: Reset, responder: Responder) {
        let owner = self.owner(&reset.key);
        let _ = owner.send(Input::Reset(reset, responder)).await;
    }

    /// The groups of a subject, sorted by name.
    pub async fn describe(&self, subject: &Subject) -> Vec<GroupReport> {
        let mut found = Vec::new();
        for input in self.inputs.iter() {
            let (tell, told) = oneshot::channel();
            if input
                .send(Input::Describe(subject.clone(), tell))
                .await
                .is_ok()
            {
                found.extend(told.await.unwrap_or_default());
            }
        }
        found.sort_by(|a, b| a.group.cmp(&b.group));
        found
    }

    /// Where groups stand, in no order; at most `count` of them, and whether there are more.
    pub async fn standings(&self, count: usize) -> (Vec<Standing>, bool) {
        let mut found = Vec::new();
        for input in self.inputs.iter() {
            let (tell, told) = oneshot::channel();
            // One more than is wanted tells whether there are more.
            let wanted = count + 1 - found.len();
            if input.send(Input::Standings(wanted, tell)).await.is_ok() {
                found.extend(told.await.unwrap_or_default());
            }
        }
        let is_cut = found.len() > count;
        found.truncate(count);
        (found, is_cut)
    }

    /// What the settings say from now on. What was begun by the old ones is finished by them.
    pub async fn set_rules(&self, rules: RuleValues) {
        for input in self.inputs.iter() {
            // A shard ends only with the process.
            let _ = input.send(Input::Rules(rules)).await;
        }
    }
}

impl Shard {
    pub(super) fn standings(&self, count: usize) -> Vec<Standing> {
        let standing = |(key, entry): (&SubscriptionKey, &super::Entry)| Standing {
            key: key.clone(),
            broadcast: entry.rules.is_broadcast(),
            next: entry.rules.next(),
        };
        self.subscriptions
            .iter()
            .take(count)
            .map(standing)
            .collect()
    }

    /// Finds out where the group is to go on. A subject without messages has no place to go.
    pub(super) fn reset(&self, reset: Reset, responder: Responder) {
        let Reset { key, to } = reset;
        let reader = self.around.reader.clone();
        let Some(id) = reader.subject(key.subject.as_str()) else {
            return responder.send_empty(ResultCode::Success);
        };
        let bounds = reader.bounds(id);
        let later = self.tell_later();
        tokio::spawn(async move {
            let found = match to {
                ResetTo::Latest => Ok(Ok(bounds.end)),
                ResetTo::Earliest => Ok(Ok(bounds.start)),
                ResetTo::Time(time) => {
                    tokio::task::spawn_blocking(move || reader.sequence_at(id, time)).await
                }
            };
            match found {
                Ok(Ok(next)) => later.tell(Input::ResetAt(key, next, responder)).await,
                Ok(Err(error)) => {
                    warn!(%error, subject = %key.subject, group = %key.group, "group cannot be moved");
                    responder.send_empty(ResultCode::BrokerError);
                }
                // The blocking pool is going down with the process.
                Err(_) => {}
            }
        });
    }

    /// Writes down that the group goes on at `next`; it is handed nothing until that is durable.
    pub(super) async fn reset_at(
        &mut self,
        key: &SubscriptionKey,
        next: MessageSequence,
        responder: Responder,
    ) {
        let now = self.around.clock.now();
        if !self.subscriptions.contains_key(key) {
            if self.subscriptions.len() >= SUBSCRIPTIONS_MAX {
                return responder.send_empty(ResultCode::BrokerError);
            }
            self.insert(key, false, now);
        }
        let Some(entry) = self.subscriptions.get_mut(key) else {
            return;
        };
        if entry.is_moving {
            return responder.send_empty(ResultCode::BrokerError);
        }
        entry.is_moving = true;
        let control = Control::Reset {
            subject: key.subject.clone(),
            group: key.group.clone(),
            next,
            time: now,
        };
        let (tell, told) = oneshot::channel();
        if self.around.desk.put_control(control, tell).await.is_err() {
            return;
        }
        let (later, key) = (self.tell_later(), key.clone());
        tokio::spawn(async move {
            if told.await.is_ok() {
                later.tell(Input::ResetDone(key, next)).await;
                responder.send_empty(ResultCode::Success);
            } else {
                later.tell(Input::NotMoved(key)).await;
                responder.send_empty(ResultCode::BrokerError);
            }
        });
    }

    pub(super) async fn reset_done(&mut self, key: &SubscriptionKey, next: MessageSequence) {
        if let Some(entry) = self.subscriptions.get_mut(key) {
            info!(
                subject = %key.subject, group = %key.group, from = entry.rules.next().0, to = next.0,
                "group was moved"
            );
            entry.rules.reset(next);
            entry.is_moving = false;
        }
        self.go_on(key).await;
    }

    /// The disk is full, or the store has stopped: all stays as it was.
    pub(super) async fn not_moved(&mut self, key: &SubscriptionKey) {
        warn!(subject = %key.subject, group = %key.group, "group could not be moved or forgotten");
        if let Some(entry) = self.subscriptions.get_mut(key) {
            entry.is_moving = false;
        }
        self.go_on(key).await;
    }

    pub(super) fn describe(&self, subject: &Subject) -> Vec<GroupReport> {
        let end = MessageSequence(kept(&self.around.reader, subject).end);
        let groups = self
            .subscriptions
            .iter()
            .filter(|(key, _)| key.subject == *subject);
        let report = |(key, entry): (&SubscriptionKey, &super::Entry)| {
            let member = |(id, consumer): (&ConsumerId, &crate::subscription::Consumer)| {
                let waits = |parked: &&super::Parked| parked.pull.consumer == *id;
                MemberReport {
                    consumer: id.clone(),
                    unacked: consumer.unacked_count(),
                    next_pull: consumer.next_pull().0,
                    last_seen: consumer.last_seen(),
                    waiting: entry.parked.iter().filter(waits).count(),
                }
            };
            let mut members: Vec<_> = entry.rules.consumers().map(member).collect();
            members.sort_by(|a, b| a.consumer.cmp(&b.consumer));
            GroupReport {
                group: key.group.clone(),
                broadcast: entry.rules.is_broadcast(),
                next: entry.rules.next(),
                end,
                members,
            }
        };
        groups.map(report).collect()
    }
}
