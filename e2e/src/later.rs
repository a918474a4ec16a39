//! Messages for later, sent and received while a test does harm to the servers, and the account of
//! what came when.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use qmq_client::{Consumer, Delivery, Message, Producer, UnixMillis};
use qmq_model::{Clock, SystemClock};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::ledger::{Ledger, Summary};
use crate::wait;

const APP_CODE: &str = "qmq-e2e";
const GROUP: &str = "group";
/// Property with what is compared.
const CONTENT: &str = "content";
/// Marks messages that only show whether the subscription is handed anything yet.
const PROBE: &str = "probe";
const CONTENT_BYTES_MAX: usize = 100;
const PULL_MAX: usize = 1_000;
const PULL_WAIT: Duration = Duration::from_millis(500);
/// Longer than restarts of the servers and the retries of a client take together.
const PROGRESS_MAX: Duration = Duration::from_secs(120);
/// What is sent again after a failure is due so much later at least: with a time that has passed it
/// would go to a broker.
const AHEAD_MIN: Duration = Duration::from_secs(1);
/// At most this many ids stand in the text of a problem.
const IDS_SHOWN_MAX: usize = 5;

/// What is sent.
#[derive(Clone, Debug)]
pub struct LaterPlan {
    /// Where messages go; nobody else uses it.
    pub subject: String,
    /// How many are to be acknowledged.
    pub messages: usize,
    /// From the start to the first due time.
    pub lead: Duration,
    /// From the first due time to the last.
    pub over: Duration,
    /// Sends that wait for an answer at the same time.
    pub senders: usize,
    /// Determines contents and due times.
    pub seed: u64,
}

/// A producer and a consumer of one subject. Stops when dropped.
pub struct Later {
    handle: Handle,
    account: Arc<Account>,
    producer: Producer,
    subject: String,
    senders: Vec<JoinHandle<()>>,
    receiver: JoinHandle<()>,
    probes: usize,
}

#[derive(Debug, Default)]
struct Account {
    next: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    run: LaterRun,
    /// Acknowledged and not consumed yet.
    outstanding: HashSet<String>,
    probes: usize,
}

/// What happened. Pure, so that tests can show what it notices.
#[derive(Clone, Debug, Default)]
pub struct LaterRun {
    /// What was sent, acknowledged and consumed.
    pub ledger: Ledger,
    /// When each message was due.
    pub due: HashMap<String, UnixMillis>,
    /// When each message came first, by the clock of this machine.
    pub came: HashMap<String, UnixMillis>,
}

/// A run that kept the promises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaterSummary {
    /// Of the account without times.
    pub summary: Summary,
    /// Lateness of first deliveries in ms, sorted.
    lateness: Vec<i64>,
}

impl Later {
    /// Starts the consumer, waits until it is handed messages, and starts to send.
    ///
    /// # Errors
    /// When no message gets through.
    pub fn start(handle: &Handle, meta: &str, plan: &LaterPlan) -> Result<Self> {
        let _runtime = handle.enter();
        let account = Arc::<Account>::default();
        let consumer = Consumer::builder(meta, APP_CODE)
            .client_id(format!("{}-consumer", plan.subject))
            .subscribe(&plan.subject, GROUP)?;
        let receiver = handle.spawn(receive(consumer, Arc::clone(&account)));
        let producer = Producer::builder(meta, APP_CODE).build()?;
        let probes = probe(handle, &producer, &plan.subject, &account)?;
        let start = SystemClock.now();
        let senders = (0..plan.senders).map(|sender| {
            let random = SmallRng::seed_from_u64(plan.seed ^ sender as u64);
            let account = Arc::clone(&account);
            handle.spawn(send(producer.clone(), plan.clone(), start, account, random))
        });
        Ok(Self {
            handle: handle.clone(),
            senders: senders.collect(),
            producer,
            subject: plan.subject.clone(),
            account,
            receiver,
            probes,
        })
    }

    /// Messages that were acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        lock(&self.account.state).run.ledger.acknowledged.len()
    }

    /// Messages that came so far, repeated ones not counted.
    #[must_use]
    pub fn came(&self) -> usize {
        lock(&self.account.state).run.came.len()
    }

    /// Sends one message more, due so long from now on, until it is acknowledged: its id and when it
    /// is due.
    #[must_use]
    pub fn send_one(&self, ahead: Duration, random: &mut SmallRng) -> (String, UnixMillis) {
        loop {
            let due = SystemClock.now().plus(ahead);
            let message = self
                .account
                .message(&self.producer, &self.subject, due, random);
            let id = message.message_id.clone();
            if self.handle.block_on(self.producer.send(message)).is_ok() {
                self.account.acknowledged(&id);
                return (id, due);
            }
        }
    }

    /// Somebody gave a message another time.
    pub fn moved(&self, id: &str, due: UnixMillis) {
        let run = &mut lock(&self.account.state).run;
        run.due.insert(id.to_owned(), due);
    }

    /// Waits until all are sent and everything acknowledged has come, leaving out `cancelled`. Does
    /// not fail when messages are missing: the account will say so.
    ///
    /// # Errors
    /// When sending does not end, or a task failed.
    pub fn settle(&mut self, wait: Duration, cancelled: &HashSet<String>) -> Result<()> {
        for sender in self.senders.drain(..) {
            let sent = async { tokio::time::timeout(PROGRESS_MAX, sender).await };
            self.handle.block_on(sent)??;
        }
        let account = Arc::clone(&self.account);
        let none_left = || {
            let is_left = |id: &String| !cancelled.contains(id);
            let left = lock(&account.state)
                .outstanding
                .iter()
                .filter(|id| is_left(id))
                .count();
            Ok((left == 0).then_some(()))
        };
        if let Err(error) = wait::until("every message that is due comes", wait, none_left) {
            println!("{error:#}");
        }
        if self.receiver.is_finished() {
            bail!("the consumer ended early");
        }
        Ok(())
    }

    /// Messages that only showed that the subscription is handed some; they were sent before the
    /// others and are in no account.
    #[must_use]
    pub fn probes(&self) -> usize {
        self.probes
    }

    /// Ends the consumer; what happened until now.
    #[must_use]
    pub fn end(self) -> LaterRun {
        std::mem::take(&mut lock(&self.account.state).run)
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        self.senders.iter().for_each(JoinHandle::abort);
        self.receiver.abort();
    }
}

impl Account {
    /// A message that is about to be sent.
    fn message(
        &self,
        producer: &Producer,
        subject: &str,
        due: UnixMillis,
        random: &mut SmallRng,
    ) -> Message {
        let mut message = producer.message(subject);
        let content = content(random);
        message.set_property(CONTENT, &content);
        message.at(due);
        let id = &message.message_id;
        let run = &mut lock(&self.state).run;
        run.ledger.sent.insert(id.clone(), content);
        run.due.insert(id.clone(), due);
        message
    }

    fn acknowledged(&self, id: &str) {
        let mut state = lock(&self.state);
        state.run.ledger.acknowledged.push(id.to_owned());
        if !state.run.came.contains_key(id) {
            state.outstanding.insert(id.to_owned());
        }
    }

    fn consumed(&self, delivery: &Delivery) {
        let now = SystemClock.now();
        let message = delivery.message();
        let mut state = lock(&self.state);
        if message.property(PROBE).is_some() {
            state.probes += 1;
            return;
        }
        let id = message.message_id.clone();
        let content = message.property(CONTENT).unwrap_or_default().to_owned();
        state.outstanding.remove(&id);
        state.run.came.entry(id.clone()).or_insert(now);
        state.run.ledger.consumed.push((id, content));
    }
}

impl LaterRun {
    /// The account as if these messages had never been acknowledged: they need not come.
    #[must_use]
    pub fn without(mut self, ids: &HashSet<String>) -> Self {
        self.ledger.acknowledged.retain(|id| !ids.contains(id));
        self
    }

    /// Whether every acknowledged message came, unchanged and not before its time.
    ///
    /// # Errors
    /// With everything that is wrong.
    pub fn check(&self) -> Result<LaterSummary, String> {
        let mut problems = Vec::new();
        let mut lateness = Vec::new();
        let mut early = Vec::new();
        for (id, came) in &self.came {
            let late = self.due.get(id).map_or(0, |due| came.0 - due.0);
            lateness.push(late);
            if late < 0 {
                early.push((id, late));
            }
        }
        if !early.is_empty() {
            let shown = &early[..early.len().min(IDS_SHOWN_MAX)];
            problems.push(format!("{} came early, such as {shown:?} ms", early.len()));
        }
        lateness.sort_unstable();
        match self.ledger.check() {
            Ok(summary) if problems.is_empty() => return Ok(LaterSummary { summary, lateness }),
            Ok(_) => {}
            Err(found) => problems.extend(found.iter().map(ToString::to_string)),
        }
        Err(problems.join("; "))
    }
}

impl fmt::Display for LaterSummary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |part: usize| {
            let last = self.lateness.len().saturating_sub(1);
            self.lateness.get(last * part / 1_000).copied().unwrap_or(0)
        };
        let Summary {
            acknowledged,
            repeated,
            unacknowledged,
        } = self.summary;
        write!(
            out,
            "{acknowledged} acknowledged and received, {repeated} repeated deliveries, \
             {unacknowledged} without an acknowledgement; late by ms: p50 {}, p99 {}, max {}",
            at(500),
            at(990),
            at(1_000)
        )
    }
}

/// A group exists from its first pull on: only a message that arrives shows that it does. How many
/// were sent.
fn probe(handle: &Handle, producer: &Producer, subject: &str, account: &Account) -> Result<usize> {
    let mut sent = 0;
    wait::until("a first message arrives", PROGRESS_MAX, || {
        sent += 1;
        let mut message = producer.message(subject);
        message.set_property(PROBE, "1");
        handle.block_on(producer.send(message))?;
        let arrived = || Ok((lock(&account.state).probes > 0).then_some(()));
        let seen = wait::until("the probe arrives", PULL_WAIT, arrived);
        Ok(seen.is_ok().then_some(sent))
    })
}

async fn send(
    producer: Producer,
    plan: LaterPlan,
    start: UnixMillis,
    account: Arc<Account>,
    mut random: SmallRng,
) {
    let over = u64::try_from(plan.over.as_millis()).unwrap_or(u64::MAX);
    while account.next.fetch_add(1, Ordering::Relaxed) < plan.messages {
        let place = Duration::from_millis(random.random_range(0..=over));
        let due = start.plus(plan.lead + place);
        loop {
            let due = due.max(SystemClock.now().plus(AHEAD_MIN));
            let message = account.message(&producer, &plan.subject, due, &mut random);
            let id = message.message_id.clone();
            // Only what was acknowledged counts; another takes its place.
            if producer.send(message).await.is_ok() {
                account.acknowledged(&id);
                break;
            }
        }
    }
}

async fn receive(consumer: Consumer, account: Arc<Account>) {
    loop {
        for delivery in consumer.pull(PULL_MAX, PULL_WAIT).await {
            account.consumed(&delivery);
            delivery.ack();
        }
    }
}

fn content(random: &mut SmallRng) -> String {
    let len = random.random_range(0..CONTENT_BYTES_MAX);
    (0..len)
        .map(|_| char::from(random.random_range(b' '..=b'~')))
        .collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1000 messages, each 2 ms late but the last, which is 50 ms late.
    fn kept() -> LaterRun {
        let mut run = LaterRun::default();
        for number in 0..1_000 {
            let id = format!("id-{number}");
            let content = (id.clone(), "content".to_owned());
            run.ledger.sent.insert(content.0.clone(), content.1.clone());
            run.ledger.acknowledged.push(id.clone());
            run.ledger.consumed.push(content);
            run.due.insert(id.clone(), UnixMillis(number));
            let late = if number == 999 { 50 } else { 2 };
            run.came.insert(id, UnixMillis(number + late));
        }
        run
    }

    #[test]
    fn tells_how_late_messages_are() {
        let told = kept().check().unwrap().to_string();
        assert!(told.starts_with("1000 acknowledged and received, 0 repeated"));
        assert!(told.ends_with("p50 2, p99 2, max 50"), "{told}");
    }

    #[test]
    fn notices_one_that_is_early_lost_or_changed() {
        let mut early = kept();
        early.came.insert("id-7".to_owned(), UnixMillis(6));
        assert!(early.check().unwrap_err().contains("1 came early"));
        let mut on_time = kept();
        on_time.came.insert("id-7".to_owned(), UnixMillis(7));
        assert!(on_time.check().is_ok());
        let mut lost = kept();
        lost.came.remove("id-7");
        lost.ledger.consumed.retain(|(id, _)| id != "id-7");
        assert!(lost.check().unwrap_err().contains("never consumed"));
        let mut changed = kept();
        changed.ledger.consumed[7].1.push('!');
        assert!(changed.check().unwrap_err().contains("other content"));
    }
}
