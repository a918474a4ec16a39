//! Room ahead of a log's written position, filled with zeros while there is time for it: blocks that
//! were written before sync faster.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::warn;

use crate::config::{Background, FlushMode};
use crate::error::{Doing, Error};
use crate::fs::DIRECT_BYTES;
use crate::log::segment::Segments;

/// How much is zeroed before it is used: a commit may have to wait for this much of the disk. See
/// `docs/decisions/0001-store-shape-measurements.md`.
const PIECE_BYTES_MAX: u64 = 1 << 20;
/// A step that is used up sooner than this is followed by one that only allocates: when so much is
/// appended, writing twice the bytes costs more than faster syncs bring. See
/// `docs/decisions/0002-room-under-load.md`.
const STEP_TIME_MIN: Duration = Duration::from_secs(1);

/// What is wanted ahead of a log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoomAhead {
    /// How far, in bytes.
    pub(crate) step: u64,
    /// Whether anyone waits for syncs.
    pub(crate) flush: FlushMode,
    pub(crate) background: Background,
}

/// How the room ahead is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// Written with zeros.
    Zeros,
    /// Allocated: it reads as zeros, and costs nearly nothing.
    Room,
}

/// How far the files of one log hold zeros already, and who writes more.
///
/// With a thread, ranges are handed over one at a time, and the writer never writes behind
/// [`Self::reserve`]d bytes: so zeros can never overtake data.
pub(crate) struct ZeroAhead {
    segments: Arc<Segments>,
    step: u64,
    /// Everything between the written position and here is zeros on disk.
    end: u64,
    /// The last whole step found no room: the thread is not asked again before one succeeds.
    is_full: bool,
    /// Nobody waits for syncs: room is enough.
    is_lazy: bool,
    /// When the thread was last asked.
    asked_at: Option<Instant>,
    thread: Option<Zeroer>,
}

impl ZeroAhead {
    /// `end` is where the zeros on disk end now.
    pub(crate) fn new(segments: Arc<Segments>, end: u64, ahead: RoomAhead) -> Result<Self, Error> {
        let thread = match ahead.background {
            Background::Inline => None,
            Background::Threads => Some(Zeroer::start(segments.clone())?),
        };
        Ok(Self {
            segments,
            step: ahead.step,
            end,
            is_full: false,
            is_lazy: ahead.flush != FlushMode::Sync,
            asked_at: None,
            thread,
        })
    }

    /// Makes sure that there are zeros up to `needed`, waiting for the disk if it must. Keeps the
    /// thread, if there is one, a whole step ahead.
    pub(crate) fn reserve(&mut self, needed: u64) -> Result<(), Error> {
        self.collect(needed)?;
        if needed > self.end {
            self.extend_to(needed)?;
        }
        if let Some(thread) = &mut self.thread
            && !thread.is_asked
            && !self.is_full
            && self.end - needed < self.step
        {
            let now = Instant::now();
            let last = self.asked_at.replace(now);
            let is_soon = last.is_some_and(|last| now.duration_since(last) < STEP_TIME_MIN);
            let how = if self.is_lazy || is_soon {
                How::Room
            } else {
                How::Zeros
            };
            let end = (self.end + self.step).next_multiple_of(DIRECT_BYTES);
            thread.ask(self.end..end, how);
        }
        Ok(())
    }

    /// Takes what the thread has done, and waits for it only when the bytes are needed.
    fn collect(&mut self, needed: u64) -> Result<(), Error> {
        let Some(thread) = &mut self.thread else {
            return Ok(());
        };
        if !thread.is_asked {
            return Ok(());
        }
        let (end, finished) = thread.progress(self.end, needed);
        self.end = end;
        match finished {
            None | Some(Ok(())) => Ok(()),
            Some(Err(Error::NoSpace { .. })) => {
                warn!(log = %self.segments.kind(), "no space left to write zeros ahead");
                self.is_full = true;
                Ok(())
            }
            Some(Err(error)) => Err(error),
        }
    }

    fn extend_to(&mut self, needed: u64) -> Result<(), Error> {
        let ahead = needed.max(self.end + self.step);
        let whole_step = match self.thread {
            // The thread lags: this must be quick.
            Some(_) => self.segments.allocate(self.end..ahead),
            None => self.segments.write_zeros(self.end..ahead, |_, _| {}),
        };
        match whole_step {
            Ok(()) => {
                self.end = ahead;
                self.is_full = false;
            }
            // The disk is nearly full: what is needed now may still fit.
            Err(Error::NoSpace { .. }) if ahead > needed => {
                self.segments.write_zeros(self.end..needed, |_, _| {})?;
                self.end = needed;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// The thread and how far it got.
struct Zeroer {
    jobs: Option<SyncSender<(Range<u64>, How)>>,
    state: Arc<State>,
    /// A range was handed over and its result was not taken yet.
    is_asked: bool,
    handle: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    work: Mutex<Work>,
    changed: Condvar,
}

#[derive(Default)]
struct Work {
    /// End of the last piece that was made.
    end: u64,
    /// The range is done, or failed.
    finished: Option<Result<(), Error>>,
    /// The writer is gone.
    is_stopped: bool,
}

impl Zeroer {
    fn start(segments: Arc<Segments>) -> Result<Self, Error> {
        let (jobs, todo) = sync_channel::<(Range<u64>, How)>(1);
        let state = Arc::new(State::default());
        let (shared, name) = (state.clone(), format!("{}-zeros", segments.kind()));
        let dir = segments.dir().to_owned();
        let work = move || {
            let shared = FinishOnDrop {
                state: shared,
                dir: segments.dir().to_owned(),
            };
            for (range, how) in todo {
                let done = match how {
                    How::Room => segments.allocate(range.clone()).map(|()| {
                        shared.state.reach(range.end);
                    }),
                    How::Zeros => zero(&segments, range, |end| shared.state.reach(end)),
                };
                shared.state.update(|work| work.finished = Some(done));
            }
        };
        let handle = std::thread::Builder::new().name(name).spawn(work);
        let handle = handle.doing("start a thread for", &dir)?;
        Ok(Self {
            jobs: Some(jobs),
            state,
            is_asked: false,
            handle: Some(handle),
        })
    }

    fn ask(&mut self, range: Range<u64>, how: How) {
        self.state.update(|work| {
            *work = Work {
                end: range.start,
                ..Work::default()
            }
        });
        // A thread that is gone leaves the zeroing to the writer.
        self.is_asked = self
            .jobs
            .as_ref()
            .is_some_and(|jobs| jobs.try_send((range, how)).is_ok());
    }

    /// How far the zeros reach, at least `end`, and the result once the whole range is done.
    /// Waits while they do not reach `needed`.
    fn progress(&mut self, end: u64, needed: u64) -> (u64, Option<Result<(), Error>>) {
        let lacks = |work: &mut Work| work.finished.is_none() && work.end < needed;
        let work = self
            .state
            .work
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let work = self.state.changed.wait_while(work, lacks);
        let mut work = work.unwrap_or_else(PoisonError::into_inner);
        let finished = work.finished.take();
        self.is_asked = finished.is_none();
        (end.max(work.end), finished)
    }
}

/// Lets nobody wait for a thread that is gone.
struct FinishOnDrop {
    state: Arc<State>,
    dir: PathBuf,
}

impl Drop for FinishOnDrop {
    fn drop(&mut self) {
        let gone = io::Error::other("the thread that writes zeros ahead is gone");
        let gone = Error::io("write zeros in", &self.dir, gone);
        self.state.update(|work| {
            work.finished.get_or_insert(Err(gone));
        });
    }
}

impl State {
    /// Notes how far the zeros reach; says whether to go on.
    fn reach(&self, end: u64) -> bool {
        self.update(|work| {
            work.end = end;
            !work.is_stopped
        })
    }

    fn update<T>(&self, change: impl FnOnce(&mut Work) -> T) -> T {
        let changed = change(&mut self.work.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
        changed
    }
}

impl Drop for Zeroer {
    fn drop(&mut self) {
        self.jobs = None;
        self.state.update(|work| work.is_stopped = true);
        if let Some(handle) = self.handle.take()
            && handle.join().is_err()
        {
            warn!("the thread that writes zeros ahead panicked");
        }
    }
}

/// Writes zeros through handles of its own, syncing each file at the end: a failed sync is reported
/// once per handle, and the writer must not miss one that concerns its data. In pieces, because the
/// file is locked while one is written.
fn zero(
    segments: &Segments,
    range: Range<u64>,
    mut goes_on_after: impl FnMut(u64) -> bool,
) -> Result<(), Error> {
    for (base, part) in segments.split(range) {
        segments.file_or_create(base)?;
        let own = segments.open_for_zeros(base)?;
        segments.allocate(part.clone())?;
        let mut begin = part.start;
        while begin < part.end {
            let end = part.end.min(begin + PIECE_BYTES_MAX);
            segments.write_zeros_to(own.as_ref(), base, begin..end)?;
            if !goes_on_after(end) {
                return Ok(());
            }
            begin = end;
        }
        own.sync_data()
            .doing_for_good("sync", &segments.path_of(base))?;
    }
    Ok(())
}
