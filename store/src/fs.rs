//! The only caller of the operating system's files, and the traits that let a faulty twin take
//! its place.

pub mod faulty;

mod disk;

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, IoSliceMut, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use crate::error::{Doing, Error};
use crate::format::TMP_SUFFIX;

/// Longest owner text that is read from a lock file.
const LOCK_OWNER_BYTES_MAX: usize = 64;

/// How [`FileSystem::open`] treats a missing file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// It is an error of kind `NotFound`.
    Existing,
    /// It is created, empty.
    Create,
    /// It is an error, and what is written goes past the page cache: memory, offset and length must
    /// be multiples of [`DIRECT_BYTES`]. `InvalidInput` or `Unsupported` where files cannot be
    /// opened or written so.
    Direct,
}

/// What writes to a file opened with [`OpenMode::Direct`] are multiples of.
pub const DIRECT_BYTES: u64 = 4096;

/// A name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name; bytes that are not UTF-8 are replaced.
    pub name: String,
    /// Whether it is a folder.
    pub is_dir: bool,
}

/// Why a lock was not taken.
#[derive(Debug)]
pub enum LockError {
    /// Someone else has it; the text is what they wrote into the file.
    Held(String),
    /// The operating system refused.
    Io(io::Error),
}

/// Holds a lock until dropped.
pub trait LockGuard: Send + Sync + fmt::Debug {}

/// Files and folders of one machine. Names become durable with [`Self::sync_dir`] only.
pub trait FileSystem: Send + Sync + 'static {
    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// What the system says; `NotFound` when it is missing and must exist.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// Gives a file another name in the same folder; an existing file of that name is replaced.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes the name of a file; who has it open keeps it.
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The names in a folder, sorted.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;
    /// Creates a folder and those above it; one that exists is fine.
    ///
    /// # Errors
    /// What the system says.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    ///
    /// # Errors
    /// What the system says.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes an advisory lock on a file, creating it, and writes `owner` into it.
    ///
    /// # Errors
    /// When it is held, or the system refuses.
    fn lock(&self, path: &Path, owner: &str) -> Result<Box<dyn LockGuard>, LockError>;
}

/// An open file.
pub trait File: Send + Sync {
    /// Reads at `offset`; fewer bytes than asked for mean that the file ends there.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;
    /// As [`Self::read_at`], from memory: never waits for the disk.
    ///
    /// # Errors
    /// What the system says; `WouldBlock` when it has not all of it in memory or cannot tell.
    fn read_cached_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`, growing the file. After an error any part may have been
    /// written.
    ///
    /// # Errors
    /// What the system says.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes sure that there is room on the disk for a stretch of the file, growing the file. What
    /// was never written reads as zeros.
    ///
    /// # Errors
    /// What the system says; `Unsupported` when it cannot do this.
    fn allocate(&self, stretch: Range<u64>) -> io::Result<()>;
    /// Makes content and length durable.
    ///
    /// # Errors
    /// What the system says. What was written since the last good sync may be lost then, even if
    /// a later sync succeeds.
    fn sync_data(&self) -> io::Result<()>;
    /// Cuts the file or lets it grow by zeros.
    ///
    /// # Errors
    /// What the system says.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Length in bytes.
    ///
    /// # Errors
    /// What the system says.
    fn len(&self) -> io::Result<u64>;
    /// Whether the length is 0.
    ///
    /// # Errors
    /// What the system says.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// The file system of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

struct RealFile(fs::File);

#[derive(Debug)]
struct RealLock {
    _file: fs::File,
}

impl LockGuard for RealLock {}

impl FileSystem for RealFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true);
        let options = match mode {
            OpenMode::Existing => options,
            OpenMode::Create => options.create(true),
            OpenMode::Direct => options.custom_flags(direct_flag()),
        };
        Ok(Arc::new(RealFile(options.open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            entries.push(Entry {
                name,
                is_dir: entry.file_type()?.is_dir(),
            });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path, owner: &str) -> Result<Box<dyn LockGuard>, LockError> {
        use rustix::fs::{FlockOperation, flock};

        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path).map_err(LockError::Io)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(LockError::Held(lock_owner(&file))),
            Err(errno) => return Err(LockError::Io(errno.into())),
        }
        file.set_len(0)
            .and_then(|()| file.write_all(owner.as_bytes()))
            .map_err(LockError::Io)?;
        Ok(Box::new(RealLock { _file: file }))
    }
}

fn direct_flag() -> i32 {
    OFlags::DIRECT.bits().cast_signed()
}

fn lock_owner(file: &fs::File) -> String {
    let mut bytes = [0; LOCK_OWNER_BYTES_MAX];
    // The owner may be writing its id right now; then there is nothing to tell.
    let len = file.read_at(&mut bytes, 0).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..len]).trim().to_owned()
}

impl File for RealFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            match self.0.read_at(&mut bytes[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn read_cached_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            let mut rest = [IoSliceMut::new(&mut bytes[done..])];
            let at = offset + done as u64;
            match preadv2(&self.0, &mut rest, at, ReadWriteFlags::NOWAIT) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn allocate(&self, stretch: Range<u64>) -> io::Result<()> {
        let (at, bytes) = (stretch.start, stretch.end - stretch.start);
        let allocated = rustix::fs::fallocate(&self.0, FallocateFlags::empty(), at, bytes);
        Ok(allocated?)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

/// Reads a whole small file; `None` when it is missing.
pub(crate) fn read_file(fs: &dyn FileSystem, path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let file = match fs.open(path, OpenMode::Existing) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", path, error)),
    };
    let len = file.len().doing("read the length of", path)?;
    let len = usize::try_from(len).map_err(|_| Error::Corrupt {
        path: path.to_owned(),
        what: "too long",
    })?;
    let mut bytes = vec![0; len];
    let read = file.read_at(&mut bytes, 0).doing("read", path)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// Puts a whole file in place, or leaves the old one: tmp, sync, rename, sync of the folder.
pub(crate) fn replace_file(
    fs: &dyn FileSystem,
    dir: &Path,
    name: &str,
    bytes: &[u8],
) -> Result<(), Error> {
    let path = dir.join(name);
    let tmp = dir.join(format!("{name}{TMP_SUFFIX}"));
    if let Err(error) = write_new(fs, &tmp, bytes) {
        // On a full disk every byte counts; what cannot be removed goes with the next start.
        if let Err(error) = fs.remove(&tmp) {
            tracing::warn!(path = %tmp.display(), %error, "incomplete file stays");
        }
        return Err(error);
    }
    fs.rename(&tmp, &path).doing("rename to", &path)?;
    fs.sync_dir(dir).doing("sync folder", dir)
}

/// Writes and syncs a file, replacing its content. Its name is not durable yet.
pub(crate) fn write_new(fs: &dyn FileSystem, path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let file = fs.open(path, OpenMode::Create).doing("create", path)?;
    file.set_len(0).doing("empty", path)?;
    file.write_at(bytes, 0).doing("write", path)?;
    file.sync_data().doing("sync", path)
}
