//! Changes the set of live runs: new ones for tables that are full, others for those that are
//! merged, none for what is done; and drops what the logs need not hold any more.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use qmq_model::UnixMillis;
use roaring::RoaringTreemap;

use crate::background::Retry;
use crate::checkpoint::Recent;
use crate::delay::book::Book;
use crate::delay::config::DelayConfig;
use crate::delay::cut::Cut;
use crate::delay::manifest::Manifest;
use crate::delay::merge::{Merge, Merged};
use crate::delay::run::{DelayRun, Runs};
use crate::delay::shared::Shared;
use crate::delay::slots::{RunSize, Slot, to_merge};
use crate::delay::table::Table;
use crate::delay::uncut::to_cut;
use crate::error::Error;
use crate::format::{MANIFEST, run_name};
use crate::log::segment::Segments;
use crate::run::builder::Place;

/// Runs much smaller than those that the write-ahead log gives count as if they were this part.
const UNIT_PARTS: u64 = 16;

/// What is known to be durable about messages, as of the newest checkpoint.
#[derive(Clone, Debug, Default)]
struct Durable {
    book: Arc<Book>,
    /// Rises with every checkpoint.
    serial: u64,
}

/// Keeps the runs of one delay store. Its methods block and are called by the threads for it.
pub(crate) struct DelayKeeper {
    place: Place,
    shared: Arc<Shared>,
    logs: [Arc<Segments>; 2],
    /// Bytes of the write-ahead log in a full table.
    run_bytes: u64,
    /// Full tables that are not cut yet.
    tables_kept: usize,
    manifest: Mutex<Manifest>,
    durable: Mutex<Durable>,
    recent: Recent,
    retain: usize,
    pub(crate) retry: Retry,
    /// Runs with damage in their index: they stay as they are.
    broken: Mutex<Vec<u64>>,
    /// Runs that were written anew because most of them seemed to be done, and after which
    /// checkpoint: not again before the next one.
    tried: Mutex<HashMap<u64, u64>>,
    /// Some runs could not be opened: nobody knows what they hold.
    has_damaged: bool,
    wants_look: AtomicBool,
    is_stopped: Arc<AtomicBool>,
}

/// What a start found of the runs.
pub(crate) struct Loaded {
    pub(crate) manifest: Manifest,
    pub(crate) runs: Runs,
    /// Runs that are named and cannot be used. They stay where they are.
    pub(crate) damaged: Vec<String>,
}

/// Opens the live runs, and removes what is none.
pub(crate) fn load(place: &Place) -> Result<Loaded, Error> {
    let Place { fs, dir, store } = place;
    let manifest = Manifest::load(fs.as_ref(), dir, *store)?;
    let (mut runs, mut damaged) = (Vec::new(), Vec::new());
    for (number, slot) in &manifest.runs {
        match DelayRun::open(fs.as_ref(), dir, *store, *number) {
            Ok(run) => runs.push((Arc::new(run), *slot)),
            Err(Error::Corrupt { what, .. }) => {
                tracing::error!(
                    run = number,
                    what,
                    "run cannot be used: its messages are lost"
                );
                damaged.push(run_name(*number));
            }
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                tracing::error!(run = number, "run is missing: its messages are lost");
                damaged.push(run_name(*number));
            }
            Err(error) => return Err(error),
        }
    }
    let live: Vec<String> = manifest.runs.iter().map(|(of, _)| run_name(*of)).collect();
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
    Ok(Loaded {
        manifest,
        runs: Arc::new(runs),
        damaged,
    })
}

/// What is to be changed, as one step.
#[derive(Default)]
struct Change {
    new: Vec<(Arc<DelayRun>, Slot)>,
    /// Numbers of runs that go.
    replaced: Vec<u64>,
    /// Messages in front of this byte of the write-ahead log are in runs now, or done: those of so
    /// many tables.
    covered: Option<(u64, usize)>,
    /// First kept bytes of both logs.
    oldest: Option<[u64; 2]>,
    /// Finished messages that are gone.
    gone: RoaringTreemap,
}

impl DelayKeeper {
    pub(crate) fn new(
        place: Place,
        shared: Arc<Shared>,
        logs: [Arc<Segments>; 2],
        config: &DelayConfig,
        loaded: Loaded,
        is_stopped: Arc<AtomicBool>,
    ) -> Self {
        Self {
            place,
            shared,
            logs,
            run_bytes: config.run_bytes,
            tables_kept: config.tables_kept,
            manifest: Mutex::new(loaded.manifest),
            durable: Mutex::default(),
            recent: Recent::default(),
            retain: config.checkpoint_retain,
            retry: Retry::default(),
            broken: Mutex::default(),
            tried: Mutex::default(),
            has_damaged: !loaded.damaged.is_empty(),
            wants_look: AtomicBool::new(true),
            is_stopped,
        }
    }

    /// A checkpoint that includes these positions and this book is durable.
    pub(crate) fn set_checkpointed(&self, positions: [u64; 2], book: Book) {
        self.recent.push(positions, self.retain);
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        *durable = Durable {
            book: Arc::new(book),
            serial: durable.serial + 1,
        };
        self.wants_look.store(true, Ordering::Relaxed);
    }

    fn durable(&self) -> Durable {
        self.durable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Where runs are written.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Makes runs live of which no log knows.
    pub(crate) fn add(&self, new: Vec<(Arc<DelayRun>, Slot)>) -> Result<(), Error> {
        self.install(Change {
            new,
            ..Change::default()
        })
    }

    /// A number for a new run.
    pub(crate) fn next_number(&self) -> u64 {
        let mut manifest = self.manifest.lock().unwrap_or_else(PoisonError::into_inner);
        manifest.next_number += 1;
        manifest.next_number - 1
    }

    /// Makes a change durable, and then shows it to readers.
    fn install(&self, change: Change) -> Result<(), Error> {
        let mut manifest = self.manifest.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = manifest.clone();
        changed.oldest = change.oldest.unwrap_or(changed.oldest);
        let (covered, cut) = change.covered.unwrap_or((changed.covered, 0));
        changed.covered = covered;
        let stays = |number: &u64| !change.replaced.contains(number);
        changed.runs.retain(|(number, _)| stays(number));
        let new = change.new.iter();
        changed
            .runs
            .extend(new.map(|(run, slot)| (run.number(), *slot)));
        let Place { fs, dir, store } = &self.place;
        changed.save(fs.as_ref(), dir, *store)?;
        *manifest = changed;
        // Freed when nobody waits for the lock.
        let _cut: Vec<Arc<Table>> = {
            let mut state = self.shared.write();
            let kept = state.runs.iter().filter(|(run, _)| stays(&run.number()));
            let runs = kept.cloned().chain(change.new).collect();
            state.runs = Arc::new(runs);
            if !change.gone.is_empty() {
                state.book.forget(&change.gone);
            }
            state.frozen.drain(..cut).collect()
        };
        for number in &change.replaced {
            let path = dir.join(run_name(*number));
            if let Err(error) = fs.remove(&path) {
                // The next start removes what the manifest does not name.
                tracing::warn!(path = %path.display(), %error, "run that is not live stays");
            }
        }
        Ok(())
    }

    /// How many of the tables that are full are to be cut now, the oldest.
    fn to_cut(&self, book: &Book) -> usize {
        let state = self.shared.read();
        let are_done = state.frozen.iter().map(|table| {
            let sequences = table.first_sequence()..=table.last_sequence();
            book.done.range_cardinality(sequences) >= table.len() as u64
        });
        to_cut(are_done, self.tables_kept)
    }

    /// Whether [`Self::cut`] has something to do.
    pub(crate) fn wants_cut(&self) -> bool {
        self.to_cut(&self.durable().book) > 0
    }

    /// Writes runs for the oldest tables that are full, if there are more than are kept; forgets
    /// those of which all is done.
    pub(crate) fn cut(&self, now: UnixMillis) -> Result<(), Error> {
        let Durable { book, .. } = self.durable();
        let count = self.to_cut(&book);
        let tables = self.shared.read().frozen[..count].to_vec();
        let Some(covered) = tables.last().map(|table| table.range.end) else {
            return Ok(());
        };
        let cut = Cut {
            place: &self.place,
            log: &self.logs[0],
            tables: &tables,
            done: &book.done,
            now: now.0,
            is_stopped: &self.is_stopped,
        };
        let Merged { runs: new, gone } = cut.run(|| self.next_number())?;
        let (runs, done) = (new.len(), gone.len());
        tracing::debug!(covered, tables = count, runs, done, "tables cut");
        self.install(Change {
            new,
            covered: Some((covered, count)),
            gone,
            ..Change::default()
        })?;
        self.wants_look.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whether [`Self::improve`] may have something to do: something changed since it last had
    /// nothing.
    pub(crate) fn wants_look(&self) -> bool {
        self.wants_look.load(Ordering::Relaxed)
    }

    /// Live runs without known damage.
    fn usable(&self) -> Vec<(Arc<DelayRun>, Slot)> {
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        let runs = self.shared.read().runs.clone();
        let is_usable = |run: &DelayRun| !broken.contains(&run.number());
        runs.iter()
            .filter(|(run, _)| is_usable(run))
            .cloned()
            .collect()
    }

    /// Whether fewer messages wait in the hours of a run than half of what it holds: then most of
    /// it is done.
    fn is_mostly_done(&self, run: &DelayRun) -> bool {
        let Durable { book, serial } = self.durable();
        let (due, sequences) = (run.due(), run.sequences());
        let tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        // What the checkpoint does not include is not counted.
        *sequences.end() < book.next
            && tried.get(&run.number()) != Some(&serial)
            && book.pending_in(*due.start(), *due.end()) < run.len().div_ceil(2)
    }

    /// Merges until nothing is left to merge, writes runs anew that are mostly done, and drops
    /// segments that are not needed.
    pub(crate) fn improve(&self, now: UnixMillis) -> Result<(), Error> {
        self.wants_look.store(false, Ordering::Relaxed);
        let improved = self.try_improve(now);
        if improved.is_err() {
            self.wants_look.store(true, Ordering::Relaxed);
        }
        improved
    }

    fn try_improve(&self, now: UnixMillis) -> Result<(), Error> {
        if let Some(oldest) = self.logs_to_drop() {
            self.drop_logs(oldest)?;
        }
        loop {
            let runs = self.usable();
            let chosen = to_merge(&sizes_of(&runs), self.run_bytes / UNIT_PARTS);
            let chosen = chosen.or_else(|| {
                let mut finished = runs.iter().filter(|(run, _)| self.is_mostly_done(run));
                finished.next().map(|(run, _)| vec![run.number()])
            });
            let Some(chosen) = chosen else {
                return Ok(());
            };
            let runs: Vec<Arc<DelayRun>> = runs
                .into_iter()
                .filter(|(run, _)| chosen.contains(&run.number()))
                .map(|(run, _)| run)
                .collect();
            self.merge(&runs, now)?;
        }
    }

    fn merge(&self, runs: &[Arc<DelayRun>], now: UnixMillis) -> Result<(), Error> {
        let Durable { book, serial } = self.durable();
        let merge = Merge {
            place: &self.place,
            runs,
            done: &book.done,
            now: now.0,
            is_stopped: &self.is_stopped,
        };
        let merged = merge.run(|| self.next_number());
        if let Err(Error::Corrupt { path, .. }) = &merged {
            let broken = runs.iter().find(|run| run.file.path == *path);
            if let Some(run) = broken {
                let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
                broken.push(run.number());
            }
        }
        let Merged { runs: new, gone } = merged?;
        {
            let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
            tried.retain(|_, tried_at| *tried_at == serial);
            tried.extend(new.iter().map(|(run, _)| (run.number(), serial)));
        }
        let replaced: Vec<u64> = runs.iter().map(|run| run.number()).collect();
        let (written, dropped) = (new.len(), gone.len());
        tracing::debug!(?replaced, written, dropped, "runs merged");
        self.install(Change {
            new,
            replaced,
            gone,
            ..Change::default()
        })
    }

    /// First bytes that the logs must keep, if that is more than they could drop so far: a start
    /// from any checkpoint that is kept reads behind what it includes.
    fn logs_to_drop(&self) -> Option<[u64; 2]> {
        let included = self.recent.included(self.retain);
        let manifest = self.manifest.lock().unwrap_or_else(PoisonError::into_inner);
        let [messages, dispatches] = &self.logs;
        let oldest = [
            messages.base_of(included[0].min(manifest.covered)),
            dispatches.base_of(included[1]),
        ];
        let oldest = [0, 1].map(|log| oldest[log].max(manifest.oldest[log]));
        (oldest != manifest.oldest).then_some(oldest)
    }

    fn drop_logs(&self, oldest: [u64; 2]) -> Result<(), Error> {
        // What is gone is stated first, so that no start takes it for lost.
        self.install(Change {
            oldest: Some(oldest),
            ..Change::default()
        })?;
        for (log, oldest) in self.logs.iter().zip(oldest) {
            log.drop_before(oldest)?;
        }
        Ok(())
    }

    /// The lowest sequence in any run, the highest there is without runs; `None` when some of
    /// them cannot be read.
    pub(crate) fn first_sequence(&self, runs: &Runs) -> Option<u64> {
        let first = runs.iter().map(|(run, _)| *run.sequences().start()).min();
        (!self.has_damaged).then(|| first.unwrap_or(u64::MAX))
    }
}

fn sizes_of(runs: &[(Arc<DelayRun>, Slot)]) -> Vec<RunSize> {
    let size = |(run, slot): &(Arc<DelayRun>, Slot)| RunSize {
        number: run.number(),
        slot: *slot,
        bytes: run.bytes(),
    };
    runs.iter().map(size).collect()
}
