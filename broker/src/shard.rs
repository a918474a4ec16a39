//! Owners of subscriptions: each shard feeds its own with requests, publications and time.
//!
//! A shard is one task. Subscriptions are plain records in it, so an idle one costs memory only.
//! A shard waits for room in the writer's inbox and for nothing else; the writer never waits for a
//! shard.

mod serve;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use qmq_model::{Clock, ConsumerGroup, ConsumerId, PullSequence, Subject, UnixMillis};
use qmq_protocol::ResultCode;
use qmq_remoting::Responder;
use qmq_store::{Action, ConsumerKey, Progress, StoreReader};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::deliver::Deliverer;
use crate::inbox::{ActionBatch, ActionDone, Inbox};
use crate::metrics::Metrics;
use crate::portion::{Limits, kept};
use crate::subscription::{PullAction, PullState, StartAt, Subscription};
use crate::waiting::Waiting;

/// Requests that may wait for a shard; more wait on their connections.
pub const INPUTS_QUEUED_MAX: usize = 4096;
/// Subscriptions one shard keeps: each costs a few hundred bytes.
pub const SUBSCRIPTIONS_MAX: usize = 250_000;
/// Consumers of one group.
pub const CONSUMERS_MAX: usize = 10_000;
/// Pulls one consumer of one subscription may have waiting; the oldest is answered then.
pub const PARKED_PER_CONSUMER_MAX: usize = 8;

/// Names a subscription.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SubscriptionKey {
    /// What is consumed.
    pub subject: Subject,
    /// By whom.
    pub group: ConsumerGroup,
}

/// A pull with checked parameters.
#[derive(Clone, Debug)]
pub struct Pull {
    /// Which subscription.
    pub key: SubscriptionKey,
    /// Who pulls.
    pub consumer: ConsumerId,
    /// Every consumer gets every message.
    pub broadcast: bool,
    /// Last pull sequence it received; negative for none.
    pub pull_last: i64,
    /// Most messages it takes.
    pub count: usize,
    /// When it is answered in any case.
    pub deadline: UnixMillis,
}

impl Pull {
    fn state(&self) -> PullState<'_> {
        PullState {
            consumer: &self.consumer,
            pull_last: self.pull_last,
            count: self.count,
        }
    }
}

/// An ack with checked names.
#[derive(Clone, Debug)]
pub struct Ack {
    /// Which subscription.
    pub key: SubscriptionKey,
    /// Who acks.
    pub consumer: ConsumerId,
    /// Pull sequences it confirms; `None` only says that it is alive.
    pub pulls: Option<Range<i64>>,
}

enum Input {
    Pull(Pull, Responder),
    Ack(Ack, Responder),
    /// The first contact of a consumer is durable.
    Recorded(SubscriptionKey, ConsumerId),
    /// A message handed to a consumer can never be read.
    Unreadable(SubscriptionKey, ConsumerId, PullSequence),
}

/// All shards: finds the owner of a subscription.
#[derive(Clone)]
pub struct Shards {
    inputs: Arc<[mpsc::Sender<Input>]>,
    hasher: RandomState,
}

/// What every shard works with.
#[derive(Clone)]
pub struct Surroundings {
    /// Reads messages.
    pub reader: StoreReader,
    /// Takes actions.
    pub inbox: Arc<Inbox>,
    /// Tells when subjects gain messages.
    pub waiting: Arc<Waiting>,
    /// Encodes replies.
    pub deliverer: Deliverer,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// What may be handed out.
    pub limits: Limits,
    /// Waiting pulls are answered when it is cancelled.
    pub stop: CancellationToken,
}

impl Shards {
    /// Starts `count` shards that continue from `progress`. They end when the last handle is gone.
    #[must_use]
    pub fn start(count: usize, progress: &Progress, around: &Surroundings) -> Self {
        let hasher = RandomState::new();
        let now = around.clock.now();
        let mut parts: Vec<HashMap<SubscriptionKey, Entry>> = Vec::new();
        parts.resize_with(count, HashMap::new);
        for (subject, group, state) in progress.groups() {
            let key = SubscriptionKey {
                subject: subject.clone(),
                group: group.clone(),
            };
            let entry = Entry::new(Subscription::restore(state, now));
            parts[slot(&hasher, &key, count)].insert(key, entry);
        }
        let start = |(index, subscriptions)| {
            let (sender, inputs) = mpsc::channel(INPUTS_QUEUED_MAX);
            let weak = sender.downgrade();
            let around = around.clone();
            let (deadlines, parked) = (BTreeMap::new(), HashMap::new());
            let shard = Shard {
                index,
                around,
                subscriptions,
                deadlines,
                parked,
                serial: 0,
                own: weak,
            };
            tokio::spawn(shard.run(inputs));
            sender
        };
        Self {
            inputs: parts.into_iter().enumerate().map(start).collect(),
            hasher,
        }
    }

    /// Passes a pull on. It is answered by its deadline.
    pub async fn pull(&self, pull: Pull, responder: Responder) {
        let shard = slot(&self.hasher, &pull.key, self.inputs.len());
        // A shard ends only with the process; dropping the responder is all that is left then.
        let _ = self.inputs[shard].send(Input::Pull(pull, responder)).await;
    }

    /// Passes an ack on. It is answered once it is in the actionlog.
    pub async fn ack(&self, ack: Ack, responder: Responder) {
        let shard = slot(&self.hasher, &ack.key, self.inputs.len());
        let _ = self.inputs[shard].send(Input::Ack(ack, responder)).await;
    }
}

fn slot(hasher: &RandomState, key: &SubscriptionKey, count: usize) -> usize {
    let hash = hasher.hash_one(key);
    usize::try_from(hash % count as u64).expect("less than the number of shards")
}

struct Shard {
    index: usize,
    around: Surroundings,
    subscriptions: HashMap<SubscriptionKey, Entry>,
    deadlines: BTreeMap<(UnixMillis, u64), SubscriptionKey>,
    /// Groups with waiting pulls, by subject.
    parked: HashMap<Subject, HashSet<ConsumerGroup>>,
    serial: u64,
    own: mpsc::WeakSender<Input>,
}

struct Entry {
    rules: Subscription,
    parked: VecDeque<Parked>,
    /// Consumers whose first contact is on its way to the disk.
    recording: HashSet<ConsumerId>,
}

impl Entry {
    fn new(rules: Subscription) -> Self {
        Self {
            rules,
            parked: VecDeque::new(),
            recording: HashSet::new(),
        }
    }

    fn is_recording(&self, at: usize) -> bool {
        self.recording.contains(&self.parked[at].pull.consumer)
    }
}

struct Parked {
    serial: u64,
    pull: Pull,
    responder: Responder,
}

impl Shard {
    async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        let stop = self.around.stop.clone();
        let waiting = Arc::clone(&self.around.waiting);
        loop {
            let timer = self.until_next_deadline();
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(input) => self.take(input).await,
                    None => return,
                },
                () = waiting.ready(self.index) => self.serve_ready().await,
                () = tokio::time::sleep(timer.unwrap_or(Duration::MAX)), if timer.is_some() => {
                    self.answer_due();
                }
                () = stop.cancelled(), if !self.deadlines.is_empty() => self.answer_all(),
            }
        }
    }

    async fn take(&mut self, input: Input) {
        match input {
            Input::Pull(pull, responder) => self.pull(pull, responder).await,
            Input::Ack(ack, responder) => self.ack(ack, responder).await,
            Input::Unreadable(key, consumer, PullSequence(pull)) => {
                if let Some(entry) = self.subscriptions.get_mut(&key) {
                    entry.rules.pass_over(&consumer, &(pull..pull + 1));
                }
            }
            Input::Recorded(key, consumer) => {
                if let Some(entry) = self.subscriptions.get_mut(&key) {
                    entry.recording.remove(&consumer);
                    self.serve_parked(&key).await;
                    self.answer_overdue(&key);
                }
            }
        }
    }

    async fn pull(&mut self, pull: Pull, responder: Responder) {
        self.around.metrics.pulls.inc();
        let now = self.around.clock.now();
        let Some(entry) = self.entry(&pull) else {
            warn!(subject = %pull.key.subject, group = %pull.key.group, "too many consumers");
            return responder.send_empty(ResultCode::NoMessage);
        };
        if let Some(action) = entry.rules.meet(pull.state(), now) {
            entry.recording.insert(pull.consumer.clone());
            self.record(&pull, action, now).await;
        }
        let key = pull.key.clone();
        self.park(pull, responder);
        self.serve_parked(&key).await;
    }

    /// The subscription a pull is for, made at its first contact. `None` when a limit is reached.
    fn entry(&mut self, pull: &Pull) -> Option<&mut Entry> {
        if !self.subscriptions.contains_key(&pull.key) {
            if self.subscriptions.len() >= SUBSCRIPTIONS_MAX {
                return None;
            }
            let kept = kept(&self.around.reader, &pull.key.subject);
            let start = match pull.key.subject.kind() {
                qmq_model::names::SubjectKind::Retry { .. } => StartAt::Earliest,
                _ => StartAt::Latest,
            };
            let rules = Subscription::first_contact(start, &kept, pull.broadcast);
            self.subscriptions
                .insert(pull.key.clone(), Entry::new(rules));
        }
        let entry = self.subscriptions.get_mut(&pull.key)?;
        let known = entry.rules.next_pull(&pull.consumer).is_some();
        (known || entry.rules.consumer_count() < CONSUMERS_MAX).then_some(entry)
    }

    /// Writes down a first contact; the consumer is served when that is durable.
    async fn record(&self, pull: &Pull, action: PullAction, now: UnixMillis) {
        let action = to_action(&pull.key, &pull.consumer, pull.broadcast, action, now);
        let (tell, told) = oneshot::channel();
        let batch = ActionBatch {
            actions: vec![action],
            then: ActionDone::TellDurable(tell),
        };
        if self.around.inbox.put_actions(batch).await.is_err() {
            return;
        }
        let own = self.own.clone();
        let (key, consumer) = (pull.key.clone(), pull.consumer.clone());
        // If the writer fails, nobody is told: the process is ending and the pull gets no answer.
        tokio::spawn(async move {
            if told.await.is_ok()
                && let Some(own) = own.upgrade()
            {
                let _ = own.send(Input::Recorded(key, consumer)).await;
            }
        });
    }

    async fn ack(&mut self, ack: Ack, responder: Responder) {
        self.around.metrics.acks.inc();
        let now = self.around.clock.now();
        let limit = self.around.limits.unacked_max;
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
        let SubscriptionKey { subject, group } = ack.key.clone();
        let key = ConsumerKey {
            subject,
            group,
            consumer: ack.consumer,
        };
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
        let _ = self.around.inbox.put_actions(batch).await;
        if was_full {
            self.serve_parked(&ack.key).await;
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
                self.deadlines.remove(&(old.pull.deadline, old.serial));
                old.responder.send_empty(ResultCode::NoMessage);
            }
        }
        self.serial += 1;
        let serial = self.serial;
        self.deadlines
            .insert((pull.deadline, serial), pull.key.clone());
        let SubscriptionKey { subject, group } = pull.key.clone();
        self.parked.entry(subject).or_default().insert(group);
        entry.parked.push_back(Parked {
            serial,
            pull,
            responder,
        });
    }

    fn until_next_deadline(&self) -> Option<Duration> {
        let (deadline, _) = self.deadlines.first_key_value()?.0;
        Some(deadline.since(self.around.clock.now()))
    }

    fn answer_due(&mut self) {
        let now = self.around.clock.now();
        while let Some(first) = self.deadlines.first_entry() {
            let (deadline, serial) = *first.key();
            if deadline > now {
                break;
            }
            let key = first.remove();
            self.answer_nothing(&key, serial);
        }
    }

    fn answer_all(&mut self) {
        while let Some(((_, serial), key)) = self.deadlines.pop_first() {
            self.answer_nothing(&key, serial);
        }
    }

    /// Answers a pull whose time is up. One whose first contact is still on its way to the disk
    /// stays: answered now, it could miss messages if the power failed.
    fn answer_nothing(&mut self, key: &SubscriptionKey, serial: u64) {
        let Some(entry) = self.subscriptions.get_mut(key) else {
            return;
        };
        let at = entry
            .parked
            .iter()
            .position(|parked| parked.serial == serial);
        let Some(at) = at.filter(|at| !entry.is_recording(*at)) else {
            return;
        };
        if let Some(parked) = entry.parked.remove(at) {
            parked.responder.send_empty(ResultCode::NoMessage);
        }
        if entry.parked.is_empty() {
            self.forget_parked(key);
        }
    }

    /// Answers pulls whose time ran out while their first contact was being recorded.
    fn answer_overdue(&mut self, key: &SubscriptionKey) {
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

    fn forget_parked(&mut self, key: &SubscriptionKey) {
        let Some(groups) = self.parked.get_mut(&key.subject) else {
            return;
        };
        groups.remove(&key.group);
        if groups.is_empty() {
            self.parked.remove(&key.subject);
        }
    }
}

fn to_action(
    key: &SubscriptionKey,
    consumer: &ConsumerId,
    broadcast: bool,
    action: PullAction,
    time: UnixMillis,
) -> Action {
    let SubscriptionKey { subject, group } = key.clone();
    let key = ConsumerKey {
        subject,
        group,
        consumer: consumer.clone(),
    };
    let PullAction { pulls, messages } = action;
    Action::Pull {
        key,
        time,
        broadcast,
        pulls,
        messages,
    }
}
