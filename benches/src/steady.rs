//! A broker in this process and a client that allocates nothing once it is connected.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bytes::BytesMut;
use qmq_broker::config::BrokerConfig;
use qmq_broker::http::LateShards;
use qmq_broker::serving::Serving;
use qmq_daemon::Settings;
use qmq_daemon::member::Serving as _;
use qmq_daemon::metrics::Metrics;
use qmq_model::{Clock, Message, SystemClock};
use qmq_protocol::command::ack::AckRequest;
use qmq_protocol::command::pull::PullRequest;
use qmq_protocol::command::send::CRC_BYTES;
use qmq_protocol::frame::{PREFIX_BYTES, VERSION};
use qmq_protocol::{CommandCode, Encode, Header, ResultCode};
use qmq_remoting::{Server, ServerConfig};
use qmq_store::RealtimeStore;
use qmq_store::fs::RealFs;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const SUBJECT: &str = "bench.steady";
const GROUP: &str = "bench-steady";
const CLIENT: &str = "bench-steady-client";
/// Bytes of content.
const SIZE: usize = 1024;
/// Digits of the number in a message id.
const DIGITS: usize = 12;
/// Room for the largest reply.
const REPLY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A broker in this process, without a metaserver.
pub struct Served {
    runtime: Runtime,
    serving: Serving,
    address: SocketAddr,
    folder: TempDir,
}

impl Served {
    /// Starts it over an empty store in a new folder below `folder`. Acknowledged means in the
    /// page cache: the path through the code is the same and the run shorter.
    ///
    /// # Errors
    /// When the store or the port cannot be opened.
    pub fn start(folder: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("steady")
            .tempdir_in(folder)?;
        let pairs = [
            ("meta.server.endpoint", "http://127.0.0.1:1/meta/address"),
            ("flush.disk.type", "async"),
        ];
        let config = BrokerConfig::from_settings(&Settings::of_pairs("broker", &pairs))
            .context("settings of the broker")?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let store = config.store("steady");
        let root = folder.path().join("store");
        let opened = RealtimeStore::open(Arc::new(RealFs), &root, store, Arc::clone(&clock))?;
        let runtime = Runtime::new()?;
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = runtime.block_on(Server::bind(any, ServerConfig::default()))?;
        let address = server.local_addr();
        let metrics = Metrics::new("broker", "bench");
        let entered = runtime.enter();
        let late = LateShards::default();
        let serving = Serving::start(&config, server, opened, &metrics, &late, clock)?;
        drop(entered);
        Ok(Self {
            runtime,
            serving,
            address,
            folder,
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it in order and removes its files.
    ///
    /// # Errors
    /// When the store cannot be closed.
    pub fn stop(self) -> Result<()> {
        self.runtime.block_on(self.serving.stop())?;
        self.folder.close()?;
        Ok(())
    }
}

/// One connection with all its buffers made beforehand.
pub struct Client {
    stream: TcpStream,
    payload: Vec<u8>,
    id_at: usize,
    number: u64,
    out: BytesMut,
    input: Vec<u8>,
    pull_last: i64,
}

impl Client {
    /// Connects to a broker.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let id = "0".repeat(DIGITS);
        let message = Message {
            subject: SUBJECT.to_owned(),
            message_id: id.clone(),
            properties: vec![("content".to_owned(), "x".repeat(SIZE))],
            ..Message::default()
        };
        let payload = message.to_payload()?.to_vec();
        let id_at = payload
            .windows(DIGITS)
            .position(|bytes| bytes == id.as_bytes())
            .context("the id is a part of the message")?;
        Ok(Self {
            stream,
            payload,
            id_at,
            number: 0,
            out: BytesMut::with_capacity(REPLY_BYTES_MAX),
            input: vec![0; REPLY_BYTES_MAX],
            pull_last: -1,
        })
    }

    /// Sends at least `count` messages, `batch` in a request, `window` requests at a time; returns
    /// how many.
    ///
    /// # Errors
    /// When one is refused.
    pub fn send(&mut self, count: usize, window: usize, batch: usize) -> Result<usize> {
        let mut sent = 0;
        while sent < count {
            self.out.clear();
            for request in 0..window {
                self.put_request(i32::try_from(request)?, batch);
            }
            self.stream.write_all(&self.out)?;
            let answers = window * PREFIX_BYTES;
            self.stream.read_exact(&mut self.input[..answers])?;
            for answer in self.input[..answers].chunks_exact(PREFIX_BYTES) {
                // Length and code of an answer: all stored, so nothing follows.
                let is_stored = answer[..4] == [0, 0, 0, 20] && answer[10..12] == [0, 0];
                ensure!(is_stored, "a message is refused");
            }
            sent += window * batch;
        }
        Ok(sent)
    }

    fn put_request(&mut self, opaque: i32, batch: usize) {
        let length = batch * (CRC_BYTES + self.payload.len());
        Header::request(CommandCode::SendMessage.code(), opaque).put(length, &mut self.out);
        for _ in 0..batch {
            let mut number = self.number;
            self.number += 1;
            for digit in self.payload[self.id_at..self.id_at + DIGITS]
                .iter_mut()
                .rev()
            {
                *digit = b"0123456789"[usize::try_from(number % 10).expect("a digit")];
                number /= 10;
            }
            qmq_protocol::command::send::put_message(&self.payload, &mut self.out);
        }
    }

    /// Pulls up to `count` messages and acks them; returns how many came. It does not wait.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn pull(&mut self, count: usize) -> Result<usize> {
        let pull = PullRequest {
            subject: SUBJECT,
            group: GROUP,
            consumer_id: CLIENT,
            request_num: i32::try_from(count)?,
            offset: -1,
            pull_begin: -1,
            pull_last: self.pull_last,
            timeout_ms: 0,
            is_broadcast: false,
            filters: Vec::new(),
        };
        let header = Header::request(CommandCode::PullMessage.code(), 1);
        let (code, length) = self.call(header, |out| pull.encode(VERSION, out))?;
        if code == ResultCode::NoMessage.code() {
            return Ok(0);
        }
        ensure!(code == 0, "a pull is answered with code {code}");
        let first = i64::from_be_bytes(self.input[..8].try_into()?);
        // All messages have the same size.
        let pulled = (length - 16) / self.payload.len();
        self.pull_last = first + i64::try_from(pulled)? - 1;
        let ack = AckRequest {
            subject: SUBJECT,
            group: GROUP,
            consumer_id: CLIENT,
            pull_begin: first,
            pull_last: self.pull_last,
            is_broadcast: false,
        };
        let header = Header::request(CommandCode::Ack.code(), 2);
        let (code, _) = self.call(header, |out| ack.encode(VERSION, out))?;
        ensure!(code == 0, "an ack is answered with code {code}");
        Ok(pulled)
    }

    /// One request and its answer: code and length of the body, which is in `input`.
    fn call(&mut self, header: Header, write: impl FnOnce(&mut BytesMut)) -> Result<(i16, usize)> {
        self.out.clear();
        header.put_frame(&mut self.out, write);
        self.stream.write_all(&self.out)?;
        let mut prefix = [0; PREFIX_BYTES];
        self.stream.read_exact(&mut prefix)?;
        let total = i32::from_be_bytes(prefix[..4].try_into()?);
        let length = usize::try_from(total)? + 4 - PREFIX_BYTES;
        ensure!(length <= self.input.len(), "a reply of {length} bytes");
        self.stream.read_exact(&mut self.input[..length])?;
        Ok((i16::from_be_bytes([prefix[10], prefix[11]]), length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_pulled() {
        let folder = tempfile::tempdir().unwrap();
        let served = Served::start(folder.path()).unwrap();
        let mut client = Client::connect(served.address()).unwrap();
        // A group gets what is sent from its first pull on.
        assert_eq!(client.pull(1).unwrap(), 0);
        assert_eq!(client.send(20, 5, 2).unwrap(), 20);
        assert_eq!(client.send(3, 1, 3).unwrap(), 3);
        let pulled: Vec<_> = (0..4).map(|_| client.pull(10).unwrap()).collect();
        assert_eq!(pulled, [10, 10, 3, 0]);
        served.stop().unwrap();
    }
}
