//! Reading halves of a delay store: cheap clones that see visible messages only.

use std::ops::{Bound, Range};
use std::sync::Arc;

use bytes::Bytes;
use qmq_model::{Subject, UnixMillis};

use crate::delay::book::{HOUR_MS, State as Fate};
use crate::delay::browse::Browse;
use crate::delay::count::is_not_done;
use crate::delay::entry::{
    AcceptSequence, DelaySubject, DelayedMessage, EntryState, Found, Key, Listed, LoadCursor,
    Pending,
};
use crate::delay::message_log::{RecordView, id_hash_of, message_id};
use crate::delay::run::Runs;
use crate::delay::shared::Shared;
use crate::delay::table::{Row, Spot};
use crate::error::Error;

/// A message may move from the write-ahead log to a run, and from run to run, while it is read.
const ATTEMPTS_MAX: usize = 4;

/// Why a delayed message could not be read. It stays pending.
#[derive(Debug, thiserror::Error)]
pub enum DelayReadError {
    /// The store holds no such message.
    #[error("message {sequence} due at {due} is not in the store")]
    Gone {
        /// Its number.
        sequence: u64,
        /// When it is due.
        due: UnixMillis,
    },
    /// The bytes on disk are not that message.
    #[error("record of message {sequence} due at {due} is damaged")]
    Corrupt {
        /// Its number.
        sequence: u64,
        /// When it is due.
        due: UnixMillis,
    },
    /// The operating system refused, or an index is damaged; it may work later.
    #[error(transparent)]
    Failed(Error),
}

/// What is known without reading anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DelayStats {
    /// Messages that are not done: pending or being sent.
    pub pending: u64,
    /// Those of them that are being sent, or were with an unknown outcome.
    pub begun: u64,
    /// The same as `pending` by the hour they are due in: beginning of the hour, messages.
    /// Ascending, without empty hours.
    pub by_hour: Vec<(UnixMillis, u64)>,
    /// Messages that were dropped as overdue since the store was created.
    pub expired: u64,
    /// Messages that only the write-ahead log holds.
    pub in_tables: u64,
    /// Messages that runs hold, with those that are done and not cleared away yet.
    pub in_runs: u64,
    /// Runs.
    pub runs: u64,
}

/// Finds and reads visible messages. Every call but those that say so may block on the disk.
#[derive(Clone)]
pub struct DelayReader {
    pub(super) shared: Arc<Shared>,
}

impl DelayReader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The number of a subject, if it was ever stored. Does no IO.
    #[must_use]
    pub fn subject(&self, name: &Subject) -> Option<DelaySubject> {
        self.shared.read().subjects.id(name)
    }

    /// The name behind a number. Does no IO.
    #[must_use]
    pub fn name(&self, id: DelaySubject) -> Option<Subject> {
        self.shared.read().subjects.name(id).cloned()
    }

    /// How many subjects were ever stored. Does no IO.
    #[must_use]
    pub fn subject_count(&self) -> usize {
        self.shared.read().subjects.names().len()
    }

    /// How many messages there are. Does no IO.
    #[must_use]
    pub fn stats(&self) -> DelayStats {
        let state = self.shared.read();
        let by_hour = state.book.by_hour.iter();
        let by_hour =
            by_hour.map(|(hour, count)| (UnixMillis(hour.saturating_mul(HOUR_MS)), *count));
        DelayStats {
            pending: state.book.pending_count(),
            begun: state.book.begun.len() as u64,
            by_hour: by_hour.collect(),
            expired: state.book.expired_total,
            in_tables: state.tables().map(|table| table.len() as u64).sum(),
            in_runs: state.runs.iter().map(|(run, _)| run.len()).sum(),
            runs: state.runs.len() as u64,
        }
    }

    /// Appends pending messages due in `from..until` to `out`, at most `max`, by due time and
    /// then by arrival; those that are being sent are left out. `resume` is where an earlier call
    /// stopped; the answer is where the next one goes on, `None` when there are no more.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn load(
        &self,
        from: UnixMillis,
        until: UnixMillis,
        resume: Option<LoadCursor>,
        max: usize,
        out: &mut Vec<Pending>,
    ) -> Result<Option<LoadCursor>, Error> {
        let is_wanted = |state: Fate| state == Fate::Is(EntryState::Pending);
        self.browse(from, until, resume, max, |pending, state| {
            let is_taken = is_wanted(state);
            if is_taken {
                out.push(pending);
            }
            is_taken
        })
    }

    /// Visits messages until `max` of them were taken.
    fn browse(
        &self,
        from: UnixMillis,
        until: UnixMillis,
        resume: Option<LoadCursor>,
        max: usize,
        mut take: impl FnMut(Pending, Fate) -> bool,
    ) -> Result<Option<LoadCursor>, Error> {
        let begin = resume.map_or(Bound::Included(Key::first_at(from)), |cursor| {
            Bound::Excluded(cursor.0)
        });
        let mut browse = Browse::new(&self.shared, begin, until.0)?;
        let mut taken = 0;
        while taken < max {
            let Some(found) = browse.next()? else {
                return Ok(None);
            };
            let state = self.shared.read().book.state(found.sequence.0);
            taken += usize::from(take(found, state));
            if taken == max {
                return Ok(Some(LoadCursor(found.key())));
            }
        }
        Ok(resume)
    }

    /// `None` when the subject is not known; `Some(None)` when none is asked for.
    #[expect(
        clippy::option_option,
        reason = "an unknown subject is not the same as all subjects"
    )]
    fn wanted(&self, subject: Option<&Subject>) -> Option<Option<DelaySubject>> {
        match subject {
            None => Some(None),
            Some(name) => self.subject(name).map(Some),
        }
    }

    /// Appends messages that are not done to `out`, as [`Self::load`] does, with subject and id;
    /// of one subject or of all. A message that cannot be read is listed without an id.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn list(
        &self,
        subject: Option<&Subject>,
        due: Range<UnixMillis>,
        resume: Option<LoadCursor>,
        max: usize,
        out: &mut Vec<Listed>,
    ) -> Result<Option<LoadCursor>, Error> {
        let Some(wanted) = self.wanted(subject) else {
            return Ok(None);
        };
        let mut found = Vec::new();
        let next = self.browse(due.start, due.end, resume, max, |pending, state| {
            let is_taken = is_not_done(state) && wanted.is_none_or(|id| id == pending.subject);
            if let (true, Fate::Is(state)) = (is_taken, state) {
                found.push((pending, state));
            }
            is_taken
        })?;
        for (entry, state) in found {
            let read = self.read_one(&entry);
            let message_id = match &read {
                Ok(message) => message_id(&message.payload).unwrap_or_default(),
                Err(_) => &[],
            };
            let Some(subject) = self.name(entry.subject) else {
                continue;
            };
            out.push(Listed {
                entry,
                subject,
                message_id: Bytes::copy_from_slice(message_id),
                state,
            });
        }
        Ok(next)
    }

    /// Every copy of the message with this subject and id that the store holds, with its state;
    /// those that got another due time are left out, as the new one is there.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn find(&self, subject: &Subject, message_id: &[u8]) -> Result<Vec<Found>, Error> {
        for _ in 1..ATTEMPTS_MAX {
            let (found, moves) = self.look_for(subject, message_id)?;
            // Of a message that is moved meanwhile, neither the old nor the new one may be seen.
            if self.shared.read().moves == moves {
                return Ok(found);
            }
        }
        self.look_for(subject, message_id).map(|(found, _)| found)
    }

    /// What is there, and how often messages had been moved before the look.
    fn look_for(&self, subject: &Subject, message_id: &[u8]) -> Result<(Vec<Found>, u64), Error> {
        let hash = id_hash_of(subject, message_id);
        let (mut candidates, runs, moves) = {
            let state = self.shared.read();
            let with = state.tables().flat_map(|table| table.with_hash(hash));
            let candidates = with.map(Row::pending).collect::<Vec<Pending>>();
            (candidates, state.runs.clone(), state.moves)
        };
        for (run, _) in runs.iter() {
            for key in run.with_hash(hash, &self.shared.cache)? {
                let entry = run.get(key, &self.shared.cache)?;
                candidates.extend(entry.map(|entry| entry.pending()));
            }
        }
        let mut found = Vec::new();
        for entry in candidates {
            let is_same = match self.read_one(&entry) {
                Ok(message) => {
                    let id = self::message_id(&message.payload);
                    message.subject == *subject && id == Some(message_id)
                }
                // It is gone since.
                Err(DelayReadError::Gone { .. }) => false,
                Err(DelayReadError::Corrupt { .. }) => {
                    tracing::error!(
                        sequence = entry.sequence.0,
                        "a record that may be the wanted one is damaged"
                    );
                    false
                }
                Err(DelayReadError::Failed(error)) => return Err(error),
            };
            let state = self.shared.read().book.state(entry.sequence.0);
            if let (true, Fate::Is(state)) = (is_same, state) {
                found.push(Found { entry, state });
            }
        }
        found.sort_by_key(|found| found.entry.key());
        Ok((found, moves))
    }

    pub(super) fn read_one(&self, pending: &Pending) -> Result<DelayedMessage, DelayReadError> {
        let (sequence, due) = (pending.sequence.0, pending.due);
        for _ in 0..ATTEMPTS_MAX {
            let (spot, runs) = {
                let state = self.shared.read();
                (state.spot(pending.key()), state.runs.clone())
            };
            let record = match spot {
                Some(spot) => self.read_spot(spot)?,
                None => self.read_run(&runs, pending.key())?,
            };
            match (record, spot) {
                (Some(record), _) => {
                    let record = Bytes::from(record);
                    let message = decode(&record, pending.key());
                    return message.ok_or(DelayReadError::Corrupt { sequence, due });
                }
                (None, Some(_)) => {}
                (None, None) => break,
            }
        }
        Err(DelayReadError::Gone { sequence, due })
    }

    /// The bytes of a record in a run, if one of them holds it.
    fn read_run(&self, runs: &Runs, key: Key) -> Result<Option<Vec<u8>>, DelayReadError> {
        for (run, _) in runs.iter() {
            let entry = run.get(key, &self.shared.cache);
            if let Some(entry) = entry.map_err(DelayReadError::Failed)? {
                let record = run.read_record(&entry).map_err(DelayReadError::Failed)?;
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// The bytes of a record in the write-ahead log; `None` when its segment is gone.
    fn read_spot(&self, spot: Spot) -> Result<Option<Vec<u8>>, DelayReadError> {
        let segments = &self.shared.segments;
        let mut record = vec![0; spot.bytes as usize];
        match segments.read_exact(&mut record, spot.offset) {
            None => Ok(None),
            Some(Ok(())) => Ok(Some(record)),
            Some(Err(source)) => {
                let path = segments.path_of(segments.base_of(spot.offset));
                Err(DelayReadError::Failed(Error::io("read", &path, source)))
            }
        }
    }

    /// The message with this key, whatever became of it, if the store holds it.
    pub(crate) fn look_up(&self, key: Key) -> Result<Option<Pending>, Error> {
        let (spot, runs) = {
            let state = self.shared.read();
            (state.spot(key), state.runs.clone())
        };
        if let Some(spot) = spot {
            return Ok(Some(spot.pending(key)));
        }
        for (run, _) in runs.iter() {
            if let Some(entry) = run.get(key, &self.shared.cache)? {
                return Ok(Some(entry.pending()));
            }
        }
        Ok(None)
    }
}

/// The message in a record, if it is the one with this key.
pub(super) fn decode(record: &Bytes, key: Key) -> Option<DelayedMessage> {
    let view = RecordView::decode(record).filter(|view| view.key == key)?;
    Some(DelayedMessage {
        sequence: AcceptSequence(view.key.sequence),
        due: UnixMillis(view.key.due),
        stored_at: view.stored_at,
        subject: Subject::new(view.subject).ok()?,
        payload: record.slice_ref(view.payload),
        crc: view.crc,
    })
}
