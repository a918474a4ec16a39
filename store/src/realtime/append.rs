//! Appending: records laid out in one buffer, sequences given, everything taken back on failure.

use bytes::Bytes;
use qmq_model::{MessageOffset, MessageSequence, Subject, UnixMillis};

use crate::config::Sabotage;
use crate::duplicates::{self, Entry, Fingerprint};
use crate::error::{AppendError, Error};
use crate::flush::Plan;
use crate::format::LogKind;
use crate::log::filler_before;
use crate::realtime::action_log::{self, Action};
use crate::realtime::consumer_log::{Located, SubjectId};
use crate::realtime::control_log::Control;
use crate::realtime::message_log::{self, Header};
use crate::realtime::writer::{StoreWriter, SubjectState};
use crate::tag_mask::TagMask;

/// Batches are laid out in buffers of at least this size, which readers then share.
const BUFFER_BYTES: usize = 256 << 10;

/// A message to be stored.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// Subject of the record. For copies in retry subjects it is not the one in the payload.
    pub subject: Subject,
    /// The message as on the wire behind its CRC.
    pub payload: Bytes,
    /// CRC-32 of the payload; the caller has verified it.
    pub crc: u32,
    /// From [`StoreReader::fingerprint`](crate::StoreReader::fingerprint). `None`: never taken for
    /// a repeat, as it must be in retry and dead-letter subjects.
    pub fingerprint: Option<Fingerprint>,
}

impl NewMessage {
    /// The same, borrowed.
    #[must_use]
    pub fn borrowed(&self) -> BorrowedMessage<'_> {
        BorrowedMessage {
            subject: &self.subject,
            payload: &self.payload,
            crc: self.crc,
            fingerprint: self.fingerprint,
        }
    }
}

/// A message to be stored that someone else holds; see [`NewMessage`].
#[derive(Clone, Copy, Debug)]
pub struct BorrowedMessage<'a> {
    /// Subject of the record.
    pub subject: &'a Subject,
    /// The message as on the wire behind its CRC.
    pub payload: &'a [u8],
    /// CRC-32 of the payload; the caller has verified it.
    pub crc: u32,
    /// `None`: never taken for a repeat.
    pub fingerprint: Option<Fingerprint>,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// It was appended.
    Appended(Appended),
    /// It was appended before, within the duplicate window, and not again. It counts as stored
    /// with the next [`StoreWriter::commit`], because the original may not be durable yet.
    Repeat {
        /// End of the original's record.
        end: MessageOffset,
    },
}

impl Placed {
    /// Where it was put, unless it is a repeat.
    #[must_use]
    pub fn appended(&self) -> Option<&Appended> {
        match self {
            Self::Appended(appended) => Some(appended),
            Self::Repeat { .. } => None,
        }
    }
}

/// Where a message was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its subject.
    pub subject: SubjectId,
    /// Its number in the subject.
    pub sequence: MessageSequence,
    /// First byte of its record.
    pub offset: MessageOffset,
    /// Bytes of the whole record.
    pub bytes: u32,
}

impl StoreWriter {
    /// Appends messages to the page cache, all or nothing, and gives each its sequence: one entry
    /// in `placed` per message. They become visible with the next [`Self::commit`].
    ///
    /// # Errors
    /// [`AppendError::NoSpace`] and [`AppendError::Unstorable`] leave everything as it was and the
    /// store usable; any other error poisons it.
    pub fn append_messages(
        &mut self,
        messages: &[NewMessage],
        placed: &mut Vec<Placed>,
    ) -> Result<(), AppendError> {
        self.append_borrowed(messages.iter().map(NewMessage::borrowed), placed)
    }

    /// As [`Self::append_messages`], for messages that are gathered from several places.
    ///
    /// # Errors
    /// As [`Self::append_messages`].
    pub fn append_borrowed<'m>(
        &mut self,
        messages: impl Iterator<Item = BorrowedMessage<'m>> + Clone,
        placed: &mut Vec<Placed>,
    ) -> Result<(), AppendError> {
        self.check_alive().map_err(|_| AppendError::Poisoned)?;
        let kept = placed.len();
        let unpublished = self.unpublished.len();
        let appended = self.try_append_messages(messages, placed);
        if appended.is_err() {
            for undone in placed.drain(kept..).rev() {
                if let Some(undone) = undone.appended() {
                    self.subjects[undone.subject.0 as usize].next = undone.sequence;
                }
            }
            if self.config.sabotage != Sabotage::KeepRolledBack {
                self.duplicates.truncate(self.logs.messages.written());
            }
            self.unpublished.truncate(unpublished);
            self.message_buffer.clear();
        }
        self.end_append(LogKind::Message, appended)
    }

    fn try_append_messages<'m>(
        &mut self,
        messages: impl Iterator<Item = BorrowedMessage<'m>> + Clone,
        placed: &mut Vec<Placed>,
    ) -> Result<(), AppendError> {
        self.reserve_slots().map_err(AppendError::from_error)?;
        let start = self.logs.messages.written();
        let mut total = 0;
        for message in messages.clone() {
            total += message_log::record_bytes(message.subject.as_str(), message.payload);
            if let Some(fingerprint) = message.fingerprint {
                let is_delayed = duplicates::is_delayed(message.payload);
                self.duplicates.approach(fingerprint, is_delayed);
            }
        }
        let total = usize::try_from(total).map_err(|_| AppendError::NoSpace)?;
        if self.message_buffer.capacity() < total {
            self.message_buffer.reserve(total.max(BUFFER_BYTES));
        }
        let time = self.clock.now();
        let mut last = None;
        for (index, message) in messages.enumerate() {
            self.lay_out(message, time, &mut last, placed)
                .map_err(|what| AppendError::Unstorable { index, what })?;
        }
        if self.message_buffer.is_empty() {
            return Ok(());
        }
        self.logs
            .messages
            .append(&self.message_buffer)
            .map_err(AppendError::from_error)?;
        let batch = self.message_buffer.split().freeze();
        self.shared.keep_recent(start, batch);
        Ok(())
    }

    /// Adds one record to the buffer, after a filler if it needs one.
    fn lay_out<'m>(
        &mut self,
        message: BorrowedMessage<'m>,
        time: UnixMillis,
        last: &mut Option<(&'m Subject, SubjectId)>,
        placed: &mut Vec<Placed>,
    ) -> Result<(), &'static str> {
        let name = message.subject.as_str();
        if message.payload.is_empty() {
            return Err("message is empty");
        }
        let is_delayed = duplicates::is_delayed(message.payload);
        let known = message.fingerprint.filter(|_| !self.duplicates.is_off());
        let original = known.and_then(|known| self.duplicates.find(known, is_delayed, time));
        if let Some(Entry { end, .. }) = original {
            placed.push(Placed::Repeat { end });
            return Ok(());
        }
        let record = message_log::record_bytes(name, message.payload);
        let bytes = u32::try_from(record).map_err(|_| "message is larger than a segment")?;
        let position = self.logs.messages.written() + self.message_buffer.len() as u64;
        let segment_bytes = self.logs.messages.segment_bytes();
        let filler = filler_before(LogKind::Message, segment_bytes, position, record)
            .ok_or("message is larger than a segment")?;
        // Messages of one request share a name: it is looked up once.
        let subject = match last {
            Some((name, id)) if std::ptr::eq(*name, message.subject) => *id,
            _ => self.intern(message.subject),
        };
        *last = Some((message.subject, subject));
        let state = &mut self.subjects[subject.0 as usize];
        let sequence = state.next;
        state.next = sequence.plus(1);
        let offset = MessageOffset(position + filler);
        placed.push(Placed::Appended(Appended {
            subject,
            sequence,
            offset,
            bytes,
        }));
        if let Some(fingerprint) = known {
            let end = MessageOffset(offset.0 + record);
            let entry = Entry {
                fingerprint,
                end,
                time,
            };
            self.duplicates.push(entry, is_delayed);
        }
        self.messages_seen += 1;
        if let Sabotage::DropMessage(every) = self.config.sabotage
            && self.messages_seen.is_multiple_of(u64::from(every))
        {
            return Ok(());
        }
        if filler > 0 {
            message_log::put_filler(&mut self.message_buffer, time, filler);
        }
        let header = Header {
            time,
            sequence,
            subject: name,
            crc: message.crc,
        };
        message_log::put_record(&mut self.message_buffer, &header, message.payload);
        let tags = TagMask::of_payload(message.payload).unwrap_or(TagMask::ANY);
        self.unpublished.push(Located {
            subject,
            sequence,
            offset,
            bytes,
            time,
            tags,
        });
        Ok(())
    }

    fn intern(&mut self, name: &Subject) -> SubjectId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let (id, _) = self.shared.index.intern(name);
        debug_assert_eq!(
            id.0 as usize,
            self.subjects.len(),
            "only the writer adds subjects"
        );
        self.subjects
            .push(SubjectState::new(name.clone(), MessageSequence(0)));
        self.ids.insert(name.clone(), id);
        id
    }

    /// Appends actions to the page cache, all or nothing.
    ///
    /// # Errors
    /// As [`Self::append_messages`].
    pub fn append_actions(&mut self, actions: &[Action]) -> Result<(), AppendError> {
        self.check_alive().map_err(|_| AppendError::Poisoned)?;
        if actions.is_empty() {
            return Ok(());
        }
        self.action_buffer.clear();
        let appended = self.try_append_actions(actions);
        if appended.is_ok() {
            for action in actions {
                self.progress.apply(action);
                if let Action::Pull {
                    broadcast: false,
                    pulls,
                    ..
                } = action
                {
                    self.pulls_unsynced += pulls.start.abs_diff(pulls.end);
                }
            }
        }
        self.end_append(LogKind::Action, appended)
    }

    fn try_append_actions(&mut self, actions: &[Action]) -> Result<(), AppendError> {
        self.reserve_slots().map_err(AppendError::from_error)?;
        for (index, action) in actions.iter().enumerate() {
            if let Some(what) = action.flaw() {
                return Err(AppendError::Unstorable { index, what });
            }
            let position = self.logs.actions.written() + self.action_buffer.len() as u64;
            let (segment, record) = (self.logs.actions.segment_bytes(), action.record_bytes());
            let filler = filler_before(LogKind::Action, segment, position, record);
            let what = "action is larger than a segment";
            let filler = filler.ok_or(AppendError::Unstorable { index, what })?;
            if filler > 0 {
                action_log::put_filler(&mut self.action_buffer, filler);
            }
            action.put_record(&mut self.action_buffer);
        }
        self.logs
            .actions
            .append(&self.action_buffer)
            .map_err(AppendError::from_error)
    }

    /// Makes a control entry durable and applies it: a barrier. All actions before it are durable
    /// before it is written, and all later ones come behind it. Blocks for two syncs.
    ///
    /// # Errors
    /// As [`Self::append_messages`].
    pub fn append_control(&mut self, control: &Control) -> Result<(), AppendError> {
        self.check_alive().map_err(|_| AppendError::Poisoned)?;
        if let Some(what) = control.flaw() {
            return Err(AppendError::Unstorable { index: 0, what });
        }
        let appended = self.poison_unless_full(|writer| writer.try_append_control(control));
        appended.map_err(AppendError::from_error)?;
        self.progress.apply_control(control);
        Ok(())
    }

    fn try_append_control(&mut self, control: &Control) -> Result<(), Error> {
        if self.controls.is_full() {
            self.try_checkpoint()?;
        }
        self.reserve_slots()?;
        self.logs.write_commit_records()?;
        self.sync(Plan {
            messages: false,
            actions: self.logs.actions.is_dirty(),
        })?;
        let (term, offset) = (self.logs.term, self.logs.actions.durable());
        let and_sync = self.config.sabotage != Sabotage::SkipControlSync;
        self.controls.append(term, offset, control, and_sync)
    }

    fn end_append(
        &mut self,
        kind: LogKind,
        appended: Result<(), AppendError>,
    ) -> Result<(), AppendError> {
        match &appended {
            Ok(()) => {
                self.logs.touched(kind, self.clock.now());
                self.show_positions();
            }
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
        self.seal()
    }
}

impl AppendError {
    pub(crate) fn from_error(error: Error) -> Self {
        match error {
            Error::NoSpace { .. } => Self::NoSpace,
            Error::Poisoned => Self::Poisoned,
            error => Self::Failed(error),
        }
    }
}
