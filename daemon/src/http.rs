//! A bounded HTTP port: limits on connections, on silence and on slow requests, a drain at the end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Most connections at once: this port is for people, probes and discovery, not for messages.
pub const CONNECTIONS_MAX: usize = 1024;
/// Longest silence of a peer, inside a request or between two. C# clients ask every 20 s, the
/// slowest every 60 s.
pub const SILENCE_MAX: Duration = Duration::from_secs(90);
/// Longest time from the first byte of a request until its answer begins: whoever sends byte by
/// byte is never silent, and would keep a connection for ever. The largest requests are small.
pub const REQUEST_MAX: Duration = Duration::from_secs(90);
/// Pause after a failed accept, so that a process without descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An HTTP server that runs until it is told to stop.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl HttpServer {
    /// Binds `address` and serves `router` until `stop`; requests in progress are finished.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(
        address: SocketAddr,
        router: Router,
        stop: CancellationToken,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let listener = BoundedListener {
            listener,
            permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            limits: Limits {
                silence: SILENCE_MAX,
                request: REQUEST_MAX,
            },
        };
        let task = tokio::spawn(async move {
            let server = axum::serve(listener, router);
            // Never an error: accept handles its own.
            drop(server.with_graceful_shutdown(stop.cancelled_owned()).await);
        });
        Ok(Self { address, task })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the server has stopped and every connection is closed.
    pub async fn stopped(self) {
        // A panic of the serving task has been printed by then; there is nothing left to stop.
        drop(self.task.await);
    }
}

/// How long a peer may take; see [`SILENCE_MAX`] and [`REQUEST_MAX`].
#[derive(Clone, Copy)]
struct Limits {
    silence: Duration,
    request: Duration,
}

struct BoundedListener {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    limits: Limits,
}

impl Listener for BoundedListener {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // Waiting for a permit first leaves further connections in the backlog of the kernel.
        let permits = Arc::clone(&self.permits);
        let permit = permits
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    let stream = BoundedStream {
                        stream,
                        deadline: Box::pin(tokio::time::sleep(self.limits.silence)),
                        request_until: None,
                        limits: self.limits,
                        _permit: permit,
                    };
                    return (stream, address);
                }
                Err(error) => {
                    warn!(%error, "cannot accept http connections");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection that counts against the limit and fails when its peer is silent for too long,
/// reading or writing, or takes too long with a request.
struct BoundedStream {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    /// When the answer to the request that has begun must begin.
    request_until: Option<Instant>,
    limits: Limits,
    _permit: OwnedSemaphorePermit,
}

impl BoundedStream {
    fn progress<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            let silent = Instant::now() + self.limits.silence;
            let deadline = self.request_until.map_or(silent, |until| until.min(silent));
            self.deadline.as_mut().reset(deadline);
            return poll;
        }
        ready!(self.deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Something of a request came; `false` when it began too long ago.
    fn read_some(&mut self) -> bool {
        let now = Instant::now();
        let until = *self.request_until.get_or_insert(now + self.limits.request);
        now < until
    }

    /// Once the answer has begun, silence alone counts.
    fn wrote(&mut self, poll: &Poll<io::Result<usize>>) {
        if poll.is_ready() {
            self.request_until = None;
        }
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before && !self.read_some() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.progress(cx, poll)
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(&poll);
        self.progress(cx, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(&poll);
        self.progress(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    async fn bounded(connections: usize, limits: Limits) -> (SocketAddr, Arc<Semaphore>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let permits = Arc::new(Semaphore::new(connections));
        let listener = BoundedListener {
            listener,
            permits: Arc::clone(&permits),
            limits,
        };
        let router = Router::new().route("/", get(async || "hello"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        (address, permits)
    }

    #[tokio::test]
    async fn closes_a_silent_connection() {
        let limits = Limits {
            silence: Duration::from_millis(20),
            request: MINUTE,
        };
        let (address, _permits) = bounded(9, limits).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes);
        let closed = tokio::time::timeout(Duration::from_secs(20), read).await;
        closed
            .expect("the server must close it")
            .unwrap_or_default();
    }

    #[tokio::test]
    async fn serves_the_next_connection_when_one_ends() {
        let limits = Limits {
            silence: MINUTE,
            request: MINUTE,
        };
        let (address, permits) = bounded(1, limits).await;
        for _ in 0..3 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
            stream.write_all(request).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            assert!(text.ends_with("hello"), "{text}");
        }
        assert!(permits.available_permits() <= 1);
    }

    /// Sends a whole request over a connection that stays open, and reads the answer.
    async fn ask(stream: &mut TcpStream) {
        let request = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello") {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "closed");
        }
    }

    /// It is never silent; meanwhile, and for longer than a request may take, another is served.
    #[tokio::test]
    async fn cuts_off_who_sends_byte_by_byte_and_serves_others() {
        let limits = Limits {
            silence: MINUTE,
            request: Duration::from_millis(300),
        };
        let (address, _permits) = bounded(2, limits).await;
        let mut other = TcpStream::connect(address).await.unwrap();
        ask(&mut other).await;
        let mut slow = TcpStream::connect(address).await.unwrap();
        let begun = Instant::now();
        slow.write_all(b"GET / HTTP/1.1\r\nX-Slow: ").await.unwrap();
        let trickle = async {
            let mut answer = [0; 64];
            loop {
                ask(&mut other).await;
                if slow.write_all(b"x").await.is_err() {
                    return;
                }
                let pause = Duration::from_millis(5);
                let read = tokio::time::timeout(pause, slow.read(&mut answer));
                if let Ok(Ok(0) | Err(_)) = read.await {
                    return;
                }
            }
        };
        let cut = tokio::time::timeout(MINUTE, trickle).await;
        cut.expect("the server must close it");
        assert!(begun.elapsed() >= limits.request, "it had its time");
        ask(&mut other).await;
        let mut next = TcpStream::connect(address).await.unwrap();
        let served = tokio::time::timeout(MINUTE, ask(&mut next)).await;
        served.expect("its place must be free again");
    }

    #[tokio::test]
    async fn stops_and_says_so() {
        let stop = CancellationToken::new();
        let router = Router::new().route("/", get(async || "hello"));
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = HttpServer::start(any, router, stop.clone()).await.unwrap();
        let address = server.address();
        stop.cancel();
        server.stopped().await;
        assert!(TcpStream::connect(address).await.is_err());
    }
}
