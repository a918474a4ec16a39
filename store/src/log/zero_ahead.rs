//! Zeros ahead of a log's written position, because blocks that were written before sync faster.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use tracing::warn;

use crate::config::Background;
use crate::error::{Doing, Error};
use crate::log::segment::Segments;

/// Zeros that are dirty at the same time: what a commit may have to wait for. See
/// `docs/decisions/0001-store-shape-measurements.md`.
const PIECE_BYTES_MAX: u64 = 4 << 20;

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
    thread: Option<Zeroer>,
}

struct Zeroer {
    jobs: Option<SyncSender<Range<u64>>>,
    done: Receiver<Result<u64, Error>>,
    busy: bool,
    handle: Option<JoinHandle<()>>,
}

impl ZeroAhead {
    /// `end` is where the zeros on disk end now.
    pub(crate) fn new(
        segments: Arc<Segments>,
        step: u64,
        end: u64,
        background: Background,
    ) -> Result<Self, Error> {
        let thread = match background {
            Background::Inline => None,
            Background::Threads => Some(Zeroer::start(segments.clone())?),
        };
        Ok(Self {
            segments,
            step,
            end,
            is_full: false,
            thread,
        })
    }

    /// Makes sure that there are zeros up to `needed`, waiting for the disk if it must, and asks
    /// for the next step.
    pub(crate) fn reserve(&mut self, needed: u64) -> Result<(), Error> {
        self.collect(needed)?;
        if needed > self.end {
            self.extend_to(needed)?;
        }
        if let Some(thread) = &mut self.thread
            && !thread.busy
            && !self.is_full
            && self.end - needed < self.step / 2
        {
            thread.ask(self.end..self.end + self.step);
        }
        Ok(())
    }

    fn extend_to(&mut self, needed: u64) -> Result<(), Error> {
        let ahead = needed.max(self.end + self.step);
        let whole_step = self.segments.write_zeros(self.end..ahead, |_, _| {});
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

    /// Takes the thread's result, and waits for it when the bytes are needed or being written.
    fn collect(&mut self, needed: u64) -> Result<(), Error> {
        let Some(thread) = &mut self.thread else {
            return Ok(());
        };
        if !thread.busy {
            return Ok(());
        }
        let result = if needed > self.end {
            thread.done.recv().map_err(|_| TryRecvError::Disconnected)
        } else {
            thread.done.try_recv()
        };
        match result {
            Err(TryRecvError::Empty) => return Ok(()),
            Err(TryRecvError::Disconnected) => self.thread = None,
            Ok(result) => {
                thread.busy = false;
                match result {
                    Ok(end) => self.end = end,
                    Err(Error::NoSpace { .. }) => {
                        warn!(log = %self.segments.kind(), "no space left to write zeros ahead");
                        self.is_full = true;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

impl Zeroer {
    fn start(segments: Arc<Segments>) -> Result<Self, Error> {
        let (jobs, todo) = sync_channel::<Range<u64>>(1);
        let (results, done) = sync_channel(1);
        let name = format!("{}-zeros", segments.kind());
        let dir = segments.dir().to_owned();
        let work = move || {
            for range in todo {
                let end = range.end;
                if results.send(zero(&segments, range).map(|()| end)).is_err() {
                    return;
                }
            }
        };
        let handle = std::thread::Builder::new().name(name).spawn(work);
        let handle = handle.doing("start a thread for", &dir)?;
        Ok(Self {
            jobs: Some(jobs),
            done,
            busy: false,
            handle: Some(handle),
        })
    }

    fn ask(&mut self, range: Range<u64>) {
        // A thread that is gone is noticed by the next collect; the writer then zeroes itself.
        self.busy = self
            .jobs
            .as_ref()
            .is_some_and(|jobs| jobs.try_send(range).is_ok());
    }
}

impl Drop for Zeroer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(handle) = self.handle.take()
            && handle.join().is_err()
        {
            warn!("the thread that writes zeros ahead panicked");
        }
    }
}

/// Writes and syncs zeros through handles of its own: a failed sync is reported once per handle,
/// and the writer must not miss one that concerns its data. In pieces, because a sync of the
/// writer's flushes whatever zeros are dirty by then.
fn zero(segments: &Segments, range: Range<u64>) -> Result<(), Error> {
    for (base, part) in segments.split(range) {
        segments.file_or_create(base)?;
        let own = segments.open_again(base)?;
        let mut begin = part.start;
        while begin < part.end {
            let end = part.end.min(begin + PIECE_BYTES_MAX);
            segments.write_zeros(begin..end, |_, _| {})?;
            own.sync_data()
                .doing_for_good("sync", &segments.path_of(base))?;
            begin = end;
        }
    }
    Ok(())
}
