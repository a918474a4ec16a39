//! One broker without sockets and threads, and everybody who talks to it.

mod clients;
mod live;
mod settle;
mod upkeep;

use std::collections::HashMap;
use std::ops::AddAssign;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use qmq_broker::subscription::Patience;
use qmq_model::{Clock, ManualClock, UnixMillis};
use qmq_store::fs::faulty::FaultyFs;
use qmq_store::{Background, StoreConfig};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::client::Client;
use crate::letter::Wish;
use crate::promises::{Broken, Promises};
use crate::sabotage::Sabotage;
use crate::stream::{ConsumerKey, GroupId, Names, Queue};
use live::{Crashed, Frame, Live};

/// As configured by default.
const RETRY_DELAY: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// As by default, but for days and months that are hours and days here: worlds are short. The few
/// copies at a time leave work for another look.
const PATIENCE: Patience = Patience {
    dead_after: Duration::from_secs(180),
    lost_ack_after: Duration::from_secs(30),
    forever_after: Duration::from_secs(3 * 3600),
    group_after: Duration::from_secs(24 * 3600),
    copies_per_second: 10,
};

/// How large a world is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Repeats a run exactly.
    pub seed: u64,
    /// Number of subjects. The last one is consumed in broadcast.
    pub subjects: usize,
    /// Consumer groups of each subject.
    pub groups: usize,
    /// Consumers of each group; a broadcast group has one.
    pub consumers: usize,
    /// What to break on purpose.
    pub sabotage: Sabotage,
}

impl Settings {
    /// A small world in which everything happens often.
    #[must_use]
    pub fn small(seed: u64) -> Self {
        Self {
            seed,
            subjects: 3,
            groups: 2,
            consumers: 3,
            sabotage: Sabotage::None,
        }
    }

    fn is_broadcast(&self, group: GroupId) -> bool {
        group.0 + 1 == self.subjects
    }

    fn consumers_of(&self, group: GroupId) -> usize {
        if self.is_broadcast(group) {
            1
        } else {
            self.consumers
        }
    }

    fn all_groups(&self) -> impl Iterator<Item = GroupId> + use<> {
        let groups = self.groups;
        (0..self.subjects).flat_map(move |subject| (0..groups).map(move |group| (subject, group)))
    }

    /// A broadcast has no retry subject: its messages are for every consumer.
    fn queues_of(&self, group: GroupId) -> impl Iterator<Item = Queue> + use<> {
        let retry = !self.is_broadcast(group);
        let kinds = [false, true].into_iter().filter(move |kind| !kind | retry);
        kinds.map(move |is_retry| Queue { group, is_retry })
    }
}

/// What happened in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Messages acknowledged to producers.
    pub acknowledged: u64,
    /// Messages handed to consumers, repeated ones included.
    pub delivered: u64,
    /// Messages confirmed by consumers.
    pub confirmed: u64,
    /// Copies that consumers sent of messages they failed at.
    pub failed: u64,
    /// Copies that the broker made for dead consumers and lost acks.
    pub copied: u64,
    /// Messages in dead-letter subjects at the end.
    pub dead_letters: u64,
    /// Looks that found a dead consumer.
    pub dead_consumers: u64,
    /// Consumers that were forgotten.
    pub forgotten: u64,
    /// Groups that were forgotten.
    pub abandoned: u64,
    /// Groups that were moved.
    pub moved: u64,
    /// Times the power was cut.
    pub power_cuts: u64,
    /// Times the process was killed.
    pub kills: u64,
    /// Times it was closed and opened in order.
    pub reopened: u64,
}

impl Summary {
    /// Whether everything that can happen has happened.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let all = [
            self.acknowledged,
            self.delivered,
            self.confirmed,
            self.failed,
            self.copied,
            self.dead_letters,
            self.dead_consumers,
            self.forgotten,
            self.abandoned,
            self.moved,
            self.power_cuts,
            self.kills,
            self.reopened,
        ];
        all.iter().all(|count| *count > 0)
    }
}

impl AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.delivered += other.delivered;
        self.confirmed += other.confirmed;
        self.failed += other.failed;
        self.copied += other.copied;
        self.dead_letters += other.dead_letters;
        self.dead_consumers += other.dead_consumers;
        self.forgotten += other.forgotten;
        self.abandoned += other.abandoned;
        self.moved += other.moved;
        self.power_cuts += other.power_cuts;
        self.kills += other.kills;
        self.reopened += other.reopened;
    }
}

/// A consumer process: it pulls from the subject and from the retry subject.
type ProcessId = (GroupId, usize);

/// What is known of a consumer process.
#[derive(Clone, Copy, Debug, Default)]
struct Process {
    wish: Wish,
    /// It does nothing before.
    away_until: UnixMillis,
    /// When the broker last heard of it.
    heard: UnixMillis,
}

/// The broker, its disk, its clients and what they were promised.
pub struct World {
    settings: Settings,
    rng: SmallRng,
    fs: FaultyFs,
    clock: ManualClock,
    frame: Rc<Frame>,
    live: Option<Live>,
    /// When it was opened: nobody counts as silent for longer.
    opened: UnixMillis,
    promises: Promises,
    processes: HashMap<ProcessId, Process>,
    clients: HashMap<ConsumerKey, Client>,
    /// What consumers of each group want from their next start on.
    wishes: HashMap<GroupId, Wish>,
    number: u64,
    summary: Summary,
}

/// How the broker ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Everything not synced may be gone.
    PowerCut,
    /// The machine goes on.
    Kill,
    /// In order.
    Close,
}

impl World {
    /// A new world with an empty store.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let mut rng = SmallRng::seed_from_u64(settings.seed);
        let frame = Frame {
            names: Names::of(&settings),
            filters: std::array::from_fn(|number| Wish(number).filter()),
            patience: PATIENCE,
            retry_delay: RETRY_DELAY,
            sabotage: settings.sabotage,
        };
        let groups = settings.all_groups();
        let wishes = groups.map(|group| (group, Wish(rng.random_range(0..Wish::COUNT))));
        Self {
            wishes: wishes.collect(),
            fs: FaultyFs::new(settings.seed),
            clock: ManualClock::at(UnixMillis(1_700_000_000_000)),
            frame: Rc::new(frame),
            live: None,
            opened: UnixMillis::default(),
            promises: Promises::new(RETRY_DELAY),
            processes: HashMap::new(),
            clients: HashMap::new(),
            number: 0,
            summary: Summary::default(),
            rng,
            settings,
        }
    }

    /// Takes `steps` random steps, then lets every group have everything it is owed.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub fn run(mut self, steps: u64) -> Result<Summary, Broken> {
        for _ in 0..steps {
            self.step()?;
        }
        self.settle()?;
        Ok(self.summary)
    }

    fn step(&mut self) -> Result<(), Broken> {
        if self.live.is_none() {
            return self.open();
        }
        let millis = self.rng.random_range(0..20);
        self.clock.advance(Duration::from_millis(millis));
        match self.rng.random_range(0..1000) {
            0..260 => self.send(),
            260..560 => self.pull(),
            560..680 => self.ack(),
            680..760 => self.fail(),
            760..770 => self.lose_acks(),
            770..780 => self.keep_alive(),
            780..790 => self.ack_nonsense(),
            790..850 => self.flush(),
            850..865 => self.restart_client(),
            865..873 => self.stop_client(),
            873..875 => self.change_wish(),
            875..895 => self.tick(),
            895..920 => self.look(),
            920..965 => self.go_on_and_end(),
            965..980 => self.let_time_pass(),
            980..984 => self.move_group(),
            984..990 => self.end(End::PowerCut),
            990..994 => self.end(End::Kill),
            994..997 => self.end(End::Close),
            _ => self.cut_in_the_middle(),
        }
    }

    /// The power fails during one of the next calls to the file system.
    fn cut_in_the_middle(&mut self) -> Result<(), Broken> {
        let call = self.rng.random_range(1..30);
        self.fs.cut_after(call);
        Ok(())
    }

    /// A call failed: the power was cut in the middle of it.
    fn crashed(&mut self) -> Result<(), Broken> {
        self.end(End::PowerCut)
    }

    /// Ends the broker when a call failed.
    fn survive(&mut self, done: Option<Result<(), Crashed>>) -> Result<(), Broken> {
        match done {
            Some(Err(Crashed)) => self.crashed(),
            Some(Ok(())) | None => Ok(()),
        }
    }

    fn end(&mut self, end: End) -> Result<(), Broken> {
        let Some(live) = self.live.take() else {
            return Ok(());
        };
        match end {
            End::PowerCut => {
                drop(live);
                self.lose_power();
            }
            End::Kill => {
                drop(live);
                self.fs.kill();
                self.promises.killed();
                self.summary.kills += 1;
            }
            End::Close => {
                if live.close().is_err() {
                    self.lose_power();
                } else {
                    self.summary.reopened += 1;
                }
            }
        }
        Ok(())
    }

    fn lose_power(&mut self) {
        self.fs.power_cut(self.rng.random());
        self.promises.power_cut();
        self.summary.power_cuts += 1;
    }

    fn open(&mut self) -> Result<(), Broken> {
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let fs = Arc::new(self.fs.clone());
        match Live::open(fs, self.store_config(), clock, self.frame.clone()) {
            Ok(live) => {
                self.live = Some(live);
                self.opened = self.clock.now();
            }
            // The power failed during recovery.
            Err(_) if self.fs.power_is_off() => self.lose_power(),
            Err(error) => return Err(Broken(format!("the store does not open: {error}"))),
        }
        Ok(())
    }

    fn store_config(&self) -> StoreConfig {
        StoreConfig {
            group_name: "sim".to_owned(),
            message_segment_bytes: 4096,
            action_segment_bytes: 2048,
            zero_ahead_bytes: 1024,
            commit_slots: 64,
            checkpoint_retain: 2,
            recent_bytes_max: 2048,
            background: Background::Inline,
            sabotage: self.settings.sabotage.of_the_store(),
            // Runs, merges and blocks that are not in memory all the time.
            index_run_bytes: 2000,
            index_cache_bytes: 512 << 10,
            scrub_bytes_per_second: 100_000,
            ..StoreConfig::default()
        }
    }
}
