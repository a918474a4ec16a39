//! A metaserver and brokers in this process, whose answers the tests script.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use qmq_model::{BrokerGroup, BrokerState as GroupState};
use qmq_protocol::command::client_register::{
    ClientRegisterRequest, ClientRegisterResponse, OnOfflineState,
};
use qmq_protocol::command::send::{SendFailure, SendRequest, SendResult, put_results};
use qmq_protocol::{CommandCode, Decode, Encode, ResultCode};
use qmq_remoting::{Request, Responder, Server, ServerConfig, Service, answer_unknown};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long a test waits for what must happen before it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How a broker answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Takes everything.
    Take,
    /// Takes everything and never says so.
    Silent,
    /// This code in the header, and takes nothing.
    Code(i16),
    /// This result for the messages with this id, and takes the others.
    Result(&'static str, SendResult),
}

/// A message as a broker got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) id: String,
    pub(crate) payload: Bytes,
    pub(crate) crc_matches: bool,
}

#[derive(Debug)]
pub(crate) struct BrokerSeen {
    pub(crate) mode: Mode,
    /// Every request, whatever came of it.
    pub(crate) requests: Vec<Vec<Got>>,
    /// Messages taken.
    pub(crate) taken: Vec<Got>,
}

impl BrokerSeen {
    pub(crate) fn taken_ids(&self) -> Vec<&str> {
        self.taken.iter().map(|got| got.id.as_str()).collect()
    }

    /// How often a message came, taken or not.
    pub(crate) fn came(&self, id: &str) -> usize {
        let all = self.requests.iter().flatten();
        all.filter(|got| got.id == id).count()
    }
}

pub(crate) struct FakeBroker {
    pub(crate) state: Arc<watch::Sender<BrokerSeen>>,
    pub(crate) address: String,
    _stop: DropGuard,
}

impl FakeBroker {
    pub(crate) async fn start() -> Self {
        let state = Arc::new(watch::Sender::new(BrokerSeen {
            mode: Mode::Take,
            requests: Vec::new(),
            taken: Vec::new(),
        }));
        let (address, stop) = serve(Arc::new(Sends(Arc::clone(&state)))).await;
        Self {
            state,
            address,
            _stop: stop,
        }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.state.send_modify(|state| state.mode = mode);
    }

    pub(crate) async fn wait_for(&self, condition: impl FnMut(&BrokerSeen) -> bool) {
        let mut state = self.state.subscribe();
        let waited = tokio::time::timeout(PATIENCE, state.wait_for(condition)).await;
        assert!(waited.is_ok(), "saw only {:?}", self.state.borrow());
    }

    /// Waits until these were taken, in any order, and nothing else.
    pub(crate) async fn took(&self, ids: &[&str]) {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        self.wait_for(|seen| {
            let mut taken = seen.taken_ids();
            taken.sort_unstable();
            taken == ids
        })
        .await;
    }
}

struct Sends(Arc<watch::Sender<BrokerSeen>>);

impl Service for Sends {
    async fn call(&self, request: Request, responder: Responder) {
        if CommandCode::from_code(request.header.code) != Some(CommandCode::SendMessage) {
            return answer_unknown(responder);
        }
        let sent = SendRequest::decode(request.body.clone()).unwrap();
        let got = sent.messages().map(|message| Got {
            id: String::from_utf8(message.payload.message_id.to_vec()).unwrap(),
            payload: message.payload_bytes(),
            crc_matches: message.crc_matches(),
        });
        let got: Vec<Got> = got.collect();
        let mode = self.0.borrow().mode;
        let is_taken = |got: &&Got| match mode {
            Mode::Take | Mode::Silent => true,
            Mode::Code(_) => false,
            Mode::Result(id, _) => got.id != id,
        };
        let taken: Vec<Got> = got.iter().filter(is_taken).cloned().collect();
        self.0.send_modify(|seen| {
            seen.requests.push(got);
            seen.taken.extend(taken);
        });
        let version = request.header.version;
        match mode {
            Mode::Take => responder.send_empty(ResultCode::Success),
            Mode::Silent => drop(responder),
            Mode::Code(code) => responder.send(code, |_| {}),
            Mode::Result(id, result) => responder.send(0, |out| {
                let failure = SendFailure {
                    message_id: id.as_bytes(),
                    result,
                    remark: "scripted",
                };
                put_results(version, [failure], out);
            }),
        }
    }
}

/// Names the groups of every subject.
pub(crate) struct FakeMeta {
    groups: Arc<watch::Sender<Vec<(String, String)>>>,
    pub(crate) url: String,
    _stop: DropGuard,
}

impl FakeMeta {
    pub(crate) async fn start() -> Self {
        let groups = Arc::new(watch::Sender::new(Vec::new()));
        let (address, stop) = serve(Arc::new(Registrar(Arc::clone(&groups)))).await;
        Self {
            groups,
            url: serve_address(address).await,
            _stop: stop,
        }
    }

    /// From now on these serve every subject but those that begin with `lost`.
    pub(crate) fn names(&self, groups: &[(&str, &FakeBroker)]) {
        let named = groups
            .iter()
            .map(|(name, broker)| ((*name).to_owned(), broker.address.clone()));
        self.groups.send_replace(named.collect());
    }
}

struct Registrar(Arc<watch::Sender<Vec<(String, String)>>>);

impl Service for Registrar {
    async fn call(&self, request: Request, responder: Responder) {
        let version = request.header.version;
        let asked = ClientRegisterRequest::decode(version, &request.body).unwrap();
        assert_eq!((asked.client_type_code, asked.client_id), (1, ""));
        let group = |(name, master): &(String, String)| BrokerGroup {
            name: name.clone(),
            master: master.clone(),
            updated_ms: 0,
            state: GroupState::ReadWrite,
        };
        let groups = if asked.subject.starts_with("lost") {
            Vec::new()
        } else {
            self.0.borrow().iter().map(group).collect()
        };
        let response = ClientRegisterResponse {
            timestamp_ms: 1,
            subject: asked.subject,
            consumer_group: "",
            state: OnOfflineState::Online,
            client_type_code: asked.echoed_client_type(),
            groups,
        };
        responder.send(0, |out| response.encode(version, out));
    }
}

async fn serve<S: Service>(service: Arc<S>) -> (String, DropGuard) {
    let any = "127.0.0.1:0".parse().unwrap();
    let server = Server::bind(any, ServerConfig::default()).await.unwrap();
    let address = server.local_addr().to_string();
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move { server.serve(service, stopped, Duration::ZERO).await });
    (address, stop.drop_guard())
}

/// Answers every HTTP request with `address`; returns the URL to ask.
async fn serve_address(address: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/meta/address", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: ";
            let answer = format!("{head}{}\r\n\r\n{address}", address.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    url
}
