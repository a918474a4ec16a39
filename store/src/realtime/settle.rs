//! What makes a stretch of the logs a thing of the past, done by another thread than the writer:
//! checksums written, then the commit records sealed or a checkpoint saved.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

use crate::background::Worker;
use crate::checkpoint::{self, Checkpoint};
use crate::config::Background;
use crate::error::Error;
use crate::fs::FileSystem;
use crate::log::sums::SumFiles;

/// Does one piece of work at a time.
pub(super) struct Settler {
    fs: Arc<dyn FileSystem>,
    root: PathBuf,
    store: Uuid,
    worker: Worker,
    outcome: Arc<Mutex<Option<Result<Settled, Error>>>>,
    /// Work was given and its outcome not taken.
    is_busy: bool,
}

/// What is to be done when the checksums are durable.
pub(super) enum Work {
    /// Nothing: commit records up to this serial may then be sealed.
    Seal(u64),
    /// Save a checkpoint, and leave so many.
    Checkpoint(Box<Checkpoint>, usize),
}

/// What was done.
pub(super) enum Settled {
    /// Commit records up to this serial may be sealed.
    Seal(u64),
    /// This was saved.
    Checkpoint {
        checkpoint: Box<Checkpoint>,
        /// Newest control entry that all checkpoints include.
        controls: u64,
    },
}

impl Settler {
    pub(super) fn start(
        fs: Arc<dyn FileSystem>,
        root: PathBuf,
        store: Uuid,
        background: Background,
    ) -> io::Result<Self> {
        Ok(Self {
            fs,
            root,
            store,
            worker: Worker::start("store-settler", background, Arc::default())?,
            outcome: Arc::default(),
            is_busy: false,
        })
    }

    /// Whether work was given whose outcome was not taken.
    pub(super) fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// Has `work` done after the checksums of both logs.
    pub(super) fn give(&mut self, sums: [Arc<SumFiles>; 2], work: Work) {
        let (fs, root, store) = (self.fs.clone(), self.root.clone(), self.store);
        let outcome = self.outcome.clone();
        self.is_busy = true;
        self.worker.offer(move || {
            let settled = settle(fs.as_ref(), &root, store, &sums, work);
            *outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(settled);
        });
    }

    /// The outcome of the work that is done.
    pub(super) fn take(&mut self) -> Option<Result<Settled, Error>> {
        if !self.is_busy || self.worker.is_busy() {
            return None;
        }
        self.is_busy = false;
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        // A thread that is gone did nothing.
        let gone = || Err(Error::Stopped);
        Some(outcome.take().unwrap_or_else(gone))
    }

    /// Waits until nothing is being done.
    pub(super) fn wait(&self) {
        self.worker.wait();
    }
}

fn settle(
    fs: &dyn FileSystem,
    root: &std::path::Path,
    store: Uuid,
    sums: &[Arc<SumFiles>; 2],
    work: Work,
) -> Result<Settled, Error> {
    for files in sums {
        files.write()?;
    }
    match work {
        Work::Seal(serial) => Ok(Settled::Seal(serial)),
        Work::Checkpoint(checkpoint, retain) => {
            checkpoint.save(fs, root, store)?;
            checkpoint::tidy(fs, root, retain)?;
            let controls = checkpoint::controls_included(fs, root, store)?;
            Ok(Settled::Checkpoint {
                checkpoint,
                controls,
            })
        }
    }
}
