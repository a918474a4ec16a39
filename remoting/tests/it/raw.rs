//! A client that writes bytes as the test wants them, and waiting for conditions.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use qmq_protocol::{Frame, Header, split_frame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// How long a condition may take by the wall clock, on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// One socket of a client that is not ours.
pub(crate) struct Raw<S = TcpStream> {
    pub(crate) stream: S,
    buf: BytesMut,
}

impl Raw {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.expect("connected");
        stream.set_nodelay(true).expect("an open socket");
        Self::of(stream)
    }

    /// A half that reads and a half that writes.
    pub(crate) fn split(self) -> (Raw<OwnedReadHalf>, Raw<OwnedWriteHalf>) {
        let (reading, writing) = self.stream.into_split();
        (
            Raw {
                stream: reading,
                buf: self.buf,
            },
            Raw::of(writing),
        )
    }

    /// A request and the reply to it.
    pub(crate) async fn ask(&mut self, code: i16, opaque: i32, body: &[u8]) -> Frame {
        self.send(code, opaque, body).await;
        let frame = self.frame().await.expect("a reply");
        assert_eq!(frame.header.opaque, opaque);
        frame
    }
}

impl<S> Raw<S> {
    pub(crate) fn of(stream: S) -> Self {
        Self {
            stream,
            buf: BytesMut::new(),
        }
    }
}

impl<S: AsyncWrite + Unpin> Raw<S> {
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("written");
    }

    pub(crate) async fn send(&mut self, code: i16, opaque: i32, body: &[u8]) {
        self.write(&request(code, opaque, body)).await;
    }
}

impl<S: AsyncRead + Unpin> Raw<S> {
    /// The next frame; `None` when the other side has closed the connection.
    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        loop {
            let frame = split_frame(&mut self.buf, i32::MAX as usize / 2).expect("a frame");
            if frame.is_some() {
                return frame;
            }
            match self.stream.read_buf(&mut self.buf).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}

/// A request frame.
pub(crate) fn request(code: i16, opaque: i32, body: &[u8]) -> Bytes {
    let mut bytes = BytesMut::new();
    Header::request(code, opaque).put_frame(&mut bytes, |out| out.extend_from_slice(body));
    bytes.freeze()
}

/// Waits for a condition. The clock of a paused runtime stands still meanwhile.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(since.elapsed() < PATIENCE, "never came: {what}");
        tokio::task::yield_now().await;
    }
}
