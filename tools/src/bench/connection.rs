//! One connection of a generator: requests are collected and written at once, replies are looked
//! at where they were read.

use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use qmq_protocol::frame::{self, BODY_BYTES_MAX, PREFIX_BYTES};
use rustix::buffer::spare_capacity;

/// Longest wait for a connection.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// Room for what is read at once.
const READ_BYTES: usize = 256 * 1024;
/// While so much waits to be written nothing more is added.
const OUT_BYTES_MAX: usize = 1024 * 1024;

/// One connection. Nothing blocks.
#[derive(Debug)]
pub(crate) struct Connection {
    peer: SocketAddr,
    stream: TcpStream,
    /// Requests; those up to `written` have left.
    pub(crate) out: Vec<u8>,
    written: usize,
    /// Replies; those up to `taken` have been looked at.
    input: Vec<u8>,
    taken: usize,
}

/// A reply: which request it answers, and where its body is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// Result code.
    pub(crate) code: i16,
    /// Number of the request.
    pub(crate) opaque: i32,
    /// For [`Connection::body`].
    pub(crate) body: Range<usize>,
}

impl Connection {
    /// # Errors
    /// When there is no connection in time.
    pub(crate) fn open(peer: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&peer, CONNECT_WAIT);
        let stream = stream.with_context(|| format!("cannot connect to {peer}"))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            peer,
            stream,
            out: Vec::new(),
            written: 0,
            input: Vec::with_capacity(READ_BYTES),
            taken: 0,
        })
    }

    /// Whether requests may be added to `out`.
    pub(crate) const fn has_room(&self) -> bool {
        self.out.len() - self.written < OUT_BYTES_MAX
    }

    /// Writes what the peer takes.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(crate) fn flush(&mut self) -> Result<()> {
        while self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(bytes) => self.written += bytes,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.lost(error)),
            }
        }
        // Most often all is written; else the rest moves to the front now and then.
        if self.written * 2 >= self.out.len() {
            self.out.drain(..self.written);
            self.written = 0;
        }
        Ok(())
    }

    /// Reads what has arrived.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(crate) fn fill(&mut self) -> Result<()> {
        if self.taken * 2 >= self.input.len() {
            self.input.drain(..self.taken);
            self.taken = 0;
        }
        loop {
            self.input.reserve(READ_BYTES);
            let room = self.input.capacity() - self.input.len();
            match rustix::io::read(&self.stream, spare_capacity(&mut self.input)) {
                Ok(0) => return Err(self.lost(ErrorKind::UnexpectedEof.into())),
                // Less than there was room for: nothing is left, what comes later is told again.
                Ok(bytes) if bytes < room => return Ok(()),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(()),
                Err(error) => return Err(self.lost(error.into())),
            }
        }
    }

    fn lost(&self, error: io::Error) -> anyhow::Error {
        anyhow::Error::new(error).context(format!("connection to {} lost", self.peer))
    }

    /// Takes the next whole reply.
    ///
    /// # Errors
    /// When the peer speaks something else.
    pub(crate) fn take(&mut self) -> Result<Option<Reply>> {
        let input = &self.input[self.taken..];
        let length = match frame::frame_len(input, BODY_BYTES_MAX) {
            Ok(Some(length)) if input.len() >= length => length,
            Ok(_) => return Ok(None),
            Err(error) => bail!("{} does not speak this protocol: {error}", self.peer),
        };
        let field = |at: usize| <[u8; 4]>::try_from(&input[at..at + 4]).expect("four bytes");
        // Places of code, opaque and flag: see the picture of a frame in the protocol crate.
        let [c0, c1, ..] = field(10);
        let reply = Reply {
            code: i16::from_be_bytes([c0, c1]),
            opaque: i32::from_be_bytes(field(14)),
            body: self.taken + PREFIX_BYTES..self.taken + length,
        };
        let flag = i32::from_be_bytes(field(18));
        ensure!(flag & 1 == 1, "{} sends requests to us", self.peer);
        self.taken += length;
        Ok(Some(reply))
    }

    /// The body of a reply that was just taken.
    pub(crate) fn body(&self, reply: &Reply) -> &[u8] {
        &self.input[reply.body.clone()]
    }

    /// What was read, for who looks at a reply while writing requests; to be given back.
    pub(crate) fn lend_input(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.input)
    }

    /// Takes back what [`Self::lend_input`] lent.
    pub(crate) fn give_back(&mut self, input: Vec<u8>) {
        self.input = input;
    }

    /// The server.
    pub(crate) const fn peer(&self) -> SocketAddr {
        self.peer
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
