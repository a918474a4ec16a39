//! The connection behind a client: requests waiting for replies, and the task that reads them.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::BytesMut;
use qmq_protocol::{CommandCode, Frame, FrameError, Header};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::client::{ClientConfig, RequestError};
use crate::inbound::Inbound;
use crate::outbox::{Limits, Outbox, Refused};
use crate::writer::{Patience, write_out};

#[derive(Debug)]
pub(super) struct Link {
    config: ClientConfig,
    outbox: Outbox,
    waiters: Mutex<Waiters>,
    replies: AtomicU64,
    closed: CancellationToken,
    /// Set when it is closed; with what the server sent, when that was the reason.
    end: OnceLock<Option<FrameError>>,
}

#[derive(Debug)]
struct Waiters {
    by_opaque: HashMap<i32, oneshot::Sender<Frame>>,
    next_opaque: i32,
    /// When the first waiter came or the last one went.
    since: Instant,
}

/// A request that was sent; dropping it gives up waiting.
pub(super) struct Waiting<'a> {
    link: &'a Link,
    opaque: i32,
    /// Where the request starts in all that was ever queued.
    position: u64,
    reply: oneshot::Receiver<Frame>,
}

impl Link {
    pub(super) fn new(config: ClientConfig) -> Self {
        // As many frames as requests, and heartbeats.
        let frames = config.in_flight_max + 1;
        let limits = Limits {
            bytes: config.outbox_bytes_max,
            frames,
        };
        let waiters = Waiters {
            by_opaque: HashMap::new(),
            next_opaque: 0,
            since: Instant::now(),
        };
        Self {
            config,
            outbox: Outbox::new(limits, Arc::new(AtomicUsize::new(0))),
            waiters: Mutex::new(waiters),
            replies: AtomicU64::new(0),
            closed: CancellationToken::new(),
            end: OnceLock::new(),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.end.get().is_some()
    }

    pub(super) fn replies(&self) -> u64 {
        self.replies.load(Ordering::Relaxed)
    }

    /// Ends the connection and all waiting. The first reason counts.
    pub(super) fn close(&self, error: Option<FrameError>) {
        if self.end.set(error).is_ok() {
            self.outbox.close();
            self.waiters().by_opaque.clear();
            self.closed.cancel();
        }
    }

    /// Queues a request.
    pub(super) fn send(
        &self,
        code: CommandCode,
        write: impl FnOnce(&mut BytesMut),
    ) -> Result<Waiting<'_>, RequestError> {
        let (sender, reply) = oneshot::channel();
        let opaque = self.register(sender)?;
        // From here on dropped, and so taken back, on every way out.
        let mut waiting = Waiting {
            link: self,
            opaque,
            position: 0,
            reply,
        };
        match self
            .outbox
            .push(&Header::request(code.code(), opaque), write)
        {
            Ok(position) => waiting.position = position,
            Err(Refused::Full) => return Err(RequestError::Overloaded),
            Err(Refused::Closed) => return Err(RequestError::Closed { sent: false }),
        }
        Ok(waiting)
    }

    fn register(&self, sender: oneshot::Sender<Frame>) -> Result<i32, RequestError> {
        let mut waiters = self.waiters();
        if waiters.by_opaque.len() >= self.config.in_flight_max {
            return Err(RequestError::Overloaded);
        }
        if waiters.by_opaque.is_empty() {
            waiters.since = Instant::now();
        }
        // Long waits may still hold numbers of the last time round.
        while waiters.by_opaque.contains_key(&waiters.next_opaque) {
            waiters.next_opaque = waiters.next_opaque.wrapping_add(1);
        }
        let opaque = waiters.next_opaque;
        waiters.next_opaque = opaque.wrapping_add(1);
        waiters.by_opaque.insert(opaque, sender);
        Ok(opaque)
    }

    fn take(&self, opaque: i32) -> Option<oneshot::Sender<Frame>> {
        let mut waiters = self.waiters();
        let waiter = waiters.by_opaque.remove(&opaque)?;
        if waiters.by_opaque.is_empty() {
            waiters.since = Instant::now();
        }
        Some(waiter)
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        // Nothing panics while it is held; if it ever does, single entries are still whole.
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a reply to its request; replies that nobody waits for any more are dropped.
    fn deliver(&self, frame: Frame) {
        self.replies.fetch_add(1, Ordering::Relaxed);
        let opaque = frame.header.opaque;
        if !frame.header.is_response() {
            return debug!(
                opaque,
                code = frame.header.code,
                "request from a server dropped"
            );
        }
        match self.take(opaque) {
            Some(waiter) => drop(waiter.send(frame)),
            None => debug!(
                opaque,
                code = frame.header.code,
                "late or unknown reply dropped"
            ),
        }
    }

    /// Asks for a sign of life. The reply is to nobody, and is dropped.
    fn send_heartbeat(&self) {
        let opaque = {
            let mut waiters = self.waiters();
            let opaque = waiters.next_opaque;
            waiters.next_opaque = opaque.wrapping_add(1);
            opaque
        };
        let header = Header::request(CommandCode::Heartbeat.code(), opaque);
        // A full outbox is written soon, or the writer gives up.
        let _ = self.outbox.push(&header, |_| {});
    }
}

impl Waiting<'_> {
    pub(super) async fn reply(&mut self) -> Result<Frame, RequestError> {
        let Ok(frame) = (&mut self.reply).await else {
            return Err(match self.link.end.get() {
                Some(Some(error)) => RequestError::Frame(*error),
                _ => RequestError::Closed {
                    sent: self.link.outbox.written() > self.position,
                },
            });
        };
        Ok(frame)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.link.take(self.opaque);
    }
}

/// Serves the connection until it ends.
pub(super) async fn run(link: Arc<Link>, stream: TcpStream) {
    let (read, write) = stream.into_split();
    let reader = async {
        let end = Reader::new(&link, read).run().await;
        link.close(end.err());
    };
    let writer = async {
        let patience = Patience {
            timeout: link.config.write_timeout,
            total_bytes_max: usize::MAX,
        };
        let end = write_out(&link.outbox, write, &link.closed, patience, || {}).await;
        debug!(?end, "client stops writing");
        link.close(None);
    };
    tokio::join!(reader, writer);
    link.outbox.clear();
}

struct Reader<'a> {
    link: &'a Link,
    socket: OwnedReadHalf,
    inbound: Inbound,
    last_read: Instant,
    asked: bool,
}

impl<'a> Reader<'a> {
    fn new(link: &'a Link, socket: OwnedReadHalf) -> Self {
        let inbound = Inbound::new(link.config.body_bytes_max);
        Self {
            link,
            socket,
            inbound,
            last_read: Instant::now(),
            asked: false,
        }
    }

    async fn run(mut self) -> Result<(), FrameError> {
        // Silence is looked for at this pace, so it is noticed at most this much too late.
        let pace = (self.link.config.silence_timeout / 2).min(self.link.config.idle_timeout);
        let mut tick = pin!(sleep_until(Instant::now() + pace));
        loop {
            self.inbound.rest();
            tokio::select! {
                biased;
                () = self.link.closed.cancelled() => return Ok(()),
                ready = poll_fn(|cx| self.socket.as_ref().poll_read_ready(cx)) => {
                    if ready.is_err() || !self.read().await? {
                        return Ok(());
                    }
                }
                () = tick.as_mut() => {
                    let now = Instant::now();
                    if self.is_over(now) {
                        return Ok(());
                    }
                    tick.as_mut().reset(now + pace);
                }
            }
        }
    }

    /// Reads once; tells whether the stream goes on.
    async fn read(&mut self) -> Result<bool, FrameError> {
        let step = self.inbound.step();
        match self.inbound.read(&mut self.socket, step).await {
            Ok(None) => return Ok(true),
            Ok(Some(0)) | Err(_) => return Ok(false),
            Ok(Some(_)) => {}
        }
        self.last_read = Instant::now();
        self.asked = false;
        loop {
            match self.inbound.next_frame() {
                Ok(Some(frame)) => self.link.deliver(frame),
                Ok(None) => return Ok(true),
                Err(error) => {
                    warn!(%error, "server does not speak the protocol, connection closed");
                    return Err(error);
                }
            }
        }
    }

    /// Whether nobody needs the connection any more, or the server is gone.
    fn is_over(&mut self, now: Instant) -> bool {
        let ClientConfig {
            silence_timeout,
            idle_timeout,
            ..
        } = self.link.config;
        let (waits, since) = {
            let waiters = self.link.waiters();
            (!waiters.by_opaque.is_empty(), waiters.since)
        };
        let quiet = now - self.last_read.max(since);
        if !waits {
            return quiet >= idle_timeout;
        }
        if quiet >= silence_timeout {
            debug!(
                quiet_ms = quiet.as_millis(),
                "server is silent, connection closed"
            );
            return true;
        }
        if quiet >= silence_timeout / 2 && !self.asked {
            self.asked = true;
            self.link.send_heartbeat();
        }
        false
    }
}
