//! Syncs several files at the same time: log and commit records of one batch.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use tracing::warn;

use crate::config::Background;
use crate::fs::File;

/// A commit syncs messagelog, actionlog and ring; one of them on the calling thread.
const HELPERS: usize = 2;

/// Syncs files, in parallel if it has threads.
pub(crate) struct Syncer {
    helpers: Vec<Helper>,
}

struct Helper {
    jobs: Option<SyncSender<Arc<dyn File>>>,
    done: Receiver<io::Result<()>>,
    handle: Option<JoinHandle<()>>,
}

impl Syncer {
    pub(crate) fn start(background: Background) -> io::Result<Self> {
        let count = match background {
            Background::Inline => 0,
            Background::Threads => HELPERS,
        };
        let helpers = (0..count).map(Helper::start).collect::<io::Result<_>>()?;
        Ok(Self { helpers })
    }

    /// Syncs all `files`; returns after the last one is done. The first error counts.
    pub(crate) fn sync(&self, files: &[Arc<dyn File>]) -> io::Result<()> {
        // The first files are the large ones: they stay here, the small ring goes to a helper.
        let here = files.len() - self.helpers.len().min(files.len().saturating_sub(1));
        let (here, helped) = files.split_at(here);
        let mut asked = Ok(());
        let mut waiting = Vec::with_capacity(helped.len());
        for (file, helper) in helped.iter().zip(&self.helpers) {
            match helper.ask(file.clone()) {
                Ok(()) => waiting.push(helper),
                Err(error) => asked = Err(error),
            }
        }
        let mut result = here.iter().try_for_each(|file| file.sync_data());
        for helper in waiting {
            let helped = helper.done.recv().unwrap_or_else(|_| Err(helper_is_gone()));
            result = result.and(helped);
        }
        result.and(asked)
    }
}

impl Helper {
    fn start(number: usize) -> io::Result<Self> {
        let (jobs, todo) = sync_channel::<Arc<dyn File>>(1);
        let (results, done) = sync_channel(1);
        let work = move || {
            for file in todo {
                if results.send(file.sync_data()).is_err() {
                    return;
                }
            }
        };
        let name = format!("store-sync-{number}");
        let handle = std::thread::Builder::new().name(name).spawn(work)?;
        Ok(Self {
            jobs: Some(jobs),
            done,
            handle: Some(handle),
        })
    }

    fn ask(&self, file: Arc<dyn File>) -> io::Result<()> {
        let jobs = self.jobs.as_ref().ok_or_else(helper_is_gone)?;
        jobs.send(file).map_err(|_| helper_is_gone())
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(handle) = self.handle.take()
            && handle.join().is_err()
        {
            warn!("a thread that syncs panicked");
        }
    }
}

fn helper_is_gone() -> io::Error {
    io::Error::other("the thread that syncs is gone")
}
