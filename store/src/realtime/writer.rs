//! The writing half of a store: appends batches, makes them durable as asked, publishes them.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError};

use bytes::BytesMut;
use qmq_model::{Clock, MessageOffset, MessageSequence, Subject, UnixMillis};
use uuid::Uuid;

use crate::background::Worker;
use crate::checkpoint::Checkpoint;
use crate::config::{Background, FlushMode, Sabotage, StoreConfig};
use crate::duplicates::Duplicates;
use crate::duplicates::files::DuplicateFiles;
use crate::error::{Doing, Error};
use crate::flush::{self, Plan, Wanted};
use crate::format::LogKind;
use crate::fs::{FileSystem, LockGuard};
use crate::log::Log;
use crate::log::commit::Ring;
use crate::log::pair::{LogPair, Syncing};
use crate::realtime::PULL_SEQUENCES_UNSYNCED_MAX;
use crate::realtime::chores::Chores;
use crate::realtime::consumer_log::keeper::RunKeeper;
use crate::realtime::consumer_log::{ConsumerLog, Located, SubjectId};
use crate::realtime::control_log::ControlLog;
use crate::realtime::expiry::{Dropped, Keeping};
use crate::realtime::progress::Progress;

use crate::realtime::reader::{Positions, Shared, StoreReader};
use crate::realtime::scrub::ScrubReport;
use crate::realtime::settle::Settler;

/// What the caller of a commit needs durable, whatever the flush mode does anyway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncNeeds {
    /// All actions appended so far: the first contact of a consumer is among them.
    pub actions: bool,
    /// All messages appended so far, in async mode too.
    pub messages: bool,
}

/// What recovery hands over.
pub(crate) struct Recovered {
    pub(crate) fs: Arc<dyn FileSystem>,
    pub(crate) root: PathBuf,
    pub(crate) lock: Box<dyn LockGuard>,
    pub(crate) store: Uuid,
    pub(crate) term: u64,
    pub(crate) ring: Ring,
    pub(crate) messages: Log,
    pub(crate) actions: Log,
    pub(crate) index: Arc<ConsumerLog>,
    pub(crate) keeper: Arc<RunKeeper>,
    pub(crate) is_stopped: Arc<AtomicBool>,
    pub(crate) next: Vec<MessageSequence>,
    pub(crate) progress: Progress,
    pub(crate) checkpoint_number: u64,
    pub(crate) controls: ControlLog,
    pub(crate) duplicates: Duplicates,
    pub(crate) duplicate_files: DuplicateFiles,
}

/// What the writer knows of one subject.
pub(super) struct SubjectState {
    pub(super) name: Subject,
    pub(super) next: MessageSequence,
    /// Number of the commit that last told the caller of this subject.
    told_in: u64,
}

impl SubjectState {
    pub(super) fn new(name: Subject, next: MessageSequence) -> Self {
        Self {
            name,
            next,
            told_in: 0,
        }
    }
}

/// The subjects by their numbers, with their next sequences.
fn subject_states(index: &ConsumerLog, next: Vec<MessageSequence>) -> Vec<SubjectState> {
    let subjects = index
        .subjects
        .read()
        .unwrap_or_else(PoisonError::into_inner);
    let names = (0..).map_while(|id| subjects.name(SubjectId(id)).cloned());
    names
        .zip(next)
        .map(|(name, next)| SubjectState::new(name, next))
        .collect()
}

fn syncing(config: &StoreConfig) -> Syncing {
    match config.sabotage {
        Sabotage::SkipSync => Syncing::Skipped,
        _ => Syncing::Done,
    }
}

/// Lets another thread write the files, if there are to be threads.
fn written_aside(mut files: DuplicateFiles, background: Background) -> io::Result<DuplicateFiles> {
    if background == Background::Threads {
        files.write_with(Worker::start("duplicates", background, Arc::default())?);
    }
    Ok(files)
}

/// Appends to a store. One thread owns it; every call blocks until the disk is done.
pub struct StoreWriter {
    pub(super) fs: Arc<dyn FileSystem>,
    pub(super) root: PathBuf,
    pub(super) config: StoreConfig,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) logs: LogPair,
    pub(super) progress: Progress,
    pub(super) subjects: Vec<SubjectState>,
    pub(super) ids: HashMap<Subject, SubjectId>,
    pub(super) shared: Arc<Shared>,
    pub(super) message_buffer: BytesMut,
    pub(super) action_buffer: BytesMut,
    /// Appended, and in no commit yet.
    pub(super) unpublished: Vec<Located>,
    /// In the commit that was begun, but not visible yet.
    pub(super) committing: Vec<Located>,
    /// The commit that was begun waits for the disk.
    pub(super) awaits_sync: bool,
    commits: u64,
    pub(super) checkpoint_number: u64,
    pub(super) checkpoint_at: UnixMillis,
    pub(super) checkpoint_positions: [u64; 2],
    /// Newest control entry that the newest checkpoint includes.
    pub(super) checkpoint_control: u64,
    pub(super) controls: ControlLog,
    pub(super) duplicates: Duplicates,
    pub(super) duplicate_files: DuplicateFiles,
    pub(super) pulls_unsynced: u64,
    /// Those that the sync under way covers.
    pulls_syncing: u64,
    pub(super) messages_seen: u64,
    pub(super) is_poisoned: bool,
    pub(super) settler: Settler,
    /// A checkpoint that is saved when everything it includes is durable.
    pub(super) prepared: Option<Box<Checkpoint>>,
    /// Stopped before the lock goes.
    pub(super) chores: Chores,
    _lock: Box<dyn LockGuard>,
}

impl std::fmt::Debug for StoreWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreWriter")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

impl StoreWriter {
    pub(crate) fn new(
        recovered: Recovered,
        config: StoreConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, StoreReader), Error> {
        let Recovered {
            fs,
            root,
            lock,
            messages,
            actions,
            index,
            next,
            ..
        } = recovered;
        let states = subject_states(&index, next);
        let ids = states
            .iter()
            .zip(0..)
            .map(|(state, id)| (state.name.clone(), SubjectId(id)));
        let ids = ids.collect();
        let recent_bytes_max = config.recent_bytes_max;
        let seed = recovered.duplicates.seed(recovered.store);
        let segments = messages.segments().clone();
        let shared = Shared::new(segments, index.clone(), recent_bytes_max, seed);
        let shared = Arc::new(shared);
        let reader = StoreReader::new(shared.clone());
        let (keeper, is_stopped) = (recovered.keeper, recovered.is_stopped);
        let segments = [&messages, &actions].map(|log| log.segments().clone());
        let chores = Chores::start(index, keeper, &reader, segments, is_stopped, &config)
            .doing("start threads for", &root)?;
        let duplicate_files = written_aside(recovered.duplicate_files, config.background)
            .doing("start threads for", &root)?;
        let now = clock.now();
        let how = (config.background, syncing(&config));
        let (both, ring, term) = ([messages, actions], recovered.ring, recovered.term);
        let logs = LogPair::new(both, ring, term, root.clone(), how, now)
            .doing("start threads for", &root)?;
        let settler = Settler::start(fs.clone(), root.clone(), recovered.store, config.background)
            .doing("start threads for", &root)?;
        let writer = Self {
            fs,
            root,
            config,
            clock,
            logs,
            progress: recovered.progress,
            subjects: states,
            ids,
            shared,
            message_buffer: BytesMut::new(),
            action_buffer: BytesMut::new(),
            unpublished: Vec::new(),
            committing: Vec::new(),
            awaits_sync: false,
            commits: 0,
            checkpoint_number: recovered.checkpoint_number,
            checkpoint_at: now,
            checkpoint_positions: [0; 2],
            checkpoint_control: 0,
            controls: recovered.controls,
            duplicates: recovered.duplicates,
            duplicate_files,
            pulls_unsynced: 0,
            pulls_syncing: 0,
            messages_seen: 0,
            is_poisoned: false,
            settler,
            prepared: None,
            chores,
            _lock: lock,
        };
        writer.show_positions();
        Ok((writer, reader))
    }

    /// Makes what was appended durable as the flush mode and `needs` ask for, logs and commit
    /// records in parallel, and then publishes it. Adds the subjects that gained visible messages
    /// to `published`, each once.
    ///
    /// # Errors
    /// Any error poisons the store: nothing that was not visible before is to be acknowledged.
    pub fn commit(
        &mut self,
        needs: SyncNeeds,
        published: &mut Vec<SubjectId>,
    ) -> Result<(), Error> {
        self.begin_commit(needs)?;
        self.finish_commit(published)
    }

    /// The first half of [`Self::commit`]: what was appended belongs to it, what is appended from
    /// now on does not. Says whether the second half waits for the disk; then
    /// [`Self::start_sync`] lets the disk work while more is appended.
    ///
    /// # Panics
    /// When a commit is begun already: callers finish one before they begin the next.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn begin_commit(&mut self, needs: SyncNeeds) -> Result<bool, Error> {
        self.check_alive()?;
        assert!(self.committing.is_empty(), "one commit at a time");
        self.poison_on_error(|writer| writer.try_begin_commit(needs))?;
        std::mem::swap(&mut self.unpublished, &mut self.committing);
        Ok(self.awaits_sync)
    }

    fn try_begin_commit(&mut self, needs: SyncNeeds) -> Result<(), Error> {
        self.logs.write_commit_records()?;
        let limit = PULL_SEQUENCES_UNSYNCED_MAX / 2;
        let wanted = Wanted {
            has_messages: self.logs.messages.is_dirty(),
            needs_messages: needs.messages,
            needs_actions: self.logs.actions.is_dirty()
                && (needs.actions || self.pull_sequences_unsynced() > limit),
            dirty_since: self.logs.dirty_since(),
        };
        let plan = flush::plan(self.config.flush, wanted, self.clock.now());
        self.awaits_sync = plan != Plan::default();
        if self.awaits_sync {
            // A sync that nobody waited for may be under way.
            self.end_sync()?;
            self.begin_sync(plan);
        }
        Ok(())
    }

    /// Has the disk begin with the commit that was begun. Without it, [`Self::finish_commit`] does
    /// all the work.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn start_sync(&mut self) -> Result<(), Error> {
        self.poison_on_error(|writer| writer.logs.start_sync())
    }

    /// Whether [`Self::finish_commit`] would not wait for a sync that was started.
    pub fn is_synced(&mut self) -> bool {
        self.logs.is_sync_done()
    }

    /// The second half of [`Self::commit`], if the first was done.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn finish_commit(&mut self, published: &mut Vec<SubjectId>) -> Result<(), Error> {
        // What a failed sync was to cover is never shown.
        self.check_alive()?;
        if std::mem::take(&mut self.awaits_sync) {
            self.poison_on_error(Self::end_sync)?;
        }
        self.publish(published);
        Ok(())
    }

    /// Verifies everything that has a checksum, from the beginning and at once; blocks. While the
    /// store is open the same is done little by little.
    ///
    /// # Errors
    /// When something cannot be read. Damage is no error: the report says what was found since the
    /// store was opened.
    pub fn scrub_all(&mut self) -> Result<ScrubReport, Error> {
        self.chores.scrub.run_all()?;
        Ok(self.chores.scrub.report())
    }

    /// What was verified since the store was opened.
    #[must_use]
    pub fn scrub_report(&self) -> ScrubReport {
        self.chores.scrub.report()
    }

    /// Drops the segments that are old enough at `now`, as is done now and then while the store is
    /// open; see [`Retention`](crate::Retention). Blocks.
    ///
    /// # Errors
    /// When a file cannot be read, written or removed; it is tried again later.
    pub fn drop_expired(&mut self, now: UnixMillis) -> Result<Dropped, Error> {
        self.chores.expiry.run(now)
    }

    /// What is kept may be changed while the store is open, from any thread.
    #[must_use]
    pub fn keeping(&self) -> Keeping {
        Keeping::new(&self.chores.expiry)
    }

    /// Keeps the messagelog from `offset` on, however old it gets. At first nothing is kept so.
    pub fn keep_from(&mut self, offset: MessageOffset) {
        self.chores.expiry.keep_from(offset);
    }

    /// Whether a commit of messages waits for the disk, whoever asks for it.
    #[must_use]
    pub fn waits_for_disk(&self) -> bool {
        self.config.flush == FlushMode::Sync
    }

    /// Pull sequences handed out by actions that are not durable yet.
    #[must_use]
    pub fn pull_sequences_unsynced(&self) -> u64 {
        self.pulls_unsynced + self.pulls_syncing
    }

    /// How many messages were forgotten younger than
    /// [`DUPLICATE_YOUNG`](crate::DUPLICATE_YOUNG), for lack of room: a late repeat of one of
    /// them would be stored again.
    #[must_use]
    pub fn duplicates_evicted_young(&self) -> u64 {
        self.duplicates.evicted_young()
    }

    /// Syncs the logs of `plan` and the commit records, and shows what is durable now.
    pub(super) fn sync(&mut self, plan: Plan) -> Result<(), Error> {
        self.end_sync()?;
        self.begin_sync(plan);
        self.end_sync()
    }

    /// Begins a sync; nothing else is under way.
    pub(super) fn begin_sync(&mut self, plan: Plan) {
        self.logs.begin_sync(plan);
        if plan.actions {
            self.pulls_syncing = std::mem::take(&mut self.pulls_unsynced);
        }
    }

    /// Begins a sync of everything; nothing else is under way.
    pub(super) fn begin_flush(&mut self) -> Result<(), Error> {
        self.logs.begin_flush()?;
        self.pulls_syncing = std::mem::take(&mut self.pulls_unsynced);
        Ok(())
    }

    /// Takes over the sync that is under way, if it is done.
    pub(super) fn poll_sync(&mut self) -> Result<(), Error> {
        if self.logs.is_syncing() {
            self.logs.poll_sync()?;
            if !self.logs.is_syncing() {
                self.end_sync()?;
            }
        }
        Ok(())
    }

    /// Waits for the sync that is under way, if there is one, and shows what is durable now.
    pub(super) fn end_sync(&mut self) -> Result<(), Error> {
        self.logs.end_sync()?;
        self.pulls_syncing = 0;
        self.show_positions();
        Ok(())
    }

    fn publish(&mut self, published: &mut Vec<SubjectId>) {
        self.commits += 1;
        let visible = std::mem::take(&mut self.committing);
        // First the position, then the index: who finds a message may read it.
        self.show_positions();
        for located in &visible {
            self.shared.index.tail.push(located);
            let state = &mut self.subjects[located.subject.0 as usize];
            if state.told_in != self.commits {
                state.told_in = self.commits;
                published.push(located.subject);
            }
        }
        self.committing = visible;
        self.committing.clear();
    }

    pub(super) fn show_positions(&self) {
        for log in [&self.logs.messages, &self.logs.actions] {
            let (written, durable) = (log.written(), log.durable());
            let first_hidden = self.committing.first().or(self.unpublished.first());
            let first_hidden = first_hidden.map_or(written, |first| first.offset.0);
            let visible = match self.config.flush {
                _ if log.kind() == LogKind::Message => first_hidden,
                FlushMode::Sync => durable,
                FlushMode::Async { .. } => written,
            };
            self.shared.set_positions(
                log.kind(),
                Positions {
                    written,
                    durable,
                    visible,
                },
            );
        }
    }

    pub(super) fn check_alive(&self) -> Result<(), Error> {
        if self.is_poisoned {
            Err(Error::Poisoned)
        } else {
            Ok(())
        }
    }

    /// Runs `work`; any error ends the writing.
    pub(super) fn poison_on_error<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.check_alive()?;
        let done = work(self);
        if let Err(error) = &done {
            self.is_poisoned = true;
            tracing::error!(%error, "store is poisoned");
        }
        done
    }

    /// Runs `work`; any error but a full disk ends the writing.
    pub(super) fn poison_unless_full<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.check_alive()?;
        let done = work(self);
        if let Err(error) = &done
            && !matches!(error, Error::NoSpace { .. })
        {
            self.is_poisoned = true;
            tracing::error!(%error, "store is poisoned");
        }
        done
    }
}
