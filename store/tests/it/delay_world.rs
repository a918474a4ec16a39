//! A delay store on the faulty file system under random load, beside a plain model of what it
//! promised. Checks return what they find broken, so that sabotage tests can ask for it.

mod message;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use qmq_model::{Clock, ManualClock, Subject, UnixMillis};
use qmq_store::{
    Background, Begun, CancelAnswer, DelayConfig, DelayOpened, DelayReadError, DelayReader,
    DelaySabotage, DelayStore, DelayWriter, EntryState, FaultyFs, FlushMode, Found, NewDelayed,
    Pending, RescheduleAnswer,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use self::message::{Fate, InCommit, Message};
use crate::world::{Checked, End, Trouble, ensure, stopped};

const SUBJECTS: [&str; 3] = ["order.changed", "订单.创建", "s"];
const GROUPS: [&str; 3] = ["brokerGroup1", "brokerGroup2", "组3"];
const MINUTE: i64 = 60_000;
/// Longer than any message of a test is away.
pub(crate) const FAR: UnixMillis = UnixMillis(i64::MAX);

/// A payload as on the wire, with this much of a body.
pub(crate) fn payload(subject: &str, id: &str, body: usize) -> Bytes {
    let mut out = vec![2];
    out.extend_from_slice(&[0; 16]);
    for text in [subject, id] {
        out.extend_from_slice(&u16::try_from(text.len()).unwrap().to_be_bytes());
        out.extend_from_slice(text.as_bytes());
    }
    out.extend_from_slice(&u32::try_from(body).unwrap().to_be_bytes());
    out.resize(out.len() + body, 7);
    out.into()
}

/// A message to accept.
pub(crate) fn delayed(subject: &str, id: &str, due: i64, body: usize) -> NewDelayed {
    let payload = payload(subject, id, body);
    NewDelayed {
        subject: Subject::new(subject).unwrap(),
        due: UnixMillis(due),
        crc: crc32fast_of(&payload),
        payload,
    }
}

/// The store does not look at this checksum: any number that follows from the bytes will do.
fn crc32fast_of(payload: &[u8]) -> u32 {
    payload.iter().fold(7, |sum: u32, byte| {
        sum.wrapping_mul(31).wrapping_add(u32::from(*byte))
    })
}

pub(crate) fn config() -> DelayConfig {
    DelayConfig {
        group_name: "delay1".into(),
        message_segment_bytes: 4096,
        dispatch_segment_bytes: 2048,
        zero_ahead_bytes: 2048,
        commit_slots: 64,
        checkpoint_retain: 2,
        run_bytes: 2000,
        tables_kept: 0,
        cache_bytes: 512 << 10,
        background: Background::Inline,
        ..DelayConfig::default()
    }
}

pub(crate) struct DelayWorld {
    pub(crate) fs: FaultyFs,
    pub(crate) rng: SmallRng,
    pub(crate) config: DelayConfig,
    pub(crate) clock: ManualClock,
    store: Option<(DelayWriter, DelayReader)>,
    messages: BTreeMap<u64, Message>,
    /// Numbers that were ever handed out and visible.
    used: HashSet<u64>,
    ids: u64,
}

impl DelayWorld {
    pub(crate) fn new(seed: u64, flush: FlushMode) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        // Any time of day, and any day of the 30 that runs are cut by.
        let begin = rng.random_range(1_000..100_000) * MINUTE;
        Self {
            fs: FaultyFs::new(seed),
            rng,
            config: DelayConfig {
                flush,
                // World 1 writes runs as soon as it can.
                tables_kept: [3, 0, 1, 0][(seed % 4) as usize],
                ..config()
            },
            clock: ManualClock::at(UnixMillis(begin)),
            store: None,
            messages: BTreeMap::new(),
            used: HashSet::new(),
            ids: 0,
        }
    }

    pub(crate) fn sabotaged(seed: u64, sabotage: DelaySabotage) -> Self {
        let mut world = Self::new(seed, FlushMode::Sync);
        world.config.sabotage = sabotage;
        world
    }

    pub(crate) fn try_open(&self) -> Result<DelayOpened, qmq_store::Error> {
        let fs = Arc::new(self.fs.clone());
        let clock = Arc::new(self.clock.clone());
        DelayStore::open(fs, &PathBuf::from("/delay"), self.config.clone(), clock)
    }

    /// Opens the store and checks it against the model.
    pub(crate) fn open(&mut self, end: End) -> Checked {
        let opened = self.try_open().map_err(stopped)?;
        self.check_opened(opened, end)
    }

    /// Goes on with a store that was opened, without a look at the model.
    pub(crate) fn adopt_store(&mut self, opened: DelayOpened) {
        self.store = Some((opened.writer, opened.reader));
    }

    pub(crate) fn check_opened(&mut self, opened: DelayOpened, end: End) -> Checked {
        let DelayOpened {
            writer,
            reader,
            begun,
            report,
        } = opened;
        self.store = Some((writer, reader));
        ensure!(report.damage_count == 0, "damage: {:?}", report.damages);
        self.adopt(end, &begun)?;
        self.check()
    }

    pub(crate) fn writer(&mut self) -> &mut DelayWriter {
        &mut self.store.as_mut().expect("the store is open").0
    }

    pub(crate) fn reader(&self) -> &DelayReader {
        &self.store.as_ref().expect("the store is open").1
    }

    /// Ends the life of the store.
    pub(crate) fn end(&mut self, end: End) -> Checked {
        let (writer, _) = self.store.take().expect("the store is open");
        match end {
            End::Close => {
                self.settle();
                writer.close().map_err(stopped)?;
            }
            End::Kill => {
                drop(writer);
                self.fs.kill();
            }
            End::PowerCut => {
                drop(writer);
                self.cut_power();
            }
        }
        Ok(())
    }

    pub(crate) fn cut_power(&mut self) {
        let seed = self.rng.random();
        self.fs.power_cut(seed);
    }

    /// Takes over what a restart made of everything uncertain, if it may have.
    fn adopt(&mut self, end: End, begun: &[Begun]) -> Checked {
        let ids: Vec<u64> = self.messages.keys().copied().collect();
        for number in ids {
            let message = self.messages[&number].clone();
            let found = self.found(&message)?;
            let allowed = match end {
                End::Close => vec![message.fate.clone()],
                End::Kill => message.since_commit.clone(),
                End::PowerCut => message.since_durable.clone(),
            };
            let fate = match found.map(|found| found.state) {
                None if !message.is_acked || (end == End::PowerCut && !message.is_durable) => {
                    self.messages.remove(&number);
                    self.used.remove(&number);
                    continue;
                }
                None => {
                    ensure!(allowed.iter().any(Fate::is_done), "lost: {message:?}");
                    // Its key is worth nothing any more.
                    self.messages.remove(&number);
                    continue;
                }
                Some(EntryState::Pending) => Fate::Pending,
                Some(EntryState::Delivered) => Fate::Delivered,
                Some(EntryState::Cancelled) => Fate::Cancelled,
                Some(EntryState::Expired) => {
                    return Err(Trouble::Broken(format!("expired: {message:?}")));
                }
                Some(EntryState::Dispatching) => {
                    let of = |begun: &&Begun| begun.entry == message.entry;
                    let Some(begun) = begun.iter().find(of) else {
                        return Err(Trouble::Broken(format!("not listed as begun: {message:?}")));
                    };
                    let group = GROUPS.into_iter().find(|group| **group == *begun.group);
                    Fate::Begun(group.expect("a group of this test"))
                }
            };
            ensure!(
                allowed.contains(&fate),
                "{fate:?} after {end:?}, allowed are {allowed:?}: {message:?}"
            );
            let message = self.messages.get_mut(&number).expect("it was there");
            message.fate = fate;
            message.is_acked = true;
        }
        self.settle();
        Ok(())
    }

    /// Everything is durable as it is.
    fn settle(&mut self) {
        for message in self.messages.values_mut() {
            message.since_durable = vec![message.fate.clone()];
            message.since_commit = vec![message.fate.clone()];
            message.is_durable = true;
            message.is_acked = true;
        }
    }

    fn found(&self, message: &Message) -> Checked<Option<Found>> {
        let subject = Subject::new(message.subject).unwrap();
        let found = self.reader().find(&subject, message.id.as_bytes());
        let found = found.map_err(stopped)?;
        Ok(found
            .into_iter()
            .find(|found| found.entry.sequence == message.entry.sequence))
    }

    /// Everything the readers say is what the model says.
    pub(crate) fn check(&self) -> Checked {
        let visible = || self.messages.values().filter(|message| message.is_acked);
        let mut expected: Vec<Pending> = visible()
            .filter(|message| message.fate == Fate::Pending)
            .map(|message| message.entry)
            .collect();
        expected.sort_by_key(|entry| (entry.due, entry.sequence));
        let mut loaded = Vec::new();
        let mut resume = None;
        loop {
            let from = UnixMillis(0);
            resume = self
                .reader()
                .load(from, FAR, resume, 7, &mut loaded)
                .map_err(stopped)?;
            if resume.is_none() {
                break;
            }
        }
        ensure!(
            loaded == expected,
            "loaded {loaded:?} instead of {expected:?}"
        );
        let mut read = Vec::new();
        self.reader().read(&loaded, &mut read);
        for (entry, read) in loaded.iter().zip(read) {
            let message = &self.messages[&entry.sequence.0];
            let read = read.map_err(|error| match error {
                DelayReadError::Failed(error) => stopped(error),
                error => Trouble::Broken(error.to_string()),
            })?;
            ensure!(
                read.payload == message.payload && read.subject.as_str() == message.subject,
                "read {read:?} instead of {message:?}"
            );
        }
        let not_done = visible().filter(|message| !message.fate.is_done()).count() as u64;
        let counted = self
            .reader()
            .count(None, UnixMillis(0)..FAR)
            .map_err(stopped)?;
        ensure!(
            counted == not_done,
            "{counted} counted, {not_done} are there"
        );
        let unseen = self
            .messages
            .values()
            .filter(|message| !message.is_acked)
            .count() as u64;
        let stats = self.reader().stats();
        ensure!(
            stats.pending == not_done + unseen,
            "{stats:?} but {not_done} are there"
        );
        Ok(())
    }

    /// Random calls, with checks in between.
    pub(crate) fn load(&mut self, steps: usize) -> Checked {
        for _ in 0..steps {
            match self.rng.random_range(0..100) {
                0..35 => self.accept()?,
                35..55 => self.begin()?,
                55..70 => self.answer()?,
                70..77 => self.cancel()?,
                77..83 => self.reschedule()?,
                83..86 => {
                    self.writer().checkpoint().map_err(stopped)?;
                    self.settle_written();
                }
                86..90 => self.check()?,
                _ => self.rest()?,
            }
        }
        self.commit()
    }

    /// Lets time pass.
    pub(crate) fn rest(&mut self) -> Checked {
        self.clock
            .advance(Duration::from_millis(self.rng.random_range(0..90_000)));
        let now = self.clock.now();
        self.writer().tick(now).map_err(stopped)?;
        Ok(())
    }

    /// Random calls on a full disk: what is refused for lack of room is no trouble.
    pub(crate) fn load_refused(&mut self, steps: usize) -> Checked {
        for _ in 0..steps {
            match self.load(1) {
                Err(Trouble::Stopped(why)) if why.contains("no space") => {}
                loaded => loaded?,
            }
        }
        Ok(())
    }

    /// What was appended since the last commit may be there or not, whatever was answered.
    pub(crate) fn forget_what_the_commit_said(&mut self) {
        for message in self.messages.values_mut() {
            message.since_durable.extend(message.since_commit.clone());
        }
    }

    fn accept(&mut self) -> Checked {
        self.append_new()?;
        self.commit_perhaps()
    }

    fn append_new(&mut self) -> Checked {
        let count = self.rng.random_range(1..6);
        let mut new = Vec::new();
        for _ in 0..count {
            let subject = SUBJECTS[self.rng.random_range(0..SUBJECTS.len())];
            // Now and then an id comes twice.
            if self.rng.random_bool(0.9) {
                self.ids += 1;
            }
            let id = format!("id-{}", self.ids);
            let due = self.clock.now().0 + self.rng.random_range(-MINUTE..200_000 * MINUTE);
            let body = self.rng.random_range(0..120);
            new.push((subject, id.clone(), delayed(subject, &id, due, body)));
        }
        let messages: Vec<NewDelayed> = new.iter().map(|(_, _, new)| new.clone()).collect();
        let mut placed = Vec::new();
        self.writer()
            .accept(&messages, &mut placed)
            .map_err(stopped)?;
        for ((subject, id, new), entry) in new.into_iter().zip(placed) {
            self.put(entry, subject, id, new.payload)?;
        }
        Ok(())
    }

    fn put(
        &mut self,
        entry: Pending,
        subject: &'static str,
        id: String,
        payload: Bytes,
    ) -> Checked {
        let number = entry.sequence.0;
        ensure!(!self.used.contains(&number), "number {number} comes again");
        let message = Message {
            entry,
            subject,
            id,
            payload,
            fate: Fate::Pending,
            since_durable: vec![Fate::Pending],
            since_commit: vec![Fate::Pending],
            is_acked: false,
            is_durable: false,
        };
        self.messages.insert(number, message);
        Ok(())
    }

    fn commit_perhaps(&mut self) -> Checked {
        if self.rng.random_bool(0.7) {
            self.commit()?;
        }
        Ok(())
    }

    /// Commits; now and then more is appended between the halves of it.
    pub(crate) fn commit(&mut self) -> Checked {
        let waits = self.writer().begin_commit().map_err(stopped)?;
        let begun: Vec<InCommit> = self.messages.iter().map(InCommit::of).collect();
        let mut appended = Ok(());
        if self.rng.random_bool(0.3) {
            if waits && self.rng.random_bool(0.7) {
                self.writer().start_sync().map_err(stopped)?;
            }
            appended = self.append_new();
        }
        self.writer().finish_commit().map_err(stopped)?;
        self.settle_committed(begun);
        appended
    }

    /// A commit of these returned.
    fn settle_committed(&mut self, begun: Vec<InCommit>) {
        for begun in begun {
            let message = self.messages.get_mut(&begun.number);
            let message = message.expect("messages of the model stay");
            message.is_acked = true;
            self.used.insert(begun.number);
            message.since_commit.drain(..begun.since_commit - 1);
            // What a broker answered is synced later.
            let is_lazy = matches!(begun.fate, Fate::Delivered)
                || (begun.fate == Fate::Pending && begun.since_durable > 1);
            if !is_lazy && self.config.flush == FlushMode::Sync {
                message.is_durable = true;
                message.since_durable.drain(..begun.since_durable - 1);
            }
        }
    }

    /// Everything that was appended is durable, although not visible perhaps.
    fn settle_written(&mut self) {
        for message in self.messages.values_mut() {
            message.since_commit = vec![message.fate.clone()];
            message.since_durable = vec![message.fate.clone()];
            message.is_durable = true;
        }
    }

    fn change(&mut self, number: u64, fate: Fate) {
        let message = self
            .messages
            .get_mut(&number)
            .expect("a message of the model");
        message.since_durable.push(fate.clone());
        message.since_commit.push(fate.clone());
        message.fate = fate;
    }

    /// Some visible messages.
    fn choose(&mut self, count: usize, is_wanted: impl Fn(&Fate) -> bool) -> Vec<Pending> {
        let of = |message: &&Message| message.is_acked && is_wanted(&message.fate);
        let mut all: Vec<Pending> = self
            .messages
            .values()
            .filter(of)
            .map(|of| of.entry)
            .collect();
        let mut chosen = Vec::new();
        while chosen.len() < count && !all.is_empty() {
            let at = self.rng.random_range(0..all.len());
            chosen.push(all.swap_remove(at));
        }
        chosen
    }

    fn begin(&mut self) -> Checked {
        let group = GROUPS[self.rng.random_range(0..GROUPS.len())];
        // Those that may not be begun are passed over.
        let count = self.rng.random_range(1..40);
        let wanted = self.choose(count, |_| true);
        let mut accepted = Vec::new();
        self.writer()
            .begin(group, &wanted, &mut accepted)
            .map_err(stopped)?;
        let is_pending = |entry: &&Pending| {
            let message = &self.messages[&entry.sequence.0];
            message.fate == Fate::Pending
        };
        let expected: Vec<Pending> = wanted.iter().filter(is_pending).copied().collect();
        ensure!(
            accepted == expected,
            "begun {accepted:?} instead of {expected:?}"
        );
        for entry in accepted {
            self.change(entry.sequence.0, Fate::Begun(group));
        }
        self.commit_perhaps()
    }

    /// Brokers answer.
    fn answer(&mut self) -> Checked {
        let count = self.rng.random_range(1..60);
        let begun = self.choose(count, |fate| matches!(fate, Fate::Begun(_)));
        let sequences: Vec<_> = begun.iter().map(|entry| entry.sequence).collect();
        let is_confirmed = self.rng.random_bool(0.8);
        let writer = self.writer();
        let fate = if is_confirmed {
            writer.confirm(&sequences).map_err(stopped)?;
            Fate::Delivered
        } else {
            writer.refuse(&sequences).map_err(stopped)?;
            Fate::Pending
        };
        for sequence in sequences {
            self.change(sequence.0, fate.clone());
        }
        self.commit_perhaps()
    }

    fn cancel(&mut self) -> Checked {
        for entry in self.choose(3, |_| true) {
            let message = self.messages[&entry.sequence.0].clone();
            let Some(found) = self.found(&message)? else {
                ensure!(message.fate.is_done(), "not found: {message:?}");
                continue;
            };
            let answer = self.writer().cancel(&found).map_err(stopped)?;
            let expected = match &message.fate {
                Fate::Pending => CancelAnswer::Cancelled,
                Fate::Begun(_) => CancelAnswer::Dispatching,
                Fate::Delivered => CancelAnswer::Delivered,
                Fate::Cancelled => CancelAnswer::AlreadyCancelled,
                Fate::Moved => CancelAnswer::Moved,
            };
            ensure!(answer == expected, "{answer:?} for {message:?}");
            if answer == CancelAnswer::Cancelled {
                self.change(entry.sequence.0, Fate::Cancelled);
            }
        }
        self.commit_perhaps()
    }

    fn reschedule(&mut self) -> Checked {
        for entry in self.choose(2, |_| true) {
            let message = self.messages[&entry.sequence.0].clone();
            let Some(found) = self.found(&message)? else {
                ensure!(message.fate.is_done(), "not found: {message:?}");
                continue;
            };
            let due = UnixMillis(self.clock.now().0 + self.rng.random_range(0..9_000 * MINUTE));
            let answer = self.writer().reschedule(&found, due).map_err(stopped)?;
            match (answer, &message.fate) {
                (RescheduleAnswer::Rescheduled(new), Fate::Pending) => {
                    ensure!(new.due == due, "due at {} instead of {due}", new.due);
                    self.change(entry.sequence.0, Fate::Moved);
                    let (subject, id) = (message.subject, message.id.clone());
                    self.put(new, subject, id, message.payload)?;
                    // Both or none: a commit in between would let them be judged one by one.
                    self.commit()?;
                }
                (
                    RescheduleAnswer::NotPending(_) | RescheduleAnswer::Unknown,
                    Fate::Begun(_) | Fate::Delivered | Fate::Cancelled | Fate::Moved,
                ) => {}
                (answer, _) => {
                    return Err(Trouble::Broken(format!("{answer:?} for {message:?}")));
                }
            }
        }
        Ok(())
    }
}
