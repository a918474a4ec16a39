//! Syncs several files at the same time: log and commit records of one batch. Also while the next
//! batch is being laid out.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use tracing::warn;

use crate::config::Background;
use crate::fs::File;

/// A commit syncs messagelog, actionlog and ring; one of them on the calling thread.
const HELPERS: usize = 2;

/// Syncs files, in parallel if it has threads.
pub(crate) struct Syncer {
    helpers: Vec<Helper>,
    /// How many of the helpers were asked and not yet listened to.
    asked: usize,
    /// What was begun without helpers.
    done_here: io::Result<()>,
}

type Files = Vec<Arc<dyn File>>;

struct Helper {
    jobs: Option<SyncSender<Files>>,
    done: Receiver<io::Result<()>>,
    /// What it said, if that was not asked for yet.
    outcome: Option<io::Result<()>>,
    handle: Option<JoinHandle<()>>,
}

impl Syncer {
    pub(crate) fn start(background: Background) -> io::Result<Self> {
        let count = match background {
            Background::Inline => 0,
            Background::Threads => HELPERS,
        };
        let helpers = (0..count).map(Helper::start).collect::<io::Result<_>>()?;
        Ok(Self {
            helpers,
            asked: 0,
            done_here: Ok(()),
        })
    }

    /// Syncs all `files`; returns after the last one is done. The first error counts.
    pub(crate) fn sync(&mut self, files: &[Arc<dyn File>]) -> io::Result<()> {
        // The first files are the large ones: they stay here, the small ring goes to a helper.
        let here = files.len() - self.helpers.len().min(files.len().saturating_sub(1));
        let (here, helped) = files.split_at(here);
        let asked = self.ask(helped.iter().map(|file| vec![file.clone()]));
        let result = here.iter().try_for_each(|file| file.sync_data());
        let helped = self.wait();
        result.and(helped).and(asked)
    }

    /// Begins to sync `files`, of which the first are the large ones; [`Self::wait`] tells the
    /// outcome.
    pub(crate) fn begin(&mut self, files: &[Arc<dyn File>]) -> io::Result<()> {
        if self.helpers.is_empty() {
            self.done_here = files.iter().try_for_each(|file| file.sync_data());
            return Ok(());
        }
        let others = (self.helpers.len() - 1).min(files.len().saturating_sub(1));
        let (first, rest) = files.split_at(files.len() - others);
        let rest = rest.iter().map(|file| vec![file.clone()]);
        self.ask(std::iter::once(first.to_vec()).chain(rest))
    }

    fn ask(&mut self, jobs: impl Iterator<Item = Files>) -> io::Result<()> {
        debug_assert_eq!(self.asked, 0, "callers wait for a sync before the next");
        for (files, helper) in jobs.zip(&self.helpers) {
            helper.ask(files)?;
            self.asked += 1;
        }
        Ok(())
    }

    /// Whether everything that was begun is done.
    pub(crate) fn is_done(&mut self) -> bool {
        self.helpers[..self.asked].iter_mut().all(Helper::is_done)
    }

    /// Waits for everything that was begun. The first error counts.
    pub(crate) fn wait(&mut self) -> io::Result<()> {
        let asked = &mut self.helpers[..std::mem::take(&mut self.asked)];
        // Every one of them is waited for, whatever the others say.
        let results: Vec<_> = asked.iter_mut().map(Helper::wait).collect();
        let done_here = std::mem::replace(&mut self.done_here, Ok(()));
        results
            .into_iter()
            .collect::<io::Result<()>>()
            .and(done_here)
    }
}

impl Helper {
    fn start(number: usize) -> io::Result<Self> {
        let (jobs, todo) = sync_channel::<Files>(1);
        let (results, done) = sync_channel(1);
        let work = move || {
            for files in todo {
                let synced = files.iter().try_for_each(|file| file.sync_data());
                if results.send(synced).is_err() {
                    return;
                }
            }
        };
        let name = format!("store-sync-{number}");
        let handle = std::thread::Builder::new().name(name).spawn(work)?;
        Ok(Self {
            jobs: Some(jobs),
            done,
            outcome: None,
            handle: Some(handle),
        })
    }

    fn is_done(&mut self) -> bool {
        if self.outcome.is_none() {
            self.outcome = match self.done.try_recv() {
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => Some(Err(helper_is_gone())),
                Ok(outcome) => Some(outcome),
            };
        }
        self.outcome.is_some()
    }

    fn wait(&mut self) -> io::Result<()> {
        let received = || self.done.recv().unwrap_or_else(|_| Err(helper_is_gone()));
        self.outcome.take().unwrap_or_else(received)
    }

    fn ask(&self, files: Files) -> io::Result<()> {
        let jobs = self.jobs.as_ref().ok_or_else(helper_is_gone)?;
        jobs.send(files).map_err(|_| helper_is_gone())
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
