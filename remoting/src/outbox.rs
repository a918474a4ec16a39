//! What waits to be written on one connection: filled from any thread, emptied in few writes.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::mem;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, Bytes, BytesMut};
use qmq_protocol::Header;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Parts shorter than this are copied, longer ones are written from where they are. In a reply of a
/// thousand parts of 1 KiB a gathered write saves a tenth of the work, most of it the growing of
/// the buffer; with parts much shorter than this it saves nothing.
const COPY_BYTES_MAX: usize = 512;
/// Buffer kept by a connection with nothing to write; there are two per connection.
const IDLE_BYTES_MAX: usize = 8 * 1024;
/// First size of a buffer, so that a few small replies do not grow it step by step.
const FIRST_BYTES: usize = 1024;
/// Slices handed to one write; the system takes up to 1024.
const SLICES_MAX: usize = 256;

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes not yet taken by the socket.
    pub(crate) bytes: usize,
    /// Frames behind the write in progress.
    pub(crate) frames: usize,
}

/// Why a frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The connection is gone.
    Closed,
    /// A limit is reached.
    Full,
}

/// How far a flush came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flush {
    /// Nothing waits.
    Done,
    /// The socket takes no more at the moment.
    Blocked,
}

/// Frames of one connection on their way out.
#[derive(Debug)]
pub(crate) struct Outbox {
    limits: Limits,
    queue: Mutex<Queue>,
    /// Touched by the connection's task only.
    batch: Mutex<Batch>,
    ready: Notify,
    unwritten: AtomicUsize,
    written: AtomicU64,
    /// Unwritten bytes of all connections that share this counter.
    total: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Queue {
    /// What goes out before `tail`.
    chunks: VecDeque<Bytes>,
    tail: BytesMut,
    frames: usize,
    /// Bytes ever queued.
    position: u64,
    closed: bool,
}

/// What was taken from the queue by the write in progress.
#[derive(Debug)]
struct Batch {
    chunks: VecDeque<Bytes>,
    tail: BytesMut,
    /// Bytes of `tail` that are written; it is not advanced, so that its memory is used again.
    tail_written: usize,
    last_write: Instant,
}

impl Outbox {
    pub(crate) fn new(limits: Limits, total: Arc<AtomicUsize>) -> Self {
        let queue = Queue {
            chunks: VecDeque::new(),
            tail: BytesMut::new(),
            frames: 0,
            position: 0,
            closed: false,
        };
        let batch = Batch {
            chunks: VecDeque::new(),
            tail: BytesMut::new(),
            tail_written: 0,
            last_write: Instant::now(),
        };
        Self {
            limits,
            queue: Mutex::new(queue),
            batch: Mutex::new(batch),
            ready: Notify::new(),
            unwritten: AtomicUsize::new(0),
            written: AtomicU64::new(0),
            total,
        }
    }

    /// Appends a frame whose body `write` appends, and tells at which position of the stream it
    /// starts. Nothing of it is kept when it is refused or `write` panics.
    pub(crate) fn push(
        &self,
        header: &Header,
        write: impl FnOnce(&mut BytesMut),
    ) -> Result<u64, Refused> {
        let mut queue = self.open_queue()?;
        let was_empty = queue.is_empty();
        if queue.tail.capacity() == 0 {
            queue.tail.reserve(FIRST_BYTES);
        }
        let start = queue.tail.len();
        let mut frame = Rollback {
            tail: &mut queue.tail,
            start,
        };
        header.put_frame(frame.tail, write);
        let added = frame.tail.len() - start;
        if added > self.room() {
            return Err(Refused::Full);
        }
        frame.start = usize::MAX;
        drop(frame);
        Ok(self.queued(queue, added, was_empty))
    }

    /// Appends the frames that `write` pushes, all or none.
    pub(crate) fn push_frames(&self, write: impl FnOnce(&mut Frames<'_>)) -> Result<u64, Refused> {
        let mut queue = self.open_queue()?;
        let was_empty = queue.is_empty();
        if queue.tail.capacity() == 0 {
            queue.tail.reserve(FIRST_BYTES);
        }
        let (start, frames) = (queue.tail.len(), queue.frames);
        let mut rollback = Rollback {
            tail: &mut queue.tail,
            start,
        };
        let mut pushed = Frames {
            tail: rollback.tail,
            count: 0,
        };
        write(&mut pushed);
        let count = pushed.count;
        let added = rollback.tail.len() - start;
        if added > self.room() || frames + count > self.limits.frames {
            return Err(Refused::Full);
        }
        rollback.start = usize::MAX;
        drop(rollback);
        if count == 0 {
            return Ok(queue.position);
        }
        queue.frames += count - 1;
        Ok(self.queued(queue, added, was_empty))
    }

    /// Appends a frame whose body is `head` and `parts` in order; long parts are not copied.
    pub(crate) fn push_parts(
        &self,
        header: &Header,
        head: &[u8],
        parts: Vec<Bytes>,
    ) -> Result<u64, Refused> {
        let body_len = head.len() + parts.iter().map(Bytes::len).sum::<usize>();
        let mut queue = self.open_queue()?;
        let was_empty = queue.is_empty();
        let added = qmq_protocol::frame::PREFIX_BYTES + body_len;
        if added > self.room() {
            return Err(Refused::Full);
        }
        header.put(body_len, &mut queue.tail);
        queue.tail.extend_from_slice(head);
        for part in parts {
            if part.len() < COPY_BYTES_MAX {
                queue.tail.extend_from_slice(&part);
            } else {
                if !queue.tail.is_empty() {
                    let chunk = queue.tail.split().freeze();
                    queue.chunks.push_back(chunk);
                }
                queue.chunks.push_back(part);
            }
        }
        Ok(self.queued(queue, added, was_empty))
    }

    fn open_queue(&self) -> Result<MutexGuard<'_, Queue>, Refused> {
        let queue = lock(&self.queue);
        if queue.closed {
            return Err(Refused::Closed);
        }
        if queue.frames >= self.limits.frames {
            return Err(Refused::Full);
        }
        Ok(queue)
    }

    /// Bytes that may still be queued.
    pub(crate) fn room(&self) -> usize {
        self.limits.bytes.saturating_sub(self.unwritten())
    }

    fn queued(&self, mut queue: MutexGuard<'_, Queue>, added: usize, was_empty: bool) -> u64 {
        let position = queue.position;
        queue.frames += 1;
        queue.position += added as u64;
        self.unwritten.fetch_add(added, Ordering::SeqCst);
        self.total.fetch_add(added, Ordering::Relaxed);
        drop(queue);
        // Otherwise the writer has been told and has not come yet.
        if was_empty {
            self.ready.notify_one();
        }
        position
    }

    /// Bytes that the socket has not taken yet.
    pub(crate) fn unwritten(&self) -> usize {
        self.unwritten.load(Ordering::SeqCst)
    }

    /// Bytes that the socket has taken so far.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::SeqCst)
    }

    /// When the socket last took something.
    pub(crate) fn last_write(&self) -> Instant {
        lock(&self.batch).last_write
    }

    /// Unwritten bytes of all connections that share a counter with this one.
    pub(crate) fn total(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    /// Waits until something has been queued since the last flush.
    pub(crate) async fn ready(&self) {
        self.ready.notified().await;
    }

    /// Writes all that waits, as far as the socket takes it at once. Only the connection's task
    /// calls this.
    pub(crate) fn flush(&self, socket: &TcpStream) -> io::Result<Flush> {
        let mut batch = lock(&self.batch);
        loop {
            if batch.is_written() && !self.refill(&mut batch) {
                return Ok(Flush::Done);
            }
            match batch.write(socket) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.unwritten.fetch_sub(written, Ordering::SeqCst);
                    self.written.fetch_add(written as u64, Ordering::SeqCst);
                    self.total.fetch_sub(written, Ordering::Relaxed);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Flush::Blocked),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the whole queue; the buffers change places, so that none is allocated.
    fn refill(&self, batch: &mut Batch) -> bool {
        batch.tail.clear();
        batch.tail_written = 0;
        let mut queue = lock(&self.queue);
        if queue.is_empty() {
            queue.tail = kept(mem::take(&mut queue.tail));
            batch.tail = kept(mem::take(&mut batch.tail));
            queue.chunks.shrink_to(SLICES_MAX);
            batch.chunks.shrink_to(SLICES_MAX);
            return false;
        }
        queue.frames = 0;
        mem::swap(&mut queue.tail, &mut batch.tail);
        mem::swap(&mut queue.chunks, &mut batch.chunks);
        true
    }

    /// Refuses all later frames.
    pub(crate) fn close(&self) {
        lock(&self.queue).closed = true;
    }

    /// Refuses all later frames and forgets what waits. Only the connection's task calls this.
    pub(crate) fn clear(&self) {
        let mut batch = lock(&self.batch);
        let mut queue = lock(&self.queue);
        queue.closed = true;
        queue.chunks = VecDeque::new();
        queue.tail = BytesMut::new();
        batch.chunks = VecDeque::new();
        batch.tail = BytesMut::new();
        batch.tail_written = 0;
        let left = self.unwritten.swap(0, Ordering::SeqCst);
        self.total.fetch_sub(left, Ordering::Relaxed);
    }
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.tail.is_empty() && self.chunks.is_empty()
    }
}

impl Batch {
    fn is_written(&self) -> bool {
        self.chunks.is_empty() && self.tail_written == self.tail.len()
    }

    fn write(&mut self, socket: &TcpStream) -> io::Result<usize> {
        let rest = &self.tail[self.tail_written..];
        let written = if self.chunks.is_empty() {
            socket.try_write(rest)?
        } else {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut used = 0;
            let bytes = self.chunks.iter().map(|chunk| &chunk[..]).chain([rest]);
            for (slice, bytes) in slices.iter_mut().zip(bytes) {
                *slice = IoSlice::new(bytes);
                used += 1;
            }
            socket.try_write_vectored(&slices[..used])?
        };
        self.advance(written);
        self.last_write = Instant::now();
        Ok(written)
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(chunk) = self.chunks.front_mut() {
            if written < chunk.len() {
                return chunk.advance(written);
            }
            written -= chunk.len();
            self.chunks.pop_front();
        }
        self.tail_written += written;
    }
}

/// Takes frames one behind the other.
pub(crate) struct Frames<'a> {
    tail: &'a mut BytesMut,
    count: usize,
}

impl Frames<'_> {
    /// Adds a frame whose body `write` appends.
    pub(crate) fn push(&mut self, header: &Header, write: impl FnOnce(&mut BytesMut)) {
        header.put_frame(self.tail, write);
        self.count += 1;
    }
}

/// Cuts a frame that was not completed.
struct Rollback<'a> {
    tail: &'a mut BytesMut,
    /// `usize::MAX` once the frame is complete.
    start: usize,
}

impl Drop for Rollback<'_> {
    fn drop(&mut self) {
        self.tail.truncate(self.start);
    }
}

fn kept(buffer: BytesMut) -> BytesMut {
    if buffer.capacity() > IDLE_BYTES_MAX {
        BytesMut::new()
    } else {
        buffer
    }
}

/// A panic while the lock is held leaves a consistent state: see [`Rollback`].
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
