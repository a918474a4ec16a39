//! The store of a broker: messagelog, actionlog and checkpoints, opened and recovered together.

pub(crate) mod action_log;
pub(crate) mod append;
mod chores;
pub(crate) mod consumer_log;
pub(crate) mod control_log;
pub(crate) mod expiry;
pub(crate) mod message_log;
pub(crate) mod progress;
pub(crate) mod reader;
mod rebuild;
mod restore;
pub(crate) mod scrub;
mod settle;
mod upkeep;
pub(crate) mod writer;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use qmq_model::{Clock, UnixMillis};
use uuid::Uuid;

use crate::checkpoint::{self, Checkpoint};
use crate::config::StoreConfig;
use crate::duplicates::files::DuplicateFiles;
use crate::duplicates::rebuild::Rebuilding;
use crate::error::Error;
use crate::folder;
use crate::format::{ABORT, COMMIT, CONSUMER_LOG, LogKind};
use crate::fs::FileSystem;
use crate::log::Log;
use crate::log::commit::{CommitRecord, Ring};
use crate::log::epochs::Epochs;
use crate::log::segment::Segments;
use crate::log::side::{self, Side};
use crate::log::zero_ahead::RoomAhead;
use crate::realtime::consumer_log::ConsumerLog;
use crate::realtime::consumer_log::keeper::{self, RunKeeper};
use crate::realtime::control_log::{ControlEntry, ControlLog};
use crate::realtime::progress::Progress;
use crate::realtime::reader::StoreReader;
use crate::realtime::rebuild::{Actions, Messages};
use crate::realtime::writer::{Recovered, StoreWriter};
use crate::report::RecoveryReport;
use crate::run::builder::Place;

/// Most pull sequences of which the actions may be lost by a power cut: callers hand out no more
/// before they are durable.
pub const PULL_SEQUENCES_UNSYNCED_MAX: u64 = 1 << 20;
/// By how much every consumer's next pull sequence is raised after an unclean stop.
pub const PULL_SEQUENCE_JUMP: i64 = 1 << 20;
const _: () = assert!(PULL_SEQUENCE_JUMP.unsigned_abs() >= PULL_SEQUENCES_UNSYNCED_MAX);

/// The store of one broker; open it to get its writer and its readers.
#[derive(Debug)]
pub struct RealtimeStore;

/// A store that is ready.
pub struct Opened {
    /// The one that appends; a single thread owns it.
    pub writer: StoreWriter,
    /// One that reads; cloned freely.
    pub reader: StoreReader,
    /// State of all groups.
    pub progress: Progress,
    /// What was found and done.
    pub report: RecoveryReport,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened")
            .field("report", &self.report)
            .finish_non_exhaustive()
    }
}

impl RealtimeStore {
    /// Opens the store in folder `root`, creating it if the folder is empty or missing. Locks it,
    /// recovers and verifies it, and writes a durable checkpoint. Blocks for as long as it takes
    /// to read both logs.
    ///
    /// # Errors
    /// When the folder is in use, belongs to another group or program, cannot be read or written,
    /// or is damaged in a way that leaves unknown what is durable. Nothing acknowledged is changed
    /// then, and opening may be tried again.
    pub fn open(
        fs: Arc<dyn FileSystem>,
        root: &Path,
        config: StoreConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Opened, Error> {
        config.validate()?;
        let lock = folder::lock(fs.as_ref(), root)?;
        let folder = folder::open_or_create(fs.as_ref(), root, &config.shape())?;
        let store = folder.identity.uuid;
        let slots = folder.identity.commit_slots;
        let (mut ring, records) = Ring::open(fs.as_ref(), &root.join(COMMIT), store, slots)?;
        let term = Epochs::load(fs.as_ref(), root, store)?.term();
        let found =
            checkpoint::load_newest(fs.as_ref(), root, |bytes| Checkpoint::decode(bytes, store))?;
        let was_clean = !folder::mark(fs.as_ref(), root, ABORT)?;
        folder::remove_incomplete(fs.as_ref(), root)?;
        let mut report = RecoveryReport {
            is_created: folder.is_created,
            was_clean,
            checkpoint: found.newest.as_ref().map(|newest| newest.number),
            checkpoints_damaged: found.damaged,
            ..RecoveryReport::default()
        };

        let checkpoint = found.newest.as_ref();
        let index = Indexed::open(&fs, root, &config, store, checkpoint, &mut report)?;
        let open = |kind: LogKind| {
            let (segments, from) = index.logs[kind.index()].clone();
            let oldest = index.keeper.oldest()[kind.index()];
            let included = checkpoint.map_or(0, |found| found.positions[kind.index()]);
            Side::open(segments, (from, oldest), store, &records, included)
        };
        let [mut messages, mut actions] = [open(LogKind::Message)?, open(LogKind::Action)?];
        side::cut([&messages, &actions], &mut ring, term, &mut report)?;

        let included = checkpoint.map_or(0, |found| found.control);
        let (controls, found_controls) = ControlLog::open(fs.clone(), root, store, included)?;
        report.control_bytes_cut = found_controls.bytes_cut;
        report.control_damages = found_controls.damages;
        let replay = Replay {
            checkpoint,
            controls: &found_controls.entries,
            messages: messages.from..messages.tail.kept,
        };
        let (place, now) = ((&fs, root, store), clock.now());
        let mut duplicates = duplicates_before(&messages, place, &replay.messages, &config, now)?;
        let logs = [&mut messages, &mut actions];
        let rebuilt = rebuild(logs, replay, &index, &mut duplicates, &mut report)?;
        let (duplicates, duplicate_files) = duplicates.finish();
        let durable = [&messages, &actions].map(|side| side.tail.kept);
        ring.seal(CommitRecord::idle(term, durable))?;
        let recovered = Recovered {
            fs,
            root: root.to_owned(),
            lock,
            store,
            term,
            ring,
            messages: into_log(messages, &config)?,
            actions: into_log(actions, &config)?,
            index: index.log,
            keeper: Arc::new(index.keeper),
            is_stopped: index.is_stopped,
            next: rebuilt.next,
            progress: rebuilt.progress.clone(),
            checkpoint_number: found.number_max,
            controls,
            duplicates,
            duplicate_files,
        };
        finish(recovered, rebuilt.progress, report, (config, clock))
    }
}

/// Begins a life with a durable checkpoint.
fn finish(
    recovered: Recovered,
    progress: Progress,
    report: RecoveryReport,
    (config, clock): (StoreConfig, Arc<dyn Clock>),
) -> Result<Opened, Error> {
    let root = recovered.root.clone();
    let (mut writer, reader) = StoreWriter::new(recovered, config, clock)?;
    writer.checkpoint()?;
    log_report(&root, &report);
    Ok(Opened {
        writer,
        reader,
        progress,
        report,
    })
}

fn into_log(side: Side<'_>, config: &StoreConfig) -> Result<Log, Error> {
    let ahead = RoomAhead {
        step: config.zero_ahead_bytes,
        flush: config.flush,
        background: config.background,
    };
    side.into_log(ahead, config.sabotage)
}

/// The index and both logs, before anything is read of them.
struct Indexed {
    log: Arc<ConsumerLog>,
    keeper: RunKeeper,
    is_stopped: Arc<AtomicBool>,
    /// Stretches in front of the last run that must be read again.
    gaps: Vec<Range<u64>>,
    /// Segments of each log, and from where on they are read.
    logs: [(Arc<Segments>, u64); 2],
}

impl Indexed {
    /// Opens the runs in front of the checkpoint; only there the numbers of subjects are certain.
    fn open(
        fs: &Arc<dyn FileSystem>,
        root: &Path,
        config: &StoreConfig,
        store: Uuid,
        checkpoint: Option<&Checkpoint>,
        report: &mut RecoveryReport,
    ) -> Result<Self, Error> {
        let open = |kind: LogKind, segment_bytes| {
            Segments::open(fs.clone(), kind, root.join(kind.folder()), segment_bytes).map(Arc::new)
        };
        let messages = open(LogKind::Message, config.message_segment_bytes)?;
        let actions = open(LogKind::Action, config.action_segment_bytes)?;
        let dir = folder::add(fs.as_ref(), root, CONSUMER_LOG)?;
        let fs = fs.clone();
        let place = Place { fs, dir, store };
        let [included, replayed] = checkpoint.map_or([0; 2], |found| found.positions);
        let first = messages.bases().first().copied().unwrap_or(0);
        let loaded = keeper::load(&place, included, first)?;
        let oldest = loaded.manifest.oldest;
        if !report.is_created {
            report.index_damaged = loaded.damaged;
        }
        messages.drop_before(oldest[0])?;
        actions.drop_before(oldest[1])?;
        let log = ConsumerLog::new(loaded.runs, oldest[0], config.index_cache_bytes);
        let (log, is_stopped) = (Arc::new(log), Arc::<AtomicBool>::default());
        let keeper = RunKeeper::new(
            place,
            log.clone(),
            messages.clone(),
            config.index_run_bytes,
            loaded.manifest,
            is_stopped.clone(),
        );
        keeper.begin()?;
        let from = [log.covered(), replayed.max(oldest[1])];
        Ok(Self {
            log,
            keeper,
            is_stopped,
            gaps: loaded.gaps,
            logs: [(messages, from[0]), (actions, from[1])],
        })
    }
}

/// What the logs are read on top of.
struct Replay<'a> {
    checkpoint: Option<&'a Checkpoint>,
    controls: &'a [ControlEntry],
    /// What is read of the messagelog.
    messages: Range<u64>,
}

/// The duplicate window as of the first byte that will be read of the messagelog.
fn duplicates_before(
    messages: &Side<'_>,
    (fs, root, store): (&Arc<dyn FileSystem>, &Path, Uuid),
    range: &Range<u64>,
    config: &StoreConfig,
    now: UnixMillis,
) -> Result<Rebuilding, Error> {
    let segments = messages.segments.as_ref();
    let files = DuplicateFiles::open(fs.clone(), root, store, range.end)?;
    let mut duplicates = Rebuilding::new(files, store, config, now);
    duplicates.fill(segments, range.start, || messages.verifier(segments))?;
    Ok(duplicates)
}

struct Rebuilt {
    next: Vec<qmq_model::MessageSequence>,
    progress: Progress,
}

/// Reads both logs, and makes sure that no sequence is handed out twice.
fn rebuild(
    [messages, actions]: [&mut Side<'_>; 2],
    replay: Replay<'_>,
    index: &Indexed,
    duplicates: &mut Rebuilding,
    report: &mut RecoveryReport,
) -> Result<Rebuilt, Error> {
    let Replay {
        checkpoint,
        controls,
        messages: range,
    } = replay;
    let segments = messages.segments.clone();
    let mut verifier = messages.verifier(&segments);
    let mut read = Messages::new(&index.log, checkpoint);
    for gap in &index.gaps {
        index.keeper.rebuild(gap.clone(), &[])?;
        report.index_rebuilt.push(gap.clone());
    }
    let oldest = index.keeper.oldest();
    (report.messages.begin, report.actions.begin) = (oldest[0], oldest[1]);
    for missing in messages.report_missing(report) {
        index.log.quarantine.add(&missing);
    }
    let from = (&index.keeper, segments.as_ref());
    read.read(
        from,
        range.end,
        &mut verifier,
        checkpoint,
        duplicates,
        report,
    )?;
    messages.finish(&mut verifier, report)?;

    let segments = actions.segments.clone();
    let mut verifier = actions.verifier(&segments);
    actions.report_missing(report);
    let range = actions.from..actions.tail.kept;
    let mut replayed = Actions::replay(
        &segments,
        range,
        &mut verifier,
        checkpoint,
        controls,
        report,
    )?;
    actions.finish(&mut verifier, report)?;

    let has_state = report.is_created || checkpoint.is_some();
    let is_certain = report.was_clean
        && has_state
        && !replayed.is_damaged
        && report.checkpoints_damaged.is_empty();
    if !is_certain {
        replayed.progress.raise_pull_sequences(PULL_SEQUENCE_JUMP);
        report.pull_sequences_raised = true;
    }
    replayed.adopt_orphans();
    let next = read.next_sequences(checkpoint, &replayed.progress, report);
    Ok(Rebuilt {
        next,
        progress: replayed.progress,
    })
}

fn log_report(root: &Path, report: &RecoveryReport) {
    tracing::info!(
        root = %root.display(),
        was_clean = report.was_clean,
        messages = report.messages.records,
        messages_end = report.messages.end,
        messages_cut = report.messages.cut.as_ref().map_or(0, |cut| cut.saved_bytes),
        actions_replayed = report.actions_replayed,
        controls_replayed = report.controls_replayed,
        actions_end = report.actions.end,
        actions_cut = report.actions.cut.as_ref().map_or(0, |cut| cut.saved_bytes),
        damages = report.damage_count,
        "store opened"
    );
}
