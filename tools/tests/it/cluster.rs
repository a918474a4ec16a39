//! A metaserver and a broker in this process that keep messages in memory and confirm everything.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use qmq_model::{BrokerGroup, BrokerState, Clock, Payload, PullSequence, SystemClock};
use qmq_protocol::command::ack::AckRequest;
use qmq_protocol::command::browse::{BrowseRequest, From, Place, put_browse_header, put_browsed};
use qmq_protocol::command::client_register::{
    ClientRegisterRequest, ClientRegisterResponse, OnOfflineState,
};
use qmq_protocol::command::pull::{PullRequest, TagMatch, put_pull_header};
use qmq_protocol::command::send::{SendFailure, SendRequest, SendResult};
use qmq_protocol::{CommandCode, Decode, Encode, ResultCode};
use qmq_remoting::{Request, Responder, Server, ServerConfig, Service, answer_unknown};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::http::FakeHttp;

/// What the broker holds of its only real subject.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) messages: Vec<Bytes>,
    pub(crate) pulled: usize,
    /// Last pull sequence that was acked, -1 for none.
    pub(crate) acked: i64,
    pub(crate) client_ids: Vec<String>,
    /// Pulls of the real subject.
    pub(crate) pulls: Vec<SeenPull>,
    /// Result for every message; 0 stores it.
    pub(crate) result: i32,
    /// What the broker has in memory only.
    pub(crate) memory: Vec<Bytes>,
    /// Messages for later are handed out so much before their time, ms.
    pub(crate) early_ms: i64,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SeenPull {
    pub(crate) group: String,
    pub(crate) is_broadcast: bool,
    /// The tags wanted, and whether any or all of them.
    pub(crate) tags: Option<(TagMatch, Vec<String>)>,
}

pub(crate) struct FakeCluster {
    /// `host:port` of the metaserver's HTTP side.
    pub(crate) metaserver: String,
    /// `host:port` of the broker.
    pub(crate) broker: String,
    pub(crate) held: Arc<watch::Sender<Held>>,
    stop: CancellationToken,
    _runtime: tokio::runtime::Runtime,
}

struct Everything {
    held: Arc<watch::Sender<Held>>,
    address: Mutex<String>,
}

impl FakeCluster {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let held = Arc::new(watch::Sender::new(Held {
            acked: -1,
            ..Held::default()
        }));
        let stop = CancellationToken::new();
        let server = Server::bind(([127, 0, 0, 1], 0).into(), ServerConfig::default());
        let server = runtime.block_on(server).unwrap();
        let address = server.local_addr().to_string();
        let service = Arc::new(Everything {
            held: Arc::clone(&held),
            address: Mutex::new(address.clone()),
        });
        let stopped = stop.clone();
        runtime.spawn(async move { server.serve(service, stopped, Duration::ZERO).await });
        let broker = address.clone();
        let metaserver = FakeHttp::answering("200 OK", move |asked| {
            if asked.line.starts_with("GET") {
                return broker.clone();
            }
            let groups = json!([{ "groupName": "g1", "master": broker, "brokerState": "RW",
                                  "kind": "NORMAL", "updateTime": 1 }]);
            groups.to_string()
        });
        let metaserver = metaserver.authority;
        Self {
            metaserver,
            broker: address,
            held,
            stop,
            _runtime: runtime,
        }
    }
}

impl Drop for FakeCluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Service for Everything {
    async fn call(&self, request: Request, responder: Responder) {
        match CommandCode::from_code(request.header.code) {
            Some(CommandCode::ClientRegister) => self.register(&request, responder),
            Some(CommandCode::SendMessage) => self.send(request, responder),
            Some(CommandCode::PullMessage) => {
                let held = Arc::clone(&self.held);
                tokio::spawn(async move { pull(&held, &request, responder).await });
            }
            Some(CommandCode::Ack) => self.ack(&request, responder),
            Some(CommandCode::Browse) => self.browse(&request, responder),
            _ => answer_unknown(responder),
        }
    }
}

impl Everything {
    fn register(&self, request: &Request, responder: Responder) {
        let version = request.header.version;
        let asked = ClientRegisterRequest::decode(version, &request.body).unwrap();
        let response = ClientRegisterResponse {
            timestamp_ms: 1,
            subject: asked.subject,
            consumer_group: asked.consumer_group,
            state: OnOfflineState::Online,
            client_type_code: asked.echoed_client_type(),
            groups: vec![BrokerGroup {
                name: "g1".to_owned(),
                master: self.address.lock().unwrap().clone(),
                updated_ms: 0,
                state: BrokerState::ReadWrite,
            }],
        };
        responder.send(ResultCode::Success.code(), |out| {
            response.encode(version, out)
        });
    }

    fn send(&self, request: Request, responder: Responder) {
        let sent = SendRequest::decode(request.body).unwrap();
        let result = SendResult::from_code(self.held.borrow().result);
        if result == SendResult::Success {
            let payloads = sent.messages().map(|message| message.payload_bytes());
            self.held.send_modify(|held| held.messages.extend(payloads));
            return responder.send_empty(ResultCode::Success);
        }
        responder.send(ResultCode::Success.code(), |out| {
            for message in sent.messages() {
                let message_id = message.payload.message_id;
                SendFailure {
                    message_id,
                    result,
                    remark: "not today",
                }
                .put(out);
            }
        });
    }

    fn browse(&self, request: &Request, responder: Responder) {
        let asked = BrowseRequest::decode(request.header.version, &request.body).unwrap();
        let held = self.held.borrow();
        let messages = match asked.place {
            Place::Stored => &held.messages,
            Place::Memory => &held.memory,
        };
        let begin = match asked.from {
            From::Sequence(sequence) => sequence.try_into().unwrap(),
            From::Time(_) => 0,
            From::Newest(count) => messages.len() - messages.len().min(count.try_into().unwrap()),
        };
        let count = usize::try_from(asked.count).unwrap();
        let shown = messages.iter().enumerate().skip(begin).take(count);
        let next = (begin + shown.len()).max(begin);
        responder.send(ResultCode::Success.code(), |out| {
            let number = |at: usize| i64::try_from(at).unwrap();
            put_browse_header(number(next), number(messages.len()), out);
            shown.for_each(|(at, payload)| put_browsed(number(at), payload, out));
        });
    }

    fn ack(&self, request: &Request, responder: Responder) {
        let ack = AckRequest::decode(request.header.version, &request.body).unwrap();
        if !ack.is_keep_alive() {
            self.held.send_modify(|held| {
                assert_eq!(ack.pull_begin, held.acked + 1);
                held.acked = ack.pull_last;
            });
        }
        responder.send_empty(ResultCode::Success);
    }
}

/// When a message may be handed out; 0 at once.
fn due_ms(bytes: &Bytes) -> i64 {
    let (payload, _) = Payload::split_first(bytes).unwrap();
    if payload.is_delayed() {
        payload.second_ms
    } else {
        0
    }
}

async fn pull(held: &watch::Sender<Held>, request: &Request, responder: Responder) {
    let asked = PullRequest::decode(request.header.version, &request.body).unwrap();
    let wait = Duration::from_millis(asked.timeout_ms.try_into().unwrap_or(0));
    let mut changes = held.subscribe();
    let is_retry = asked.subject.starts_with('%');
    if !is_retry {
        let tags = asked.tag_filter().map(|filter| {
            let text = |tag: &&[u8]| String::from_utf8_lossy(tag).into_owned();
            (filter.tag_match, filter.tags.iter().map(text).collect())
        });
        let pull = SeenPull {
            group: asked.group.to_owned(),
            is_broadcast: asked.is_broadcast,
            tags,
        };
        held.send_modify(|held| held.pulls.push(pull));
    }
    let has_more = async {
        let more = |held: &Held| !is_retry && held.pulled < held.messages.len();
        let due_ms = {
            let held = changes.wait_for(more).await.unwrap();
            due_ms(&held.messages[held.pulled]) - held.early_ms
        };
        // It has the delay server in it: what is for later waits here.
        let left = due_ms - SystemClock.now().0;
        tokio::time::sleep(Duration::from_millis(left.try_into().unwrap_or(0))).await;
    };
    if tokio::time::timeout(wait, has_more).await.is_err() {
        return responder.send_empty(ResultCode::NoMessage);
    }
    let (mut first, mut payloads) = (0, Vec::new());
    held.send_modify(|held| {
        first = held.pulled;
        let num = usize::try_from(asked.request_num).unwrap();
        let until = SystemClock.now().0 + held.early_ms;
        let is_due = |bytes: &&Bytes| due_ms(bytes) <= until;
        let rest = held.messages[first..].iter().take(num);
        payloads = rest.take_while(is_due).cloned().collect();
        held.pulled += payloads.len();
        held.client_ids.push(asked.consumer_id.to_owned());
    });
    responder.send(ResultCode::Success.code(), |out| {
        put_pull_header(PullSequence(first.try_into().unwrap()), out);
        payloads
            .iter()
            .for_each(|payload| out.extend_from_slice(payload));
    });
}
