//! The reading half of a server's connection: limits, time limits, frames, calls.

use std::future::poll_fn;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use qmq_protocol::frame::PREFIX_BYTES;
use qmq_protocol::{CommandCode, Frame, FrameError, Header, ResultCode};
use tokio::io::AsyncReadExt;
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::budget::{Charge, Grant};
use crate::connection::{Connection, ConnectionHandle};
use crate::inbound::{Inbound, READ_BYTES_MIN};
use crate::server::ServerConfig;
use crate::service::{Group, GroupResponder, Request, Responder, Service};
use crate::stats::CloseReason;

/// How long a drained connection stays half open, so that the client has read its last replies
/// before data it still sends would reset the connection.
const LINGER: Duration = Duration::from_secs(1);

/// What the reader waits for; each has its time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaits {
    /// The first valid frame.
    First,
    /// The rest of a frame.
    Rest,
    /// Any frame.
    Any,
}

pub(crate) struct Reader<'a> {
    connection: &'a Arc<Connection>,
    config: &'a ServerConfig,
    socket: OwnedReadHalf,
    stop: CancellationToken,
    inbound: Inbound,
    /// For the bytes in `inbound`.
    charge: Charge,
    awaits: Awaits,
    deadline: Instant,
    /// Never later than `deadline`; it is not moved for each frame, only looked at when it fires.
    timer: Pin<Box<Sleep>>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(
        connection: &'a Arc<Connection>,
        socket: OwnedReadHalf,
        stop: CancellationToken,
    ) -> Self {
        let config = &connection.shared.config;
        let deadline = Instant::now() + config.first_frame_timeout;
        Self {
            connection,
            config,
            socket,
            stop,
            inbound: Inbound::new(config.body_bytes_max),
            charge: Charge::default(),
            awaits: Awaits::First,
            deadline,
            timer: Box::pin(sleep_until(deadline)),
        }
    }

    /// Reads and calls until the connection ends; tells why.
    pub(crate) async fn run(mut self, service: &impl Service) -> CloseReason {
        loop {
            let read = match self.fill().await {
                Ok(()) => self.dispatch(service).await,
                Err(reason) => Err(reason),
            };
            match read {
                // A socket that always has more would keep the thread, and what other sockets
                // bring, waiting for many reads.
                Ok(()) if self.inbound.is_busy() => tokio::task::yield_now().await,
                Ok(()) => {}
                Err(CloseReason::Drained) => return self.drain().await,
                Err(reason) => return reason,
            }
        }
    }

    /// Waits for bytes and for the right to read them, and reads once.
    async fn fill(&mut self) -> Result<(), CloseReason> {
        self.inbound.rest();
        self.readable().await?;
        let grant = self.grant().await?;
        let read = self.inbound.read(&mut self.socket, grant.bytes()).await;
        match read {
            Ok(None) => Ok(()),
            Ok(Some(0)) | Err(_) => Err(CloseReason::Peer),
            Ok(Some(read)) => {
                self.charge.add(grant, read);
                self.connection.charge(read);
                Ok(())
            }
        }
    }

    async fn readable(&mut self) -> Result<(), CloseReason> {
        loop {
            self.arm();
            tokio::select! {
                biased;
                () = self.connection.closed.cancelled() => return Err(CloseReason::Peer),
                () = self.stop.cancelled() => return Err(CloseReason::Drained),
                ready = poll_fn(|cx| self.socket.as_ref().poll_read_ready(cx)) => {
                    return ready.map_err(|_| CloseReason::Peer);
                }
                () = self.timer.as_mut() => self.look_at_deadline()?,
            }
        }
    }

    /// The right to read some bytes, by the limits of this connection and of the process.
    async fn grant(&mut self) -> Result<Grant<'a>, CloseReason> {
        self.wait_while(Connection::is_backed_up).await?;
        let budget = &self.connection.shared.stats.budget;
        let bytes = self.inbound.step().min(self.connection.room());
        if self.charge.may_overdraw() {
            return Ok(self.overdrawn_grant());
        }
        match budget.try_take(bytes) {
            Some(grant) => Ok(grant),
            None => self.wait_for_budget().await,
        }
    }

    /// While too much of this connection is unanswered or untaken. That is not the client's
    /// silence, so the time does not count.
    async fn wait_while(&mut self, held: fn(&Connection) -> bool) -> Result<(), CloseReason> {
        while held(self.connection) {
            let since = Instant::now();
            tokio::select! {
                biased;
                () = self.connection.closed.cancelled() => return Err(CloseReason::Peer),
                () = self.stop.cancelled() => return Err(CloseReason::Drained),
                () = self.connection.changed.notified() => {}
            }
            self.deadline += since.elapsed();
        }
        Ok(())
    }

    /// While the process-wide budget is spent. The time counts for a begun frame, whose bytes
    /// others may be waiting for, and not for a connection that holds none.
    async fn wait_for_budget(&mut self) -> Result<Grant<'a>, CloseReason> {
        let stats = &self.connection.shared.stats;
        stats.budget_waits.fetch_add(1, Ordering::Relaxed);
        let missing = self.inbound.missing();
        let bytes = missing.map_or(READ_BYTES_MIN, |missing| missing.min(READ_BYTES_MIN));
        let bytes = bytes.min(self.connection.room());
        let since = Instant::now();
        loop {
            self.arm();
            tokio::select! {
                biased;
                () = self.connection.closed.cancelled() => return Err(CloseReason::Peer),
                () = self.stop.cancelled() => return Err(CloseReason::Drained),
                grant = stats.budget.take(bytes) => {
                    if missing.is_none() {
                        self.deadline += since.elapsed();
                    }
                    return Ok(grant);
                }
                overdraft = stats.budget.overdraft(), if missing.is_some() => {
                    self.charge.overdraw(overdraft);
                    return Ok(self.overdrawn_grant());
                }
                () = self.timer.as_mut(), if missing.is_some() => self.look_at_deadline()?,
            }
        }
    }

    /// For the begun frame and nothing behind it.
    fn overdrawn_grant(&self) -> Grant<'a> {
        let missing = self.inbound.missing().expect("only begun frames overdraw");
        let bytes = missing.min(self.inbound.step()).min(self.connection.room());
        self.charge
            .overdrawn_grant(&self.connection.shared.stats.budget, bytes)
    }

    /// Calls the service for each whole frame.
    async fn dispatch(&mut self, service: &impl Service) -> Result<(), CloseReason> {
        let mut called = false;
        let result = loop {
            match self.next(service).await {
                Ok(true) => called = true,
                Ok(false) => break Ok(()),
                Err(CloseReason::BadFrame) => break Err(CloseReason::BadFrame),
                Err(reason) => return Err(reason),
            }
        };
        // What was answered at once leaves in one write, without waking the writer for it; an
        // error is seen by the writer.
        let _ = self.connection.outbox.flush(self.socket.as_ref());
        let begun = self.awaits == Awaits::Any && !self.inbound.is_empty();
        if called || begun {
            self.await_next();
        }
        result
    }

    /// Calls the service for the next frame, or for several that it takes together; `false` when
    /// no whole one is there.
    async fn next(&mut self, service: &impl Service) -> Result<bool, CloseReason> {
        let belongs = |header: &Header| !header.is_response() && service.is_grouped(header);
        let mut requests = Vec::new();
        let group = self.inbound.next_group(belongs, &mut requests);
        let bytes = group.map_err(|error| self.bad_frame(&error))?;
        if !requests.is_empty() {
            self.call_group(service, requests, bytes).await?;
            return Ok(true);
        }
        let frame = self.inbound.next_frame();
        let Some(frame) = frame.map_err(|error| self.bad_frame(&error))? else {
            return Ok(false);
        };
        self.call(service, frame).await?;
        Ok(true)
    }

    fn bad_frame(&self, error: &FrameError) -> CloseReason {
        let Connection { id, peer, .. } = &**self.connection;
        debug!(%peer, connection = id, %error, "not a frame");
        CloseReason::BadFrame
    }

    async fn call_group(
        &mut self,
        service: &impl Service,
        requests: Vec<(Header, Range<usize>)>,
        bytes: Bytes,
    ) -> Result<(), CloseReason> {
        let charge = self.charge.split(bytes.len());
        let stats = &self.connection.shared.stats;
        stats
            .requests
            .fetch_add(requests.len() as u64, Ordering::Relaxed);
        let connection = Arc::clone(self.connection);
        let responder = GroupResponder::new(connection, requests.len(), charge);
        let group = Group {
            requests,
            bytes,
            peer: self.connection.peer,
            responder,
        };
        service.call_group(group).await;
        self.after_call().await
    }

    async fn call(
        &mut self,
        service: &impl Service,
        Frame { header, body }: Frame,
    ) -> Result<(), CloseReason> {
        let mut charge = self.charge.split(PREFIX_BYTES + body.len());
        if header.is_response() {
            self.connection.give_back(&mut charge);
            return Ok(());
        }
        self.connection
            .shared
            .stats
            .requests
            .fetch_add(1, Ordering::Relaxed);
        let responder = Responder::new(header, Arc::clone(self.connection), charge);
        if header.code == CommandCode::Heartbeat.code() {
            responder.send_empty(ResultCode::Heartbeat);
            return Ok(());
        }
        let connection = ConnectionHandle(Arc::clone(self.connection));
        let request = Request {
            header,
            body,
            peer: self.connection.peer,
            connection,
        };
        service.call(request, responder).await;
        self.after_call().await
    }

    async fn after_call(&mut self) -> Result<(), CloseReason> {
        // Many small requests of one read can have large replies.
        if self.connection.is_untaken() {
            let _ = self.connection.outbox.flush(self.socket.as_ref());
            self.wait_while(Connection::is_untaken).await?;
        }
        if self.connection.is_closed() {
            Err(CloseReason::Peer)
        } else {
            Ok(())
        }
    }

    /// Starts the clock for what comes next.
    fn await_next(&mut self) {
        let (awaits, timeout) = if self.inbound.is_empty() {
            (Awaits::Any, self.config.idle_timeout)
        } else {
            (Awaits::Rest, self.config.frame_completion_timeout)
        };
        self.awaits = awaits;
        self.deadline = Instant::now() + timeout;
    }

    fn arm(&mut self) {
        if self.deadline < self.timer.deadline() {
            self.timer.as_mut().reset(self.deadline);
        }
    }

    /// The timer has fired: is it too late, or has the deadline moved on?
    fn look_at_deadline(&mut self) -> Result<(), CloseReason> {
        let now = Instant::now();
        if now >= self.deadline {
            match self.awaits {
                Awaits::First => return Err(CloseReason::FirstFrameTimeout),
                Awaits::Rest => return Err(CloseReason::FrameTimeout),
                Awaits::Any => self.deadline = self.last_traffic(now) + self.config.idle_timeout,
            }
            if now >= self.deadline {
                return Err(CloseReason::Idle);
            }
        }
        self.timer.as_mut().reset(self.deadline);
        Ok(())
    }

    /// A client that waits for an answer is not idle, nor is one that just got one.
    fn last_traffic(&self, now: Instant) -> Instant {
        if self.connection.is_settled() {
            self.connection.outbox.last_write()
        } else {
            now
        }
    }

    /// Waits until every started request is answered and its reply written. The server ends this
    /// when its time is up.
    async fn drain(&mut self) -> CloseReason {
        while !self.connection.is_settled() {
            tokio::select! {
                biased;
                () = self.connection.closed.cancelled() => return CloseReason::Peer,
                () = self.connection.changed.notified() => {}
            }
        }
        // Ends the writer, which shuts the writing half down.
        self.connection.close(CloseReason::Drained);
        let mut scratch = [0; 1024];
        let discard = async { while matches!(self.socket.read(&mut scratch).await, Ok(1..)) {} };
        let _ = timeout(LINGER, discard).await;
        CloseReason::Drained
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.connection.give_back(&mut self.charge);
    }
}
