//! Producers and a consumer that run while a test does harm to the servers, and the account of
//! what they saw.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use qmq_client::{Consumer, Delivery, Producer};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::ledger::Ledger;
use crate::wait;

/// Name under which the clients of a test register.
const APP_CODE: &str = "qmq-e2e";
/// Property with what is compared.
const CONTENT: &str = "content";
/// Marks messages that only show whether a subscription is handed anything yet.
const PROBE: &str = "probe";
const CONTENT_BYTES_MAX: usize = 1_500;
const PULL_MAX: usize = 200;
const PULL_WAIT: Duration = Duration::from_millis(500);
/// Longer than a restart of a broker and the retries of a client take together.
const PROGRESS_MAX: Duration = Duration::from_secs(120);
/// After a failed send: without a broker there is no point in trying as fast as possible.
const AFTER_FAILURE: Duration = Duration::from_millis(20);

/// Ways to break the promise on purpose, to show that the account notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// None: the promise is to be kept.
    Nothing,
    /// The consumer acks one message in a thousand without handling it.
    DropOneInThousand,
    /// The producer believes that a message is stored before the broker says so.
    AcknowledgeBeforeReply,
    /// A restarted consumer takes another client id, so that nobody asks for what the old one held.
    ForgetUnacked,
}

/// What a load consists of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where messages go; nobody else uses it.
    pub subject: String,
    /// Producers that each send one message after the other.
    pub senders: usize,
    /// Determines the content of messages.
    pub seed: u64,
    /// What is done wrong on purpose.
    pub sabotage: Sabotage,
}

/// Producers and one consumer of one subject. Stops when dropped.
#[derive(Debug)]
pub struct Load {
    meta: String,
    plan: Plan,
    handle: Handle,
    account: Arc<Account>,
    senders: Vec<JoinHandle<()>>,
    receiver: Option<JoinHandle<()>>,
    receivers_started: usize,
}

/// What the tasks of a load share.
#[derive(Debug, Default)]
struct Account {
    state: Mutex<State>,
    stopped: AtomicBool,
    crash: AtomicBool,
    probes: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    ledger: Ledger,
    acknowledged: HashSet<String>,
    consumed: HashSet<String>,
    /// Acknowledged and not consumed yet.
    outstanding: HashSet<String>,
    deliveries: usize,
}

impl Load {
    /// Starts the consumer, waits until it is handed messages, and starts the producers.
    ///
    /// # Errors
    /// When no message gets through.
    pub fn start(handle: &Handle, meta: &str, plan: Plan) -> Result<Self> {
        let mut load = Self {
            meta: meta.to_owned(),
            plan,
            handle: handle.clone(),
            account: Arc::default(),
            senders: Vec::new(),
            receiver: None,
            receivers_started: 0,
        };
        load.start_receiver()?;
        load.probe()?;
        let producer = load.producer()?;
        for sender in 0..load.plan.senders {
            let random = SmallRng::seed_from_u64(load.plan.seed ^ sender as u64);
            let account = Arc::clone(&load.account);
            let task = send(producer.clone(), load.plan.clone(), account, random);
            load.senders.push(handle.spawn(task));
        }
        Ok(load)
    }

    /// Ends the consumer as a crash would, while it holds messages that it has not handled, and
    /// starts it again. Needs a broker that runs, and load.
    ///
    /// # Errors
    /// When it gets no message to hold, or cannot be started.
    pub fn crash_receiver(&mut self) -> Result<()> {
        let receiver = self
            .receiver
            .take()
            .context("there is a consumer until the end")?;
        self.account.crash.store(true, Ordering::Relaxed);
        wait::until("the consumer holds messages", PROGRESS_MAX, || {
            Ok(receiver.is_finished().then_some(()))
        })?;
        self.account.crash.store(false, Ordering::Relaxed);
        self.start_receiver()
    }

    /// Messages that were acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        lock(&self.account.state).acknowledged.len()
    }

    /// Waits until `count` more messages have been acknowledged.
    ///
    /// # Errors
    /// When they are not in time.
    pub fn await_acknowledged(&self, count: usize) -> Result<()> {
        let target = self.acknowledged() + count;
        let what = format!("{count} more acknowledged messages");
        wait::until(&what, PROGRESS_MAX, || {
            Ok((self.acknowledged() >= target).then_some(()))
        })
        .with_context(|| self.state())
    }

    /// Stops the producers, waits until everything acknowledged has been consumed, and returns the
    /// account. Does not fail when messages are missing: the account says so.
    ///
    /// # Errors
    /// When a task failed.
    pub fn finish(mut self, wait: Duration) -> Result<Ledger> {
        self.account.stopped.store(true, Ordering::Relaxed);
        for sender in self.senders.drain(..) {
            self.handle.block_on(sender)?;
        }
        let account = Arc::clone(&self.account);
        let none_left = || Ok(lock(&account.state).outstanding.is_empty().then_some(()));
        if let Err(error) = wait::until("every acknowledged message is consumed", wait, none_left) {
            println!("{error:#}; {}", self.state());
        }
        if let Some(receiver) = self.receiver.take() {
            if receiver.is_finished() {
                bail!(
                    "the consumer ended early: {:?}",
                    self.handle.block_on(receiver)
                );
            }
            receiver.abort();
        }
        Ok(std::mem::take(&mut lock(&self.account.state).ledger))
    }

    fn start_receiver(&mut self) -> Result<()> {
        self.receivers_started += 1;
        let mut client_id = format!("{}-consumer", self.plan.subject);
        if self.plan.sabotage == Sabotage::ForgetUnacked {
            client_id = format!("{client_id}-{}", self.receivers_started);
        }
        let _runtime = self.handle.enter();
        let consumer = Consumer::builder(&self.meta, APP_CODE)
            .client_id(client_id)
            .subscribe(&self.plan.subject, "group")?;
        let task = receive(consumer, Arc::clone(&self.account), self.plan.sabotage);
        self.receiver = Some(self.handle.spawn(task));
        Ok(())
    }

    /// A group exists from its first pull on: only a message that arrives shows that it does.
    fn probe(&self) -> Result<()> {
        let producer = self.producer()?;
        wait::until("a first message arrives", PROGRESS_MAX, || {
            let mut message = producer.message(&self.plan.subject);
            message.set_property(PROBE, "1");
            self.handle.block_on(producer.send(message))?;
            let arrived = || Ok((self.account.probes.load(Ordering::Relaxed) > 0).then_some(()));
            Ok(wait::until("the probe arrives", PULL_WAIT, arrived).ok())
        })
    }

    fn producer(&self) -> Result<Producer> {
        let _runtime = self.handle.enter();
        let mut builder = Producer::builder(&self.meta, APP_CODE);
        if self.plan.sabotage == Sabotage::AcknowledgeBeforeReply {
            // Otherwise the producer itself makes good what the early acknowledgement broke.
            builder = builder.attempts_max(1);
        }
        Ok(builder.build()?)
    }

    fn state(&self) -> String {
        let state = lock(&self.account.state);
        format!(
            "sent {}, acknowledged {}, consumed {}, outstanding {}, deliveries {}",
            state.ledger.sent.len(),
            state.acknowledged.len(),
            state.consumed.len(),
            state.outstanding.len(),
            state.deliveries,
        )
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.senders.iter().for_each(JoinHandle::abort);
        self.receiver.iter().for_each(JoinHandle::abort);
    }
}

impl Account {
    fn sent(&self, id: &str, content: &str) {
        lock(&self.state)
            .ledger
            .sent
            .insert(id.to_owned(), content.to_owned());
    }

    fn acknowledged(&self, id: &str) {
        let mut state = lock(&self.state);
        state.ledger.acknowledged.push(id.to_owned());
        state.acknowledged.insert(id.to_owned());
        if !state.consumed.contains(id) {
            state.outstanding.insert(id.to_owned());
        }
    }

    fn consumed(&self, delivery: &Delivery, sabotage: Sabotage) {
        if delivery.message().property(PROBE).is_some() {
            self.probes.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut state = lock(&self.state);
        state.deliveries += 1;
        if sabotage == Sabotage::DropOneInThousand && state.deliveries % 1_000 == 500 {
            return;
        }
        let id = delivery.message().message_id.clone();
        let content = delivery
            .message()
            .property(CONTENT)
            .unwrap_or_default()
            .to_owned();
        state.outstanding.remove(&id);
        state.consumed.insert(id.clone());
        state.ledger.consumed.push((id, content));
    }
}

async fn send(producer: Producer, plan: Plan, account: Arc<Account>, mut random: SmallRng) {
    let is_early = plan.sabotage == Sabotage::AcknowledgeBeforeReply;
    while !account.stopped.load(Ordering::Relaxed) {
        let mut message = producer.message(&plan.subject);
        let content = content(&mut random);
        message.set_property(CONTENT, &content);
        let id = message.message_id.clone();
        account.sent(&id, &content);
        if is_early {
            account.acknowledged(&id);
        }
        match producer.send(message).await {
            Ok(()) if !is_early => account.acknowledged(&id),
            Ok(()) => {}
            // Only what was acknowledged counts.
            Err(_) => tokio::time::sleep(AFTER_FAILURE).await,
        }
    }
}

async fn receive(consumer: Consumer, account: Arc<Account>, sabotage: Sabotage) {
    loop {
        let deliveries = consumer.pull(PULL_MAX, PULL_WAIT).await;
        if account.crash.load(Ordering::Relaxed) && !deliveries.is_empty() {
            return;
        }
        for delivery in deliveries {
            account.consumed(&delivery, sabotage);
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
