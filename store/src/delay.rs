//! The store of a delay server: messages that wait for their time, and what became of them.
//!
//! `docs/delay-store-format.md` describes every byte and what is promised after a crash.

mod batch;
pub(crate) mod book;
mod browse;
mod checkpoint;
mod chores;
pub(crate) mod config;
mod count;
mod cut;
mod dispatch_log;
pub(crate) mod entry;
mod import;
mod keeper;
mod manifest;
mod merge;
mod message_log;
pub(crate) mod reader;
mod rebuild;
pub(crate) mod report;
mod run;
mod shared;
mod slots;
mod table;
mod uncut;
mod upkeep;
pub(crate) mod writer;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use qmq_model::Clock;
use uuid::Uuid;

use crate::checkpoint::{Found, load_newest};
use crate::config::Sabotage;
use crate::delay::checkpoint::DelayCheckpoint;
use crate::delay::chores::DelayChores;
use crate::delay::config::{DelayConfig, DelaySabotage};
use crate::delay::entry::Pending;
use crate::delay::keeper::{DelayKeeper, Loaded};
use crate::delay::reader::DelayReader;
use crate::delay::rebuild::{Rebuild, begun_keys};
use crate::delay::report::DelayReport;
use crate::delay::shared::Shared;
use crate::delay::uncut::Full;
use crate::delay::writer::{DelayWriter, Recovered};
use crate::error::{Doing, Error};
use crate::folder;
use crate::format::{ABORT, CHECKPOINTS, COMMIT, DELAY_RUNS, LogKind};
use crate::fs::{FileSystem, LockGuard};
use crate::log::commit::{CommitRecord, Ring};
use crate::log::epochs::Epochs;
use crate::log::pair::{LogPair, Syncing};
use crate::log::segment::Segments;
use crate::log::side::{self, Side};
use crate::log::zero_ahead::RoomAhead;
use crate::run::builder::Place;

/// The store of one delay server; open it to get its writer and its readers.
#[derive(Debug)]
pub struct DelayStore;

/// A message that was being sent when the store stopped: the outcome is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Which one.
    pub entry: Pending,
    /// Name of the broker group it was sent to, or was about to be.
    pub group: Arc<str>,
}

/// A delay store that is ready.
pub struct DelayOpened {
    /// The one that appends and decides; a single thread owns it.
    pub writer: DelayWriter,
    /// One that reads; cloned freely.
    pub reader: DelayReader,
    /// What was being sent, ascending by due time.
    pub begun: Vec<Begun>,
    /// What was found and done.
    pub report: DelayReport,
}

impl std::fmt::Debug for DelayOpened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DelayOpened")
            .field("report", &self.report)
            .finish_non_exhaustive()
    }
}

impl DelayStore {
    /// Opens the store in folder `root`, creating it if the folder is empty or missing. Locks it,
    /// recovers and verifies it, and writes a durable checkpoint. Reads what the logs hold behind
    /// the last run and the last checkpoint, however many messages there are.
    ///
    /// # Errors
    /// When the folder is in use, belongs to another group or program, cannot be read or written,
    /// or is damaged in a way that leaves unknown what is durable or done. Nothing acknowledged is
    /// changed then, and opening may be tried again.
    pub fn open(
        fs: Arc<dyn FileSystem>,
        root: &Path,
        config: DelayConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<DelayOpened, Error> {
        config.validate()?;
        let lock = folder::lock(fs.as_ref(), root)?;
        let folder = folder::open_or_create(fs.as_ref(), root, &config.shape())?;
        let store = folder.identity.uuid;
        let slots = folder.identity.commit_slots;
        let (mut ring, records) = Ring::open(fs.as_ref(), &root.join(COMMIT), store, slots)?;
        let term = Epochs::load(fs.as_ref(), root, store)?.term();
        let found = load_checkpoint(fs.as_ref(), root, store)?;
        let was_clean = !folder::mark(fs.as_ref(), root, ABORT)?;
        folder::remove_incomplete(fs.as_ref(), root)?;
        let mut report = DelayReport {
            is_created: folder.is_created,
            was_clean,
            checkpoint: found.newest.as_ref().map(|newest| newest.number),
            checkpoints_damaged: found.damaged,
            ..DelayReport::default()
        };

        let included = found
            .newest
            .as_ref()
            .map_or([0; 2], |newest| newest.positions);
        let place = Place {
            fs: fs.clone(),
            dir: root.join(DELAY_RUNS),
            store,
        };
        let loaded = keeper::load(&place)?;
        report.runs = loaded.runs.len() as u64;
        report.runs_damaged.clone_from(&loaded.damaged);
        let open = |kind: LogKind| {
            open_side(
                kind,
                (&fs, root, store),
                &config,
                &records,
                (&loaded, included),
            )
        };
        let [mut messages, mut dispatches] = [open(LogKind::Delayed)?, open(LogKind::Dispatch)?];
        side::cut([&messages, &dispatches], &mut ring, term, &mut report)?;
        let covered = loaded.manifest.covered;
        let full = Full::of(&config);
        let mut rebuild = Rebuild::new(found.newest, covered, loaded.runs.clone(), full);
        replay([&mut messages, &mut dispatches], &mut rebuild, &mut report)?;
        let durable = [&messages, &dispatches].map(|side| side.tail.kept);
        ring.seal(CommitRecord::idle(term, durable))?;

        let ground = Ground {
            fs,
            root,
            store,
            place,
            checkpoint_number: found.number_max,
            config,
            clock,
        };
        let (mut writer, reader, begun) = ground.build(
            lock,
            (ring, term),
            [messages, dispatches],
            (rebuild, loaded),
            &mut report,
        )?;
        writer.checkpoint()?;
        log_report(root, &report);
        Ok(DelayOpened {
            writer,
            reader,
            begun,
            report,
        })
    }
}

/// Where a store that was recovered lives.
struct Ground<'a> {
    fs: Arc<dyn FileSystem>,
    root: &'a Path,
    store: Uuid,
    place: Place,
    checkpoint_number: u64,
    config: DelayConfig,
    clock: Arc<dyn Clock>,
}

impl Ground<'_> {
    /// Puts writer and reader together.
    fn build(
        self,
        lock: Box<dyn LockGuard>,
        (ring, term): (Ring, u64),
        sides: [Side<'_>; 2],
        (rebuild, loaded): (Rebuild, Loaded),
        report: &mut DelayReport,
    ) -> Result<(DelayWriter, DelayReader, Vec<Begun>), Error> {
        let (config, root) = (self.config, self.root);
        let segments = sides.each_ref().map(|side| side.segments.clone());
        let shared = Shared::new(segments[0].clone(), config.cache_bytes, rebuild.state);
        let shared = Arc::new(shared);
        let reader = DelayReader::new(shared.clone());
        let begun = find_begun(&shared, &reader, report)?;
        let is_stopped = Arc::<AtomicBool>::default();
        let (of, stop) = (shared.clone(), is_stopped.clone());
        let keeper = DelayKeeper::new(self.place, of, segments, &config, loaded, stop);
        let chores = DelayChores::start(Arc::new(keeper), config.background, is_stopped)
            .doing("start threads for", root)?;
        let [messages, dispatches] = sides;
        let logs = [into_log(messages, &config)?, into_log(dispatches, &config)?];
        let syncing = match config.sabotage {
            DelaySabotage::SkipSync => Syncing::Skipped,
            _ => Syncing::Done,
        };
        let (how, now) = ((config.background, syncing), self.clock.now());
        let logs = LogPair::new(logs, ring, term, root.to_owned(), how, now)
            .doing("start threads for", root)?;
        let recovered = Recovered {
            fs: self.fs,
            root: root.to_owned(),
            lock,
            store: self.store,
            logs,
            shared,
            chores,
            checkpoint_number: self.checkpoint_number,
        };
        let writer = DelayWriter::new(recovered, config, self.clock);
        Ok((writer, reader, begun))
    }
}

/// Finds the end of one log.
fn open_side<'a>(
    kind: LogKind,
    (fs, root, store): (&Arc<dyn FileSystem>, &Path, Uuid),
    config: &DelayConfig,
    records: &'a [CommitRecord],
    (loaded, included): (&Loaded, [u64; 2]),
) -> Result<Side<'a>, Error> {
    let segment_bytes = config.shape().segment_bytes[kind.index()];
    let dir = root.join(kind.folder());
    let segments = Segments::open(fs.clone(), kind, dir, segment_bytes).map(Arc::new)?;
    let included = included[kind.index()];
    let oldest = loaded.manifest.oldest[kind.index()];
    segments.drop_before(oldest)?;
    let from = match kind {
        LogKind::Dispatch => included,
        // Everything in front is in the runs.
        _ => included.min(loaded.manifest.covered),
    };
    Side::open(segments, (from, oldest), store, records, included)
}

/// The newest checkpoint that can be read. Without any the store is new, or nobody knows any more
/// what was delivered.
fn load_checkpoint(
    fs: &dyn FileSystem,
    root: &Path,
    store: Uuid,
) -> Result<Found<DelayCheckpoint>, Error> {
    let found = load_newest(fs, root, |bytes| DelayCheckpoint::decode(bytes, store))?;
    if found.newest.is_none() && found.number_max > 0 {
        return Err(Error::Corrupt {
            path: root.join(CHECKPOINTS),
            what: "no checkpoint can be read; nothing was changed",
        });
    }
    Ok(found)
}

fn into_log(side: Side<'_>, config: &DelayConfig) -> Result<crate::log::Log, Error> {
    let sabotage = match config.sabotage {
        DelaySabotage::ClaimUnsynced => Sabotage::ClaimUnsynced,
        _ => Sabotage::None,
    };
    let ahead = RoomAhead {
        step: config.zero_ahead_bytes,
        flush: config.flush,
        background: config.background,
    };
    side.into_log(ahead, sabotage)
}

/// Reads both logs behind the checkpoint.
fn replay(
    [messages, dispatches]: [&mut Side<'_>; 2],
    rebuild: &mut Rebuild,
    report: &mut DelayReport,
) -> Result<(), Error> {
    let segments = messages.segments.clone();
    let mut verifier = messages.verifier(&segments);
    messages.report_missing(report);
    let range = messages.from..messages.tail.kept;
    rebuild.messages(&segments, range, &mut verifier, report)?;
    messages.finish(&mut verifier, report)?;

    let segments = dispatches.segments.clone();
    let mut verifier = dispatches.verifier(&segments);
    dispatches.report_missing(report);
    let range = dispatches.from..dispatches.tail.kept;
    rebuild.dispatches(&segments, range, &mut verifier, report)?;
    dispatches.finish(&mut verifier, report)?;
    rebuild.raise_sequences(report);
    Ok(())
}

/// Looks up what was being sent.
fn find_begun(
    shared: &Shared,
    reader: &DelayReader,
    report: &mut DelayReport,
) -> Result<Vec<Begun>, Error> {
    let keys = begun_keys(&shared.read());
    let mut found = Vec::with_capacity(keys.len());
    for key in keys {
        let entry = reader.look_up(key)?;
        let book = &mut shared.write().book;
        let at = book.begun.get(&key.sequence).cloned();
        match (entry, at) {
            (Some(entry), Some(at)) => found.push(Begun {
                entry,
                group: at.group,
            }),
            _ => {
                tracing::warn!(
                    sequence = key.sequence,
                    "a message that was begun is not there"
                );
                book.begun.remove(&key.sequence);
                report.begun_lost += 1;
            }
        }
    }
    report.begun = found.len() as u64;
    report.pending = shared.read().book.pending_count();
    Ok(found)
}

fn log_report(root: &Path, report: &DelayReport) {
    tracing::info!(
        root = %root.display(),
        was_clean = report.was_clean,
        pending = report.pending,
        begun = report.begun,
        messages_end = report.messages.end,
        messages_cut = report.messages.cut.as_ref().map_or(0, |cut| cut.saved_bytes),
        dispatch_end = report.dispatch.end,
        damages = report.damage_count,
        "delay store opened"
    );
}
