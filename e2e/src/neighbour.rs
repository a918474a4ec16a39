//! A good client beside bad ones: it registers, sends, pulls and acks all the time, and tells
//! whether it noticed anything.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::BytesMut;
use qmq_model::Message;
use qmq_protocol::command::ack::AckRequest;
use qmq_protocol::command::client_register::{
    ClientRegisterRequest, ClientRegisterResponse, ClientRequestType, ClientType,
};
use qmq_protocol::command::pull::{PullRequest, PullResponse};
use qmq_protocol::command::send::put_message;
use qmq_protocol::{CommandCode, Decode, Encode, Frame};
use qmq_remoting::{Client, ClientConfig};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::wait;

/// After this time Java producers give a send up. A request that takes longer is one that an
/// application notices.
pub const NOTICED: Duration = Duration::from_secs(5);
/// How long a pull waits for its message, well within [`NOTICED`].
const PULL_WAIT_MS: i64 = 2_500;
/// Time for the rounds a test waits for: hundreds take a second, the rest is for busy machines.
const ROUNDS_MAX: Duration = Duration::from_secs(60);
const VERSION: i16 = 9;
const SUBJECT: &str = "neighbour";
const GROUP: &str = "good";
const CLIENT_ID: &str = "neighbour@@1";

/// What it noticed: nothing, or it would have ended with an error.
#[derive(Clone, Copy, Debug)]
pub struct Noticed {
    /// Messages sent, received and acked.
    pub rounds: usize,
    /// The longest a single request took; below [`NOTICED`].
    pub slowest: Duration,
}

/// The client. Ends when dropped.
#[derive(Debug)]
pub struct Neighbour {
    handle: Handle,
    rounds: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<Noticed>>,
}

impl Neighbour {
    /// Connects to both servers and begins.
    ///
    /// # Errors
    /// When its first round fails.
    pub fn start(handle: &Handle, metaserver: SocketAddr, broker: SocketAddr) -> Result<Self> {
        let rounds = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let task = live(metaserver, broker, Arc::clone(&rounds), Arc::clone(&stop));
        let neighbour = Self {
            handle: handle.clone(),
            rounds,
            stop,
            task: handle.spawn(task),
        };
        neighbour.live_through(1)
    }

    /// Waits until it has done `rounds` more.
    ///
    /// # Errors
    /// When it ended instead: then it noticed something.
    pub fn live_through(self, rounds: usize) -> Result<Self> {
        let goal = self.rounds.load(Ordering::Relaxed) + rounds;
        let done = wait::until("rounds of the good client", ROUNDS_MAX, || {
            let is_over = self.task.is_finished();
            Ok((is_over || self.rounds.load(Ordering::Relaxed) >= goal).then_some(()))
        });
        if self.task.is_finished() {
            let noticed = self.stop()?;
            anyhow::bail!("the good client ended by itself: {noticed:?}");
        }
        done.map(|()| self)
    }

    /// Ends it.
    ///
    /// # Errors
    /// What it noticed.
    pub fn stop(self) -> Result<Noticed> {
        self.stop.store(true, Ordering::Relaxed);
        let Self { handle, task, .. } = self;
        handle
            .block_on(task)
            .context("the good client panicked")?
            .context("the good client noticed something")
    }
}

async fn live(
    metaserver: SocketAddr,
    broker: SocketAddr,
    rounds: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
) -> Result<Noticed> {
    let mut client = GoodClient {
        metaserver: connect(metaserver).await?,
        broker: connect(broker).await?,
        slowest: Duration::ZERO,
        pulled_last: -1,
    };
    // First contact: the group is handed what comes from now on.
    client.pull(-1).await?;
    while !stop.load(Ordering::Relaxed) {
        let round = rounds.load(Ordering::Relaxed);
        client
            .round(round)
            .await
            .with_context(|| format!("round {round}"))?;
        rounds.fetch_add(1, Ordering::Relaxed);
    }
    Ok(Noticed {
        rounds: rounds.load(Ordering::Relaxed),
        slowest: client.slowest,
    })
}

async fn connect(server: SocketAddr) -> Result<Client> {
    let client = Client::connect(&server.to_string(), ClientConfig::default()).await;
    client.with_context(|| format!("cannot connect to {server}"))
}

struct GoodClient {
    metaserver: Client,
    broker: Client,
    slowest: Duration,
    pulled_last: i64,
}

impl GoodClient {
    /// One message from send to ack, and a question to the metaserver.
    async fn round(&mut self, round: usize) -> Result<()> {
        self.register().await?;
        let id = format!("good-{round}");
        self.send(&id).await?;
        let reply = self.pull(PULL_WAIT_MS).await?;
        ensure!(reply.header.code == 0, "pull: {}", reply.header.code);
        let pulled = PullResponse::decode(VERSION, &reply.body)?;
        let ids = pulled.messages().map(|message| message.payload.message_id);
        let ids: Vec<&[u8]> = ids.collect();
        ensure!(ids == [id.as_bytes()], "{ids:?} came instead of {id}");
        self.pulled_last = pulled.first.0;
        self.ack().await
    }

    async fn register(&mut self) -> Result<()> {
        let question = ClientRegisterRequest {
            subject: SUBJECT,
            client_type_code: i32::from(ClientType::Producer.code()),
            request_type: ClientRequestType::Heartbeat,
            client_id: CLIENT_ID,
            app_code: "qmq-e2e",
            consumer_group: "",
            ldc: "",
        };
        let metaserver = self.metaserver.clone();
        let code = CommandCode::ClientRegister;
        let write = |out: &mut BytesMut| question.encode(VERSION, out);
        let reply = self.timed(&metaserver, code, write).await?;
        let answer = ClientRegisterResponse::decode(VERSION, &reply.body)?;
        let groups = answer.groups.len();
        ensure!(groups == 1, "the metaserver lists {groups} groups");
        Ok(())
    }

    async fn send(&mut self, id: &str) -> Result<()> {
        let mut message = Message {
            subject: SUBJECT.to_owned(),
            message_id: id.to_owned(),
            ..Message::default()
        };
        message.set_property("content", id);
        let payload = message.to_payload()?;
        let broker = self.broker.clone();
        let write = |out: &mut BytesMut| put_message(&payload, out);
        let reply = self.timed(&broker, CommandCode::SendMessage, write).await?;
        let is_stored = reply.header.code == 0 && reply.body.is_empty();
        ensure!(is_stored, "send: {reply:?}");
        Ok(())
    }

    async fn pull(&mut self, timeout_ms: i64) -> Result<Frame> {
        let request = PullRequest {
            subject: SUBJECT,
            group: GROUP,
            consumer_id: CLIENT_ID,
            request_num: 50,
            offset: -1,
            pull_begin: -1,
            pull_last: self.pulled_last,
            timeout_ms,
            is_broadcast: false,
            filters: Vec::new(),
        };
        let broker = self.broker.clone();
        let write = |out: &mut BytesMut| request.encode(VERSION, out);
        self.timed(&broker, CommandCode::PullMessage, write).await
    }

    async fn ack(&mut self) -> Result<()> {
        let request = AckRequest {
            subject: SUBJECT,
            group: GROUP,
            consumer_id: CLIENT_ID,
            pull_begin: self.pulled_last,
            pull_last: self.pulled_last,
            is_broadcast: false,
        };
        let broker = self.broker.clone();
        let write = |out: &mut BytesMut| request.encode(VERSION, out);
        let reply = self.timed(&broker, CommandCode::Ack, write).await?;
        ensure!(reply.header.code == 0, "ack: {}", reply.header.code);
        Ok(())
    }

    async fn timed(
        &mut self,
        server: &Client,
        code: CommandCode,
        write: impl FnOnce(&mut BytesMut),
    ) -> Result<Frame> {
        let begin = Instant::now();
        let reply = server.request(code, write, NOTICED).await;
        self.slowest = self.slowest.max(begin.elapsed());
        reply.with_context(|| format!("{code:?}"))
    }
}
