//! Looks at subscriptions from time to time: dead consumers, lost acks, whom to forget.

use std::sync::Arc;

use qmq_model::names::SubjectKind;
use qmq_model::{ConsumerId, Subject, UnixMillis};
use qmq_store::{Action, Control};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::give_back::{Copier, GivenBack};
use super::{Input, Shard, SubscriptionKey, consumer_key};
use crate::inbox::{ActionBatch, ActionDone};
use crate::subscription::Overdue;

impl Shard {
    /// One look at a subscription, and a timer for the next one.
    pub(super) async fn look(&mut self, key: &SubscriptionKey, now: UnixMillis) {
        let patience = self.around.rules.patience;
        let Some(entry) = self.subscriptions.get(key) else {
            return;
        };
        if entry.look_at > now {
            return; // An earlier or later look took this one's place.
        }
        self.hear_of_twin(key, now);
        let Some(entry) = self.subscriptions.get_mut(key) else {
            return;
        };
        let forgotten = entry.rules.forget(now, &patience);
        let overdue = entry.rules.overdue(now, &patience);
        let is_idle = entry.parked.is_empty() && entry.giving_back.is_empty() && !entry.is_moving;
        let is_abandoned = is_idle && entry.rules.is_abandoned(now, &patience);
        entry.look_at = entry.rules.look_again(now, &patience);
        self.timers.look(entry.look_at, key.clone());
        for consumer in overdue {
            self.give_back(key, consumer);
        }
        self.write_forgotten(key, forgotten, now).await;
        if is_abandoned {
            self.forget_group(key, now).await;
        }
    }

    /// Who is alive in the retry subject is alive in the subject, and the reverse.
    fn hear_of_twin(&mut self, key: &SubscriptionKey, now: UnixMillis) {
        let patience = self.around.rules.patience;
        let Some(entry) = self.subscriptions.get(key) else {
            return;
        };
        let silent: Vec<ConsumerId> = entry.rules.silent(now, &patience).cloned().collect();
        if silent.is_empty() {
            return;
        }
        let twin = match key.subject.kind() {
            SubjectKind::Retry { subject, .. } => Subject::new(subject),
            SubjectKind::Real => Subject::retry(&key.subject, &key.group),
            SubjectKind::DeadLetter { .. } => return,
        };
        let Ok(subject) = twin else { return };
        let twin = SubscriptionKey {
            subject,
            group: key.group.clone(),
        };
        let Some(twin) = self.subscriptions.get(&twin) else {
            return;
        };
        let seen = silent
            .into_iter()
            .filter_map(|consumer| Some((twin.rules.last_seen(&consumer)?, consumer)));
        let seen: Vec<_> = seen.collect();
        if let Some(entry) = self.subscriptions.get_mut(key) {
            for (at, consumer) in seen {
                entry.rules.keep_alive(&consumer, at);
            }
        }
    }

    fn give_back(&mut self, key: &SubscriptionKey, overdue: Overdue) {
        let Some(entry) = self.subscriptions.get_mut(key) else {
            return;
        };
        if !entry.giving_back.insert(overdue.consumer.clone()) {
            return;
        }
        let copier = Copier {
            reader: self.around.reader.clone(),
            desk: Arc::clone(&self.around.desk),
            jobs: Arc::clone(&self.around.jobs),
            metrics: Arc::clone(&self.around.metrics),
        };
        let (later, key) = (self.tell_later(), key.clone());
        tokio::spawn(async move {
            let given = copier.copy(key.clone(), overdue).await;
            later.tell(Input::GivenBack(key, given)).await;
        });
    }

    /// Copies are safe: what they were made of is acked on behalf of its consumer.
    pub(super) async fn given_back(&mut self, key: &SubscriptionKey, given: GivenBack) {
        let now = self.around.clock.now();
        let Some(entry) = self.subscriptions.get_mut(key) else {
            return;
        };
        let GivenBack { consumer, done } = given;
        entry.giving_back.remove(&consumer);
        let held = done
            .into_iter()
            .filter(|pulls| entry.rules.pass_over(&consumer, pulls));
        let ack = |pulls| Action::Ack {
            key: consumer_key(key, &consumer),
            time: now,
            pulls,
        };
        let actions: Vec<Action> = held.map(ack).collect();
        if actions.is_empty() {
            return;
        }
        info!(
            subject = %key.subject, group = %key.group, %consumer, ranges = actions.len(),
            "messages of a consumer went to the retry subject"
        );
        self.put(actions).await;
        self.go_on(key).await;
    }

    async fn write_forgotten(
        &mut self,
        key: &SubscriptionKey,
        forgotten: Vec<ConsumerId>,
        now: UnixMillis,
    ) {
        let offline = |consumer: ConsumerId| Action::ForeverOffline {
            key: consumer_key(key, &consumer),
            time: now,
        };
        let actions: Vec<Action> = forgotten.into_iter().map(offline).collect();
        if !actions.is_empty() {
            self.put(actions).await;
        }
    }

    async fn put(&self, actions: Vec<Action>) {
        let batch = ActionBatch {
            actions,
            then: ActionDone::Nothing,
        };
        // A stopped writer: the process is ending, and all this is found again at its start.
        let _ = self.around.desk.put_actions(batch).await;
    }

    /// Forgets a group that nobody belongs to. It goes once that is durable.
    async fn forget_group(&mut self, key: &SubscriptionKey, now: UnixMillis) {
        let control = Control::ForgetGroup {
            subject: key.subject.clone(),
            group: key.group.clone(),
            time: now,
        };
        if let Some(entry) = self.subscriptions.get_mut(key) {
            entry.is_moving = true;
        }
        let (tell, told) = oneshot::channel();
        if self.around.desk.put_control(control, tell).await.is_err() {
            return;
        }
        let (later, key) = (self.tell_later(), key.clone());
        tokio::spawn(async move {
            let input = match told.await {
                Ok(()) => Input::Forgotten(key),
                Err(_) => Input::NotMoved(key),
            };
            later.tell(input).await;
        });
    }

    pub(super) async fn forgotten(&mut self, key: &SubscriptionKey) {
        warn!(subject = %key.subject, group = %key.group, "group is forgotten: nobody came for long");
        let Some(entry) = self.subscriptions.remove(key) else {
            return;
        };
        // Who came meanwhile is met anew.
        for parked in entry.parked {
            self.timers.cancel(parked.deadline);
            self.pull(parked.pull, parked.responder).await;
        }
    }
}
