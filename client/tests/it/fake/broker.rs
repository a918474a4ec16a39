//! A broker: keeps messages of each subject in memory, and notes every request. Every group begins
//! with the first message; retry subjects are served without delay. Tests may script the answers to
//! sends, pulls and acks.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use qmq_model::{Message, Payload, PullSequence, UnixMillis};
use qmq_protocol::command::ack::AckRequest;
use qmq_protocol::command::pull::{PullRequest, TagFilter, TagMatch, put_pull_header};
use qmq_protocol::command::send::{SendFailure, SendRequest, SendResult};
use qmq_protocol::{CommandCode, Decode, ResultCode};
use qmq_remoting::{Request, Responder, Service, answer_unknown};
use tokio::sync::watch;

use super::{Serving, serve, wait_for};

/// A scripted answer. Scripts are used up front to back; after that requests are served.
#[derive(Clone, Debug)]
pub(crate) enum Script {
    /// As without a script.
    Serve,
    /// Stores nothing and answers with this header code.
    Code(i16),
    /// Stores, but never answers.
    Silence,
    /// Pulls only: assigns the messages and does not tell.
    Lose,
    /// Pulls only: skips this many pull sequences, as after a restart.
    Skip(i64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeenPull {
    pub(crate) subject: String,
    pub(crate) group: String,
    pub(crate) consumer_id: String,
    pub(crate) begin: i64,
    pub(crate) last: i64,
    pub(crate) num: i32,
    pub(crate) is_broadcast: bool,
    pub(crate) environment: Option<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeenAck {
    pub(crate) subject: String,
    pub(crate) consumer_id: String,
    pub(crate) begin: i64,
    pub(crate) last: i64,
    pub(crate) is_broadcast: bool,
}

#[derive(Debug, Default)]
pub(crate) struct BrokerState {
    /// Ids of each send request.
    pub(crate) sends: Vec<Vec<String>>,
    pub(crate) pulls: Vec<SeenPull>,
    pub(crate) acks: Vec<SeenAck>,
    pub(crate) send_scripts: VecDeque<Script>,
    pub(crate) pull_scripts: VecDeque<Script>,
    pub(crate) ack_scripts: VecDeque<Script>,
    /// Ids that are not stored the first time, and the results they get.
    pub(crate) fail_once: HashMap<String, i32>,
    /// While set, sends wait.
    pub(crate) holds_sends: bool,
    /// While set, messages are assigned to pulls and the replies wait.
    pub(crate) holds_pulls: bool,
    pub(crate) queues: HashMap<String, Queue>,
}

/// The messages of one subject.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    stored: Vec<Bytes>,
    /// Group -> first message it has not seen.
    next: HashMap<String, usize>,
    /// By group and client id.
    consumers: HashMap<(String, String), Progress>,
}

#[derive(Debug)]
struct Progress {
    pulled: i64,
    acked: i64,
    /// Pull sequence -> message.
    held: BTreeMap<i64, Bytes>,
}

pub(crate) struct FakeBroker {
    pub(crate) state: Arc<watch::Sender<BrokerState>>,
    serving: Option<Serving>,
}

struct Store(Arc<watch::Sender<BrokerState>>);

impl BrokerState {
    /// Whether everything stored was handed out and acked.
    pub(crate) fn is_consumed(&self, subject: &str) -> bool {
        let queue = self.queues.get(subject);
        queue.is_none_or(|queue| {
            let seen = queue.next.values().min().copied().unwrap_or(0);
            let all_handed_out = seen == queue.stored.len();
            all_handed_out && queue.is_acked()
        })
    }
}

impl FakeBroker {
    pub(crate) async fn start() -> Self {
        let state = Arc::new(watch::Sender::new(BrokerState::default()));
        let serving = serve("127.0.0.1:0", Arc::new(Store(Arc::clone(&state)))).await;
        Self {
            state,
            serving: Some(serving),
        }
    }

    pub(crate) fn address(&self) -> &str {
        &self.serving.as_ref().expect("the broker runs").address
    }

    pub(crate) fn script_sends(&self, scripts: impl IntoIterator<Item = Script>) {
        self.state
            .send_modify(|state| state.send_scripts.extend(scripts));
    }

    pub(crate) fn script_pulls(&self, scripts: impl IntoIterator<Item = Script>) {
        self.state
            .send_modify(|state| state.pull_scripts.extend(scripts));
    }

    pub(crate) fn script_acks(&self, scripts: impl IntoIterator<Item = Script>) {
        self.state
            .send_modify(|state| state.ack_scripts.extend(scripts));
    }

    /// Adds messages with these ids to a subject.
    pub(crate) fn store(&self, subject: &str, ids: impl IntoIterator<Item = String>) {
        self.store_messages(subject, ids.into_iter().map(|id| message(subject, &id)));
    }

    pub(crate) fn store_messages(
        &self,
        subject: &str,
        messages: impl IntoIterator<Item = Message>,
    ) {
        let payloads: Vec<_> = messages
            .into_iter()
            .map(|message| message.to_payload().expect("valid"))
            .collect();
        self.state.send_modify(|state| {
            state
                .queues
                .entry(subject.to_owned())
                .or_default()
                .stored
                .extend(payloads);
        });
    }

    /// What is stored under a subject, in order.
    pub(crate) fn stored(&self, subject: &str) -> Vec<Message> {
        let state = self.state.borrow();
        let stored = state.queues.get(subject).map(|queue| &queue.stored);
        let read = |bytes| Message::from_payload(&Payload::split_first(bytes).expect("valid").0);
        stored
            .into_iter()
            .flatten()
            .map(|bytes| read(bytes))
            .collect()
    }

    /// Waits until so many messages are stored under a subject.
    pub(crate) async fn wait_stored(&self, subject: &str, count: usize) {
        wait_for(&self.state, |state| {
            let queue = state.queues.get(subject)?;
            (queue.stored.len() >= count).then_some(())
        })
        .await;
    }

    /// Every id that was stored by a send, in order.
    pub(crate) fn sent_ids(&self) -> Vec<String> {
        self.state.borrow().sends.concat()
    }

    /// Waits until everything up to this pull sequence is acked, or confirmed.
    pub(crate) async fn wait_acked(&self, subject: &str, last: i64) {
        wait_for(&self.state, |state| {
            let acks = state.acks.iter().filter(|ack| ack.subject == subject);
            acks.map(|ack| ack.last).max().filter(|max| *max >= last)
        })
        .await;
    }
}

pub(crate) fn message(subject: &str, id: &str) -> Message {
    Message {
        subject: subject.to_owned(),
        message_id: id.to_owned(),
        created: UnixMillis(1),
        ..Message::default()
    }
}

impl Service for Store {
    async fn call(&self, request: Request, responder: Responder) {
        match CommandCode::from_code(request.header.code) {
            Some(CommandCode::SendMessage) => {
                let state = Arc::clone(&self.0);
                tokio::spawn(async move { send(&state, request, responder).await });
            }
            Some(CommandCode::PullMessage) => {
                let state = Arc::clone(&self.0);
                tokio::spawn(async move { pull(&state, &request, responder).await });
            }
            Some(CommandCode::Ack) => ack(&self.0, &request, responder),
            _ => answer_unknown(responder),
        }
    }
}

async fn send(state: &watch::Sender<BrokerState>, request: Request, responder: Responder) {
    wait_for(state, |state| (!state.holds_sends).then_some(())).await;
    let sent = SendRequest::decode(request.body).expect("a send request");
    assert!(sent.messages().all(|message| message.crc_matches()));
    let messages: Vec<(String, String, Bytes)> = sent
        .messages()
        .map(|message| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let payload = message.payload;
            (
                text(payload.subject),
                text(payload.message_id),
                message.payload_bytes(),
            )
        })
        .collect();
    let mut script = Script::Serve;
    let mut failures = Vec::new();
    state.send_modify(|state| {
        script = state.send_scripts.pop_front().unwrap_or(Script::Serve);
        state
            .sends
            .push(messages.iter().map(|(_, id, _)| id.clone()).collect());
        if let Script::Code(_) = script {
            return;
        }
        for (subject, id, payload) in &messages {
            match state.fail_once.remove(id) {
                Some(code) => failures.push((id, code)),
                None => {
                    state
                        .queues
                        .entry(subject.clone())
                        .or_default()
                        .stored
                        .push(payload.clone());
                }
            }
        }
    });
    match script {
        Script::Code(code) => responder.send(code, |_| {}),
        Script::Silence => forget(responder),
        _ => responder.send(ResultCode::Success.code(), |out| {
            for (id, code) in failures {
                let (message_id, result) = (id.as_bytes(), SendResult::from_code(code));
                SendFailure {
                    message_id,
                    result,
                    remark: "scripted",
                }
                .put(out);
            }
        }),
    }
}

/// Keeps a request unanswered until the test is over.
fn forget(responder: Responder) {
    tokio::spawn(async move {
        std::future::pending::<()>().await;
        drop(responder);
    });
}

/// Retry subjects are served without scripts.
fn next_script(scripts: &mut VecDeque<Script>, subject: &str) -> Script {
    let script = if subject.starts_with('%') {
        None
    } else {
        scripts.pop_front()
    };
    script.unwrap_or(Script::Serve)
}

async fn pull(state: &watch::Sender<BrokerState>, request: &Request, responder: Responder) {
    let version = request.header.version;
    let asked = PullRequest::decode(version, &request.body).expect("a pull request");
    assert!(
        asked.offset == -1 && (!asked.is_broadcast || asked.group.starts_with(asked.consumer_id))
    );
    let mut script = Script::Serve;
    state.send_modify(|state| {
        script = next_script(&mut state.pull_scripts, asked.subject);
        state.pulls.push(SeenPull {
            subject: asked.subject.to_owned(),
            group: asked.group.to_owned(),
            consumer_id: asked.consumer_id.to_owned(),
            begin: asked.pull_begin,
            last: asked.pull_last,
            num: asked.request_num,
            is_broadcast: asked.is_broadcast,
            environment: asked
                .sub_env_filter()
                .map(|(env, sub_env)| (env.to_owned(), sub_env.to_owned())),
        });
    });
    match script {
        Script::Code(code) => return responder.send(code, |_| {}),
        Script::Silence => return forget(responder),
        _ => {}
    }
    let wait = Duration::from_millis(asked.timeout_ms.try_into().unwrap_or(0));
    let found = tokio::time::timeout(wait, available(state, &asked, &script)).await;
    if found.is_ok() {
        wait_for(state, |state| (!state.holds_pulls).then_some(())).await;
    }
    match found {
        Ok(_) if matches!(script, Script::Lose) => forget(responder),
        Ok((first, payloads)) => responder.send(ResultCode::Success.code(), |out| {
            put_pull_header(PullSequence(first), out);
            payloads
                .iter()
                .for_each(|payload| out.extend_from_slice(payload));
        }),
        Err(_) => responder.send_empty(ResultCode::NoMessage),
    }
}

/// Waits until there is something for this consumer and assigns it.
async fn available(
    state: &watch::Sender<BrokerState>,
    asked: &PullRequest<'_>,
    script: &Script,
) -> (i64, Vec<Bytes>) {
    let mut changes = state.subscribe();
    loop {
        let mut found = None;
        state.send_if_modified(|state| {
            let queue = state.queues.entry(asked.subject.to_owned()).or_default();
            found = queue.assign(asked, script);
            found.is_some()
        });
        if let Some(found) = found {
            return found;
        }
        changes.changed().await.expect("the broker lives");
    }
}

impl Queue {
    /// Whether everything handed out is acked.
    pub(crate) fn is_acked(&self) -> bool {
        self.consumers
            .values()
            .all(|progress| progress.held.is_empty())
    }

    fn assign(&mut self, asked: &PullRequest<'_>, script: &Script) -> Option<(i64, Vec<Bytes>)> {
        let fresh = || Progress {
            pulled: -1,
            acked: -1,
            held: BTreeMap::new(),
        };
        let progress = self
            .consumers
            .entry((asked.group.to_owned(), asked.consumer_id.to_owned()))
            .or_insert_with(fresh);
        let num = usize::try_from(asked.request_num).expect("a positive number");
        let known = asked.pull_last.max(progress.acked);
        if known < progress.pulled {
            // Replies number their messages without holes.
            let mut again = progress.held.range(known + 1..).take(num).peekable();
            if let Some(first) = again.peek().map(|(first, _)| **first) {
                let whole = again
                    .zip(first..)
                    .take_while(|((at, _), next)| **at == *next);
                return Some((
                    first,
                    whole.map(|((_, payload), _)| payload.clone()).collect(),
                ));
            }
        }
        let next = self.next.entry(asked.group.to_owned()).or_default();
        let wanted = |at: &usize| {
            asked
                .tag_filter()
                .is_none_or(|tags| has(&self.stored[*at], tags))
        };
        let mut places: Vec<usize> = (*next..self.stored.len())
            .filter(wanted)
            .take(num)
            .collect();
        if let (Some(&first), true) = (places.first(), asked.is_broadcast) {
            // Numbered by message, and a reply has no holes.
            places = places
                .into_iter()
                .zip(first..)
                .take_while(|(at, n)| at == n)
                .map(|(at, _)| at)
                .collect();
            progress.pulled = i64::try_from(first).expect("few messages") - 1;
        }
        let Some(&last) = places.last() else {
            *next = self.stored.len();
            return None;
        };
        if let Script::Skip(count) = script {
            progress.pulled += count;
        }
        let first = progress.pulled + 1;
        *next = last + 1;
        let fresh: Vec<_> = places
            .into_iter()
            .map(|at| self.stored[at].clone())
            .collect();
        for payload in &fresh {
            progress.pulled += 1;
            progress.held.insert(progress.pulled, payload.clone());
        }
        Some((first, fresh))
    }

    fn ack(&mut self, ack: &AckRequest<'_>) {
        let progress = self
            .consumers
            .get_mut(&(ack.group.to_owned(), ack.consumer_id.to_owned()))
            .expect("it pulled before");
        let below = progress.held.range(..ack.pull_begin).next();
        assert_eq!(below, None, "acks come in order");
        for sequence in ack.pull_begin..=ack.pull_last {
            assert!(
                progress.held.remove(&sequence).is_some(),
                "{sequence} was held"
            );
        }
        progress.acked = ack.pull_last;
    }
}

/// Whether a message has the tags of a filter.
fn has(bytes: &[u8], filter: &TagFilter<'_>) -> bool {
    let (payload, _) = Payload::split_first(bytes).expect("valid");
    let mut wanted = filter.tags.iter();
    let has = |tag: &&[u8]| payload.tag_iter().any(|of_message| of_message == *tag);
    match filter.tag_match {
        TagMatch::Any => wanted.any(has),
        TagMatch::All => wanted.all(has),
        other => panic!("our client never sends {other:?}"),
    }
}

fn ack(state: &watch::Sender<BrokerState>, request: &Request, responder: Responder) {
    let ack = AckRequest::decode(request.header.version, &request.body).expect("an ack");
    let mut script = Script::Serve;
    state.send_modify(|state| {
        script = next_script(&mut state.ack_scripts, ack.subject);
        if matches!(script, Script::Serve) && !ack.is_keep_alive() {
            let queue = state.queues.get_mut(ack.subject).expect("it was pulled");
            queue.ack(&ack);
        }
        state.acks.push(SeenAck {
            subject: ack.subject.to_owned(),
            consumer_id: ack.consumer_id.to_owned(),
            begin: ack.pull_begin,
            last: ack.pull_last,
            is_broadcast: ack.is_broadcast,
        });
    });
    match script {
        Script::Code(code) => responder.send(code, |_| {}),
        Script::Silence => forget(responder),
        _ => responder.send_empty(ResultCode::Success),
    }
}
