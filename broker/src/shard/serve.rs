//! Handing out: what waiting pulls of a subscription get.

use std::sync::Arc;
use std::time::Duration;

use qmq_model::{ConsumerId, MessageSequence, PullSequence, UnixMillis};
use qmq_protocol::ResultCode;
use qmq_remoting::Responder;
use qmq_store::{Action, Located, ReadError, StoreReader, SubjectId};
use tokio::sync::Semaphore;
use tracing::warn;

use super::{Entry, Input, Parked, Shard, SubscriptionKey, consumer_key, to_action};
use crate::deliver::{Delivery, Unreadable, is_permanent};
use crate::filter::Filter;
use crate::inbox::{ActionBatch, ActionDone};
use crate::portion::{Portion, Question, Verdicts, Wait, portion};

/// How long a pull that met a read error is held back.
const ERROR_HOLD: Duration = Duration::from_millis(300);

/// What was read for a waiting pull.
pub(super) struct Prepared {
    /// Number of the pull.
    serial: u64,
    /// What its filter says about messages; nothing when an index was loaded.
    read: Result<Verdicts, ReadError>,
}

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

    /// Goes on with a subscription that gave way to others.
    pub(super) async fn take_turn(&mut self) {
        if let Some(key) = self.turns.pop_front() {
            self.go_on(&key).await;
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
            if !batch.actions.is_empty() && self.around.desk.put_actions(batch).await.is_err() {
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
        let (later, key) = (self.tell_later(), key.clone());
        Box::new(move |pull| Box::pin(later.tell(Input::Unreadable(key, consumer, pull))))
    }

    /// Goes on from position `at` to the next waiting pull for which something is to be done.
    fn serve_next(&mut self, key: &SubscriptionKey, at: &mut usize) -> Option<Step> {
        self.subscriptions
            .get(key)
            .filter(|entry| !entry.parked.is_empty() && !entry.is_moving)?;
        // Registered before the look: what is published after the look wakes this shard again.
        let id = self.around.reader.subject(key.subject.as_str());
        self.around.waiting.register(self.index, &key.subject, id);
        let now = self.around.clock.now();
        while *at < self.subscriptions.get(key)?.parked.len() {
            let entry = self.subscriptions.get_mut(key)?;
            if entry.is_busy(*at) {
                *at += 1;
                continue;
            }
            let mut portion = self.portion_of(key, *at, id, now)?;
            let entry = self.subscriptions.get_mut(key)?;
            let parked = &entry.parked[*at];
            let actions = actions_of(key, parked, &mut portion, now);
            let consumer = parked.pull.consumer.clone();
            let is_connected = parked.responder.is_connected();
            if is_connected && portion.located.is_empty() {
                if let Some(wait) = portion.wait {
                    self.wait_for(key, *at, id, wait, now);
                }
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
            let parked = entry.parked.remove(*at)?;
            self.timers.cancel(parked.deadline);
            if !portion.located.is_empty() {
                let delivery = Some((parked.responder, portion.first, portion.located));
                return Some(Step {
                    actions,
                    consumer,
                    delivery,
                });
            }
        }
        None
    }

    /// What the waiting pull at `at` gets now; nothing when nobody is there to get it.
    fn portion_of(
        &mut self,
        key: &SubscriptionKey,
        at: usize,
        id: Option<SubjectId>,
        now: UnixMillis,
    ) -> Option<Portion> {
        let Entry { rules, parked, .. } = self.subscriptions.get_mut(key)?;
        let Parked {
            pull,
            responder,
            verdicts,
            ..
        } = parked.get(at)?;
        if !responder.is_connected() {
            return Some(Portion::default());
        }
        let is_retry = matches!(
            key.subject.kind(),
            qmq_model::names::SubjectKind::Retry { .. }
        );
        let question = Question {
            pull: pull.state(),
            filter: pull.filter.as_deref(),
            verdicts,
            delay: if is_retry {
                self.around.rules.retry_delay
            } else {
                Duration::ZERO
            },
            now,
            limits: self.around.limits.within(responder.room()),
        };
        Some(portion(rules, &question, &self.around.reader, id))
    }

    /// Sees to it that the pull at `at` is served when it can be.
    fn wait_for(
        &mut self,
        key: &SubscriptionKey,
        at: usize,
        id: Option<SubjectId>,
        wait: Wait,
        now: UnixMillis,
    ) {
        let (Some(entry), Some(id)) = (self.subscriptions.get_mut(key), id) else {
            return;
        };
        let parked = &mut entry.parked[at];
        let work = match wait {
            Wait::Until(due) => {
                if !(now..=due).contains(&entry.retry_at) {
                    entry.retry_at = due;
                    self.timers.retry(due, key.clone());
                }
                return;
            }
            Wait::Turn => {
                if !self.turns.contains(key) {
                    self.turns.push_back(key.clone());
                }
                return;
            }
            Wait::Index(sequence) => Work::Index(id, sequence),
            Wait::Payloads(located) => {
                let Some(filter) = parked.pull.filter.clone() else {
                    return;
                };
                Work::Payloads(located, filter)
            }
        };
        parked.is_preparing = true;
        let serial = parked.serial;
        let (later, key) = (self.tell_later(), key.clone());
        let (reader, jobs) = (self.around.reader.clone(), Arc::clone(&self.around.jobs));
        tokio::spawn(async move {
            let read = work.run(reader, jobs).await;
            // Otherwise the blocking pool is going down with the process.
            if let Some(read) = read {
                later
                    .tell(Input::Prepared(key, Prepared { serial, read }))
                    .await;
            }
        });
    }

    /// A waiting pull goes on with what was read for it.
    pub(super) async fn prepared(&mut self, key: &SubscriptionKey, prepared: Prepared) {
        let Some(entry) = self.subscriptions.get_mut(key) else {
            return;
        };
        let Prepared { serial, read } = prepared;
        let at = entry.parked.iter().position(|p| p.serial == serial);
        let Some(at) = at else { return };
        match read {
            Ok(verdicts) => {
                let parked = &mut entry.parked[at];
                parked.is_preparing = false;
                parked.verdicts = verdicts;
            }
            Err(error) => {
                warn!(%error, subject = %key.subject, "messages cannot be found; the consumer will ask again");
                self.around.metrics.read_errors.inc();
                if let Some(parked) = entry.parked.remove(at) {
                    self.timers.cancel(parked.deadline);
                    parked.responder.send_empty(ResultCode::BrokerError);
                }
            }
        }
        self.go_on(key).await;
    }
}

fn actions_of(
    key: &SubscriptionKey,
    parked: &Parked,
    portion: &mut Portion,
    now: UnixMillis,
) -> Vec<Action> {
    let pull = &parked.pull;
    let dropped = portion.dropped.drain(..).map(|pulls| Action::Ack {
        key: consumer_key(key, &pull.consumer),
        time: now,
        pulls,
    });
    let pulled = portion
        .actions
        .drain(..)
        .map(|action| to_action(key, &pull.consumer, action, now));
    dropped.chain(pulled).collect()
}

/// Work for the blocking pool.
enum Work {
    Index(SubjectId, MessageSequence),
    Payloads(Vec<Located>, Arc<Filter>),
}

impl Work {
    /// Reads; a failure is told late, because the consumer asks again at once.
    async fn run(
        self,
        reader: StoreReader,
        jobs: Arc<Semaphore>,
    ) -> Option<Result<Verdicts, ReadError>> {
        // The semaphore is never closed, so there always is a permit in the end.
        let permit = jobs.acquire().await;
        let read = tokio::task::spawn_blocking(move || self.read(&reader)).await;
        drop(permit);
        let read = read.ok()?;
        if read.is_err() {
            tokio::time::sleep(ERROR_HOLD).await;
        }
        Some(read)
    }

    fn read(self, reader: &StoreReader) -> Result<Verdicts, ReadError> {
        match self {
            Self::Index(id, sequence) => reader.load_index(id, sequence).map(|()| Verdicts::new()),
            Self::Payloads(located, filter) => {
                let verdict = |at: &Located| match reader.read(at) {
                    Ok(payload) => Ok((at.sequence.0, filter.matches(&payload))),
                    // It goes to its consumer, where it is found to be unreadable, and passed over.
                    Err(error) if is_permanent(&error) => Ok((at.sequence.0, true)),
                    Err(error) => Err(error),
                };
                located.iter().map(verdict).collect()
            }
        }
    }
}

/// What is to be done for one waiting pull.
struct Step {
    actions: Vec<Action>,
    consumer: ConsumerId,
    delivery: Option<(Responder, PullSequence, Vec<Located>)>,
}
