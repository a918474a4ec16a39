//! A metaserver: answers the HTTP question for its address, and registrations from a list.

use std::sync::Arc;

use qmq_model::{BrokerGroup, BrokerState};
use qmq_protocol::command::client_register::{
    ClientRegisterRequest, ClientRegisterResponse, ClientRequestType, ClientType, OnOfflineState,
};
use qmq_protocol::{CommandCode, Decode, Encode, ResultCode};
use qmq_remoting::{Request, Responder, Service, answer_unknown};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::{Serving, serve};

/// How registrations are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Normal,
    /// No group at all, as after a slip.
    Empty,
    /// Timestamp -2.
    Refuse,
    /// Code 51.
    Fail,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Registration {
    pub(crate) subject: String,
    pub(crate) group: String,
    pub(crate) client_type: i32,
    pub(crate) request_type: ClientRequestType,
    pub(crate) client_id: String,
    pub(crate) app_code: String,
}

#[derive(Debug)]
pub(crate) struct MetaState {
    pub(crate) mode: Mode,
    pub(crate) is_offline: bool,
    pub(crate) timestamp_ms: i64,
    pub(crate) groups: Vec<BrokerGroup>,
    /// What delayed messages are sent to; `None`: the same groups.
    pub(crate) delay_groups: Option<Vec<BrokerGroup>>,
    pub(crate) registrations: Vec<Registration>,
}

pub(crate) struct FakeMeta {
    pub(crate) state: Arc<watch::Sender<MetaState>>,
    pub(crate) url: String,
    _serving: Serving,
}

struct Registrar(Arc<watch::Sender<MetaState>>);

impl FakeMeta {
    /// Lists one writable group per (name, address).
    pub(crate) async fn start(groups: &[(&str, &str)]) -> Self {
        let state = MetaState {
            mode: Mode::Normal,
            is_offline: false,
            timestamp_ms: 1,
            groups: groups
                .iter()
                .map(|(name, master)| group(name, master))
                .collect(),
            delay_groups: None,
            registrations: Vec::new(),
        };
        let state = Arc::new(watch::Sender::new(state));
        let serving = serve("127.0.0.1:0", Arc::new(Registrar(Arc::clone(&state)))).await;
        let url = serve_address(serving.address.clone()).await;
        Self {
            state,
            url,
            _serving: serving,
        }
    }

    pub(crate) fn set_groups(&self, groups: &[(&str, &str)]) {
        let groups: Vec<_> = groups
            .iter()
            .map(|(name, master)| group(name, master))
            .collect();
        self.state.send_modify(|state| state.groups = groups);
    }

    pub(crate) fn set_mode(&self, mode: Mode) {
        self.state.send_modify(|state| state.mode = mode);
    }
}

pub(crate) fn group(name: &str, master: &str) -> BrokerGroup {
    BrokerGroup {
        name: name.to_owned(),
        master: master.to_owned(),
        updated_ms: 0,
        state: BrokerState::ReadWrite,
    }
}

/// Answers every HTTP request with `address`; returns the URL to ask.
async fn serve_address(address: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!(
        "http://{}/meta/address",
        listener.local_addr().expect("bound")
    );
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

impl Service for Registrar {
    async fn call(&self, request: Request, responder: Responder) {
        if CommandCode::from_code(request.header.code) != Some(CommandCode::ClientRegister) {
            return answer_unknown(responder);
        }
        let version = request.header.version;
        let asked = ClientRegisterRequest::decode(version, &request.body).expect("a registration");
        self.0.send_modify(|state| {
            state.registrations.push(Registration {
                subject: asked.subject.to_owned(),
                group: asked.consumer_group.to_owned(),
                client_type: asked.client_type_code,
                request_type: asked.request_type,
                client_id: asked.client_id.to_owned(),
                app_code: asked.app_code.to_owned(),
            });
        });
        let state = self.0.borrow();
        let mut response = ClientRegisterResponse {
            timestamp_ms: state.timestamp_ms,
            subject: asked.subject,
            consumer_group: asked.consumer_group,
            state: OnOfflineState::Online,
            client_type_code: asked.echoed_client_type(),
            groups: Vec::new(),
        };
        if state.is_offline {
            response.state = OnOfflineState::Offline;
        }
        match state.mode {
            Mode::Normal if asked.client_type_code == ClientType::DelayProducer.code().into() => {
                let groups = state.delay_groups.as_ref().unwrap_or(&state.groups);
                response.groups.clone_from(groups);
            }
            Mode::Normal => response.groups.clone_from(&state.groups),
            Mode::Empty => {}
            Mode::Refuse => response = ClientRegisterResponse::refusal(&asked),
            Mode::Fail => return responder.send_empty(ResultCode::BrokerError),
        }
        responder.send(ResultCode::Success.code(), |out| {
            response.encode(version, out)
        });
    }
}
