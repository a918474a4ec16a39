//! Pulls and acks as they come in: first contacts, waiting, answers when time is up.

use qmq_model::UnixMillis;
use qmq_model::names::SubjectKind;
use qmq_protocol::ResultCode;
use qmq_remoting::Responder;
use qmq_store::Action;
use tokio::sync::oneshot;
use tracing::warn;

use super::timers::Due;
use super::{
    Ack, CONSUMERS_MAX, Entry, Input, PARKED_PER_CONSUMER_MAX, Parked, Pull, SUBSCRIPTIONS_MAX,
    Shard, SubscriptionKey, consumer_key, to_action,
};
use crate::inbox::{ActionBatch, ActionDone};
use crate::portion::{Verdicts, kept};
use crate::subscription::{PullAction, StartAt, Subscription};

impl Shard {
    pub(super) async fn pull(&mut self, pull: Pull, responder: Responder) {
        self.around.metrics.pulls.inc();
        let now = self.around.clock.now();
        let Some(entry) = self.entry(&pull, now) else {
            warn!(subject = %pull.key.subject, group = %pull.key.group, "too many consumers");
            return responder.send_empty(ResultCode::NoMessage);
        };
        if let Some(action) = entry.rules.meet(pull.state(), now) {
            entry.recording.insert(pull.consumer.clone());
            // A group without consumers is not looked at for long.
            let dead = now.plus(self.around.rules.patience.dead_after);
            self.look_by(&pull.key, dead);
            self.record(&pull, action, now).await;
        }
        let key = pull.key.clone();
        self.park(pull, responder);
        self.serve_parked(&key).await;
    }

    /// The subscription a pull is for, made at its first contact. `None` when a limit is reached.
    fn entry(&mut self, pull: &Pull, now: UnixMillis) -> Option<&mut Entry> {
        if !self.subscriptions.contains_key(&pull.key) {
            if self.subscriptions.len() >= SUBSCRIPTIONS_MAX {
                return None;
            }
            self.insert(&pull.key, pull.broadcast, now);
        }
        let entry = self.subscriptions.get_mut(&pull.key)?;
        let known = entry.rules.next_pull(&pull.consumer).is_some();
        (known || entry.rules.consumer_count() < CONSUMERS_MAX).then_some(entry)
    }

    /// A subscription that nobody knew before.
    pub(super) fn insert(&mut self, key: &SubscriptionKey, broadcast: bool, now: UnixMillis) {
        let kept = kept(&self.around.reader, &key.subject);
        let start = match key.subject.kind() {
            SubjectKind::Retry { .. } => StartAt::Earliest,
            SubjectKind::Real | SubjectKind::DeadLetter { .. } => StartAt::Latest,
        };
        let rules = Subscription::first_contact(start, &kept, broadcast, now);
        let look_at = now.plus(self.around.rules.patience.dead_after);
        self.timers.look(look_at, key.clone());
        self.subscriptions
            .insert(key.clone(), Entry::new(rules, look_at));
    }

    /// Writes down a first contact; the consumer is served when that is durable.
    async fn record(&self, pull: &Pull, action: PullAction, now: UnixMillis) {
        let action = to_action(&pull.key, &pull.consumer, action, now);
        let (tell, told) = oneshot::channel();
        let batch = ActionBatch {
            actions: vec![action],
            then: ActionDone::TellDurable(tell),
        };
        if self.around.desk.put_actions(batch).await.is_err() {
            return;
        }
        let later = self.tell_later();
        let recorded = Input::Recorded(pull.key.clone(), pull.consumer.clone());
        // If the writer fails, nobody is told: the process is ending and the pull gets no answer.
        tokio::spawn(async move {
            if told.await.is_ok() {
                later.tell(recorded).await;
            }
        });
    }

    pub(super) async fn ack(&mut self, ack: Ack, responder: Responder) {
        self.around.metrics.acks.inc();
        let now = self.around.clock.now();
        let (limit, patience) = (self.around.limits.unacked_max, self.around.rules.patience);
        let Some(entry) = self.subscriptions.get_mut(&ack.key) else {
            return responder.send_empty(ResultCode::Success);
        };
        let Some(pulls) = ack.pulls else {
            entry.rules.keep_alive(&ack.consumer, now);
            return responder.send_empty(ResultCode::Success);
        };
        let was_full = entry.rules.unacked_count(&ack.consumer) >= limit;
        let Some(pulls) = entry.rules.ack(&ack.consumer, &pulls, now) else {
            return responder.send_empty(ResultCode::Success);
        };
        if let Some(due) = entry.rules.gap_due(&ack.consumer, &patience) {
            self.look_by(&ack.key, due);
        }
        let key = consumer_key(&ack.key, &ack.consumer);
        let actions = vec![Action::Ack {
            key,
            time: now,
            pulls,
        }];
        let batch = ActionBatch {
            actions,
            then: ActionDone::Answer(responder),
        };
        // A stopped writer gives no answer: the client will ack again.
        let _ = self.around.desk.put_actions(batch).await;
        if was_full {
            self.serve_parked(&ack.key).await;
        }
    }

    /// Sees to it that a subscription is looked at no later than `due`.
    fn look_by(&mut self, key: &SubscriptionKey, due: UnixMillis) {
        let entry = self.subscriptions.get_mut(key);
        if let Some(entry) = entry.filter(|entry| due < entry.look_at) {
            entry.look_at = due;
            self.timers.look(due, key.clone());
        }
    }

    fn park(&mut self, pull: Pull, responder: Responder) {
        let Some(entry) = self.subscriptions.get_mut(&pull.key) else {
            return;
        };
        let mine = |parked: &&Parked| parked.pull.consumer == pull.consumer;
        if entry.parked.iter().filter(mine).count() >= PARKED_PER_CONSUMER_MAX {
            let oldest = entry.parked.iter().position(|parked| mine(&parked));
            if let Some(old) = oldest.and_then(|at| entry.parked.remove(at)) {
                self.timers.cancel(old.deadline);
                old.responder.send_empty(ResultCode::NoMessage);
            }
        }
        self.serial += 1;
        let serial = self.serial;
        let deadline = self
            .timers
            .deadline(pull.deadline, pull.key.clone(), serial);
        let SubscriptionKey { subject, group } = pull.key.clone();
        self.parked.entry(subject).or_default().insert(group);
        entry.parked.push_back(Parked {
            serial,
            pull,
            responder,
            deadline,
            verdicts: Verdicts::new(),
            is_preparing: false,
        });
    }

    /// Does what is due.
    pub(super) async fn on_time(&mut self) {
        let now = self.around.clock.now();
        while let Some(due) = self.timers.pop(now) {
            match due {
                Due::Deadline(key, serial) => self.answer_nothing(&key, serial),
                Due::Retry(key) => self.serve_parked(&key).await,
                Due::Look(key) => self.look(&key, now).await,
            }
        }
    }

    /// The broker stops: nobody waits any longer.
    pub(super) fn answer_all(&mut self) {
        for (key, serial) in self.timers.take_deadlines() {
            self.answer_nothing(&key, serial);
        }
    }

    /// Answers a pull whose time is up. One for which the disk is busy stays: answered now, it could
    /// miss messages if the power failed, or never see any.
    fn answer_nothing(&mut self, key: &SubscriptionKey, serial: u64) {
        let Some(entry) = self.subscriptions.get_mut(key) else {
            return;
        };
        let at = entry
            .parked
            .iter()
            .position(|parked| parked.serial == serial);
        let Some(at) = at.filter(|at| !entry.is_busy(*at)) else {
            return;
        };
        if let Some(parked) = entry.parked.remove(at) {
            self.timers.cancel(parked.deadline);
            parked.responder.send_empty(ResultCode::NoMessage);
        }
        if entry.parked.is_empty() {
            self.forget_parked(key);
        }
    }

    /// Answers pulls whose time ran out while they waited for the disk.
    pub(super) fn answer_overdue(&mut self, key: &SubscriptionKey) {
        let now = self.around.clock.now();
        let stopping = self.around.stop.is_cancelled();
        let Some(entry) = self.subscriptions.get(key) else {
            return;
        };
        let overdue = |parked: &&Parked| stopping || parked.pull.deadline <= now;
        let serials: Vec<_> = entry
            .parked
            .iter()
            .filter(overdue)
            .map(|p| p.serial)
            .collect();
        serials
            .into_iter()
            .for_each(|serial| self.answer_nothing(key, serial));
    }

    pub(super) fn forget_parked(&mut self, key: &SubscriptionKey) {
        let Some(groups) = self.parked.get_mut(&key.subject) else {
            return;
        };
        groups.remove(&key.group);
        if groups.is_empty() {
            self.parked.remove(&key.subject);
        }
    }
}
