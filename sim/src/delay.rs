//! One delay server without sockets and threads, and everybody who talks to it.
//!
//! The real store on a file system that can lose everything not synced, the real rules of loading
//! and dispatch, a link that loses and delays, broker groups that recognise what is repeated for
//! ten minutes, operators who cancel and move messages and set the clock, and a plain model of what
//! users were promised.

mod answers;
mod letters;
mod link;
mod live;
mod operators;
mod promises;
mod sabotage;
mod settle;

use std::collections::{BTreeMap, VecDeque};
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Duration;

use qmq_delay_server::dispatch::Output;
use qmq_model::{Clock, ManualClock, UnixMillis};
use qmq_store::fs::faulty::FaultyFs;
use qmq_store::{Background, Begun, DelayConfig, DelaySubject};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

pub use sabotage::DelaySabotage;

use crate::promises::Broken;
use letters::Letters;
use link::{Broker, Flight};
use live::{Crashed, Job, Live};
use promises::{Group, Promises};

const SUBJECTS: usize = 4;
const GROUPS: usize = 3;
const START: UnixMillis = UnixMillis(1_700_000_000_000);

/// How a world goes.
#[derive(Clone, Copy, Debug)]
pub struct DelaySettings {
    /// Repeats a run exactly.
    pub seed: u64,
    /// Cancellations for each message: above 0 most of them race with the dispatch.
    pub cancels_per_message: u32,
    /// What to break on purpose.
    pub sabotage: DelaySabotage,
}

impl DelaySettings {
    /// A small world in which everything happens often.
    #[must_use]
    pub fn small(seed: u64) -> Self {
        Self {
            seed,
            cancels_per_message: 0,
            sabotage: DelaySabotage::None,
        }
    }
}

/// What happened in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DelaySummary {
    /// Messages acknowledged to producers.
    pub accepted: u64,
    /// Messages of which a confirmation was written.
    pub delivered: u64,
    /// Copies that brokers appended.
    pub copies: u64,
    /// Those of them that were there already: each after an unknown outcome.
    pub second_copies: u64,
    /// Repeats that a broker recognised.
    pub recognised: u64,
    /// Requests without an answer.
    pub unknown_requests: u64,
    /// Messages that went to another group because theirs was called dead.
    pub abandoned: u64,
    /// Messages that found no room in memory, each time counted.
    pub left: u64,
    /// Cancellations answered: it was cancelled.
    pub cancelled: u64,
    /// Cancellations answered: it is being sent.
    pub dispatching: u64,
    /// Cancellations answered: it is delivered, or there is no such message any more.
    pub too_late: u64,
    /// Messages cancelled that may be in a group that is dead.
    pub cancelled_abandoned: u64,
    /// Messages that got another time.
    pub moved: u64,
    /// Times the clock was set.
    pub clock_steps: u64,
    /// Times the power was cut.
    pub power_cuts: u64,
    /// Times the process was killed.
    pub kills: u64,
    /// Times it was closed and opened in order.
    pub reopened: u64,
}

impl DelaySummary {
    /// Every number, by name.
    fn fields(&mut self) -> [&mut u64; 17] {
        [
            &mut self.accepted,
            &mut self.delivered,
            &mut self.copies,
            &mut self.second_copies,
            &mut self.recognised,
            &mut self.unknown_requests,
            &mut self.abandoned,
            &mut self.left,
            &mut self.cancelled,
            &mut self.dispatching,
            &mut self.too_late,
            &mut self.cancelled_abandoned,
            &mut self.moved,
            &mut self.clock_steps,
            &mut self.power_cuts,
            &mut self.kills,
            &mut self.reopened,
        ]
    }

    /// Cancellations that were answered.
    #[must_use]
    pub fn cancel_answers(&self) -> u64 {
        self.cancelled + self.dispatching + self.too_late
    }

    /// Times the server was started again.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.power_cuts + self.kills + self.reopened
    }

    /// Whether everything that can happen has happened; what is rare may be missing.
    #[must_use]
    pub fn is_complete(mut self) -> bool {
        self.cancelled_abandoned += 1;
        self.fields().iter().all(|count| **count > 0)
    }
}

impl AddAssign for DelaySummary {
    fn add_assign(&mut self, mut other: Self) {
        for (sum, count) in self.fields().into_iter().zip(other.fields()) {
            *sum += *count;
        }
    }
}

/// Why a step did not come to its end.
enum Stop {
    Crashed,
    Broken(Broken),
}

impl From<Crashed> for Stop {
    fn from(Crashed: Crashed) -> Self {
        Self::Crashed
    }
}

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// The delay server, its disk, the brokers and what users were promised.
pub struct DelayWorld {
    settings: DelaySettings,
    rng: SmallRng,
    fs: FaultyFs,
    clock: ManualClock,
    /// By the clock that nobody sets.
    moment: Duration,
    live: Option<Live>,
    letters: Letters,
    promises: Promises,
    brokers: Vec<Broker>,
    /// Groups that take each subject.
    routes: Vec<Vec<Group>>,
    flights: Vec<Flight>,
    /// What may arrive although nobody waits for it.
    stragglers: Vec<(Group, u64)>,
    questions: VecDeque<DelaySubject>,
    /// Messages that operators look at, with their due times.
    recent: VecDeque<(u64, UnixMillis)>,
    is_settling: bool,
    summary: DelaySummary,
}

/// How the server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Everything not synced may be gone.
    PowerCut,
    /// The machine goes on.
    Kill,
    /// In order.
    Close,
}

impl DelayWorld {
    /// A new world with an empty store.
    #[must_use]
    pub fn new(settings: DelaySettings) -> Self {
        let mut rng = SmallRng::seed_from_u64(settings.seed);
        let mut route = || {
            let first = rng.random_range(0..GROUPS);
            let count = rng.random_range(1..=GROUPS);
            (first..first + count).map(|group| group % GROUPS).collect()
        };
        Self {
            routes: (0..SUBJECTS).map(|_| route()).collect(),
            fs: FaultyFs::new(settings.seed),
            clock: ManualClock::at(START),
            moment: Duration::from_secs(1),
            live: None,
            letters: Letters::new(SUBJECTS),
            promises: Promises::default(),
            brokers: (0..GROUPS).map(Broker::new).collect(),
            flights: Vec::new(),
            stragglers: Vec::new(),
            questions: VecDeque::new(),
            recent: VecDeque::new(),
            is_settling: false,
            summary: DelaySummary::default(),
            rng,
            settings,
        }
    }

    /// Takes `steps` random steps, then heals everything and waits until nothing is owed.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub fn run(mut self, steps: u64) -> Result<DelaySummary, Broken> {
        for _ in 0..steps {
            let done = self.step();
            self.survive(done)?;
        }
        self.settle()?;
        let tally = self.promises.tally;
        self.summary.copies = tally.copies;
        self.summary.second_copies = tally.second_copies;
        self.summary.cancelled_abandoned = tally.cancelled_abandoned;
        Ok(self.summary)
    }

    fn step(&mut self) -> Result<(), Stop> {
        if self.live.is_none() {
            return self.open();
        }
        let millis = self.rng.random_range(0..20);
        self.pass(Duration::from_millis(millis));
        if self.rng.random_range(0..100) < 25 * self.settings.cancels_per_message {
            return self.race();
        }
        match self.rng.random_range(0..1000) {
            0..170 => self.accept(),
            170..390 => self.schedule()?,
            390..590 => self.write()?,
            590..720 => self.load()?,
            720..870 => self.answer()?,
            870..900 => self.answer_question(),
            900..910 => self.straggle()?,
            910..930 => self.cancel()?,
            930..940 => self.reschedule()?,
            940..955 => self.tick()?,
            955..970 => self.let_time_pass(),
            970..973 => self.set_clock(),
            973..980 => self.change_group(),
            980..985 => self.end(End::PowerCut),
            985..989 => self.end(End::Kill),
            989..992 => {
                self.rest()?;
                self.end(End::Close);
            }
            992..995 => self.run_full(),
            _ => self.fs.cut_after(self.rng.random_range(1..30)),
        }
        Ok(())
    }

    /// Ends the server when a call failed.
    fn survive(&mut self, done: Result<(), Stop>) -> Result<(), Broken> {
        match done {
            Ok(()) => Ok(()),
            Err(Stop::Broken(broken)) => Err(broken),
            Err(Stop::Crashed) if self.fs.power_is_off() => {
                self.crash();
                Ok(())
            }
            Err(Stop::Crashed) => Err(Broken("the store refuses to go on".to_owned())),
        }
    }

    fn now(&self) -> UnixMillis {
        self.clock.now()
    }

    fn pass(&mut self, time: Duration) {
        self.clock.advance(time);
        self.moment += time;
    }

    fn let_time_pass(&mut self) {
        let millis = match self.rng.random_range(0..100) {
            0..60 => 20..3_000,
            60..90 => 3_000..120_000,
            90..98 => 120_000..1_200_000,
            _ => 1_200_000..100_000_000,
        };
        let millis = self.rng.random_range(millis);
        self.pass(Duration::from_millis(millis));
    }

    /// Somebody sets the clock, forward or back.
    fn set_clock(&mut self) {
        let millis = self.rng.random_range(100..7_200_000);
        let now = self.now();
        if self.rng.random() {
            self.clock.advance(Duration::from_millis(millis));
        } else {
            self.promises.clock_set_back(now);
            let millis = i64::try_from(millis).expect("two hours");
            self.clock.set(UnixMillis(now.0 - millis));
        }
        self.summary.clock_steps += 1;
    }

    /// The disk is nearly full, or there is room again.
    fn run_full(&mut self) {
        let room = self.rng.random_range(0..3000);
        let is_full = self.rng.random_range(0..3) == 0;
        self.fs
            .limit_space(is_full.then_some(self.fs.used() + room));
    }

    fn schedule(&mut self) -> Result<(), Stop> {
        let (now, moment) = (self.now(), self.moment);
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        for output in live.schedule(now, moment) {
            match output {
                Output::AskRoute { subject } => self.questions.push_back(subject),
                Output::Send {
                    request,
                    group,
                    entries,
                    attempt,
                } => self.depart((request, attempt), &group, &entries)?,
                Output::Begin { .. } | Output::Confirm { .. } | Output::Refuse { .. } => {}
            }
        }
        Ok(())
    }

    fn load(&mut self) -> Result<(), Stop> {
        let (now, moment) = (self.now(), self.moment);
        match &mut self.live {
            Some(live) => Ok(live.load(now, moment)?),
            None => Ok(()),
        }
    }

    fn tick(&mut self) -> Result<(), Stop> {
        self.rest()?;
        let now = self.now();
        match &mut self.live {
            Some(live) => Ok(live.tick(now)?),
            None => Ok(()),
        }
    }

    fn end(&mut self, end: End) {
        let Some(live) = self.live.take() else {
            return;
        };
        self.count(&live);
        match end {
            End::PowerCut => {
                self.doubt(live.into_begun());
                self.lose_power();
            }
            End::Kill => {
                self.doubt(live.into_begun());
                self.fs.kill();
                self.summary.kills += 1;
                self.promises.stopped(false);
            }
            End::Close => match live.close() {
                Ok(()) => {
                    self.summary.reopened += 1;
                    self.promises.stopped(false);
                }
                Err(Crashed) => self.lose_power(),
            },
        }
        self.forget_the_link();
    }

    /// The power failed in the middle of a call: what the writer was at may be done or not.
    fn crash(&mut self) {
        if let Some(live) = self.live.take() {
            self.count(&live);
            self.doubt(live.into_jobs());
        }
        self.lose_power();
        self.forget_the_link();
    }

    /// These may be done or not.
    fn doubt(&mut self, jobs: impl IntoIterator<Item = Job>) {
        for job in jobs {
            match job {
                Job::Confirm(entries) => self.doubt_confirmed(&entries),
                Job::Cancel(number, _) => self.promises.doubt_cancel(number),
                Job::Move(number, _, due) => self.promises.doubt_move(number, due),
                Job::Accept(_) | Job::Begin { .. } | Job::Refuse(_) => {}
            }
        }
    }

    fn lose_power(&mut self) {
        self.fs.power_cut(self.rng.random());
        self.summary.power_cuts += 1;
        self.promises.stopped(true);
    }

    fn count(&mut self, live: &Live) {
        self.summary.abandoned += live.dispatch.counts().abandoned;
        self.summary.left += live.dispatch.left_count();
    }

    /// Nobody waits for answers any more; what is under way may arrive.
    fn forget_the_link(&mut self) {
        self.questions.clear();
        for flight in std::mem::take(&mut self.flights) {
            let numbers = flight.numbers().map(|number| (flight.group(), number));
            self.stragglers.extend(numbers);
        }
    }

    fn open(&mut self) -> Result<(), Stop> {
        // Somebody made room before starting it.
        self.fs.limit_space(None);
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let fs = Arc::new(self.fs.clone());
        let ours = (self.rng.random(), self.settings.sabotage);
        let (live, begun) = match Live::open(fs, self.store_config(), clock, ours) {
            Ok(opened) => opened,
            Err(_) if self.fs.power_is_off() => return Err(Stop::Crashed),
            Err(error) => return Err(Broken(format!("the store does not open: {error}")).into()),
        };
        self.live = Some(live);
        self.resume(&begun)
    }

    /// What was begun before is sent to the same groups again.
    fn resume(&mut self, begun: &[Begun]) -> Result<(), Stop> {
        let mut found = BTreeMap::new();
        for begun in begun {
            let number = self.number_of(&begun.entry)?;
            found.insert(number, self.group(&begun.group));
        }
        self.promises.found_begun(&found)?;
        let is_forgotten = self.settings.sabotage == DelaySabotage::ForgetBegun;
        if let Some(live) = &mut self.live
            && !is_forgotten
        {
            for begun in begun {
                live.dispatch
                    .resume(&begun.group, &[begun.entry], self.moment);
            }
        }
        for group in 0..self.brokers.len() {
            if self.brokers[group].is_dead {
                self.bury(group);
            }
        }
        Ok(())
    }

    fn store_config(&self) -> DelayConfig {
        DelayConfig {
            group_name: "sim".to_owned(),
            message_segment_bytes: 8192,
            dispatch_segment_bytes: 2048,
            zero_ahead_bytes: 1024,
            commit_slots: 64,
            checkpoint_retain: 2,
            run_bytes: 4000,
            tables_kept: [0, 1, 3][(self.settings.seed % 3) as usize],
            background: Background::Inline,
            sabotage: self.settings.sabotage.of_the_store(),
            ..DelayConfig::default()
        }
    }
}
