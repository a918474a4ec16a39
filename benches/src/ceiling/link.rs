//! One connection of the ceiling.

use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result, bail, ensure};
use qmq_model::Payload;
use qmq_protocol::command::send::CRC_BYTES;
use qmq_protocol::frame::{self, BODY_BYTES_MAX, PREFIX_BYTES};
use qmq_protocol::{CommandCode, Header, ResultCode};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, poll};

use crate::ceiling::batch::Batch;

/// Room for what is read at once.
const READ_BYTES: usize = 256 * 1024;

/// The reading half of a connection.
#[derive(Debug)]
pub(crate) struct Link {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Link {
    /// # Errors
    /// When the socket cannot be set up.
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            input: Vec::with_capacity(READ_BYTES),
        })
    }

    /// The same connection for answers.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub(crate) fn writing_half(&self) -> io::Result<TcpStream> {
        self.stream.try_clone()
    }

    /// Reads what has arrived and adds the messages to `batch` for connection number `number`;
    /// `false` when the client has gone.
    ///
    /// # Errors
    /// When the client sends what is no message.
    pub(crate) fn read(&mut self, number: usize, batch: &mut Batch) -> Result<bool> {
        loop {
            self.input.reserve(READ_BYTES);
            let room = self.input.capacity() - self.input.len();
            let read = rustix::io::read(&self.stream, spare_capacity(&mut self.input));
            let is_last = match read {
                Ok(0) => return Ok(false),
                Ok(bytes) => bytes < room,
                Err(rustix::io::Errno::INTR) => false,
                Err(rustix::io::Errno::WOULDBLOCK) => true,
                Err(_) => return Ok(false),
            };
            let taken = take_frames(&self.input, number, batch)?;
            self.input.drain(..taken);
            if is_last {
                return Ok(true);
            }
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Adds all whole requests to `batch`; returns how many bytes they have.
fn take_frames(input: &[u8], number: usize, batch: &mut Batch) -> Result<usize> {
    let mut taken = 0;
    loop {
        let rest = &input[taken..];
        match frame::frame_len(rest, BODY_BYTES_MAX)? {
            Some(length) if rest.len() >= length => {
                take_request(&rest[..length], number, batch)?;
                taken += length;
            }
            _ => return Ok(taken),
        }
    }
}

fn take_request(request: &[u8], number: usize, batch: &mut Batch) -> Result<()> {
    // Places of code and opaque: see the picture of a frame in the protocol crate.
    let code = i16::from_be_bytes([request[10], request[11]]);
    let opaque = <[u8; 4]>::try_from(&request[14..18]).expect("four bytes");
    ensure!(
        code == CommandCode::SendMessage.code(),
        "only messages are taken, not command {code}"
    );
    let mut rest = &request[PREFIX_BYTES..];
    while !rest.is_empty() {
        let (crc, bytes) = rest
            .split_first_chunk::<CRC_BYTES>()
            .context("a message is cut off")?;
        let (payload, tail) = Payload::split_first(bytes)?;
        if i64::from_be_bytes(*crc) != i64::from(payload.crc()) {
            bail!("a checksum is wrong");
        }
        batch.messages += 1;
        rest = tail;
    }
    // As it came: the checksums stay with their messages.
    batch.bytes.extend_from_slice(&request[PREFIX_BYTES..]);
    batch.requests.push((number, i32::from_be_bytes(opaque)));
    Ok(())
}

/// Appends the answer "stored" to request `opaque`.
pub(crate) fn put_answer(opaque: i32, out: &mut Vec<u8>) {
    let request = Header::request(CommandCode::SendMessage.code(), opaque);
    request.response(ResultCode::Success.code()).put(0, out);
}

/// Writes all of `bytes` to a socket that does not block. A client that is gone is none of our
/// business: its thread notices.
pub(crate) fn write_all(mut stream: &TcpStream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut wait = [PollFd::new(&stream, PollFlags::OUT)];
                if poll(&mut wait, None).is_err_and(|error| error != rustix::io::Errno::INTR) {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}
