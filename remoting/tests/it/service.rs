//! A service whose answers depend on the code, and a server that runs it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use qmq_protocol::{Header, ResultCode};
use qmq_remoting::{
    DrainReport, Group, Request, Responder, Server, ServerConfig, ServerStats, Service,
    answer_unknown,
};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Answered at once with the same body.
pub(crate) const ECHO: i16 = 10;
/// Handed to the test.
pub(crate) const PARK: i16 = 11;
/// Answered at once with as many bytes as the body says.
pub(crate) const LARGE: i16 = 12;
/// Answered together with those that arrived with it: how many they are, then its body.
pub(crate) const GROUPED: i16 = 13;
/// Answered while the call is awaited, once the test opens the gate.
pub(crate) const GATE: i16 = 40;
/// Panics.
pub(crate) const PANIC: i16 = 30;
/// Dropped without an answer.
pub(crate) const DROP: i16 = 35;

/// Longest drain in tests that do not test it.
const DRAIN: Duration = Duration::from_secs(10);

struct ByCode {
    gate: Arc<Semaphore>,
    parked: mpsc::Sender<(Request, Responder)>,
}

impl Service for ByCode {
    async fn call(&self, request: Request, responder: Responder) {
        match request.header.code {
            ECHO => responder.send(0, |out| out.extend_from_slice(&request.body)),
            PARK => self
                .parked
                .send((request, responder))
                .await
                .expect("the test listens"),
            LARGE => responder.send_bytes(0, large(&request.body)),
            GATE => {
                let _open = self.gate.acquire().await.expect("never closed");
                responder.send_empty(ResultCode::Success);
            }
            PANIC => panic!("as the request demands"),
            DROP => drop(responder),
            _ => answer_unknown(responder),
        }
    }

    fn is_grouped(&self, header: &Header) -> bool {
        header.code == GROUPED
    }

    async fn call_group(&self, group: Group) {
        let Group {
            requests, bytes, ..
        } = group;
        let count = u8::try_from(requests.len()).expect("few");
        group.responder.send(|answers| {
            for (header, body) in requests {
                answers.push(&header, 0, |out| {
                    out.extend_from_slice(&[count]);
                    out.extend_from_slice(&bytes[body]);
                });
            }
        });
    }
}

/// The body of a request for `len` bytes.
pub(crate) fn len_body(len: u32) -> [u8; 4] {
    len.to_be_bytes()
}

fn large(body: &[u8]) -> Bytes {
    let len = u32::from_be_bytes(body.try_into().expect("four bytes"));
    Bytes::from(vec![7; len as usize])
}

/// A running server.
pub(crate) struct Running {
    pub(crate) addr: SocketAddr,
    pub(crate) stats: Arc<ServerStats>,
    pub(crate) parked: mpsc::Receiver<(Request, Responder)>,
    /// Shut until it gets a permit.
    pub(crate) gate: Arc<Semaphore>,
    pub(crate) stop: CancellationToken,
    pub(crate) served: JoinHandle<DrainReport>,
}

impl Running {
    pub(crate) async fn start(config: ServerConfig) -> Self {
        Self::start_with_drain(config, DRAIN).await
    }

    pub(crate) async fn start_with_drain(config: ServerConfig, drain: Duration) -> Self {
        let any = "127.0.0.1:0".parse().expect("an address");
        let server = Server::bind(any, config).await.expect("bound");
        let (sender, parked) = mpsc::channel(1000);
        let stop = CancellationToken::new();
        let gate = Arc::new(Semaphore::new(0));
        let service = Arc::new(ByCode {
            gate: Arc::clone(&gate),
            parked: sender,
        });
        Self {
            addr: server.local_addr(),
            stats: server.stats(),
            parked,
            gate,
            stop: stop.clone(),
            served: tokio::spawn(server.serve(service, stop, drain)),
        }
    }

    /// The next request that the test must answer.
    pub(crate) async fn next_parked(&mut self) -> (Request, Responder) {
        self.parked.recv().await.expect("a parked request")
    }
}

/// Answers with the body of the request.
pub(crate) fn echo((request, responder): (Request, Responder)) {
    responder.send(ResultCode::Success.code(), |out| {
        out.extend_from_slice(&request.body)
    });
}
