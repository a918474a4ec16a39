//! Entries of the duplicate window, kept beside the log so that a restart need not read ten
//! minutes of it.
//!
//! ```text
//!  0 4 magic   4 2 version   6 2 zero   8 16 uuid   24 8 start   32 8 end   40 4 entries
//! 44 entries: 16 fingerprint, 8 end of the record, 8 time, 1 delayed
//! .. 4 CRC-32C of all before
//! ```
//!
//! A file covers durable bytes `start..end` of the messagelog and is named by `start`. It is a
//! cache: never synced, and rebuilt from the log when it is missing or damaged.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use qmq_model::{MessageOffset, UnixMillis};
use uuid::Uuid;

use crate::background::Worker;
use crate::duplicates::{Duplicates, Entry, Fingerprint};
use crate::error::{Doing, Error};
use crate::format::{
    DUPLICATES, DUPLICATES_MAGIC, Fields, VERSION, checked, seal, segment_base, segment_name,
};
use crate::fs::{FileSystem, OpenMode, read_file};

/// A file is written when this many entries are in none, ...
const FILE_ENTRIES: usize = 1 << 14;
/// ... or when this many bytes of the messagelog are in none, and with every checkpoint.
const FILE_LOG_BYTES: u64 = 256 << 20;
const HEAD_BYTES: usize = 44;
const ENTRY_BYTES: usize = 33;

/// A file and what it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Covered {
    start: u64,
    end: u64,
}

/// What the files hold.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// Their entries, in the order of the log, each with whether it is delayed.
    pub(crate) entries: Vec<(Entry, bool)>,
    /// What they cover, ascending.
    pub(crate) covered: Vec<Range<u64>>,
    /// What they leave out, ascending: between them, and where there was one that is of no use.
    /// The last one has no end of its own. Each begins between records.
    pub(crate) gaps: Vec<Range<u64>>,
}

/// The files of one store.
pub(crate) struct DuplicateFiles {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    store: Uuid,
    files: Vec<Covered>,
    /// Files in front of all others that are of no use. Their names say from where on the log is
    /// to be read.
    useless: Vec<u64>,
    /// Where the next file begins.
    next: u64,
    /// Touches the disk instead of the writer, which must not wait for that. `None`: it may.
    worker: Option<Worker>,
    /// The newest of `files` could not be written.
    is_missing: Arc<AtomicBool>,
}

/// What is to be done on the disk.
struct Job {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    /// Start and content of a new file.
    write: Option<(u64, Vec<u8>)>,
    /// Whether names must be durable afterwards.
    and_sync_names: bool,
    /// Starts of files that nobody needs.
    remove: Vec<u64>,
    /// Set when the file could not be written.
    is_missing: Arc<AtomicBool>,
}

impl DuplicateFiles {
    /// Reads all files that end at or before `kept`, the end of the log, and removes all others.
    pub(crate) fn open(
        fs: Arc<dyn FileSystem>,
        root: &Path,
        store: Uuid,
        kept: u64,
    ) -> Result<(Self, Loaded), Error> {
        let dir = root.join(DUPLICATES);
        // Stores of earlier versions have none.
        fs.create_dir(&dir).doing("create folder", &dir)?;
        let listed = fs.list(&dir).doing("list", &dir)?;
        let starts = listed.iter().filter_map(|entry| segment_base(&entry.name));
        let mut starts: Vec<u64> = starts.collect();
        starts.sort_unstable();
        let mut files = Self {
            fs,
            dir,
            store,
            files: Vec::new(),
            useless: Vec::new(),
            next: 0,
            worker: None,
            is_missing: Arc::default(),
        };
        let mut loaded = Loaded::default();
        let mut at = None;
        for start in starts {
            let covered = files.load(start, kept, &mut loaded)?;
            let from = *at.get_or_insert(start);
            if let Some(covered) = covered {
                if from < start {
                    loaded.gaps.push(from..start);
                }
                at = Some(covered.end);
            }
        }
        loaded.gaps.extend(at.map(|from| from..u64::MAX));
        files.next = files.files.last().map_or(0, |last| last.end);
        Ok((files, loaded))
    }

    /// Reads one file; `None` when it is of no use.
    fn load(
        &mut self,
        start: u64,
        kept: u64,
        loaded: &mut Loaded,
    ) -> Result<Option<Covered>, Error> {
        let path = self.path(start);
        let bytes = read_file(self.fs.as_ref(), &path)?.unwrap_or_default();
        let behind = self.files.last().map_or(0, |last| last.end);
        let decoded = decode(&bytes, self.store)
            .filter(|(covered, _)| covered.start == start && covered.end <= kept)
            .filter(|_| behind <= start);
        let Some((covered, entries)) = decoded else {
            tracing::warn!(path = %path.display(), "file of duplicates is of no use");
            if self.files.is_empty() {
                self.useless.push(start);
            } else {
                self.remove(start);
            }
            return Ok(None);
        };
        self.files.push(covered);
        loaded.covered.push(covered.start..covered.end);
        // A file holds one kind of message after the other.
        let from = loaded.entries.len();
        loaded.entries.extend(entries);
        loaded.entries[from..].sort_unstable_by_key(|(entry, _)| entry.end);
        Ok(Some(covered))
    }

    /// The next file begins at `start`, or where the last one ends if that is higher: everything
    /// before is known.
    pub(crate) fn begin(&mut self, start: u64) {
        self.next = self.next.max(start);
    }

    /// Whether so much has come together that it is to be saved.
    pub(crate) fn is_due(&self, duplicates: &Duplicates, durable: u64) -> bool {
        durable.saturating_sub(self.next) >= FILE_LOG_BYTES
            || (durable > self.next && duplicates.count_above(self.next) >= FILE_ENTRIES)
    }

    /// From now on lets `worker` write.
    pub(crate) fn write_with(&mut self, worker: Worker) {
        self.worker = Some(worker);
    }

    /// Saves what is durable and in no file yet, and removes files that nobody needs. A failure
    /// costs time at the next start, nothing else. Does nothing while the worker is busy.
    pub(crate) fn save(&mut self, duplicates: &Duplicates, durable: u64) {
        self.save_as(duplicates, durable, false);
    }

    /// As [`Self::save`], and makes the names of the files durable, so that a power cut leaves no
    /// gap that nobody knows of.
    pub(crate) fn save_with_names(&mut self, duplicates: &Duplicates, durable: u64) {
        self.save_as(duplicates, durable, true);
    }

    fn save_as(&mut self, duplicates: &Duplicates, durable: u64, with_names: bool) {
        if self.worker.as_ref().is_some_and(Worker::is_busy) {
            return;
        }
        if self.is_missing.swap(false, Ordering::Relaxed)
            && let Some(missing) = self.files.pop()
        {
            self.next = missing.start;
        }
        let start = self.next;
        let mut job = Job {
            fs: self.fs.clone(),
            dir: self.dir.clone(),
            write: None,
            // A start that finds a later file only would not know that one is missing.
            and_sync_names: with_names || self.files.is_empty(),
            remove: Vec::new(),
            is_missing: self.is_missing.clone(),
        };
        if durable > start {
            let covered = Covered {
                start,
                end: durable,
            };
            job.write = Some((start, encode(covered, duplicates, self.store)));
            self.files.push(covered);
            self.next = durable;
        }
        let oldest = duplicates.oldest_end().unwrap_or(u64::MAX);
        // Where a file is missing behind one, that one says so until this is forgotten too. The
        // newest says from where on the log is to be read.
        let pairs = self.files.windows(2);
        let spent = pairs.take_while(|pair| pair[1].start < oldest).count();
        if spent > 0 {
            job.remove = std::mem::take(&mut self.useless);
            let spent = self.files.drain(..spent).map(|file| file.start);
            job.remove.extend(spent);
        }
        match &self.worker {
            Some(worker) => worker.offer(move || job.run()),
            None => job.run(),
        }
    }

    /// Waits until everything is written.
    pub(crate) fn wait(&self) {
        if let Some(worker) = &self.worker {
            worker.wait();
        }
    }

    fn path(&self, start: u64) -> PathBuf {
        self.dir.join(segment_name(start))
    }

    /// Removes a file; one that stays is found useless at the next start.
    fn remove(&self, start: u64) {
        remove(self.fs.as_ref(), &self.path(start));
    }
}

impl Job {
    fn run(self) {
        let fs = self.fs.as_ref();
        if let Some((start, bytes)) = &self.write {
            let path = self.dir.join(segment_name(*start));
            if let Err(error) = write(fs, &path, bytes) {
                tracing::warn!(%error, "duplicates are not saved");
                remove(fs, &path);
                self.is_missing.store(true, Ordering::Relaxed);
                return;
            }
        }
        if self.and_sync_names {
            sync_names(fs, &self.dir);
        }
        for start in self.remove {
            remove(fs, &self.dir.join(segment_name(start)));
        }
    }
}

fn write(fs: &dyn FileSystem, path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let file = fs.open(path, OpenMode::Create);
    let file = file.doing("create", path)?;
    file.set_len(0).doing("empty", path)?;
    file.write_at(bytes, 0).doing("write", path)
}

fn remove(fs: &dyn FileSystem, path: &Path) {
    if let Err(error) = fs.remove(path) {
        tracing::debug!(path = %path.display(), %error, "file of duplicates stays");
    }
}

fn sync_names(fs: &dyn FileSystem, dir: &Path) {
    if let Err(error) = fs.sync_dir(dir) {
        tracing::warn!(%error, "names of files of duplicates are not synced");
    }
}

fn encode(covered: Covered, duplicates: &Duplicates, store: Uuid) -> Vec<u8> {
    let count = duplicates.between(covered.start, covered.end).count();
    let mut out = Vec::with_capacity(HEAD_BYTES + count * ENTRY_BYTES + 4);
    out.extend_from_slice(&DUPLICATES_MAGIC.to_be_bytes());
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(store.as_bytes());
    out.extend_from_slice(&covered.start.to_be_bytes());
    out.extend_from_slice(&covered.end.to_be_bytes());
    let count = u32::try_from(count).expect("bounded by memory");
    out.extend_from_slice(&count.to_be_bytes());
    for (entry, is_delayed) in duplicates.between(covered.start, covered.end) {
        out.extend_from_slice(&entry.fingerprint.0.to_be_bytes());
        out.extend_from_slice(&entry.end.0.to_be_bytes());
        out.extend_from_slice(&entry.time.0.to_be_bytes());
        out.push(u8::from(is_delayed));
    }
    seal(&mut out);
    out
}

fn decode(bytes: &[u8], store: Uuid) -> Option<(Covered, Vec<(Entry, bool)>)> {
    let mut fields = Fields(checked(bytes)?);
    if fields.u32()? != DUPLICATES_MAGIC || fields.u16()? != VERSION {
        return None;
    }
    fields.u16()?;
    if fields.uuid()? != store {
        return None;
    }
    let covered = Covered {
        start: fields.u64()?,
        end: fields.u64()?,
    };
    let count = usize::try_from(fields.u32()?).ok()?;
    if fields.rest().len() != count.checked_mul(ENTRY_BYTES)? || covered.start >= covered.end {
        return None;
    }
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let entry = Entry {
            fingerprint: Fingerprint(u128::from_be_bytes(fields.array()?)),
            end: MessageOffset(fields.u64()?),
            time: UnixMillis(fields.i64()?),
        };
        let is_inside = covered.start < entry.end.0 && entry.end.0 <= covered.end;
        if !is_inside {
            return None;
        }
        entries.push((entry, fields.u8()? != 0));
    }
    Some((covered, entries))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::fs::faulty::FaultyFs;

    const STORE: Uuid = Uuid::from_u128(7);

    fn entry(n: u64) -> Entry {
        Entry {
            fingerprint: Fingerprint(n.into()),
            end: MessageOffset(10 * n),
            time: UnixMillis(5),
        }
    }

    /// Messages 1 to `count`, 10 bytes each; every third is delayed.
    fn with(count: u64) -> Duplicates {
        let mut duplicates = Duplicates::new(Duration::from_secs(600), 1 << 20);
        (1..=count).for_each(|n| duplicates.push(entry(n), n.is_multiple_of(3)));
        duplicates
    }

    fn open(fs: &FaultyFs, kept: u64) -> (DuplicateFiles, Loaded) {
        DuplicateFiles::open(Arc::new(fs.clone()), Path::new("/r"), STORE, kept).unwrap()
    }

    fn ends(loaded: &Loaded) -> Vec<u64> {
        loaded
            .entries
            .iter()
            .map(|(entry, _)| entry.end.0)
            .collect()
    }

    fn path(start: u64) -> PathBuf {
        Path::new("/r").join(DUPLICATES).join(segment_name(start))
    }

    fn saved() -> FaultyFs {
        let fs = FaultyFs::new(1);
        let (mut files, loaded) = open(&fs, 0);
        assert!(loaded.entries.is_empty() && loaded.gaps.is_empty());
        files.begin(0);
        files.save(&with(2), 20);
        files.save(&with(4), 30);
        files.save(&with(5), 50);
        files.save(&with(5), 50);
        fs
    }

    #[test]
    fn files_cover_what_is_durable_once() {
        let (files, loaded) = open(&saved(), 100);
        assert_eq!(ends(&loaded), [10, 20, 30, 40, 50]);
        assert_eq!(loaded.entries[2], (entry(3), true));
        assert_eq!(loaded.covered, [0..20, 20..30, 30..50]);
        assert_eq!(loaded.gaps.first(), Some(&(50..u64::MAX)));
        assert_eq!(files.next, 50);
    }

    #[test]
    fn a_damaged_or_missing_file_is_a_gap() {
        let fs = saved();
        assert!(fs.rot(&path(20), 30, 1));
        let (_, loaded) = open(&fs, 100);
        assert_eq!(ends(&loaded), [10, 20, 40, 50]);
        assert_eq!(loaded.gaps, [20..30, 50..u64::MAX]);
        // Now it is missing.
        assert_eq!(open(&fs, 100).1.gaps, [20..30, 50..u64::MAX]);
        assert!(fs.rot(&path(0), 30, 1));
        assert_eq!(open(&fs, 100).1.gaps, [0..30, 50..u64::MAX]);
    }

    #[test]
    fn what_reaches_above_a_cut_is_dropped() {
        let fs = saved();
        let (files, loaded) = open(&fs, 49);
        assert_eq!((ends(&loaded).len(), files.next), (3, 30));
        assert_eq!(loaded.gaps.first(), Some(&(30..u64::MAX)));
        assert_eq!(fs.list(&files.dir).unwrap().len(), 2);
    }

    #[test]
    fn files_go_with_their_last_entry_but_the_newest_stays() {
        let fs = saved();
        let (mut files, _) = open(&fs, 100);
        let mut rest = Duplicates::new(Duration::from_secs(600), 1 << 20);
        rest.push(entry(4), false);
        files.save(&rest, 50);
        assert_eq!(files.files.len(), 1);
        files.save(&Duplicates::new(Duration::from_secs(600), 1 << 20), 50);
        assert_eq!(fs.list(&files.dir).unwrap().len(), 1);
    }

    #[test]
    fn a_full_disk_leaves_a_gap_and_nothing_else() {
        let fs = saved();
        let (mut files, _) = open(&fs, 100);
        fs.limit_space(Some(fs.used() + 20));
        files.save(&with(8), 80);
        assert_eq!(open(&fs, 100).0.next, 50);
        fs.limit_space(None);
        files.save(&with(9), 90);
        assert_eq!(ends(&open(&fs, 100).1)[5..], [60, 70, 80, 90]);
    }

    proptest! {
        #[test]
        fn round_trips(count in 0..40u64, end in 1..400u64) {
            let covered = Covered { start: 0, end };
            let duplicates = with(count);
            let bytes = encode(covered, &duplicates, STORE);
            let (found, entries) = decode(&bytes, STORE).unwrap();
            prop_assert_eq!(found, covered);
            let wanted: Vec<_> = duplicates.between(0, end).map(|(e, d)| (*e, d)).collect();
            prop_assert_eq!(entries, wanted);
            prop_assert!(decode(&bytes, Uuid::from_u128(8)).is_none());
            prop_assert!(decode(&bytes[..bytes.len() - 1], STORE).is_none());
        }

        #[test]
        fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            seal(&mut bytes);
            prop_assert!(decode(&bytes, STORE).is_none());
        }
    }
}
