//! (subject, sequence) -> position in the messagelog: the tail in memory, what is older in runs.

pub(crate) mod keeper;
mod lookup;
pub(crate) mod manifest;
pub(crate) mod quarantine;
pub(crate) mod tail;

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use qmq_model::{MessageOffset, MessageSequence, Subject, UnixMillis};

use crate::error::Error;
use crate::realtime::consumer_log::lookup::{Cold, Loading, Visit};
use crate::realtime::consumer_log::quarantine::Quarantine;
use crate::realtime::consumer_log::tail::{Part, Tail};
use crate::realtime::message_log::MessageItem;
use crate::run::cache::BlockCache;
use crate::run::{Blocks, Direct, Run};
use crate::tag_mask::TagMask;

/// A subject of this store, numbered in the order of first appearance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubjectId(pub u32);

/// Where a message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    /// Its subject.
    pub subject: SubjectId,
    /// Its number in the subject.
    pub sequence: MessageSequence,
    /// First byte of its record.
    pub offset: MessageOffset,
    /// Bytes of the whole record.
    pub bytes: u32,
    /// When it was appended, by the clock of the broker.
    pub time: UnixMillis,
    /// Which tags it may have.
    pub tags: TagMask,
}

impl Located {
    /// The record that stands at `range` of the messagelog.
    pub(crate) fn of(subject: SubjectId, range: &Range<u64>, item: &MessageItem) -> Self {
        Self {
            subject,
            sequence: item.sequence,
            offset: MessageOffset(range.start),
            bytes: u32::try_from(range.end - range.start).expect("smaller than a segment"),
            time: item.time,
            tags: item.tags,
        }
    }
}

/// What a look-up passed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Sequences that are void: no message ever had them, or it is not kept.
    pub missing: u64,
    /// Sequences of messages that are damaged on disk.
    pub quarantined: u64,
    /// First sequence that was not looked at: the end of the range, or where a limit was reached.
    pub next: MessageSequence,
    /// The look-up stopped at this sequence, which is `next`, because a block of the index is not
    /// in memory: [`StoreReader::load_index`](crate::StoreReader::load_index) brings it there.
    pub cold: Option<MessageSequence>,
}

/// Names of subjects and their numbers.
#[derive(Debug, Default)]
pub(crate) struct Subjects {
    ids: HashMap<Subject, SubjectId>,
    names: Vec<Subject>,
}

impl Subjects {
    pub(crate) fn id(&self, name: &str) -> Option<SubjectId> {
        self.ids.get(name).copied()
    }

    pub(crate) fn count(&self) -> usize {
        self.names.len()
    }

    pub(crate) fn name(&self, id: SubjectId) -> Option<&Subject> {
        self.names.get(id.0 as usize)
    }

    /// The number of a subject, and whether it is new.
    pub(crate) fn intern(&mut self, name: &Subject) -> (SubjectId, bool) {
        if let Some(id) = self.ids.get(name) {
            return (*id, false);
        }
        let id = SubjectId(u32::try_from(self.names.len()).expect("fewer than 2^32 subjects"));
        self.ids.insert(name.clone(), id);
        self.names.push(name.clone());
        (id, true)
    }
}

/// Limits of one look-up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) count_max: usize,
    pub(crate) bytes_max: usize,
}

/// Runs in the order of the log, each where the one before ends.
pub(crate) type Runs = Arc<Vec<Arc<Run>>>;

/// Index of all subjects. Locks are held for memory accesses only, never during IO.
pub(crate) struct ConsumerLog {
    pub(crate) subjects: RwLock<Subjects>,
    /// What no run covers yet.
    pub(crate) tail: Tail,
    runs: RwLock<Runs>,
    cache: BlockCache,
    /// First byte of the messagelog that is kept.
    oldest: AtomicU64,
    pub(crate) quarantine: Quarantine,
    /// Numbers of runs with blocks that cannot be read.
    damaged: Mutex<BTreeSet<u64>>,
}

impl ConsumerLog {
    /// An index with these live runs and an empty tail; everything in front of `oldest` is gone.
    pub(crate) fn new(runs: Vec<Arc<Run>>, oldest: u64, cache_bytes: usize) -> Self {
        Self {
            subjects: RwLock::default(),
            tail: Tail::default(),
            runs: RwLock::new(Arc::new(runs)),
            cache: BlockCache::new(cache_bytes),
            oldest: AtomicU64::new(oldest),
            quarantine: Quarantine::default(),
            damaged: Mutex::default(),
        }
    }

    /// The number of a subject, if it was ever stored.
    pub(crate) fn subject(&self, name: &str) -> Option<SubjectId> {
        self.subjects
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .id(name)
    }

    /// The number of a subject, and whether it is new.
    pub(crate) fn intern(&self, name: &Subject) -> (SubjectId, bool) {
        self.subjects
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .intern(name)
    }

    /// The live runs now. Who holds them may read them even after they were merged away.
    pub(crate) fn runs(&self) -> Runs {
        self.runs
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_runs(&self, runs: Vec<Arc<Run>>) {
        *self.runs.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(runs);
    }

    /// First byte of the messagelog that is kept.
    pub(crate) fn oldest(&self) -> u64 {
        self.oldest.load(Ordering::Relaxed)
    }

    pub(crate) fn set_oldest(&self, oldest: u64) {
        self.oldest.store(oldest, Ordering::Relaxed);
    }

    /// Behind the last byte of the messagelog that runs cover.
    pub(crate) fn covered(&self) -> u64 {
        let last = self.runs().last().map_or(0, |run| run.range().end);
        last.max(self.oldest())
    }

    /// First kept sequence and end; 0..0 for an unknown subject.
    pub(crate) fn bounds(&self, id: SubjectId) -> Range<i64> {
        self.tail.bounds(id)
    }

    /// Appends the positions of the messages in `range` to `out`, within `limits`. No IO.
    pub(crate) fn locate(
        &self,
        id: SubjectId,
        range: &Range<i64>,
        limits: Limits,
        out: &mut Vec<Located>,
    ) -> Skipped {
        let mut visit = Visit::new(id, range.start, limits, &self.quarantine, out);
        match self.look_up(range.end, &mut visit, &mut Cold(&self.cache)) {
            Ok(()) => {}
            Err(_) => visit.skipped.cold = Some(visit.skipped.next),
        }
        visit.skipped
    }

    /// Brings into memory what a look-up from `sequence` on needs first. Blocks.
    pub(crate) fn load(&self, id: SubjectId, sequence: i64) -> Result<(), Error> {
        let limits = Limits {
            count_max: 1,
            bytes_max: usize::MAX,
        };
        let mut out = Vec::new();
        let mut visit = Visit::new(id, sequence.max(0), limits, &self.quarantine, &mut out);
        let loaded = self.look_up(i64::MAX, &mut visit, &mut Loading(&self.cache));
        loaded.map_err(|(run, error)| self.note_damage(run, error))
    }

    /// Remembers that a run must be rebuilt, if that is what the error says.
    pub(crate) fn note_damage(&self, run: u64, error: Error) -> Error {
        if matches!(error, Error::Corrupt { .. }) {
            let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
            if damaged.insert(run) {
                tracing::error!(run, %error, "index run is damaged and will be rebuilt");
            }
        }
        error
    }

    /// Whether a run must be rebuilt.
    pub(crate) fn has_damaged(&self) -> bool {
        let damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        !damaged.is_empty()
    }

    /// The runs that must be rebuilt; they are not given out again.
    pub(crate) fn take_damaged(&self) -> BTreeSet<u64> {
        std::mem::take(&mut self.damaged.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn look_up<B: Blocks>(
        &self,
        end: i64,
        visit: &mut Visit<'_>,
        blocks: &mut B,
    ) -> Result<(), (u64, B::Miss)> {
        while let Part::Older(until) = self.tail.visit(end, visit) {
            // Taken behind the look at the tail: entries leave it when their run is live.
            let runs = self.runs();
            let oldest = self.oldest();
            let walked = lookup::walk(&runs, oldest, until, visit, blocks);
            match walked {
                Ok(true) => {}
                Ok(false) => break,
                Err(miss) => {
                    self.note_first(visit);
                    return Err(miss);
                }
            }
        }
        self.note_first(visit);
        Ok(())
    }

    fn note_first(&self, visit: &Visit<'_>) {
        if let Some(first) = visit.first_kept {
            self.tail.raise_first(visit.id, first);
        }
    }

    /// The first message that was appended at `time` or later; the end when there is none. Blocks.
    pub(crate) fn first_since(&self, id: SubjectId, time: UnixMillis) -> Result<i64, Error> {
        loop {
            let runs = self.runs();
            let first = self.bounds(id).start;
            let found = lookup::first_since(
                &runs,
                self.oldest(),
                id,
                first,
                time,
                &mut Direct::default(),
            )
            .map_err(|(run, error)| self.note_damage(run, error))?;
            let found = found.unwrap_or_else(|| self.tail.first_since(id, time));
            if Arc::ptr_eq(&runs, &self.runs()) {
                return Ok(found);
            }
        }
    }

    /// Behind the last sequence that runs in front of `before` hold; `None` without one. Blocks.
    pub(crate) fn next_before(&self, id: SubjectId, before: u64) -> Result<Option<i64>, Error> {
        for run in self
            .runs()
            .iter()
            .rev()
            .filter(|run| run.range().end <= before)
        {
            let row = run
                .row_before(id.0, i64::MAX, &mut Direct::default())
                .map_err(|error| self.note_damage(run.number(), error))?;
            if let Some(row) = row {
                return Ok(Some(row.end()));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
