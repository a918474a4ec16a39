//! Changes the set of live runs: a new one for the tail, a merged one for several, none for what
//! has expired.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use qmq_model::UnixMillis;

use crate::background::Retry;
use crate::checkpoint::Recent;
use crate::error::Error;
use crate::format::{MANIFEST, run_name};
use crate::log::segment::Segments;
use crate::realtime::consumer_log::manifest::Manifest;
use crate::realtime::consumer_log::tail::Tail;
use crate::realtime::consumer_log::{ConsumerLog, SubjectId};
use crate::realtime::restore::read_stretch;
use crate::run::builder::Place;
use crate::run::merge::merge;
use crate::run::tiers;
use crate::run::{Run, Walk};

/// Keeps the runs of one store. Its methods block and are called by the threads for it.
pub(crate) struct RunKeeper {
    place: Place,
    log: Arc<ConsumerLog>,
    segments: Arc<Segments>,
    /// Bytes of messagelog that the smallest runs cover.
    run_bytes: u64,
    manifest: Mutex<Manifest>,
    /// Messagelog offset that the newest durable checkpoint includes: runs in front of it survive
    /// every start.
    checkpointed: AtomicU64,
    recent: Recent,
    retry: Retry,
    is_stopped: Arc<AtomicBool>,
}

/// What a start found of the runs.
pub(crate) struct Loaded {
    /// Runs that can be used, in the order of the log.
    pub(crate) runs: Vec<Arc<Run>>,
    /// Stretches in front of the last run that no usable run covers.
    pub(crate) gaps: Vec<Range<u64>>,
    /// Runs that are named and cannot be used, and the manifest if it cannot be read.
    pub(crate) damaged: Vec<String>,
    pub(crate) manifest: Manifest,
}

/// Opens the live runs that end at or before `end`; those behind it are dropped.
pub(crate) fn load(place: &Place, end: u64, first_segment: u64) -> Result<Loaded, Error> {
    let found = Manifest::load(place.fs.as_ref(), &place.dir, place.store)?;
    let mut damaged = Vec::new();
    let mut manifest = found.unwrap_or_else(|| {
        damaged.push(MANIFEST.to_owned());
        Manifest {
            oldest: [first_segment, 0],
            ..Manifest::default()
        }
    });
    let mut runs: Vec<Arc<Run>> = Vec::new();
    let mut gaps = Vec::new();
    let mut at = manifest.oldest[0];
    for (number, range) in manifest
        .runs
        .drain(..)
        .filter(|(_, range)| range.end <= end)
    {
        match Run::open(place.fs.as_ref(), &place.dir, place.store, number, &range) {
            Ok(run) => {
                if at < range.start {
                    gaps.push(at..range.start);
                }
                at = range.end;
                runs.push(Arc::new(run));
            }
            Err(Error::Corrupt { what, .. }) => {
                tracing::error!(run = number, what, "index run cannot be used");
                damaged.push(run_name(number));
            }
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                tracing::error!(run = number, "index run is missing");
                damaged.push(run_name(number));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Loaded {
        runs,
        gaps,
        damaged,
        manifest,
    })
}

impl RunKeeper {
    pub(crate) fn new(
        place: Place,
        log: Arc<ConsumerLog>,
        segments: Arc<Segments>,
        run_bytes: u64,
        manifest: Manifest,
        is_stopped: Arc<AtomicBool>,
    ) -> Self {
        Self {
            place,
            log,
            segments,
            run_bytes,
            manifest: Mutex::new(manifest),
            checkpointed: AtomicU64::new(0),
            recent: Recent::default(),
            retry: Retry::default(),
            is_stopped,
        }
    }

    /// Bytes of messagelog that the smallest runs cover.
    pub(crate) fn run_bytes(&self) -> u64 {
        self.run_bytes
    }

    /// A checkpoint that includes these positions is durable; so many are kept.
    pub(crate) fn set_checkpointed(&self, positions: [u64; 2], retain: usize) {
        self.checkpointed.store(positions[0], Ordering::Relaxed);
        self.recent.push(positions, retain);
    }

    /// Positions of both logs that every checkpoint includes of the `retain` that are kept: any of
    /// them may be the newest that can be read. 0 until all of them were written since the store
    /// was opened.
    pub(crate) fn included(&self, retain: usize) -> [u64; 2] {
        self.recent.included(retain)
    }

    /// Behind the last byte of the messagelog that runs cover.
    pub(crate) fn covered(&self) -> u64 {
        self.log.covered()
    }

    /// States durably that what stands in front of `oldest` in each log is gone.
    pub(crate) fn forget_before(&self, oldest: [u64; 2]) -> Result<(), Error> {
        let before = self.log.runs();
        self.install(Vec::new(), &[], Some(oldest))?;
        for run in before.iter().filter(|run| run.range().end <= oldest[0]) {
            let mut walk = Walk::new(run);
            while let Some(row) = walk.next_row()? {
                self.log.tail.raise_first(SubjectId(row.subject), row.end());
            }
        }
        Ok(())
    }

    pub(crate) fn checkpointed(&self) -> u64 {
        self.checkpointed.load(Ordering::Relaxed)
    }

    fn next_number(&self) -> u64 {
        let mut manifest = self.manifest.lock().unwrap_or_else(PoisonError::into_inner);
        manifest.next_number += 1;
        manifest.next_number - 1
    }

    /// First kept bytes of both logs.
    pub(crate) fn oldest(&self) -> [u64; 2] {
        self.manifest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .oldest
    }

    /// Makes `new` live in the place of those numbered `replaced`, durably, with these first kept
    /// bytes. Runs in front of them go too.
    fn install(
        &self,
        new: Vec<Arc<Run>>,
        replaced: &[u64],
        oldest: Option<[u64; 2]>,
    ) -> Result<(), Error> {
        let mut manifest = self.manifest.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = oldest.unwrap_or(manifest.oldest);
        let before = self.log.runs();
        let is_out =
            |run: &Arc<Run>| replaced.contains(&run.number()) || run.range().end <= oldest[0];
        let mut runs: Vec<Arc<Run>> = before.iter().filter(|run| !is_out(run)).cloned().collect();
        runs.extend(new);
        runs.sort_by_key(|run| run.range().start);
        let changed = Manifest {
            oldest,
            next_number: manifest.next_number,
            runs: runs.iter().map(|run| (run.number(), run.range())).collect(),
        };
        let fs = self.place.fs.as_ref();
        changed.save(fs, &self.place.dir, self.place.store)?;
        *manifest = changed;
        self.log.set_oldest(oldest[0]);
        self.log.set_runs(runs);
        for run in before.iter().filter(|run| is_out(run)) {
            let path = self.place.dir.join(run_name(run.number()));
            if let Err(error) = fs.remove(&path) {
                // The next start removes what the manifest does not name.
                tracing::warn!(path = %path.display(), %error, "run that is not live stays");
            }
        }
        Ok(())
    }

    /// Writes the manifest as it is, and removes every file it does not name. To be called before
    /// anything else is done.
    pub(crate) fn begin(&self) -> Result<(), Error> {
        self.install(Vec::new(), &[], None)?;
        let Place { fs, dir, .. } = &self.place;
        let live: Vec<String> = self
            .log
            .runs()
            .iter()
            .map(|run| run_name(run.number()))
            .collect();
        for entry in fs
            .list(dir)
            .map_err(|error| Error::io("list", dir, error))?
        {
            if entry.name != MANIFEST && !live.contains(&entry.name) {
                let path = dir.join(entry.name);
                fs.remove(&path)
                    .map_err(|error| Error::io("remove", &path, error))?;
            }
        }
        Ok(())
    }

    /// Moves what stands in front of `end`, which is durable and between two records, from the
    /// tail into a run.
    pub(crate) fn cut(&self, end: u64) -> Result<(), Error> {
        let begin = self.log.covered();
        if end <= begin {
            return Ok(());
        }
        let run = self.write(begin..end, &self.log.tail)?;
        self.install(vec![run], &[], None)?;
        self.log.tail.forget_before(end);
        Ok(())
    }

    fn write(&self, range: Range<u64>, tail: &Tail) -> Result<Arc<Run>, Error> {
        let (number, end) = (self.next_number(), range.end);
        let count = tail.count_before(end);
        let run = self.place.build(number, range, count, |run| {
            tail.each_before(end, |subject, sequence, entry| {
                run.add(subject, sequence, entry)
            })
        })?;
        tracing::debug!(
            run = number,
            end,
            entries = run.entry_count(),
            "index run written"
        );
        Ok(Arc::new(run))
    }

    /// Does something that is tried again later when it fails: no answer depends on it.
    pub(crate) fn attempt(&self, now: UnixMillis, work: impl FnOnce(&Self) -> Result<(), Error>) {
        self.retry.attempt(now, || work(self));
    }

    /// Whether something failed a moment ago.
    pub(crate) fn is_resting(&self, now: UnixMillis) -> bool {
        self.retry.is_resting(now)
    }

    /// Whether [`Self::improve`] has something to do.
    pub(crate) fn has_work(&self) -> bool {
        self.log.has_damaged() || self.to_merge(&self.log.runs()).is_some()
    }

    /// Rebuilds what is damaged, and merges until nothing is left to merge.
    pub(crate) fn improve(&self) -> Result<(), Error> {
        let damaged = self.log.take_damaged();
        for number in &damaged {
            let runs = self.log.runs();
            if let Some(run) = runs.iter().find(|run| run.number() == *number) {
                let rebuilt = self.rebuild(run.range(), &[*number]);
                if rebuilt.is_err() {
                    let path = self.place.dir.join(run_name(*number));
                    let what = "not rebuilt yet";
                    self.log.note_damage(*number, Error::Corrupt { path, what });
                }
                rebuilt?;
            }
        }
        while self.merge_once()? {}
        Ok(())
    }

    fn to_merge(&self, runs: &[Arc<Run>]) -> Option<Range<usize>> {
        // The next start can use those in front of the checkpoint; they stay apart from the others.
        let safe = runs.partition_point(|run| run.range().end <= self.checkpointed());
        let merge = |runs: &[Arc<Run>]| {
            let bytes = runs.iter().map(|run| run.range().end - run.range().start);
            tiers::to_merge(&bytes.collect::<Vec<u64>>(), self.run_bytes)
        };
        merge(&runs[..safe]).or_else(|| {
            let behind = merge(&runs[safe..])?;
            Some(behind.start + safe..behind.end + safe)
        })
    }

    fn merge_once(&self) -> Result<bool, Error> {
        let runs = self.log.runs();
        let Some(chosen) = self.to_merge(&runs) else {
            return Ok(false);
        };
        let chosen = &runs[chosen];
        let range = chosen[0].range().start..chosen[chosen.len() - 1].range().end;
        let (number, oldest) = (self.next_number(), self.log.oldest());
        let count = chosen.iter().map(|run| run.entry_count()).sum();
        let merged = self.place.build(number, range, count, |run| {
            merge(chosen, oldest, &self.is_stopped, run)
                .map_err(|(of, error)| self.log.note_damage(of, error))
        })?;
        let replaced: Vec<u64> = chosen.iter().map(|run| run.number()).collect();
        tracing::debug!(run = number, ?replaced, "index runs merged");
        self.install(vec![Arc::new(merged)], &replaced, None)?;
        Ok(true)
    }

    /// Reads a stretch of the messagelog again and makes runs of it, in the place of those
    /// numbered `replaced`.
    pub(crate) fn rebuild(&self, range: Range<u64>, replaced: &[u64]) -> Result<(), Error> {
        tracing::warn!(
            begin = range.start,
            end = range.end,
            "index is rebuilt from the messagelog"
        );
        let mut runs = Vec::new();
        let mut at = range.start.max(self.log.oldest());
        while at < range.end {
            let tail = Tail::default();
            let end = read_stretch(
                &self.log,
                &self.segments,
                at..range.end,
                self.run_bytes,
                &tail,
            )?;
            runs.push(self.write(at..end, &tail)?);
            at = end;
        }
        self.install(runs, replaced, None)
    }
}
