//! Owners of subscriptions: each shard feeds its own with requests, publications and time.
//!
//! A shard is one task. Subscriptions are plain records in it, so an idle one costs memory only.
//! A shard waits for room on the writer's desk and for nothing else; the writer never waits for a
//! shard. What takes a disk is done by others, and the shard is told when it is done.

pub mod give_back;
mod manage;
mod pulls;
mod serve;
mod timers;
mod upkeep;

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

pub use manage::{GroupReport, MemberReport, Reset, ResetTo, Standing};
use qmq_model::names::SubjectKind;
use qmq_model::{
    Clock, ConsumerGroup, ConsumerId, MessageSequence, PullSequence, Subject, UnixMillis,
};
use qmq_remoting::Responder;
use qmq_store::{Action, ConsumerKey, Progress, StoreReader};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::config::RuleValues;
use crate::deliver::Deliverer;
use crate::desk::Desk;
use crate::filter::Filter;
use crate::metrics::Metrics;
use crate::portion::{Limits, Verdicts};
use crate::shard::give_back::GivenBack;
use crate::shard::serve::Prepared;
use crate::shard::timers::{TimerKey, Timers};
use crate::subscription::{PullAction, PullState, Subscription};
use crate::waiting::Waiting;

/// Requests that may wait for a shard; more wait on their connections.
pub const INPUTS_QUEUED_MAX: usize = 4096;
/// Subscriptions one shard keeps: each costs a few hundred bytes.
pub const SUBSCRIPTIONS_MAX: usize = 250_000;
/// Consumers of one group.
pub const CONSUMERS_MAX: usize = 10_000;
/// Pulls one consumer of one subscription may have waiting; the oldest is answered then.
pub const PARKED_PER_CONSUMER_MAX: usize = 8;
/// Jobs of all shards that read messages ahead or copy them; more wait in line.
pub const JOBS_MAX: usize = 16;

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
    /// Which messages it wants; `None`: all.
    pub filter: Option<Arc<Filter>>,
    /// When it is answered in any case.
    pub deadline: UnixMillis,
}

impl Pull {
    fn state(&self) -> PullState<'_> {
        PullState {
            consumer: &self.consumer,
            pull_last: self.pull_last,
            count: self.count,
            broadcast: self.broadcast,
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
    /// What a waiting pull needed from the disk has been read.
    Prepared(SubscriptionKey, Prepared),
    /// Copies of a consumer's messages are safe, or could not be made.
    GivenBack(SubscriptionKey, GivenBack),
    /// Somebody moves a group.
    Reset(Reset, Responder),
    /// It is known where a group is to go on.
    ResetAt(SubscriptionKey, MessageSequence, Responder),
    /// That is durable.
    ResetDone(SubscriptionKey, MessageSequence),
    /// A group could not be moved or forgotten.
    NotMoved(SubscriptionKey),
    /// A group is forgotten, durably.
    Forgotten(SubscriptionKey),
    /// Somebody wants to know about the groups of a subject.
    Describe(Subject, oneshot::Sender<Vec<GroupReport>>),
    /// Somebody wants to know where groups stand, of at most so many.
    Standings(usize, oneshot::Sender<Vec<Standing>>),
    /// The settings have changed.
    Rules(RuleValues),
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
    pub desk: Arc<Desk>,
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
    /// How long whom is waited for, and how long messages of retry subjects wait. May change.
    pub rules: RuleValues,
    /// Bounds the jobs that read or copy; [`JOBS_MAX`] permits.
    pub jobs: Arc<Semaphore>,
    /// Waiting pulls are answered when it is cancelled.
    pub stop: CancellationToken,
}

impl Shards {
    /// Starts `count` shards that continue from `progress`. They end when the last handle is gone.
    #[must_use]
    pub fn start(count: usize, progress: &Progress, around: &Surroundings) -> Self {
        let hasher = RandomState::new();
        let now = around.clock.now();
        let mut parts: Vec<Vec<(SubscriptionKey, Subscription)>> = Vec::new();
        parts.resize_with(count, Vec::new);
        for (subject, group, state) in progress.groups() {
            let key = SubscriptionKey {
                subject: subject.clone(),
                group: group.clone(),
            };
            parts[slot(&hasher, &key, count)].push((key, Subscription::restore(state, now)));
        }
        let start = |(index, restored)| {
            let (sender, inputs) = mpsc::channel(INPUTS_QUEUED_MAX);
            let shard = Shard::new(index, around.clone(), sender.downgrade(), restored);
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
        let owner = self.owner(&pull.key);
        // A shard ends only with the process; dropping the responder is all that is left then.
        let _ = owner.send(Input::Pull(pull, responder)).await;
    }

    /// Passes an ack on. It is answered once it is in the actionlog.
    pub async fn ack(&self, ack: Ack, responder: Responder) {
        let owner = self.owner(&ack.key);
        let _ = owner.send(Input::Ack(ack, responder)).await;
    }

    fn owner(&self, key: &SubscriptionKey) -> &mpsc::Sender<Input> {
        &self.inputs[slot(&self.hasher, key, self.inputs.len())]
    }
}

/// A subject and its retry subject have the same owner: who is alive in one is alive in the other.
fn slot(hasher: &RandomState, key: &SubscriptionKey, count: usize) -> usize {
    let real = SubjectKind::real_subject(key.subject.as_str());
    let hash = hasher.hash_one((real, key.group.as_str()));
    usize::try_from(hash % count as u64).expect("less than the number of shards")
}

struct Shard {
    index: usize,
    around: Surroundings,
    subscriptions: HashMap<SubscriptionKey, Entry>,
    timers: Timers,
    /// Groups with waiting pulls, by subject.
    parked: HashMap<Subject, HashSet<ConsumerGroup>>,
    /// Subscriptions that gave way to others in the middle of their work.
    turns: VecDeque<SubscriptionKey>,
    serial: u64,
    own: mpsc::WeakSender<Input>,
}

struct Entry {
    rules: Subscription,
    parked: VecDeque<Parked>,
    /// Consumers whose first contact is on its way to the disk.
    recording: HashSet<ConsumerId>,
    /// Consumers of which messages are being copied.
    giving_back: HashSet<ConsumerId>,
    /// The group is being moved or forgotten: nothing is handed out meanwhile.
    is_moving: bool,
    /// When this subscription is looked at next, by the timers.
    look_at: UnixMillis,
    /// When a waiting pull is served because a message of a retry subject falls due.
    retry_at: UnixMillis,
}

impl Entry {
    fn new(rules: Subscription, look_at: UnixMillis) -> Self {
        Self {
            rules,
            parked: VecDeque::new(),
            recording: HashSet::new(),
            giving_back: HashSet::new(),
            is_moving: false,
            look_at,
            retry_at: UnixMillis::default(),
        }
    }

    /// Whether the pull at `at` waits for the disk, and so must not be answered with nothing.
    fn is_busy(&self, at: usize) -> bool {
        let parked = &self.parked[at];
        parked.is_preparing || self.recording.contains(&parked.pull.consumer)
    }
}

struct Parked {
    serial: u64,
    pull: Pull,
    responder: Responder,
    deadline: TimerKey,
    /// What the filter said about messages that were read ahead.
    verdicts: Verdicts,
    is_preparing: bool,
}

impl Shard {
    fn new(
        index: usize,
        around: Surroundings,
        own: mpsc::WeakSender<Input>,
        restored: Vec<(SubscriptionKey, Subscription)>,
    ) -> Self {
        let look_at = around.clock.now().plus(around.rules.patience.dead_after);
        let mut shard = Self {
            index,
            around,
            subscriptions: HashMap::new(),
            timers: Timers::default(),
            parked: HashMap::new(),
            turns: VecDeque::new(),
            serial: 0,
            own,
        };
        for (key, rules) in restored {
            shard.timers.look(look_at, key.clone());
            shard.subscriptions.insert(key, Entry::new(rules, look_at));
        }
        shard
    }

    async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        let stop = self.around.stop.clone();
        let waiting = Arc::clone(&self.around.waiting);
        loop {
            let timer = self.timers.next_in(self.around.clock.now());
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(input) => self.take(input).await,
                    None => return,
                },
                () = waiting.ready(self.index) => self.serve_ready().await,
                () = tokio::time::sleep(timer.unwrap_or(Duration::MAX)), if timer.is_some() => {
                    self.on_time().await;
                }
                () = std::future::ready(()), if !self.turns.is_empty() => self.take_turn().await,
                () = stop.cancelled(), if self.timers.has_deadlines() => self.answer_all(),
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
                }
                self.go_on(&key).await;
            }
            Input::Prepared(key, prepared) => self.prepared(&key, prepared).await,
            Input::GivenBack(key, given) => self.given_back(&key, given).await,
            Input::Reset(reset, responder) => self.reset(reset, responder),
            Input::ResetAt(key, next, responder) => self.reset_at(&key, next, responder).await,
            Input::ResetDone(key, next) => self.reset_done(&key, next).await,
            Input::NotMoved(key) => self.not_moved(&key).await,
            Input::Forgotten(key) => self.forgotten(&key).await,
            Input::Describe(subject, tell) => {
                // Nobody listens any more: nothing to tell.
                let _ = tell.send(self.describe(&subject));
            }
            Input::Standings(count, tell) => {
                let _ = tell.send(self.standings(count));
            }
            Input::Rules(rules) => self.around.rules = rules,
        }
    }

    /// Something that pulls of this subscription waited for has happened.
    async fn go_on(&mut self, key: &SubscriptionKey) {
        self.serve_parked(key).await;
        self.answer_overdue(key);
    }

    /// What `input` says later, from another task.
    fn tell_later(&self) -> Later {
        Later(self.own.clone())
    }
}

/// Speaks to a shard from another task; says nothing once the shard is gone.
struct Later(mpsc::WeakSender<Input>);

impl Later {
    async fn tell(self, input: Input) {
        if let Some(own) = self.0.upgrade() {
            let _ = own.send(input).await;
        }
    }
}

fn consumer_key(key: &SubscriptionKey, consumer: &ConsumerId) -> ConsumerKey {
    let SubscriptionKey { subject, group } = key.clone();
    ConsumerKey {
        subject,
        group,
        consumer: consumer.clone(),
    }
}

fn to_action(
    key: &SubscriptionKey,
    consumer: &ConsumerId,
    action: PullAction,
    time: UnixMillis,
) -> Action {
    let PullAction {
        pulls,
        messages,
        broadcast,
    } = action;
    Action::Pull {
        key: consumer_key(key, consumer),
        time,
        broadcast,
        pulls,
        messages,
    }
}
