//! The writing half of a delay store: accepts messages, decides what becomes of them, makes it
//! durable.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::BytesMut;
use qmq_model::{Clock, Subject, UnixMillis};
use uuid::Uuid;

use crate::config::{FlushMode, GROUP_NAME_BYTES_MAX};
use crate::delay::book::State as Fate;
use crate::delay::chores::DelayChores;
use crate::delay::config::{DelayConfig, DelaySabotage};
use crate::delay::dispatch_log::{self, DispatchRecord, Verb};
use crate::delay::entry::{
    AcceptSequence, CancelAnswer, DelaySubject, EntryState, Found, Key, NewDelayed, Pending,
    RescheduleAnswer,
};
use crate::delay::message_log::{self, RecordView};
use crate::delay::reader::{DelayReadError, DelayReader};
use crate::delay::shared::Shared;
use crate::delay::table::{Row, Spot};
use crate::error::{AppendError, Error};
use crate::flush::{self, Plan};
use crate::format::LogKind;
use crate::fs::{FileSystem, LockGuard};
use crate::log::filler_before;
use crate::log::pair::LogPair;

/// Appends to a delay store and decides what becomes of its messages. One thread owns it; every
/// call blocks until the disk is done.
pub struct DelayWriter {
    pub(super) fs: Arc<dyn FileSystem>,
    pub(super) root: PathBuf,
    pub(super) store: Uuid,
    pub(super) config: DelayConfig,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) logs: LogPair,
    pub(super) shared: Arc<Shared>,
    pub(super) reader: DelayReader,
    ids: HashMap<Subject, DelaySubject>,
    buffer: BytesMut,
    /// Accepted, and in no commit yet.
    pub(super) unpublished: Vec<Row>,
    /// In the commit that was begun, but not visible yet.
    pub(super) committing: Vec<Row>,
    /// The commit that was begun waits for the disk.
    awaits_sync: bool,
    /// Something was decided that must be durable before it is acted upon.
    is_urgent: bool,
    pub(super) checkpoint_number: u64,
    pub(super) checkpoint_at: UnixMillis,
    pub(super) checkpoint_positions: [u64; 2],
    /// When overdue messages were last looked for.
    pub(super) expired_at: Option<UnixMillis>,
    is_poisoned: bool,
    /// Stopped before the lock goes.
    pub(super) chores: DelayChores,
    _lock: Box<dyn LockGuard>,
}

impl std::fmt::Debug for DelayWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DelayWriter")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

/// What recovery hands over.
pub(crate) struct Recovered {
    pub(crate) fs: Arc<dyn FileSystem>,
    pub(crate) root: PathBuf,
    pub(crate) lock: Box<dyn LockGuard>,
    pub(crate) store: Uuid,
    pub(crate) logs: LogPair,
    pub(crate) shared: Arc<Shared>,
    pub(crate) chores: DelayChores,
    pub(crate) checkpoint_number: u64,
}

impl DelayWriter {
    pub(crate) fn new(recovered: Recovered, config: DelayConfig, clock: Arc<dyn Clock>) -> Self {
        let Recovered { shared, .. } = recovered;
        let ids = {
            let state = shared.read();
            let names = state.subjects.names().iter().cloned();
            names.zip((0..).map(DelaySubject)).collect()
        };
        let now = clock.now();
        Self {
            fs: recovered.fs,
            root: recovered.root,
            store: recovered.store,
            config,
            clock,
            logs: recovered.logs,
            reader: DelayReader::new(shared.clone()),
            shared,
            ids,
            buffer: BytesMut::new(),
            unpublished: Vec::new(),
            committing: Vec::new(),
            awaits_sync: false,
            is_urgent: false,
            checkpoint_number: recovered.checkpoint_number,
            checkpoint_at: now,
            checkpoint_positions: [0; 2],
            expired_at: None,
            is_poisoned: false,
            chores: recovered.chores,
            _lock: recovered.lock,
        }
    }

    /// Appends messages to the page cache, all or nothing, and gives each its number: one entry in
    /// `placed` per message. They become visible, and may be acted upon, with the next
    /// [`Self::commit`].
    ///
    /// # Errors
    /// [`AppendError::NoSpace`] and [`AppendError::Unstorable`] leave everything as it was and the
    /// store usable; any other error poisons it.
    pub fn accept(
        &mut self,
        messages: &[NewDelayed],
        placed: &mut Vec<Pending>,
    ) -> Result<(), AppendError> {
        self.check_alive().map_err(|_| AppendError::Poisoned)?;
        if messages.is_empty() {
            return Ok(());
        }
        for (index, message) in messages.iter().enumerate() {
            let flaw = message_log::flaw(&message.subject, message.due, &message.payload);
            if let Some(what) = flaw {
                return Err(AppendError::Unstorable { index, what });
            }
        }
        let stored_at = self.clock.now();
        let next = self.shared.read().book.next;
        let views = messages.iter().zip(next..).map(|(message, sequence)| {
            let due = message.due.0;
            RecordView {
                key: Key { due, sequence },
                stored_at,
                replaces: None,
                subject: message.subject.as_str(),
                crc: message.crc,
                payload: &message.payload,
            }
        });
        let views: Vec<RecordView<'_>> = views.collect();
        self.append_messages(&views, placed)
    }

    /// Appends records, all or nothing.
    fn append_messages(
        &mut self,
        views: &[RecordView<'_>],
        placed: &mut Vec<Pending>,
    ) -> Result<(), AppendError> {
        let (kept, known) = (self.unpublished.len(), self.ids.len());
        self.buffer.clear();
        let appended = self.try_append_messages(views);
        if appended.is_err() {
            self.unpublished.truncate(kept);
            self.ids.retain(|_, id| (id.0 as usize) < known);
            self.shared.write().subjects.truncate(known);
            return self.end_append(LogKind::Delayed, appended);
        }
        let new = &self.unpublished[kept..];
        placed.extend(new.iter().map(Row::pending));
        let moves = views.iter().filter(|view| view.replaces.is_some()).count();
        {
            let state = &mut *self.shared.write();
            for view in views {
                state.book.accept(view.key, view.replaces);
            }
            if moves > 0 {
                // With the old one gone the new one is there at once, so that it is found by who
                // looks at any time. What was appended before it may be seen as well: whatever is
                // done with it is durable after it.
                state.moves += moves as u64;
                let hidden = self.committing.drain(..).chain(self.unpublished.drain(..));
                hidden.for_each(|row| state.table.insert(row));
            }
        }
        self.end_append(LogKind::Delayed, appended)
    }

    fn try_append_messages(&mut self, views: &[RecordView<'_>]) -> Result<(), AppendError> {
        self.reserve_slots().map_err(AppendError::from_error)?;
        let segment_bytes = self.logs.messages.segment_bytes();
        for (index, view) in views.iter().enumerate() {
            let position = self.logs.messages.written() + self.buffer.len() as u64;
            let record = view.bytes();
            let filler = filler_before(LogKind::Delayed, segment_bytes, position, record);
            let bytes = u32::try_from(record).ok();
            let (Some(filler), Some(bytes)) = (filler, bytes) else {
                let what = "message is larger than a segment";
                return Err(AppendError::Unstorable { index, what });
            };
            if filler > 0 {
                message_log::put_filler(&mut self.buffer, filler);
            }
            view.put(&mut self.buffer);
            let spot = Spot {
                offset: position + filler,
                bytes,
                subject: self.intern(view.subject)?,
            };
            self.unpublished.push(Row {
                key: view.key,
                spot,
                id_hash: message_log::id_hash(view.payload),
            });
        }
        self.logs
            .messages
            .append(&self.buffer)
            .map_err(AppendError::from_error)
    }

    fn intern(&mut self, name: &str) -> Result<DelaySubject, AppendError> {
        if let Some(id) = self.ids.get(name) {
            return Ok(*id);
        }
        let what = "not a subject";
        let name = Subject::new(name).map_err(|_| AppendError::Unstorable { index: 0, what })?;
        let id = self.shared.write().subjects.intern(&name);
        self.ids.insert(name, id);
        Ok(id)
    }

    /// Notes that messages are about to be sent to a broker group, and adds those that may be to
    /// `accepted`: none that is done, cancelled or rescheduled, and none that is begun already.
    /// They may be sent after the next [`Self::commit`]. To send a begun one to another group,
    /// [`Self::refuse`] it first.
    ///
    /// # Errors
    /// As [`Self::accept`].
    pub fn begin(
        &mut self,
        group: &str,
        wanted: &[Pending],
        accepted: &mut Vec<Pending>,
    ) -> Result<(), AppendError> {
        if group.is_empty() || group.len() > GROUP_NAME_BYTES_MAX {
            let what = "name of a broker group must have 1 to 255 bytes";
            return Err(AppendError::Unstorable { index: 0, what });
        }
        let chosen: Vec<Pending> = {
            let state = self.shared.read();
            let mut seen = HashSet::with_capacity(wanted.len());
            let may_go = |pending: &&Pending| {
                state.book.is_pending(pending.sequence.0) && seen.insert(pending.sequence)
            };
            wanted.iter().filter(may_go).copied().collect()
        };
        let keys: Vec<Key> = chosen.iter().map(Pending::key).collect();
        self.append_verb(Verb::Begin, group, &keys)?;
        accepted.extend(chosen);
        Ok(())
    }

    /// Notes that a broker confirmed these messages: they are delivered. Those that are not begun
    /// are passed over. Synced with the next commit that has something urgent, or half a second
    /// later: a power cut before makes the outcome unknown again.
    ///
    /// # Errors
    /// As [`Self::accept`].
    pub fn confirm(&mut self, sequences: &[AcceptSequence]) -> Result<(), AppendError> {
        let keys = self.begun_of(sequences);
        self.append_verb(Verb::Confirm, "", &keys)
    }

    /// Notes that these messages were definitely not delivered, or that their broker group is
    /// gone for good: they are pending again. Otherwise as [`Self::confirm`].
    ///
    /// # Errors
    /// As [`Self::accept`].
    pub fn refuse(&mut self, sequences: &[AcceptSequence]) -> Result<(), AppendError> {
        let keys = self.begun_of(sequences);
        self.append_verb(Verb::Refuse, "", &keys)
    }

    fn begun_of(&self, sequences: &[AcceptSequence]) -> Vec<Key> {
        let state = self.shared.read();
        let begun = sequences.iter().filter_map(|sequence| {
            let due = state.book.begun.get(&sequence.0)?.due;
            let sequence = sequence.0;
            Some(Key { due, sequence })
        });
        begun.collect()
    }

    /// Cancels a message that was looked up, if it is not too late. The answer may be given after
    /// the next [`Self::commit`].
    ///
    /// # Errors
    /// As [`Self::accept`].
    pub fn cancel(&mut self, found: &Found) -> Result<CancelAnswer, AppendError> {
        self.check_alive().map_err(|_| AppendError::Poisoned)?;
        Ok(match self.fate(found) {
            Fate::Gone => CancelAnswer::Unknown,
            Fate::Is(EntryState::Pending) => {
                self.append_verb(Verb::Cancel, "", &[found.entry.key()])?;
                CancelAnswer::Cancelled
            }
            Fate::Is(EntryState::Dispatching) => CancelAnswer::Dispatching,
            Fate::Is(EntryState::Delivered) => CancelAnswer::Delivered,
            Fate::Is(EntryState::Cancelled) => CancelAnswer::AlreadyCancelled,
            Fate::Moved => CancelAnswer::Moved,
            Fate::Is(EntryState::Expired) => CancelAnswer::Expired,
        })
    }

    fn fate(&self, found: &Found) -> Fate {
        self.shared.read().book.state(found.entry.sequence.0)
    }

    /// Gives a message that was looked up another due time, if it is not too late: it gets a new
    /// number, and the old one is done. One record says both. The answer may be given after the
    /// next [`Self::commit`].
    ///
    /// # Errors
    /// As [`Self::accept`]; [`AppendError::Unstorable`] when the message is damaged, and
    /// [`AppendError::Failed`] without poisoning when it cannot be read.
    pub fn reschedule(
        &mut self,
        found: &Found,
        due: UnixMillis,
    ) -> Result<RescheduleAnswer, AppendError> {
        self.check_alive().map_err(|_| AppendError::Poisoned)?;
        match self.fate(found) {
            Fate::Gone => return Ok(RescheduleAnswer::Unknown),
            Fate::Moved => return Ok(RescheduleAnswer::Moved),
            Fate::Is(EntryState::Pending) => {}
            Fate::Is(state) => return Ok(RescheduleAnswer::NotPending(state)),
        }
        let mut read = Vec::new();
        self.reader.read(&[found.entry], &mut read);
        let message = match read.pop() {
            Some(Ok(message)) => message,
            None | Some(Err(DelayReadError::Gone { .. } | DelayReadError::Corrupt { .. })) => {
                let what = "the message cannot be read";
                return Err(AppendError::Unstorable { index: 0, what });
            }
            Some(Err(DelayReadError::Failed(error))) => return Err(AppendError::Failed(error)),
        };
        if let Some(what) = message_log::flaw(&message.subject, due, &message.payload) {
            return Err(AppendError::Unstorable { index: 0, what });
        }
        let sequence = self.shared.read().book.next;
        let view = RecordView {
            key: Key {
                due: due.0,
                sequence,
            },
            stored_at: self.clock.now(),
            replaces: Some(found.entry.key()),
            subject: message.subject.as_str(),
            crc: message.crc,
            payload: &message.payload,
        };
        let mut placed = Vec::with_capacity(1);
        self.append_messages(&[view], &mut placed)?;
        let new = placed.pop().expect("one message was appended");
        Ok(RescheduleAnswer::Rescheduled(new))
    }

    /// Appends what happens to `keys` to the dispatch log, all or nothing, and notes it.
    pub(super) fn append_verb(
        &mut self,
        verb: Verb,
        group: &str,
        keys: &[Key],
    ) -> Result<(), AppendError> {
        self.check_alive().map_err(|_| AppendError::Poisoned)?;
        if keys.is_empty() {
            return Ok(());
        }
        let is_forgotten = matches!(
            (self.config.sabotage, verb),
            (DelaySabotage::BeginNotDurable, Verb::Begin)
                | (DelaySabotage::ForgetConfirmation, Verb::Confirm)
                | (DelaySabotage::ForgetCancel, Verb::Cancel)
        );
        let appended = if is_forgotten {
            Ok(())
        } else {
            self.try_append_verb(verb, group, keys)
        };
        if appended.is_ok() {
            self.shared.write().book.apply(verb, group, keys);
            self.is_urgent |= matches!(verb, Verb::Begin | Verb::Cancel);
        }
        self.end_append(LogKind::Dispatch, appended)
    }

    fn try_append_verb(
        &mut self,
        verb: Verb,
        group: &str,
        keys: &[Key],
    ) -> Result<(), AppendError> {
        self.reserve_slots().map_err(AppendError::from_error)?;
        self.buffer.clear();
        let segment_bytes = self.logs.actions.segment_bytes();
        let time = self.clock.now();
        for keys in keys.chunks(DispatchRecord::keys_max(segment_bytes)) {
            let record = DispatchRecord {
                verb,
                time,
                group: group.to_owned(),
                keys: keys.to_vec(),
            };
            let position = self.logs.actions.written() + self.buffer.len() as u64;
            let bytes = record.bytes();
            let filler = filler_before(LogKind::Dispatch, segment_bytes, position, bytes);
            let filler = filler.expect("keys_max leaves room in every segment");
            if filler > 0 {
                dispatch_log::put_filler(&mut self.buffer, filler);
            }
            record.put(&mut self.buffer);
        }
        self.logs
            .actions
            .append(&self.buffer)
            .map_err(AppendError::from_error)
    }

    /// Makes what was appended durable as the flush mode asks for, logs and commit records in
    /// parallel, and then shows the accepted messages to readers. What is begun or cancelled is
    /// durable afterwards in any mode, with the messages it is about.
    ///
    /// # Errors
    /// Any error poisons the store: nothing that was not visible before is to be acknowledged.
    pub fn commit(&mut self) -> Result<(), Error> {
        self.begin_commit()?;
        self.finish_commit()
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
    pub fn begin_commit(&mut self) -> Result<bool, Error> {
        self.check_alive()?;
        assert!(self.committing.is_empty(), "one commit at a time");
        self.poison_on_error(|writer| {
            writer.logs.write_commit_records()?;
            let plan = writer.plan();
            writer.awaits_sync = plan != Plan::default();
            if writer.awaits_sync {
                writer.logs.end_sync()?;
                writer.logs.begin_sync(plan);
            }
            writer.is_urgent &= !plan.actions;
            Ok(())
        })?;
        std::mem::swap(&mut self.unpublished, &mut self.committing);
        Ok(self.awaits_sync)
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
    pub fn finish_commit(&mut self) -> Result<(), Error> {
        // What a failed sync was to cover is never shown.
        self.check_alive()?;
        if std::mem::take(&mut self.awaits_sync) {
            self.poison_on_error(|writer| writer.logs.end_sync())?;
        }
        self.publish();
        Ok(())
    }

    fn plan(&self) -> Plan {
        let dirty = self.logs.dirty();
        let (mode, now) = (self.config.flush, self.clock.now());
        let left = flush::due_in(mode, self.logs.dirty_since(), now);
        let rides_along = mode == FlushMode::Sync && left.is_some_and(|left| left.is_zero());
        Plan {
            messages: dirty.messages && (mode == FlushMode::Sync || self.is_urgent),
            actions: dirty.actions && (self.is_urgent || rides_along),
        }
    }

    /// Shows what was accepted to readers.
    fn publish(&mut self) {
        if self.committing.is_empty() {
            return;
        }
        let table = &mut self.shared.write().table;
        self.committing.drain(..).for_each(|row| table.insert(row));
    }

    fn end_append(
        &mut self,
        kind: LogKind,
        appended: Result<(), AppendError>,
    ) -> Result<(), AppendError> {
        match &appended {
            Ok(()) => self.logs.touched(kind, self.clock.now()),
            Err(AppendError::Failed(_) | AppendError::Poisoned) => self.is_poisoned = true,
            Err(AppendError::NoSpace | AppendError::Unstorable { .. }) => {}
        }
        appended
    }

    /// Seals the ring when few slots are left.
    fn reserve_slots(&mut self) -> Result<(), Error> {
        if self.logs.has_slots() {
            return Ok(());
        }
        self.logs.seal()
    }

    fn check_alive(&self) -> Result<(), Error> {
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
            tracing::error!(%error, "delay store is poisoned");
        }
        done
    }

    /// Runs `work`; any error but a full disk ends the writing.
    pub(super) fn poison_unless_full(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.check_alive()?;
        let done = work(self);
        if let Err(error) = &done
            && !matches!(error, Error::NoSpace { .. })
        {
            self.is_poisoned = true;
            tracing::error!(%error, "delay store is poisoned");
        }
        done
    }
}
