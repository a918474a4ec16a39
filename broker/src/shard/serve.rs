//! Serving waiting pulls: from the rules' offer to messages on their way.

use qmq_model::{ConsumerId, PullSequence};
use qmq_remoting::Responder;
use qmq_store::{Action, Located};

use super::{Input, Parked, Shard, SubscriptionKey, to_action};
use crate::deliver::{Delivery, Unreadable};
use crate::inbox::{ActionBatch, ActionDone};
use crate::portion::{Portion, portion};

impl Shard {
    /// Serves the subscriptions whose subjects gained messages.
    pub(super) async fn serve_ready(&mut self) {
        for subject in self.around.waiting.take_ready(self.index) {
            let Some(groups) = self.parked.get(&subject) else {
                continue;
            };
            for group in groups.iter().cloned().collect::<Vec<_>>() {
                let key = SubscriptionKey {
                    subject: subject.clone(),
                    group,
                };
                self.serve_parked(&key).await;
            }
        }
    }

    /// Gives every waiting pull of a subscription what it may have now.
    pub(super) async fn serve_parked(&mut self, key: &SubscriptionKey) {
        let mut at = 0;
        while let Some(step) = self.serve_next(key, &mut at) {
            let batch = ActionBatch {
                actions: step.actions,
                then: ActionDone::Nothing,
            };
            if !batch.actions.is_empty() && self.around.inbox.put_actions(batch).await.is_err() {
                return; // The broker is stopping: unanswered, the pull will be sent again.
            }
            if let Some((responder, first, located)) = step.delivery {
                let unreadable = self.pass_over_later(key, step.consumer);
                let delivery = Delivery {
                    responder,
                    first,
                    located,
                    unreadable,
                };
                self.around
                    .metrics
                    .pulled
                    .inc_by(delivery.located.len() as u64);
                self.around.deliverer.deliver(delivery);
            }
        }
        if self
            .subscriptions
            .get(key)
            .is_none_or(|entry| entry.parked.is_empty())
        {
            self.forget_parked(key);
        }
    }

    /// What a delivery calls when its first message can never be read.
    fn pass_over_later(&self, key: &SubscriptionKey, consumer: ConsumerId) -> Unreadable {
        let (own, key) = (self.own.clone(), key.clone());
        Box::new(move |pull| {
            Box::pin(async move {
                if let Some(own) = own.upgrade() {
                    // Without the shard nobody needs to know.
                    let _ = own.send(Input::Unreadable(key, consumer, pull)).await;
                }
            })
        })
    }

    /// Goes on from position `at` to the next waiting pull for which something is to be done.
    fn serve_next(&mut self, key: &SubscriptionKey, at: &mut usize) -> Option<Step> {
        let entry = self
            .subscriptions
            .get_mut(key)
            .filter(|entry| !entry.parked.is_empty())?;
        let reader = &self.around.reader;
        // Registered before the look: what is published after the look wakes this shard again.
        let id = reader.subject(key.subject.as_str());
        self.around.waiting.register(self.index, &key.subject, id);
        let now = self.around.clock.now();
        while *at < entry.parked.len() {
            if entry.is_recording(*at) {
                *at += 1;
                continue;
            }
            let Parked {
                pull,
                responder,
                serial,
            } = &entry.parked[*at];
            let portion = if responder.is_connected() {
                let limits = self.around.limits.within(responder.room());
                portion(&mut entry.rules, pull.state(), reader, id, limits)
            } else {
                Portion::default()
            };
            let action = |action| to_action(key, &pull.consumer, pull.broadcast, action, now);
            let actions = portion.actions.into_iter().map(action).collect::<Vec<_>>();
            let consumer = pull.consumer.clone();
            let keep = responder.is_connected() && portion.located.is_empty();
            if keep {
                *at += 1;
                if actions.is_empty() {
                    continue;
                }
                return Some(Step {
                    actions,
                    consumer,
                    delivery: None,
                });
            }
            self.deadlines.remove(&(pull.deadline, *serial));
            let responder = entry.parked.remove(*at)?.responder;
            if !portion.located.is_empty() {
                let delivery = Some((responder, portion.first, portion.located));
                return Some(Step {
                    actions,
                    consumer,
                    delivery,
                });
            }
        }
        None
    }
}

/// What is to be done for one waiting pull.
struct Step {
    actions: Vec<Action>,
    consumer: ConsumerId,
    delivery: Option<(Responder, PullSequence, Vec<Located>)>,
}
