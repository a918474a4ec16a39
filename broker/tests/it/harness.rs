//! Starts a broker over a store on a faulty file system, and speaks to it as a client would.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use qmq_broker::config::BrokerConfig;
use qmq_broker::http::LateShards;
use qmq_broker::serving::Serving;
use qmq_daemon::Settings;
use qmq_daemon::member::Serving as _;
use qmq_daemon::metrics::Metrics;
use qmq_model::{Clock, ManualClock, Message, SystemClock, UnixMillis};
use qmq_protocol::command::ack::AckRequest;
use qmq_protocol::command::consume_manage::{ConsumeFromWhere, ConsumeManageRequest};
use qmq_protocol::command::pull::{PullFilter, PullRequest, PullResponse, TagFilter, TagMatch};
use qmq_protocol::command::send::{SendResponse, put_message};
use qmq_protocol::{CommandCode, Decode, Encode, Frame};
use qmq_remoting::{Client, ClientConfig, Server, ServerConfig};
use qmq_store::Background;
use qmq_store::fs::faulty::FaultyFs;
use qmq_store::{RealtimeStore, StoreConfig, StoreReader};

/// Longest wait for an answer that is expected.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A broker that is being served.
pub(crate) struct TestBroker {
    pub(crate) fs: FaultyFs,
    pub(crate) serving: Serving,
    pub(crate) late: LateShards,
    pub(crate) reader: StoreReader,
    pub(crate) client: Client,
    address: String,
}

impl TestBroker {
    pub(crate) async fn start() -> Self {
        Self::over(FaultyFs::new(1), &[]).await
    }

    /// Over `fs`, with further settings.
    pub(crate) async fn over(fs: FaultyFs, pairs: &[(&str, &str)]) -> Self {
        let recent = StoreConfig::default().recent_bytes_max;
        Self::with(fs, pairs, recent, Arc::new(SystemClock)).await
    }

    /// Over `fs`, with a clock moved by hand. Nothing wakes up because it was moved: things happen
    /// with the next request.
    pub(crate) async fn by_hand(fs: FaultyFs, clock: &ManualClock) -> Self {
        let recent = StoreConfig::default().recent_bytes_max;
        Self::with(fs, &[], recent, Arc::new(clock.clone())).await
    }

    /// A broker that reads every message from its files.
    pub(crate) async fn without_recent() -> Self {
        Self::with(FaultyFs::new(1), &[], 0, Arc::new(SystemClock)).await
    }

    async fn with(
        fs: FaultyFs,
        pairs: &[(&str, &str)],
        recent_bytes_max: usize,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let mut all = vec![("meta.server.endpoint", "http://127.0.0.1:1/meta/address")];
        all.extend_from_slice(pairs);
        let settings = Settings::of_pairs("broker", &all);
        let config = BrokerConfig::from_settings(&settings).unwrap();
        let store = StoreConfig {
            message_segment_bytes: 1 << 20,
            action_segment_bytes: 1 << 18,
            zero_ahead_bytes: 1 << 14,
            background: Background::Inline,
            recent_bytes_max,
            ..config.store("test")
        };
        let its_clock = Arc::clone(&clock);
        let opened =
            RealtimeStore::open(Arc::new(fs.clone()), Path::new("/store"), store, its_clock)
                .unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let server = Server::bind(any, ServerConfig::default()).await.unwrap();
        let address = server.local_addr().to_string();
        let metrics = Metrics::new("broker", "test");
        let late = LateShards::default();
        let reader = opened.reader.clone();
        let serving = Serving::start(&config, server, opened, &metrics, &late, clock).unwrap();
        let client = connect(&address).await;
        Self {
            fs,
            serving,
            late,
            reader,
            client,
            address,
        }
    }

    /// Stops in order and starts again over the same files.
    pub(crate) async fn restart(self) -> Self {
        self.restart_with(&[]).await
    }

    /// The same, with other settings.
    pub(crate) async fn restart_with(self, pairs: &[(&str, &str)]) -> Self {
        let fs = self.stop().await;
        Self::over(fs, pairs).await
    }

    /// Stops in order and leaves the files.
    pub(crate) async fn stop(self) -> FaultyFs {
        drop(self.client);
        self.serving.stop().await.unwrap();
        self.fs
    }

    /// Pulls again and again until there is something.
    pub(crate) async fn pull_until_some(&self, pull: Pull<'_>) -> Reply {
        let deadline = tokio::time::Instant::now() + 3 * PATIENCE;
        loop {
            let reply = self.pull(pull).await;
            if reply.code == 0 {
                return reply;
            }
            tokio::task::yield_now().await;
            assert!(tokio::time::Instant::now() < deadline, "nothing came");
        }
    }

    /// Moves a group.
    pub(crate) async fn reset(&self, subject: &str, group: &str, from: ConsumeFromWhere) -> i16 {
        let request = ConsumeManageRequest {
            subject,
            group,
            from,
        };
        let write = |out: &mut BytesMut| request.encode(9, out);
        let code = CommandCode::ConsumeManage;
        let reply = self.client.request(code, write, PATIENCE).await;
        reply.unwrap().header.code
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Another connection.
    pub(crate) async fn connect(&self) -> Client {
        connect(&self.address).await
    }

    pub(crate) async fn send(&self, messages: &[Message]) -> Frame {
        send(&self.client, messages).await
    }

    /// Sends and expects that all are stored.
    pub(crate) async fn store(&self, subject: &str, ids: &[&str]) {
        let messages: Vec<_> = ids.iter().map(|id| message(subject, id)).collect();
        let reply = self.send(&messages).await;
        assert_eq!((reply.header.code, failures(&reply)), (0, vec![]));
    }

    pub(crate) async fn pull(&self, pull: Pull<'_>) -> Reply {
        pull_on(&self.client, pull).await
    }

    pub(crate) async fn ack(&self, pull: Pull<'_>, first: i64, last: i64) -> i16 {
        let ack = AckRequest {
            subject: pull.subject,
            group: pull.group,
            consumer_id: pull.consumer,
            pull_begin: first,
            pull_last: last,
            is_broadcast: pull.broadcast,
        };
        let write = |out: &mut BytesMut| ack.encode(9, out);
        let reply = self.client.request(CommandCode::Ack, write, PATIENCE).await;
        reply.unwrap().header.code
    }
}

async fn connect(address: &str) -> Client {
    Client::connect(address, ClientConfig::default())
        .await
        .unwrap()
}

pub(crate) async fn send(client: &Client, messages: &[Message]) -> Frame {
    let body = body_of(messages);
    raw_send(client, &body).await
}

pub(crate) async fn raw_send(client: &Client, body: &[u8]) -> Frame {
    let write = |out: &mut BytesMut| out.put_slice(body);
    client
        .request(CommandCode::SendMessage, write, PATIENCE)
        .await
        .unwrap()
}

pub(crate) fn body_of(messages: &[Message]) -> BytesMut {
    let mut body = BytesMut::new();
    for message in messages {
        put_message(&message.to_payload().unwrap(), &mut body);
    }
    body
}

/// The failures a send reply lists: (message id, result, remark).
pub(crate) fn failures(reply: &Frame) -> Vec<(String, i32, String)> {
    let response = SendResponse::decode(9, &reply.body).unwrap();
    let text = |id: &[u8]| String::from_utf8_lossy(id).into_owned();
    let failure = response.failures();
    failure
        .map(|f| (text(f.message_id), f.result.code(), f.remark.to_owned()))
        .collect()
}

pub(crate) fn message(subject: &str, id: &str) -> Message {
    Message {
        subject: subject.to_owned(),
        message_id: id.to_owned(),
        created: UnixMillis(1_700_000_000_000),
        properties: vec![("k".to_owned(), format!("value of {id}"))],
        ..Message::default()
    }
}

/// A message with tags.
pub(crate) fn tagged(subject: &str, id: &str, tags: &[&str]) -> Message {
    Message {
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        ..message(subject, id)
    }
}

/// The messages a pull reply holds.
pub(crate) fn contents(frame: &Frame) -> Vec<Message> {
    assert_eq!(frame.header.code, 0);
    let response = PullResponse::decode(9, &frame.body).unwrap();
    let message = |pulled: qmq_protocol::command::pull::PulledMessage<'_>| {
        Message::from_payload(&pulled.payload)
    };
    response.messages().map(message).collect()
}

/// A pull with the defaults of a test.
#[derive(Clone, Copy)]
pub(crate) struct Pull<'a> {
    pub(crate) subject: &'a str,
    pub(crate) group: &'a str,
    pub(crate) consumer: &'a str,
    pub(crate) count: i32,
    pub(crate) last: i64,
    pub(crate) timeout: i64,
    pub(crate) broadcast: bool,
    pub(crate) tags: &'a [&'a str],
    pub(crate) all_tags: bool,
}

impl<'a> Pull<'a> {
    pub(crate) fn new(subject: &'a str, group: &'a str, consumer: &'a str) -> Self {
        Self {
            subject,
            group,
            consumer,
            count: 50,
            last: -1,
            timeout: -1,
            broadcast: false,
            tags: &[],
            all_tags: false,
        }
    }
}

/// The answer to a pull: its code, first pull sequence and message ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) code: i16,
    pub(crate) first: i64,
    pub(crate) ids: Vec<String>,
}

impl Reply {
    pub(crate) fn nothing() -> Self {
        Self {
            code: 4,
            first: -1,
            ids: Vec::new(),
        }
    }

    pub(crate) fn messages(first: i64, ids: &[&str]) -> Self {
        Self {
            code: 0,
            first,
            ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        }
    }
}

pub(crate) async fn pull_on(client: &Client, pull: Pull<'_>) -> Reply {
    let frame = pull_frame(client, pull).await;
    if frame.header.code != 0 {
        return Reply {
            code: frame.header.code,
            first: -1,
            ids: Vec::new(),
        };
    }
    let body: Bytes = frame.body;
    let response = PullResponse::decode(9, &body).unwrap();
    let text = |id: &[u8]| String::from_utf8_lossy(id).into_owned();
    let ids = response
        .messages()
        .map(|message| text(message.payload.message_id))
        .collect();
    Reply {
        code: 0,
        first: response.first.0,
        ids,
    }
}

fn tag_filter<'a>(pull: &Pull<'a>) -> PullFilter<'a> {
    PullFilter::Tag(TagFilter {
        tag_match: if pull.all_tags {
            TagMatch::All
        } else {
            TagMatch::Any
        },
        tags: pull.tags.iter().map(|tag| tag.as_bytes()).collect(),
    })
}

pub(crate) async fn pull_frame(client: &Client, pull: Pull<'_>) -> Frame {
    let request = PullRequest {
        subject: pull.subject,
        group: pull.group,
        consumer_id: pull.consumer,
        request_num: pull.count,
        offset: -1,
        pull_begin: -1,
        pull_last: pull.last,
        timeout_ms: pull.timeout,
        is_broadcast: pull.broadcast,
        filters: if pull.tags.is_empty() {
            Vec::new()
        } else {
            vec![tag_filter(&pull)]
        },
    };
    let write = |out: &mut BytesMut| request.encode(9, out);
    client
        .request(CommandCode::PullMessage, write, PATIENCE)
        .await
        .unwrap()
}
