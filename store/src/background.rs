//! A thread for work that nobody waits for; or the calling thread, so that tests repeat exactly.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use qmq_model::UnixMillis;

use crate::config::Background;
use crate::error::Error;
use crate::flush;

/// How long work rests after it failed.
const RETRY_AFTER: Duration = Duration::from_secs(1);

type Job = Box<dyn FnOnce() + Send>;

/// Does one job at a time. Dropping it waits for the job that was begun.
pub(crate) struct Worker {
    /// `None`: jobs are done by who brings them.
    thread: Option<Thread>,
    /// Jobs that take long look at it now and then and give up.
    is_stopped: Arc<AtomicBool>,
}

struct Thread {
    jobs: Option<SyncSender<Job>>,
    state: Arc<State>,
    handle: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    is_busy: Mutex<bool>,
    changed: Condvar,
}

impl State {
    fn set_busy(&self, is_busy: bool) {
        *self.is_busy.lock().unwrap_or_else(PoisonError::into_inner) = is_busy;
        self.changed.notify_all();
    }
}

/// Lets nobody wait for a thread that is gone.
struct IdleOnDrop(Arc<State>);

impl Drop for IdleOnDrop {
    fn drop(&mut self) {
        self.0.set_busy(false);
    }
}

impl Worker {
    /// `is_stopped` is set when the worker is being dropped.
    pub(crate) fn start(
        name: &str,
        background: Background,
        is_stopped: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let thread = match background {
            Background::Inline => None,
            Background::Threads => {
                let (jobs, todo) = sync_channel::<Job>(1);
                let state = Arc::new(State::default());
                let shared = state.clone();
                let work = move || {
                    for job in todo {
                        let _idle = IdleOnDrop(shared.clone());
                        job();
                    }
                };
                let handle = std::thread::Builder::new().name(name.into()).spawn(work)?;
                Some(Thread {
                    jobs: Some(jobs),
                    state,
                    handle: Some(handle),
                })
            }
        };
        Ok(Self { thread, is_stopped })
    }

    /// Whether a job is being done.
    pub(crate) fn is_busy(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| {
            *thread
                .state
                .is_busy
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        })
    }

    /// Waits until no job is being done.
    pub(crate) fn wait(&self) {
        if let Some(Thread { state, .. }) = &self.thread {
            let is_busy = state.is_busy.lock().unwrap_or_else(PoisonError::into_inner);
            drop(state.changed.wait_while(is_busy, |is_busy| *is_busy));
        }
    }

    /// Has `job` done, unless another one is being done.
    pub(crate) fn offer(&self, job: impl FnOnce() + Send + 'static) {
        let Some(thread) = &self.thread else {
            return job();
        };
        if self.is_busy() {
            return;
        }
        thread.state.set_busy(true);
        let sent = thread
            .jobs
            .as_ref()
            .map(|jobs| jobs.try_send(Box::new(job)));
        if !matches!(sent, Some(Ok(()))) {
            // A thread that panicked does nothing any more; what it did is only put off.
            thread.state.set_busy(false);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = &mut self.thread {
            thread.jobs = None;
            if let Some(handle) = thread.handle.take()
                && handle.join().is_err()
            {
                tracing::warn!("a thread of the store panicked");
            }
        }
    }
}

/// Puts work that failed off for a moment: no answer depends on it.
#[derive(Debug, Default)]
pub(crate) struct Retry {
    /// When something last failed.
    failed_at: Mutex<Option<UnixMillis>>,
}

impl Retry {
    /// Does something that is tried again later when it fails.
    pub(crate) fn attempt(&self, now: UnixMillis, work: impl FnOnce() -> Result<(), Error>) {
        match work() {
            Ok(()) | Err(Error::Stopped) => {}
            Err(error) => {
                tracing::warn!(%error, "upkeep of the store failed; it will be tried again");
                *self
                    .failed_at
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner) = Some(now);
            }
        }
    }

    /// Whether something failed a moment ago.
    pub(crate) fn is_resting(&self, now: UnixMillis) -> bool {
        let failed_at = *self
            .failed_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        failed_at.is_some_and(|failed_at| !flush::left(RETRY_AFTER, failed_at, now).is_zero())
    }
}
