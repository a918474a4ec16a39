//! A store on the faulty file system under random load, and everything that was promised about
//! it. Checks return what they find broken, so that sabotage tests can ask for it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use qmq_model::{Clock, ManualClock, UnixMillis};
use qmq_store::{
    Background, FaultyFs, FlushMode, LogKind, NewMessage, Opened, PULL_SEQUENCE_JUMP,
    RealtimeStore, RecoveryReport, Retention, Sabotage, StoreConfig, StoreReader, StoreWriter,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::groups::{Change, Groups};

pub(crate) const SUBJECTS: [&str; 4] =
    ["order.changed", "订单.创建", "s", "%RETRY%order.changed%g1"];

/// What a check found broken, or why the load stopped.
pub(crate) enum Trouble {
    /// A promise is broken.
    Broken(String),
    /// The store returned an error.
    Stopped(String),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Broken(what) => write!(f, "broken: {what}"),
            Self::Stopped(why) => write!(f, "stopped: {why}"),
        }
    }
}

pub(crate) type Checked<T = ()> = Result<T, Trouble>;

macro_rules! ensure {
    ($holds:expr, $($text:tt)*) => {
        if !$holds {
            return Err($crate::world::Trouble::Broken(format!($($text)*)));
        }
    };
}
pub(crate) use ensure;

pub(crate) fn stopped(error: impl std::fmt::Display) -> Trouble {
    Trouble::Stopped(error.to_string())
}

/// How a life of the store ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Close,
    Kill,
    PowerCut,
}

/// Which controls a load makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Controls {
    All,
    /// No group goes back: else a message is handed out twice, and what one of its pull sequences
    /// is owed the other may have confirmed.
    Forward,
    /// None: they stand only in checkpoints once they are old.
    Never,
}

#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) subject: &'static str,
    pub(crate) sequence: i64,
    pub(crate) payload: Bytes,
    /// End of its record in the log.
    pub(crate) end: u64,
    /// When it was appended.
    pub(crate) time: UnixMillis,
}

impl Message {
    /// Its record in the log.
    pub(crate) fn range(&self) -> Range<u64> {
        let bytes = 35 + self.subject.len() + self.payload.len();
        self.end - bytes as u64..self.end
    }
}

/// What was appended since the store was opened.
#[derive(Default)]
pub(crate) struct Fresh {
    pub(crate) messages: Vec<Message>,
    /// How many of them were acknowledged: their commit returned.
    pub(crate) messages_acked: usize,
    /// Actions and controls, each with the end of the actionlog behind it; a control that was not
    /// acknowledged has the highest number instead.
    pub(crate) actions: Vec<(Change, u64)>,
    pub(crate) actions_acked: usize,
}

pub(crate) struct World {
    pub(crate) fs: FaultyFs,
    pub(crate) rng: SmallRng,
    pub(crate) config: StoreConfig,
    pub(crate) clock: ManualClock,
    store: Option<Opened>,
    /// In the store for sure, in the order of the log.
    pub(crate) kept: Vec<Message>,
    pub(crate) groups: Groups,
    pub(crate) fresh: Fresh,
    /// Everything that was ever sent, appended or not.
    pub(crate) sent: Vec<(NewMessage, &'static str)>,
    /// Behind the messages of each subject that have expired.
    pub(crate) expired: BTreeMap<&'static str, i64>,
    /// Behind the highest pull sequence each consumer was told of.
    pub(crate) handed: BTreeMap<(String, String, String), i64>,
    pub(crate) counter: u64,
    /// Durable positions when the last life ended, and how often pull sequences may have been
    /// raised since: once by every opening, finished or not.
    durable: [u64; 2],
    raises_max: i64,
    ended: End,
    /// Sequences may have been skipped or used again: after a power cut in async mode.
    pub(crate) has_gaps: bool,
    /// The disk may be full: refusals are expected, and counted.
    pub(crate) is_full: bool,
    pub(crate) refused: usize,
    /// Whether nothing is ever half done when a checkpoint is due, as in a broker.
    pub(crate) commits_before_ticks: bool,
    pub(crate) controls: Controls,
    pub(crate) report: RecoveryReport,
}

pub(crate) fn root() -> PathBuf {
    PathBuf::from("/data/store")
}

/// So short that the passing of time in a load leaves it.
pub(crate) const DUPLICATE_WINDOW: Duration = Duration::from_secs(100);

/// A configuration with everything tiny, so that a short load crosses all borders.
pub(crate) fn config(rng: &mut SmallRng, flush: FlushMode) -> StoreConfig {
    StoreConfig {
        group_name: "g".into(),
        flush,
        message_segment_bytes: [1500, 4096, 8192][rng.random_range(0..3)],
        action_segment_bytes: [1024, 1100, 4096][rng.random_range(0..3)],
        zero_ahead_bytes: [64, 512, 1000, 5000][rng.random_range(0..4)],
        commit_slots: 64,
        checkpoint_retain: 3,
        recent_bytes_max: 4096,
        duplicate_window: DUPLICATE_WINDOW,
        duplicate_bytes_max: 1 << 20,
        // Most stores go through many runs and merges, some keep everything in memory.
        index_run_bytes: [300, 1000, 3000, 1 << 20][rng.random_range(0..4)],
        index_cache_bytes: 512 << 10,
        retention: None,
        scrub_bytes_per_second: [0, 3000, 1 << 20][rng.random_range(0..3)],
        background: Background::Inline,
        sabotage: Sabotage::None,
    }
}

impl World {
    pub(crate) fn new(seed: u64, flush: FlushMode) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let config = config(&mut rng, flush);
        Self {
            fs: FaultyFs::new(seed),
            rng,
            config,
            clock: ManualClock::at(UnixMillis(1_700_000_000_000)),
            store: None,
            kept: Vec::new(),
            groups: Groups::default(),
            fresh: Fresh::default(),
            sent: Vec::new(),
            expired: BTreeMap::new(),
            handed: BTreeMap::new(),
            counter: 0,
            durable: [0; 2],
            raises_max: 1,
            ended: End::Close,
            has_gaps: false,
            is_full: false,
            refused: 0,
            commits_before_ticks: false,
            controls: Controls::All,
            report: RecoveryReport::default(),
        }
    }

    pub(crate) fn try_open(&self) -> Result<Opened, qmq_store::Error> {
        let (fs, clock) = (Arc::new(self.fs.clone()), Arc::new(self.clock.clone()));
        RealtimeStore::open(fs, &root(), self.config.clone(), clock)
    }

    /// Opens the store and checks that everything promised is there.
    pub(crate) fn open(&mut self, after: End) -> Checked {
        let opened = self.try_open().map_err(stopped)?;
        self.check(opened, after)
    }

    pub(crate) fn check(&mut self, opened: Opened, after: End) -> Checked {
        self.report = opened.report.clone();
        self.forget_expired()?;
        self.check_messages(&opened.reader, after)?;
        self.check_groups(&opened, after)?;
        let damages = &opened.report.damages;
        ensure!(
            damages.is_empty() && opened.report.control_damages == 0,
            "damage reported after {after:?}: {damages:?}"
        );
        self.fresh = Fresh::default();
        self.store = Some(opened);
        Ok(())
    }

    /// Lets messages be dropped after some minutes of this world.
    pub(crate) fn with_retention(&mut self) {
        // The window against repeats never outlives what it speaks of.
        let age = DUPLICATE_WINDOW + Duration::from_secs(self.rng.random_range(5..100));
        self.config.retention = self.rng.random_bool(0.7).then_some(Retention {
            messages: age,
            actions: age,
            check_interval: Duration::from_secs(5),
        });
    }

    /// Whether a message is so old that it may be gone.
    pub(crate) fn may_be_gone(&self, message: &Message) -> bool {
        let age = self.clock.now().since(message.time);
        self.config
            .retention
            .is_some_and(|retention| age >= retention.messages)
    }

    /// Expects no more of what stood in front of the log's beginning.
    fn forget_expired(&mut self) -> Checked {
        let begin = self.report.messages.begin;
        let is_gone = |message: &Message| message.end <= begin;
        let kept = self
            .kept
            .iter()
            .take_while(|message| is_gone(message))
            .count();
        let fresh = &mut self.fresh;
        let new = fresh
            .messages
            .iter()
            .take_while(|message| is_gone(message))
            .count();
        fresh.messages_acked = fresh.messages_acked.saturating_sub(new);
        let gone: Vec<Message> = self
            .kept
            .drain(..kept)
            .chain(fresh.messages.drain(..new))
            .collect();
        for message in gone {
            ensure!(
                self.may_be_gone(&message),
                "{} {} was dropped too early",
                message.subject,
                message.sequence
            );
            self.expired.insert(message.subject, message.sequence + 1);
        }
        Ok(())
    }

    fn check_messages(&mut self, reader: &StoreReader, after: End) -> Checked {
        let fresh = std::mem::take(&mut self.fresh.messages);
        let found = read_all(reader, self.kept.len() + fresh.len())?;
        let required = self.kept.len() + self.fresh.messages_acked;
        let expected: Vec<Message> = self.kept.drain(..).chain(fresh).collect();
        let mut found_by_place = BTreeMap::new();
        for (subject, sequence, payload) in found {
            let earlier = found_by_place.insert((subject, sequence), payload);
            ensure!(earlier.is_none(), "sequence {sequence} is there twice");
        }
        for (number, message) in expected.into_iter().enumerate() {
            let place = (message.subject.to_owned(), message.sequence);
            let Some(payload) = found_by_place.get(&place) else {
                ensure!(number >= required, "lost {place:?} after {after:?}");
                ensure!(after != End::Close, "lost {place:?} by closing");
                // What was not promised may be gone, but only from the end.
                break;
            };
            ensure!(
                *payload == message.payload,
                "{place:?} holds another message"
            );
            found_by_place.remove(&place);
            self.kept.push(message);
        }
        ensure!(
            found_by_place.is_empty(),
            "unknown messages: {:?}",
            found_by_place.keys()
        );
        Ok(())
    }

    fn check_groups(&mut self, opened: &Opened, after: End) -> Checked {
        let found = Groups::of(&opened.progress);
        let raises = if opened.report.pull_sequences_raised {
            1..=self.raises_max
        } else {
            0..=0
        };
        let is = |state: &Groups| {
            raises
                .clone()
                .any(|raises| state.raised(raises * PULL_SEQUENCE_JUMP) == found)
        };
        let mut state = self.groups.clone();
        let mut is_found = self.fresh.actions_acked == 0 && is(&state);
        for ((change, _), number) in self.fresh.actions.iter().zip(1..) {
            state.take(change);
            is_found |= number >= self.fresh.actions_acked && is(&state);
        }
        ensure!(
            is_found,
            "progress is none of those possible after {after:?}: {found:?}"
        );
        for ((subject, group, consumer), end) in &self.handed {
            let group = found.0.get(&(subject.clone(), group.clone()));
            let state = group.and_then(|group| group.consumers.get(consumer));
            ensure!(
                state.is_some_and(|state| state.next_pull >= *end),
                "pull sequence of {consumer} below {end} after {after:?}"
            );
        }
        for ((subject, _), group) in &found.0 {
            let id = opened.reader.subject(subject);
            let end = id.map_or(0, |id| opened.reader.bounds(id).end.0);
            ensure!(end >= group.next, "{subject} ends at {end} before a group");
        }
        self.groups = found;
        Ok(())
    }

    pub(crate) fn store(&mut self) -> &mut Opened {
        self.store.as_mut().expect("the store is open")
    }

    pub(crate) fn writer(&mut self) -> &mut StoreWriter {
        &mut self.store().writer
    }

    /// Ends this life. What was durable or acknowledged by then must survive it.
    pub(crate) fn end(&mut self, end: End) -> Checked {
        let store = self.store.take().expect("the store is open");
        self.durable = LogKind::ALL.map(|kind| store.reader.positions(kind).durable);
        self.raises_max = 1;
        self.ended = end;
        match end {
            End::Close => {
                store.writer.close().map_err(stopped)?;
                self.fresh.messages_acked = self.fresh.messages.len();
                self.fresh.actions_acked = self.fresh.actions.len();
            }
            End::Kill => {
                drop(store);
                self.fs.kill();
            }
            End::PowerCut => {
                drop(store);
                self.cut_power();
            }
        }
        Ok(())
    }

    /// Takes the power away.
    pub(crate) fn cut_power(&mut self) {
        let seed = self.rng.random();
        self.fs.power_cut(seed);
        self.raises_max += 1;
        self.expect_only_durable();
    }

    /// What was only acknowledged, but not durable, may be gone.
    pub(crate) fn expect_only_durable(&mut self) {
        let [messages, actions] = self.durable;
        if self.config.flush != FlushMode::Sync {
            self.has_gaps = true;
            self.fresh.messages_acked = 0;
        }
        let durable = self
            .fresh
            .messages
            .iter()
            .take_while(|m| m.end <= messages)
            .count();
        self.fresh.messages_acked = self.fresh.messages_acked.max(durable);
        self.fresh.actions_acked = self
            .fresh
            .actions
            .iter()
            .take_while(|(_, end)| *end <= actions)
            .count();
    }

    /// Messages that are in the store for sure.
    pub(crate) fn kept(&self) -> &[Message] {
        &self.kept
    }

    /// Messages appended since the store was opened.
    pub(crate) fn fresh_messages(&self) -> &[Message] {
        &self.fresh.messages
    }

    /// An opening failed, perhaps after it had raised the pull sequences.
    pub(crate) fn raised_again(&mut self) {
        self.raises_max += 1;
    }

    /// Opens the store as it was left by [`Self::end`].
    pub(crate) fn reopen_after_end(&mut self) -> Checked {
        self.open(self.ended)
    }

    /// State of all groups when the store was opened.
    pub(crate) fn groups(&self) -> &Groups {
        &self.groups
    }

    /// Changes of groups since the store was opened, each with the end of the log behind it.
    pub(crate) fn changes(&self) -> &[(Change, u64)] {
        &self.fresh.actions
    }

    /// Lets nothing happen for so long that the durable positions are stated.
    pub(crate) fn rest(&mut self) -> Checked {
        for _ in 0..2 {
            self.clock.advance(Duration::from_secs(1));
            let now = self.clock.now();
            self.writer().tick(now).map_err(stopped)?;
        }
        Ok(())
    }
}

/// (subject, sequence, payload) of everything visible.
pub(crate) fn read_all(
    reader: &StoreReader,
    count_max: usize,
) -> Checked<Vec<(String, i64, Bytes)>> {
    let mut found = Vec::new();
    for subject in SUBJECTS {
        let Some(id) = reader.subject(subject) else {
            continue;
        };
        ensure!(
            reader.name(id).is_some_and(|name| name.as_str() == subject),
            "wrong name"
        );
        let mut located = Vec::new();
        let bounds = reader.bounds(id);
        let skipped =
            reader.locate_blocking(id, bounds.clone(), count_max + 1, usize::MAX, &mut located);
        let skipped = skipped.map_err(|error| Trouble::Broken(error.to_string()))?;
        ensure!(
            skipped.next == bounds.end,
            "{subject} holds more than was ever sent"
        );
        for at in located {
            let payload = reader.read(&at);
            let payload = payload.map_err(|error| Trouble::Broken(error.to_string()))?;
            found.push((subject.to_owned(), at.sequence.0, payload));
        }
    }
    Ok(found)
}

/// Segment of a log that holds `offset`, and where in it.
pub(crate) fn segment(log: LogKind, segment_bytes: u64, offset: u64) -> (PathBuf, u64) {
    let base = offset - offset % segment_bytes;
    (root().join(format!("{log}/{base:020}")), offset - base)
}
