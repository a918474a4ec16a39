//! Bytes read from one socket and not yet taken as frames.

use std::io;
use std::ops::Range;
use std::pin::pin;
use std::task::Poll;

use bytes::{BufMut, Bytes, BytesMut};
use qmq_protocol::frame::{PREFIX_BYTES, frame_len};
use qmq_protocol::{Frame, FrameError, Header, split_frame};
use tokio::io::AsyncReadExt;
use tokio::net::tcp::OwnedReadHalf;

/// Read at once at first, and the most an idle connection keeps: twenty thousand of them need
/// 80 MiB.
pub(crate) const READ_BYTES_MIN: usize = 4 * 1024;
/// Read at once by a busy connection. Java clients have socket buffers of this size.
pub(crate) const READ_BYTES_MAX: usize = 64 * 1024;

/// A group of requests takes no further frame once it is so long: others take their turns between
/// groups.
pub(crate) const GROUP_BYTES_MAX: usize = 64 * 1024;

const _: () = assert!(READ_BYTES_MIN > PREFIX_BYTES && READ_BYTES_MIN <= READ_BYTES_MAX);

/// A buffer that grows with the bytes that arrive, by at most as much again and one read.
#[derive(Debug)]
pub(crate) struct Inbound {
    buf: BytesMut,
    /// How much the next read asks for: doubles with full reads, halves with nearly empty ones.
    step: usize,
    /// The allocation behind `buf` is larger than an idle connection may keep.
    grown: bool,
    body_bytes_max: usize,
}

impl Inbound {
    pub(crate) fn new(body_bytes_max: usize) -> Self {
        Self {
            buf: BytesMut::new(),
            step: READ_BYTES_MIN,
            grown: false,
            body_bytes_max,
        }
    }

    /// How much the next read should ask for.
    pub(crate) fn step(&self) -> usize {
        self.step
    }

    /// Whether the last reads were about as large as reads can be.
    pub(crate) fn is_busy(&self) -> bool {
        self.step == READ_BYTES_MAX
    }

    /// Whether no frame has begun.
    pub(crate) fn is_empty(&self) -> bool {
        self.buf.is_empty()
    }

    /// Takes whole frames that follow each other as long as `belongs` says so of their headers; at
    /// most about [`GROUP_BYTES_MAX`] of them, none if the next frame is not there or not wanted.
    /// Adds each header to `requests` with the place of its body in the bytes that are returned.
    pub(crate) fn next_group(
        &mut self,
        belongs: impl Fn(&Header) -> bool,
        requests: &mut Vec<(Header, Range<usize>)>,
    ) -> Result<Bytes, FrameError> {
        let mut end = 0;
        while end < GROUP_BYTES_MAX {
            let rest = &self.buf[end..];
            let len = match frame_len(rest, self.body_bytes_max) {
                Ok(Some(len)) if len <= rest.len() => len,
                Ok(_) => break,
                // What came before it is good.
                Err(_) if end > 0 => break,
                Err(error) => return Err(error),
            };
            let Some(header) = Header::peek(rest).filter(&belongs) else {
                break;
            };
            requests.push((header, end + PREFIX_BYTES..end + len));
            end += len;
        }
        if end == 0 {
            return Ok(Bytes::new());
        }
        Ok(self.buf.split_to(end).freeze())
    }

    /// The next whole frame.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        split_frame(&mut self.buf, self.body_bytes_max)
    }

    /// How many bytes the begun frame still needs, as far as is known; `None` when none has begun.
    pub(crate) fn missing(&self) -> Option<usize> {
        if self.buf.is_empty() {
            return None;
        }
        let len = match frame_len(&self.buf, self.body_bytes_max) {
            Ok(Some(len)) => len,
            // Too few bytes to know; a bad prefix was reported by `next_frame`.
            Ok(None) | Err(_) => PREFIX_BYTES,
        };
        Some(len.saturating_sub(self.buf.len()))
    }

    /// Gives memory back before a wait.
    pub(crate) fn rest(&mut self) {
        if self.grown && self.buf.is_empty() {
            self.buf = BytesMut::new();
            self.grown = false;
        }
    }

    /// Takes at most `limit` bytes off the socket without waiting: `None` when there are none,
    /// `Some(0)` at the end of the stream.
    pub(crate) async fn read(
        &mut self,
        socket: &mut OwnedReadHalf,
        limit: usize,
    ) -> io::Result<Option<usize>> {
        self.buf.reserve(limit);
        self.grown |= self.buf.capacity() > 2 * READ_BYTES_MIN;
        let mut room = (&mut self.buf).limit(limit);
        let mut read = pin!(socket.read_buf(&mut room));
        let read = std::future::poll_fn(|cx| match read.as_mut().poll(cx) {
            Poll::Ready(read) => Poll::Ready(read.map(Some)),
            Poll::Pending => Poll::Ready(Ok(None)),
        })
        .await?;
        if let Some(read) = read {
            self.adapt(read);
        }
        Ok(read)
    }

    fn adapt(&mut self, read: usize) {
        if read >= self.step {
            self.step = (self.step * 2).min(READ_BYTES_MAX);
        } else if read < self.step / 4 {
            self.step = (self.step / 2).max(READ_BYTES_MIN);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (TcpStream, OwnedReadHalf) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("its address");
        let (out, accepted) = tokio::join!(TcpStream::connect(addr), listener.accept());
        let (read, write) = accepted.expect("accepted").0.into_split();
        write.forget();
        (out.expect("connected"), read)
    }

    async fn fill(inbound: &mut Inbound, socket: &mut OwnedReadHalf, bytes: usize) {
        let mut read = 0;
        while read < bytes {
            socket.readable().await.expect("readable");
            let step = inbound.step();
            read += inbound.read(socket, step).await.expect("read").unwrap_or(0);
        }
    }

    #[tokio::test]
    async fn reserves_for_bytes_that_came_not_for_announced_ones() {
        let (mut out, mut socket) = pair().await;
        let announced = 16 * 1024 * 1024;
        let mut prefix = BytesMut::new();
        Header::request(10, 1).put(announced, &mut prefix);
        prefix.extend_from_slice(&[0; 100]);
        out.write_all(&prefix).await.expect("written");

        let mut inbound = Inbound::new(announced);
        fill(&mut inbound, &mut socket, 124).await;
        assert_eq!(inbound.next_frame(), Ok(None));
        assert_eq!(inbound.missing(), Some(announced - 100));
        assert!(
            inbound.buf.capacity() <= 2 * READ_BYTES_MIN,
            "{}",
            inbound.buf.capacity()
        );
    }

    #[tokio::test]
    async fn gives_memory_back_after_a_large_frame() {
        let (mut out, mut socket) = pair().await;
        let len = 1024 * 1024;
        let mut bytes = BytesMut::new();
        Header::request(10, 1).put_frame(&mut bytes, |body| body.resize(body.len() + len, 7));
        let sender = tokio::spawn(async move { out.write_all(&bytes).await.map(|()| out) });

        let mut inbound = Inbound::new(len);
        fill(&mut inbound, &mut socket, PREFIX_BYTES + len).await;
        assert!(inbound.grown);
        let frame = inbound.next_frame().expect("good").expect("whole");
        assert_eq!(frame.body.len(), len);
        assert_eq!(inbound.missing(), None);
        inbound.rest();
        assert_eq!(inbound.buf.capacity(), 0);
        sender.await.expect("no panic").expect("written");
    }

    #[test]
    fn asks_for_more_when_reads_are_full_and_for_less_when_they_are_not() {
        let mut inbound = Inbound::new(0);
        for _ in 0..10 {
            inbound.adapt(inbound.step());
        }
        assert_eq!(inbound.step(), READ_BYTES_MAX);
        inbound.adapt(READ_BYTES_MAX / 2);
        assert_eq!(inbound.step(), READ_BYTES_MAX);
        for _ in 0..10 {
            inbound.adapt(1);
        }
        assert_eq!(inbound.step(), READ_BYTES_MIN);
    }
}
