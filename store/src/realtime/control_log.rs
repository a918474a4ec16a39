//! The controllog: what actions cannot say, in order with them.
//!
//! ```text
//!  0  4 magic     4  2 version   6  1 kind      7  1 zero     8 4 bytes of the entry
//! 12 16 uuid     28  8 serial   36  8 term     44  8 actionlog offset    52 8 time
//! 60 str subject, str group, then     1 reset: 8 next message      2 forget: nothing
//! .. 4 CRC-32C of all before
//! ```
//!
//! A file is named by the serial of its first entry. A new one is begun behind every checkpoint,
//! and a file goes when the oldest checkpoint that is kept includes all of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use qmq_model::{ConsumerGroup, MessageSequence, Subject, UnixMillis};
use uuid::Uuid;

use crate::error::{Doing, Error};
use crate::format::{
    CONTROL_MAGIC, CONTROLS, Fields, VERSION, checked, segment_base, segment_name,
};
use crate::fs::{File, FileSystem, OpenMode, read_file};

/// Shortest entry: names and numbers empty.
const ENTRY_BYTES_MIN: usize = 60 + 2 + 2 + 4;
/// Longest entry: two names of 255 bytes and a sequence.
const ENTRY_BYTES_MAX: usize = ENTRY_BYTES_MIN + 2 * 255 + 8;
/// A file that is longer wants a checkpoint, and another file. With the number of checkpoints
/// that are kept this bounds the controllog.
pub(crate) const FILE_BYTES_MAX: u64 = 1 << 20;
const KIND_RESET: u8 = 1;
const KIND_FORGET_GROUP: u8 = 2;

/// A change of a group's progress that is no pull and no ack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// The group goes on at another message, in front of or behind its position.
    Reset {
        /// The subject consumed, possibly a retry subject.
        subject: Subject,
        /// Which group; in broadcast the consumer's id.
        group: ConsumerGroup,
        /// Next message sequence to hand out; 0 or above.
        next: MessageSequence,
        /// When.
        time: UnixMillis,
    },
    /// The group will not come back: its state is forgotten.
    ForgetGroup {
        /// The subject consumed.
        subject: Subject,
        /// Which group.
        group: ConsumerGroup,
        /// When.
        time: UnixMillis,
    },
}

impl Control {
    /// Whom it concerns.
    #[must_use]
    pub fn key(&self) -> (&Subject, &ConsumerGroup) {
        match self {
            Self::Reset { subject, group, .. } | Self::ForgetGroup { subject, group, .. } => {
                (subject, group)
            }
        }
    }

    /// Why this cannot be stored, if it cannot.
    pub(crate) fn flaw(&self) -> Option<&'static str> {
        match self {
            Self::Reset { next, .. } if next.0 < 0 => Some("sequence is negative"),
            Self::Reset { .. } | Self::ForgetGroup { .. } => None,
        }
    }
}

/// A control with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ControlEntry {
    /// Rises by 1 with every entry of a store, from 1 on.
    pub(crate) serial: u64,
    pub(crate) term: u64,
    /// It applies behind all actions before this offset and before all others.
    pub(crate) offset: u64,
    pub(crate) control: Control,
}

impl ControlEntry {
    fn encode(&self, store: Uuid) -> Vec<u8> {
        let (kind, time) = match &self.control {
            Control::Reset { time, .. } => (KIND_RESET, time),
            Control::ForgetGroup { time, .. } => (KIND_FORGET_GROUP, time),
        };
        let (subject, group) = self.control.key();
        let mut out = Vec::with_capacity(ENTRY_BYTES_MAX);
        out.extend_from_slice(&CONTROL_MAGIC.to_be_bytes());
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&[kind, 0]);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(store.as_bytes());
        for field in [self.serial, self.term, self.offset] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        out.extend_from_slice(&time.0.to_be_bytes());
        for name in [subject.as_str(), group.as_str()] {
            let len = u16::try_from(name.len()).expect("names have at most 255 bytes");
            out.extend_from_slice(&len.to_be_bytes());
            out.extend_from_slice(name.as_bytes());
        }
        if let Control::Reset { next, .. } = &self.control {
            out.extend_from_slice(&next.0.to_be_bytes());
        }
        let len = u32::try_from(out.len() + 4).expect("at most ENTRY_BYTES_MAX");
        out[8..12].copy_from_slice(&len.to_be_bytes());
        crate::format::seal(&mut out);
        out
    }

    /// Takes the entry off the front of `bytes`, with its length; `None` when none is there.
    fn decode(bytes: &[u8], store: Uuid) -> Option<(Self, usize)> {
        let len = u32::from_be_bytes(*bytes.get(8..)?.first_chunk()?);
        let len = usize::try_from(len).ok()?;
        if !(ENTRY_BYTES_MIN..=ENTRY_BYTES_MAX).contains(&len) {
            return None;
        }
        let mut fields = Fields(checked(bytes.get(..len)?)?);
        if fields.u32()? != CONTROL_MAGIC || fields.u16()? != VERSION {
            return None;
        }
        let [kind, _] = fields.array()?;
        fields.u32()?;
        if fields.uuid()? != store {
            return None;
        }
        let [serial, term, offset] = [fields.u64()?, fields.u64()?, fields.u64()?];
        let time = UnixMillis(fields.i64()?);
        let subject = Subject::new(fields.text()?).ok()?;
        let group = ConsumerGroup::new(fields.text()?).ok()?;
        let control = match kind {
            KIND_RESET => Control::Reset {
                subject,
                group,
                next: MessageSequence(fields.i64()?),
                time,
            },
            KIND_FORGET_GROUP => Control::ForgetGroup {
                subject,
                group,
                time,
            },
            _ => return None,
        };
        let is_good = fields.rest().is_empty() && control.flaw().is_none() && serial > 0;
        let entry = Self {
            serial,
            term,
            offset,
            control,
        };
        is_good.then_some((entry, len))
    }
}

/// What opening the controllog found.
#[derive(Debug, Default)]
pub(crate) struct FoundControls {
    /// Entries that the checkpoint does not include, ascending.
    pub(crate) entries: Vec<ControlEntry>,
    /// Bytes of an entry that was never acknowledged, cut off at the end.
    pub(crate) bytes_cut: u64,
    /// Stretches that are no entries, and serials that are missing.
    pub(crate) damages: u64,
}

/// A file with its first serial and its end.
struct CurrentFile {
    file: Arc<dyn File>,
    path: PathBuf,
    bytes: u64,
}

/// The controllog of a store: appended to by one owner.
pub(crate) struct ControlLog {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    store: Uuid,
    /// Serial of the newest entry; 0 before the first.
    last: u64,
    /// First serials of the files, ascending.
    files: Vec<u64>,
    /// `None` until the first entry behind a checkpoint.
    current: Option<CurrentFile>,
}

impl ControlLog {
    /// Reads everything that is there, and cuts off what was never acknowledged. The checkpoint
    /// includes all entries up to serial `included`.
    pub(crate) fn open(
        fs: Arc<dyn FileSystem>,
        root: &Path,
        store: Uuid,
        included: u64,
    ) -> Result<(Self, FoundControls), Error> {
        let dir = root.join(CONTROLS);
        // Stores of earlier versions have none.
        fs.create_dir(&dir).doing("create folder", &dir)?;
        fs.sync_dir(root).doing("sync folder", root)?;
        let entries = fs.list(&dir).doing("list", &dir)?;
        let files = entries.iter().filter_map(|entry| segment_base(&entry.name));
        let mut log = Self {
            dir,
            store,
            last: 0,
            files: files.collect(),
            current: None,
            fs,
        };
        log.files.sort_unstable();
        let mut found = FoundControls::default();
        for (number, first) in log.files.clone().into_iter().enumerate() {
            let is_newest = number + 1 == log.files.len();
            log.read(first, is_newest, included, &mut found)?;
        }
        let kept = found.entries.len();
        found.entries.retain(|entry| entry.serial > included);
        let serials = found.entries.iter().map(|entry| entry.serial);
        let missing = serials
            .zip(included + 1..)
            .any(|(found, wanted)| found != wanted);
        found.damages += u64::from(missing);
        tracing::debug!(kept, replayed = found.entries.len(), "controllog read");
        log.last = log.last.max(included);
        Ok((log, found))
    }

    /// Reads one file. Only the end of the newest can be an entry that was never acknowledged.
    fn read(
        &mut self,
        first: u64,
        is_newest: bool,
        included: u64,
        found: &mut FoundControls,
    ) -> Result<(), Error> {
        let path = self.dir.join(segment_name(first));
        let bytes = read_file(self.fs.as_ref(), &path)?.unwrap_or_default();
        let (mut at, mut good_end) = (0, 0);
        while at < bytes.len() {
            let Some((entry, len)) = ControlEntry::decode(&bytes[at..], self.store) else {
                at += 1;
                continue;
            };
            if at > good_end {
                self.report_damage(&path, good_end, at, found);
            }
            at += len;
            good_end = at;
            self.last = self.last.max(entry.serial);
            found.entries.push(entry);
        }
        // Files of entries that every checkpoint includes are gone.
        let known = self.last.max(first.saturating_sub(1));
        if is_newest && known >= included {
            found.bytes_cut = (bytes.len() - good_end) as u64;
            return self.keep(&path, &bytes[..good_end], bytes.len() > good_end);
        }
        if good_end < bytes.len() {
            self.report_damage(&path, good_end, bytes.len(), found);
        }
        Ok(())
    }

    fn report_damage(&self, path: &Path, begin: usize, end: usize, found: &mut FoundControls) {
        tracing::warn!(path = %path.display(), begin, end, "damage in the controllog");
        found.damages += 1;
    }

    /// Makes the newest file durable as it was read: it may only have been in the page cache,
    /// perhaps behind a failed sync.
    fn keep(&mut self, path: &Path, bytes: &[u8], has_tail: bool) -> Result<(), Error> {
        if has_tail {
            tracing::warn!(path = %path.display(), kept = bytes.len(), "end of controllog cut");
        }
        if bytes.is_empty() {
            self.files.pop();
            self.fs.remove(path).doing("remove", path)?;
        } else {
            let open = self.fs.open(path, OpenMode::Existing);
            let file = open.doing("open", path)?;
            file.set_len(bytes.len() as u64).doing("cut", path)?;
            file.write_at(bytes, 0).doing("write", path)?;
            file.sync_data().doing("sync", path)?;
        }
        self.fs.sync_dir(&self.dir).doing("sync folder", &self.dir)
    }

    /// Serial of the newest entry; 0 before the first.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Whether a checkpoint is to be written before the next entry.
    pub(crate) fn is_full(&self) -> bool {
        self.current
            .as_ref()
            .is_some_and(|current| current.bytes >= FILE_BYTES_MAX)
    }

    /// Writes an entry that applies at this offset of the actionlog, durably. `and_sync` is only
    /// ever false to break that promise in tests. After an [`Error::NoSpace`] nothing of it is
    /// left; any other error ends the use of this log.
    pub(crate) fn append(
        &mut self,
        term: u64,
        offset: u64,
        control: &Control,
        and_sync: bool,
    ) -> Result<(), Error> {
        let serial = self.last + 1;
        let entry = ControlEntry {
            serial,
            term,
            offset,
            control: control.clone(),
        };
        let bytes = entry.encode(self.store);
        let current = match &mut self.current {
            Some(current) => current,
            empty => {
                let path = self.dir.join(segment_name(serial));
                let file = self.fs.open(&path, OpenMode::Create);
                let file = file.doing("create", &path)?;
                let bytes = 0;
                empty.insert(CurrentFile { file, path, bytes })
            }
        };
        let CurrentFile {
            file,
            path,
            bytes: end,
        } = current;
        if let Err(error) = file.write_at(&bytes, *end).doing("write", path) {
            // Nothing of a refused entry may be found by a recovery.
            file.set_len(*end).doing_for_good("cut", path)?;
            file.sync_data().doing_for_good("sync", path)?;
            return Err(error);
        }
        if and_sync {
            file.sync_data().doing_for_good("sync", path)?;
        }
        let is_first = *end == 0;
        *end += bytes.len() as u64;
        if is_first {
            self.files.push(serial);
            self.fs
                .sync_dir(&self.dir)
                .doing_for_good("sync folder", &self.dir)?;
        }
        self.last = serial;
        Ok(())
    }

    /// Everything so far is in a checkpoint, and everything up to serial `oldest` in all that are
    /// kept: begins another file and removes those that no checkpoint needs.
    pub(crate) fn checkpointed(&mut self, oldest: u64) -> Result<(), Error> {
        self.current = None;
        let behind = self.files.iter().skip(1).copied().chain([self.last + 1]);
        let spent = behind
            .take_while(|next| *next <= oldest.saturating_add(1))
            .count();
        for first in self.files.drain(..spent) {
            let path = self.dir.join(segment_name(first));
            self.fs.remove(&path).doing("remove", &path)?;
        }
        Ok(())
    }

    /// Whether files are kept that a checkpoint may have made superfluous.
    pub(crate) fn has_files(&self) -> bool {
        !self.files.is_empty()
    }
}

#[cfg(test)]
mod tests;
