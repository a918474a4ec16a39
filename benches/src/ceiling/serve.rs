//! The threads of the ceiling.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, anyhow};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use crate::ceiling::batch::{Batch, Handover};
use crate::ceiling::link::{Link, put_answer, write_all};
use crate::ceiling::log::Log;

/// Sockets told at a time.
const EVENTS_MAX: usize = 128;
/// Stands for the listener among the connections.
const LISTENER: u64 = u64::MAX;

/// When a message is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// When it is on the disk.
    Sync,
    /// When the system has it.
    Async,
}

/// Answers by connection number. Grows with the connections and never shrinks: it serves one run.
type Halves = Arc<Mutex<Vec<TcpStream>>>;

/// A ceiling that listens.
#[derive(Debug)]
pub struct Ceiling {
    listener: TcpListener,
    log: Log,
    flush: Flush,
}

impl Ceiling {
    /// Listens on `address`; clients are served by [`Ceiling::run`].
    ///
    /// # Errors
    /// When the port is taken.
    pub fn bind(address: SocketAddr, log: Log, flush: Flush) -> Result<Self> {
        let listener = TcpListener::bind(address);
        let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            log,
            flush,
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Serves until something fails. It has no orderly end: the process is stopped.
    ///
    /// # Errors
    /// When the disk fails or a client sends what is no message.
    pub fn run(self) -> Result<()> {
        let halves = Halves::default();
        match self.flush {
            Flush::Async => {
                let mut writer = Writer::new(self.log, Flush::Async, Arc::clone(&halves));
                read_all(&self.listener, &halves, |batch| {
                    writer.store(batch)?;
                    batch.clear();
                    Ok(())
                })
            }
            Flush::Sync => {
                let handover = Arc::new(Handover::default());
                let writer = Writer::new(self.log, Flush::Sync, Arc::clone(&halves));
                let written = Arc::clone(&handover);
                let writing = thread::spawn(move || {
                    let result = write_batches(writer, &written);
                    written.close();
                    result
                });
                let read = read_all(&self.listener, &halves, |batch| {
                    if writing.is_finished() {
                        return Err(anyhow!("the disk failed"));
                    }
                    handover.add(batch);
                    Ok(())
                });
                handover.close();
                let written = writing.join().map_err(|_| anyhow!("the writer panicked"))?;
                written.and(read)
            }
        }
    }
}

/// Reads from all connections; hands over what one wake-up brought.
fn read_all(
    listener: &TcpListener,
    halves: &Halves,
    mut store: impl FnMut(&mut Batch) -> Result<()>,
) -> Result<()> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let readable = EventFlags::IN | EventFlags::RDHUP;
    epoll::add(&epoll, listener, EventData::new_u64(LISTENER), readable)?;
    let mut links: Vec<Option<Link>> = Vec::new();
    let mut batch = Batch::default();
    let none = Event {
        flags: EventFlags::empty(),
        data: EventData::new_u64(0),
    };
    let mut events = [none; EVENTS_MAX];
    loop {
        let count = match epoll::wait(&epoll, &mut events[..], None) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for event in &events[..count] {
            let token = event.data.u64();
            if token == LISTENER {
                let (stream, _) = listener.accept()?;
                let link = Link::new(stream)?;
                epoll::add(
                    &epoll,
                    &link,
                    EventData::new_u64(links.len() as u64),
                    readable,
                )?;
                let mut halves = halves.lock().unwrap_or_else(PoisonError::into_inner);
                halves.push(link.writing_half()?);
                links.push(Some(link));
                continue;
            }
            let number = usize::try_from(token)?;
            let link = links.get_mut(number).context("a token of no connection")?;
            let Some(open) = link else { continue };
            if !open.read(number, &mut batch)? {
                epoll::delete(&epoll, &*open)?;
                *link = None;
            }
        }
        if !batch.requests.is_empty() {
            store(&mut batch)?;
        }
    }
}

fn write_batches(mut writer: Writer, handover: &Handover) -> Result<()> {
    let mut batch = Batch::default();
    while handover.take(&mut batch) {
        writer.store(&batch)?;
        batch.clear();
    }
    Ok(())
}

/// Writes batches and answers.
struct Writer {
    log: Log,
    flush: Flush,
    halves: Halves,
    /// Answers by connection, empty between two batches.
    answers: Vec<Vec<u8>>,
}

impl Writer {
    fn new(log: Log, flush: Flush, halves: Halves) -> Self {
        Self {
            log,
            flush,
            halves,
            answers: Vec::new(),
        }
    }

    fn store(&mut self, batch: &Batch) -> Result<()> {
        self.log.append(&batch.bytes)?;
        if self.flush == Flush::Sync {
            self.log.sync()?;
        }
        let halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        self.answers.resize_with(halves.len(), Vec::new);
        for (connection, opaque) in &batch.requests {
            put_answer(*opaque, &mut self.answers[*connection]);
        }
        for (stream, answers) in halves.iter().zip(&mut self.answers) {
            write_all(stream, answers);
            answers.clear();
        }
        Ok(())
    }
}
