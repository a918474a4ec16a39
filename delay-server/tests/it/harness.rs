//! Starts a delay server over a store on a faulty file system, with a clock moved by hand, and
//! speaks to it as a producer would.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use qmq_daemon::Settings;
use qmq_daemon::member::Serving as _;
use qmq_daemon::metrics::Metrics;
use qmq_delay_server::config::DelayServerConfig;
use qmq_delay_server::control::{Control, Entry};
use qmq_delay_server::http::LateDesk;
use qmq_delay_server::serving::Serving;
use qmq_model::{Clock, ManualClock, Message, Subject, UnixMillis};
use qmq_protocol::command::send::{SendResponse, put_message};
use qmq_protocol::{CommandCode, Decode, Frame};
use qmq_remoting::{Client, ClientConfig, Server, ServerConfig};
use qmq_store::{Background, DelayConfig, DelayStore, FaultyFs};

use crate::fake::{FakeBroker, FakeMeta, PATIENCE};

/// When every test begins.
pub(crate) const START: UnixMillis = UnixMillis(1_700_000_000_000);

/// A delay server, one broker of group `g`, and the metaserver that knows it.
pub(crate) struct Cluster {
    pub(crate) fs: FaultyFs,
    pub(crate) clock: ManualClock,
    pub(crate) meta: FakeMeta,
    pub(crate) broker: FakeBroker,
    pub(crate) delay: TestDelay,
}

/// A delay server that is being served.
pub(crate) struct TestDelay {
    pub(crate) serving: Serving,
    pub(crate) late: LateDesk,
    pub(crate) metrics: Metrics,
    pub(crate) client: Client,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With further settings.
    pub(crate) async fn with(pairs: &[(&str, &str)]) -> Self {
        let fs = FaultyFs::new(1);
        let clock = ManualClock::at(START);
        let (meta, broker) = (FakeMeta::start().await, FakeBroker::start().await);
        meta.names(&[("g", &broker)]);
        let delay = TestDelay::over(&fs, &clock, &meta, pairs).await;
        Self {
            fs,
            clock,
            meta,
            broker,
            delay,
        }
    }

    /// Stops the server in order and starts it again over the same files.
    pub(crate) async fn restart(self) -> Self {
        self.restart_with(&[]).await
    }

    /// The same, with other settings.
    pub(crate) async fn restart_with(self, pairs: &[(&str, &str)]) -> Self {
        let Self {
            fs,
            clock,
            meta,
            broker,
            delay,
        } = self;
        delay.stop().await;
        let delay = TestDelay::over(&fs, &clock, &meta, pairs).await;
        Self {
            fs,
            clock,
            meta,
            broker,
            delay,
        }
    }

    /// Starts a server over the files as a power cut left them. The one before is not asked: its
    /// threads find that their store has failed.
    pub(crate) async fn revive(self) -> Self {
        let Self {
            fs,
            clock,
            meta,
            broker,
            delay,
        } = self;
        drop(delay);
        let delay = TestDelay::over(&fs, &clock, &meta, &[]).await;
        Self {
            fs,
            clock,
            meta,
            broker,
            delay,
        }
    }

    pub(crate) fn after(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    pub(crate) async fn send(&self, messages: &[Message]) -> Frame {
        self.delay.raw_send(&body_of(messages)).await
    }

    /// Sends and expects that all are stored.
    pub(crate) async fn store(&self, messages: &[Message]) {
        let reply = self.send(messages).await;
        assert_eq!((reply.header.code, failures(&reply)), (0, vec![]));
    }

    pub(crate) fn control(&self) -> &Control {
        &self.delay.late.get().unwrap().control
    }

    /// How many messages wait.
    pub(crate) async fn pending(&self) -> u64 {
        let all = UnixMillis(0)..UnixMillis(i64::MAX);
        self.control().count(None, all).await.unwrap()
    }

    /// Waits until so many wait.
    pub(crate) async fn wait_for_pending(&self, count: u64) {
        let waited = async {
            while self.pending().await != count {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waited).await;
        assert!(waited.is_ok(), "{} pending", self.pending().await);
    }

    /// What became of each copy of a message.
    pub(crate) async fn states(&self, id: &str) -> Vec<&'static str> {
        let found = self.control().find(subject("a.b"), id.to_owned()).await;
        answers(&found.unwrap())
    }

    /// Waits until the message is in this state.
    pub(crate) async fn wait_for_state(&self, id: &str, state: &str) {
        let waited = async {
            while self.states(id).await != [state] {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waited).await;
        assert!(waited.is_ok(), "{id} is {:?}", self.states(id).await);
    }

    /// The value of a metric.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.delay.metrics.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let value = line.map(|value| value.trim().parse().unwrap());
        value.unwrap_or_else(|| panic!("{name} is missing"))
    }
}

impl TestDelay {
    async fn over(
        fs: &FaultyFs,
        clock: &ManualClock,
        meta: &FakeMeta,
        pairs: &[(&str, &str)],
    ) -> Self {
        let mut all = vec![
            ("meta.server.endpoint", meta.url.as_str()),
            ("dispatch.reply.ms", "300"),
        ];
        all.extend_from_slice(pairs);
        let settings = Settings::of_pairs("delay", &all);
        let config = DelayServerConfig::from_settings(&settings).unwrap();
        let store = DelayConfig {
            message_segment_bytes: 1 << 20,
            dispatch_segment_bytes: 1 << 18,
            zero_ahead_bytes: 1 << 14,
            background: Background::Inline,
            ..config.store("d")
        };
        let its_clock: Arc<dyn Clock> = Arc::new(clock.clone());
        let fs = Arc::new(fs.clone());
        let opened = DelayStore::open(fs, Path::new("/store"), store, Arc::clone(&its_clock));
        let any = "127.0.0.1:0".parse().unwrap();
        let server = Server::bind(any, ServerConfig::default()).await.unwrap();
        let address = server.local_addr().to_string();
        let metrics = Metrics::new("delay-server", "test");
        let late = LateDesk::default();
        let opened = opened.unwrap();
        let serving = Serving::start(&config, "d", server, opened, &metrics, &late, its_clock);
        let client = Client::connect(address, ClientConfig::default());
        Self {
            serving: serving.unwrap(),
            late,
            metrics,
            client: client.await.unwrap(),
        }
    }

    pub(crate) async fn stop(self) {
        drop(self.client);
        self.serving.stop().await.unwrap();
    }

    pub(crate) async fn raw_send(&self, body: &[u8]) -> Frame {
        let write = |out: &mut BytesMut| out.put_slice(body);
        let code = CommandCode::SendMessage;
        self.client.request(code, write, PATIENCE).await.unwrap()
    }
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

/// A message of subject `a.b`, due so many seconds after the start.
pub(crate) fn after(seconds: i64, id: &str) -> Message {
    of("a.b", seconds, id)
}

/// The same of another subject.
pub(crate) fn of(subject: &str, seconds: i64, id: &str) -> Message {
    Message {
        due: Some(UnixMillis(START.0 + seconds * 1000)),
        ..untold(subject, id)
    }
}

/// A message without the delay bit.
pub(crate) fn untold(subject: &str, id: &str) -> Message {
    Message {
        subject: subject.to_owned(),
        message_id: id.to_owned(),
        created: START,
        properties: vec![("k".to_owned(), format!("value of {id}"))],
        ..Message::default()
    }
}

pub(crate) fn subject(name: &str) -> Subject {
    Subject::new(name).unwrap()
}

pub(crate) fn answers(entries: &[Entry]) -> Vec<&'static str> {
    entries.iter().map(|entry| entry.answer).collect()
}
