//! The store of a broker: messagelog, actionlog and checkpoints, opened and recovered together.

pub(crate) mod action_log;
pub(crate) mod append;
pub(crate) mod consumer_log;
pub(crate) mod control_log;
mod creation;
pub(crate) mod message_log;
pub(crate) mod progress;
pub(crate) mod reader;
mod rebuild;
pub(crate) mod report;
mod upkeep;
pub(crate) mod writer;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use qmq_model::{Clock, UnixMillis};
use uuid::Uuid;

use crate::checkpoint::{self, Checkpoint};
use crate::config::StoreConfig;
use crate::duplicates::files::DuplicateFiles;
use crate::duplicates::rebuild::Rebuilding;
use crate::error::{Doing, Error};
use crate::format::{ABORT, COMMIT, LogKind};
use crate::fs::FileSystem;
use crate::log::Log;
use crate::log::commit::{CommitRecord, Ring};
use crate::log::epochs::Epochs;
use crate::log::history::History;
use crate::log::recovery::{self, Tail};
use crate::log::segment::Segments;
use crate::log::sums::{LoadedSums, Stretch, Sums};
use crate::log::verify::{Verifier, for_each_piece};
use crate::log::zero_ahead::ZeroAhead;
use crate::realtime::control_log::{ControlEntry, ControlLog};
use crate::realtime::progress::Progress;
use crate::realtime::reader::StoreReader;
use crate::realtime::rebuild::{Actions, Messages};
use crate::realtime::report::{Cut, Damage, DamageKind, RecoveryReport};
use crate::realtime::writer::{Recovered, StoreWriter};

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
        let lock = creation::lock(fs.as_ref(), root)?;
        let folder = creation::open_or_create(fs.as_ref(), root, &config)?;
        let store = folder.identity.uuid;
        let slots = folder.identity.commit_slots;
        let (mut ring, records) = Ring::open(fs.as_ref(), &root.join(COMMIT), store, slots)?;
        let term = Epochs::load(fs.as_ref(), root, store)?.term();
        let found = checkpoint::load_newest(fs.as_ref(), root, store)?;
        let was_clean = !creation::mark(fs.as_ref(), root, ABORT)?;
        creation::remove_incomplete(fs.as_ref(), root)?;
        let mut report = RecoveryReport {
            is_created: folder.is_created,
            was_clean,
            checkpoint: found.newest.as_ref().map(|newest| newest.number),
            checkpoints_damaged: found.damaged,
            ..RecoveryReport::default()
        };

        let checkpoint = found.newest.as_ref();
        let open = |kind| Side::open(&fs, root, &config, kind, store, &records, checkpoint);
        let [mut messages, mut actions] = [open(LogKind::Message)?, open(LogKind::Action)?];
        cut([&messages, &actions], &mut ring, term, &mut report)?;

        let included = checkpoint.map_or(0, |found| found.control);
        let (controls, found_controls) = ControlLog::open(fs.clone(), root, store, included)?;
        report.control_bytes_cut = found_controls.bytes_cut;
        report.control_damages = found_controls.damages;
        let replay = Replay {
            checkpoint,
            controls: &found_controls.entries,
            // The whole log is read.
            messages: 0..messages.tail.kept,
        };
        let place = (&fs, root, store);
        let mut duplicates =
            duplicates_before(&messages, place, &replay.messages, &config, clock.now())?;
        let sides = [&mut messages, &mut actions];
        let rebuilt = rebuild(sides, replay, &mut duplicates, &mut report)?;
        let (duplicates, duplicate_files) = duplicates.finish();
        let durable = [messages.tail.kept, actions.tail.kept];
        ring.seal(CommitRecord::idle(term, durable))?;
        let recovered = Recovered {
            fs,
            root: root.to_owned(),
            lock,
            store,
            term,
            ring,
            messages: messages.into_log(&config)?,
            actions: actions.into_log(&config)?,
            subjects: rebuilt.messages.subjects,
            index: rebuilt.messages.index,
            next: rebuilt.next,
            progress: rebuilt.progress.clone(),
            checkpoint_number: found.number_max,
            controls,
            duplicates,
            duplicate_files,
        };
        let (mut writer, reader) = StoreWriter::new(recovered, config, clock)?;
        writer.checkpoint()?;
        log_report(root, &report);
        Ok(Opened {
            writer,
            reader,
            progress: rebuilt.progress,
            report,
        })
    }
}

/// One log while it is being recovered.
struct Side<'a> {
    segments: Arc<Segments>,
    sums: Sums,
    stretches: Vec<Stretch>,
    history: History<'a>,
    tail: Tail,
    sums_broken: u64,
}

impl<'a> Side<'a> {
    /// Finds the end of the log and makes everything up to there durable.
    fn open(
        fs: &Arc<dyn FileSystem>,
        root: &Path,
        config: &StoreConfig,
        kind: LogKind,
        store: Uuid,
        records: &'a [CommitRecord],
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Self, Error> {
        let dir = root.join(kind.folder());
        let segment_bytes = match kind {
            LogKind::Message => config.message_segment_bytes,
            LogKind::Action => config.action_segment_bytes,
        };
        let segments = Arc::new(Segments::open(fs.clone(), kind, dir, segment_bytes)?);
        let LoadedSums {
            sums,
            stretches,
            broken,
        } = Sums::load(segments.clone(), store)?;
        let history = History::new(kind, records);
        let by_sums = stretches.iter().map(Stretch::end).max().unwrap_or(0);
        let by_checkpoint = checkpoint.map_or(0, |found| found.positions[kind.index()]);
        let stated = history.durable().max(by_sums).max(by_checkpoint);
        let tail = recovery::find_tail(&segments, &history, stated)?;
        recovery::rewrite(&segments, tail.durable..tail.kept)?;
        let oldest = history
            .batches()
            .first()
            .map_or(tail.kept, |batch| batch.start);
        sums.rewrite_from(segments.base_of(oldest))?;
        fs.sync_dir(segments.dir())
            .doing("sync folder", segments.dir())?;
        let sums_broken = broken.iter().map(|(_, count)| count).sum();
        Ok(Self {
            segments,
            sums,
            stretches,
            history,
            tail,
            sums_broken,
        })
    }

    fn verifier<'s>(&self, segments: &'s Segments) -> Verifier<'s>
    where
        'a: 's,
    {
        let durable = self.tail.durable;
        let below = self
            .history
            .batches()
            .iter()
            .copied()
            .filter(|batch| batch.end() <= durable);
        Verifier::new(segments, &self.stretches, below)
    }

    /// Checks what is left, reports every mismatch, and writes checksums where there are none.
    fn finish(
        &mut self,
        verifier: &mut Verifier<'_>,
        report: &mut RecoveryReport,
    ) -> Result<(), Error> {
        let (kind, end) = (self.segments.kind(), self.tail.kept);
        verifier.check_before(end)?;
        for range in verifier.damaged() {
            let (range, message) = (range.clone(), None);
            report.add(Damage {
                log: kind,
                range,
                kind: DamageKind::Checksum,
                message,
            });
        }
        for gap in verifier.uncovered(0..end) {
            for (base, part) in self.segments.split(gap) {
                // A missing file stays missing: no checksum may say that zeros are right there.
                if self.segments.file(base).is_some() {
                    self.cover(part, verifier.damaged())?;
                }
            }
        }
        self.sums.write()?;
        let log = report.log_mut(kind);
        log.durable = self.tail.durable;
        log.end = end;
        log.sums_broken = self.sums_broken;
        Ok(())
    }

    /// Adds checksums of a range; parts that are known to be damaged stay known as such.
    fn cover(&mut self, range: Range<u64>, damaged: &[Range<u64>]) -> Result<(), Error> {
        let mut at = range.start;
        let inside = damaged
            .iter()
            .filter(|bad| bad.start < range.end && range.start < bad.end);
        for bad in inside.chain([&(range.end..range.end)]) {
            self.sums.skip_to(at);
            let bad = bad.start.max(at)..bad.end.min(range.end).max(at);
            let sums = &mut self.sums;
            for_each_piece(&self.segments, at..bad.start, |_, piece| sums.add(piece))?;
            sums.skip_to(bad.start);
            for (_, part) in self.segments.split(bad.clone()) {
                sums.add_damaged(part);
            }
            at = bad.end;
        }
        Ok(())
    }

    fn into_log(self, config: &StoreConfig) -> Result<Log, Error> {
        let end = self.tail.kept;
        let zeros_end = self.segments.end_on_disk()?.max(end);
        let step = config.zero_ahead_bytes;
        let zeros = ZeroAhead::new(self.segments.clone(), step, zeros_end, config.background)?;
        Log::new(self.segments, zeros, self.sums, end, config.sabotage)
    }
}

/// Cuts what must go behind the end of each log, and states what is durable now. A crash in
/// between repeats it: the cut records are durable before anything is zeroed.
fn cut(
    sides: [&Side<'_>; 2],
    ring: &mut Ring,
    term: u64,
    report: &mut RecoveryReport,
) -> Result<(), Error> {
    let durable = sides.map(|side| side.tail.kept);
    let mut planned = Vec::new();
    for side in sides {
        let kind = side.segments.kind();
        let Some(cut) = recovery::plan_cut(&side.segments, &side.history, side.tail.kept)? else {
            continue;
        };
        if !cut.is_repeated {
            recovery::save_aside(&side.segments, &cut, ring.next_serial())?;
            recovery::record_cut(ring, kind, &cut, term, durable)?;
        }
        planned.push((side, cut));
    }
    if !planned.is_empty() {
        ring.sync()?;
    }
    for (side, cut) in planned {
        recovery::zero(&side.segments, cut.range.clone())?;
        let (range, saved_bytes, is_repeated) = (cut.range, cut.saved_bytes, cut.is_repeated);
        let cut = Cut {
            range,
            saved_bytes,
            is_repeated,
        };
        report.log_mut(side.segments.kind()).cut = Some(cut);
    }
    ring.write(CommitRecord::idle(term, durable))?;
    ring.sync()
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
    messages: Messages,
    next: Vec<qmq_model::MessageSequence>,
    progress: Progress,
}

/// Reads both logs, and makes sure that no sequence is handed out twice.
fn rebuild(
    [messages, actions]: [&mut Side<'_>; 2],
    replay: Replay<'_>,
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
    let mut read = Messages::read(
        &segments,
        range,
        &mut verifier,
        checkpoint,
        duplicates,
        report,
    )?;
    messages.finish(&mut verifier, report)?;

    let segments = actions.segments.clone();
    let mut verifier = actions.verifier(&segments);
    let from = checkpoint.map_or(0, |found| found.positions[LogKind::Action.index()]);
    let range = from..actions.tail.kept;
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
        messages: read,
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
