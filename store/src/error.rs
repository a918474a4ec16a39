//! What can go wrong: opening and committing, appending, reading.

use std::io;
use std::path::{Path, PathBuf};

/// Why a store could not be opened, committed or closed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration breaks a bound.
    #[error("bad store configuration: {0}")]
    Config(String),
    /// The operating system refused something.
    #[error("cannot {doing} {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file system is full, or a quota is used up.
    #[error("no space left to {doing} {path}")]
    NoSpace {
        /// What was tried.
        doing: &'static str,
        /// With which file or folder.
        path: PathBuf,
    },
    /// A file of our own does not hold what it must.
    #[error("{path} is damaged: {what}")]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Another process has the store open.
    #[error("store {path} is in use by process {owner}")]
    Locked {
        /// Folder of the store.
        path: PathBuf,
        /// What the lock file says: the owner's process id.
        owner: String,
    },
    /// The folder belongs to another broker group.
    #[error("store {path} belongs to broker group {found:?}, not to {expected:?}")]
    WrongGroup {
        /// Folder of the store.
        path: PathBuf,
        /// The group that was asked for.
        expected: String,
        /// The group in `store.id`.
        found: String,
    },
    /// The store was created with another segment size.
    #[error("store {path} was created with {what} = {found}, not {expected}")]
    WrongSize {
        /// Folder of the store.
        path: PathBuf,
        /// Which size.
        what: &'static str,
        /// The configured one.
        expected: u64,
        /// The one in `store.id`.
        found: u64,
    },
    /// The folder is not empty and was not written by this program.
    #[error("{path} has no store.id but holds {found:?}: not a store of this program")]
    NotAStore {
        /// The folder.
        path: PathBuf,
        /// A name in it that creation never leaves.
        found: String,
    },
    /// Not one commit record is valid: what is durable is not known, so nothing is touched.
    #[error("{path} holds no valid commit record; nothing was changed")]
    NoCommitRecord {
        /// The ring.
        path: PathBuf,
    },
    /// An earlier write or sync failed; only opening the store again helps.
    #[error("store refuses writes after an earlier failed write or sync")]
    Poisoned,
    /// The store is being closed; the work is left to the next start.
    #[error("the store is being closed")]
    Stopped,
}

/// Why a batch was not appended. Nothing of it was stored.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// There is no room; a later attempt may succeed.
    #[error("no space left in the store")]
    NoSpace,
    /// One entry can never be stored.
    #[error("entry {index} of the batch cannot be stored: {what}")]
    Unstorable {
        /// Which one, counted from 0.
        index: usize,
        /// Why not.
        what: &'static str,
    },
    /// An earlier write or sync failed.
    #[error("store refuses writes after an earlier failed write or sync")]
    Poisoned,
    /// This write failed; the store is poisoned from now on.
    #[error(transparent)]
    Failed(Error),
}

/// Why a message could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The operating system refused the read; it may work later.
    #[error("cannot read the messagelog at {offset}: {source}")]
    Io {
        /// Where.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The bytes there are not that message.
    #[error("record at {offset} of the messagelog is damaged: {what}")]
    Corrupt {
        /// Where.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The index cannot be read, or a part of it is damaged and being rebuilt; it may work later.
    #[error("cannot look up messages: {0}")]
    Index(Error),
    /// The segment is not there.
    #[error("messagelog segment of offset {offset} is not there")]
    Gone {
        /// Where.
        offset: u64,
    },
    /// Not visible to consumers (yet).
    #[error("record at {offset} of the messagelog is not visible")]
    NotVisible {
        /// Where.
        offset: u64,
    },
}

impl Error {
    /// The error for `source`, with what was tried.
    pub(crate) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        if is_no_space(&source) {
            Self::NoSpace {
                doing,
                path: path.to_owned(),
            }
        } else {
            Self::Io {
                doing,
                path: path.to_owned(),
                source,
            }
        }
    }
}

/// Whether a write failed for lack of room only.
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Says what was tried when an IO call fails.
pub(crate) trait Doing<T> {
    /// Turns an IO error into an [`Error`] that names the attempt.
    fn doing(self, doing: &'static str, path: &Path) -> Result<T, Error>;
    /// The same where a full disk is an error like any other: nothing may go on after a failed
    /// sync, or without a commit record.
    fn doing_for_good(self, doing: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::io(doing, path, source))
    }

    fn doing_for_good(self, doing: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::Io {
            doing,
            path: path.to_owned(),
            source,
        })
    }
}
