//! Settings of consumers, and their bounds.

use std::collections::HashSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use qmq_protocol::command::client_register::ClientType;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ack_queue::{AckPolicy, KEEP_ALIVE};
use super::inbox::Inbox;
use super::puller::PullLimits;
use super::queue::{Leftovers, Rules, Works};
use super::redelivery::Redeliverer;
use super::subscription::{QueueNames, Selection, Subscription, TagMatch};
use super::{Consumer, PULL_MAX, PULL_WAIT_MAX, Shared, lock};
use crate::error::BuildError;
use crate::identity::{check_client_id, default_client_id};
use crate::link::{Cluster, Link, RouteKey};
use crate::producer::ProducerBuilder;
use crate::route::Route;

/// Deliveries of a message before it goes to the dead-letter subject, as in the Java client.
const MAX_RETRIES: u32 = 32;

/// Settings of [`Consumer`]s. All consumers of one builder and its clones share connections.
#[derive(Clone)]
pub struct ConsumerBuilder {
    cluster: Cluster,
    app_code: String,
    client_id: Option<String>,
    limits: PullLimits,
    unacked_max: Option<usize>,
    policy: AckPolicy,
    selection: Selection,
    max_retries: u32,
    leftovers: Leftovers,
    session: Arc<Session>,
}

/// What the consumers of one builder share.
#[derive(Default)]
pub(super) struct Session {
    link: Mutex<Option<Arc<Link>>>,
    /// What is being consumed.
    pub(super) open: Mutex<HashSet<Subscription>>,
}

impl ConsumerBuilder {
    pub(super) fn new(cluster: Cluster, app_code: String) -> Self {
        Self {
            cluster,
            app_code,
            client_id: None,
            limits: PullLimits {
                batch: 50,
                wait: Duration::from_millis(2500),
                allowance: Duration::from_secs(8),
                unacked_max: 100,
            },
            unacked_max: None,
            policy: AckPolicy {
                batch: 50,
                linger: Duration::from_millis(100),
                keep_alive: KEEP_ALIVE,
            },
            selection: Selection::default(),
            max_retries: MAX_RETRIES,
            leftovers: Leftovers::Keep,
            session: Arc::default(),
        }
    }

    /// The id under which brokers keep what this consumer has not confirmed: the same after a
    /// restart, and never used by two live consumers of a (subject, group). Default: host name and
    /// a hash of the program's path, which two processes of one program on one host share.
    #[must_use]
    pub fn client_id(mut self, id: impl Into<String>) -> Self {
        self.client_id = Some(id.into());
        self
    }

    /// Most messages of one request to a broker. Default: 50.
    #[must_use]
    pub fn pull_batch(mut self, messages: usize) -> Self {
        self.limits.batch = messages;
        self
    }

    /// How long a broker holds a request for which it has nothing. Default: 2.5 s.
    #[must_use]
    pub fn pull_wait(mut self, wait: Duration) -> Self {
        self.limits.wait = wait;
        self
    }

    /// What network and broker may add to the wait before a request counts as lost. Default: 8 s.
    #[must_use]
    pub fn pull_allowance(mut self, allowance: Duration) -> Self {
        self.limits.allowance = allowance;
        self
    }

    /// Most messages of one broker group that are handed out, or wait to be, and are not confirmed;
    /// the retry subject has as many of its own. Default: twice the batch.
    #[must_use]
    pub fn unacked_max(mut self, messages: usize) -> Self {
        self.unacked_max = Some(messages);
        self
    }

    /// So many finished messages in a row are confirmed at once. Default: 50.
    #[must_use]
    pub fn ack_batch(mut self, messages: usize) -> Self {
        self.policy.batch = messages;
        self
    }

    /// How long fewer wait for others. Default: 100 ms.
    #[must_use]
    pub fn ack_linger(mut self, linger: Duration) -> Self {
        self.policy.linger = linger;
        self
    }

    /// Silence after which brokers are told that this consumer is alive. Default: 10 s; a
    /// Java broker gives the messages of a consumer away after three minutes.
    #[must_use]
    pub fn keep_alive(mut self, silence: Duration) -> Self {
        self.policy.keep_alive = silence;
        self
    }

    /// Only messages with any, or with all, of these tags are wanted (at most 127). Brokers choose;
    /// the others count as consumed by the group, so all its members should want the same. Default:
    /// every message.
    #[must_use]
    pub fn tags<T: Into<String>>(
        mut self,
        tag_match: TagMatch,
        tags: impl IntoIterator<Item = T>,
    ) -> Self {
        self.selection.tags = Some((tag_match, tags.into_iter().map(Into::into).collect()));
        self
    }

    /// Consumes for one environment only: the group is renamed to `<group>_<env>_<sub_env>`, and
    /// brokers that isolate environments hand out what was sent from this one. Default: none.
    #[must_use]
    pub fn environment(mut self, env: impl Into<String>, sub_env: impl Into<String>) -> Self {
        self.selection.environment = Some((env.into(), sub_env.into()));
        self
    }

    /// Acknowledges every message when it is handed out, and drops what was delivered before: a
    /// message is rather lost than handled twice. Default: at least once.
    #[must_use]
    pub fn consume_most_once(mut self) -> Self {
        self.selection.is_most_once = true;
        self
    }

    /// Deliveries of a message before it goes to the dead-letter subject, unless the message says
    /// otherwise; 0 and 1 mean that it is never retried. Default: 32.
    #[must_use]
    pub fn max_retries(mut self, deliveries: u32) -> Self {
        self.max_retries = deliveries;
        self
    }

    /// What [`Consumer::close`] does with messages that were pulled and not handed out. Default:
    /// [`Leftovers::Keep`].
    #[must_use]
    pub fn on_close(mut self, leftovers: Leftovers) -> Self {
        self.leftovers = leftovers;
        self
    }

    /// Begins to consume `subject` as a member of `group`: finds the brokers now, pulls when
    /// [`Consumer::pull`], [`Consumer::run`] or [`Consumer::deliveries`] wants messages.
    ///
    /// # Errors
    /// When a setting is outside its bounds, a name or the URL cannot be used, the subscription is
    /// already open, or there is no tokio runtime.
    pub fn subscribe(&self, subject: &str, group: &str) -> Result<Consumer, BuildError> {
        self.open(subject, Some(group))
    }

    /// Begins to consume every message of `subject`, whoever else does: the client id is the group.
    /// It has to be the same after a restart for the consumer to go on where it stopped; what is
    /// sent before an id is seen for the first time does not come.
    ///
    /// # Errors
    /// As [`Self::subscribe`].
    pub fn subscribe_broadcast(&self, subject: &str) -> Result<Consumer, BuildError> {
        self.open(subject, None)
    }

    /// Without a group it is a broadcast.
    fn open(&self, subject: &str, group: Option<&str>) -> Result<Consumer, BuildError> {
        self.check()?;
        let client_id = self.client_id.clone().unwrap_or_else(default_client_id);
        check_client_id(&client_id)?;
        let selection = Selection {
            is_broadcast: group.is_none(),
            ..self.selection.clone()
        };
        let group = selection.group(group.unwrap_or(&client_id));
        let names = QueueNames::new(subject, &group)?;
        let link = self.link()?;
        let subscription = Subscription {
            subject: subject.to_owned(),
            group,
            client_id,
        };
        let works = self.works(&subscription, selection, &names, &link)?;
        if !lock(&self.session.open).insert(subscription.clone()) {
            let Subscription { subject, group, .. } = subscription;
            return Err(BuildError::AlreadySubscribed { subject, group });
        }
        for (queue, kind) in names.pulled {
            let key = RouteKey {
                client_type: ClientType::Consumer,
                subject: queue,
                group: subscription.group.clone(),
                client_id: subscription.client_id.clone(),
            };
            works.start(Route::open(Arc::clone(&link), key), kind);
        }
        let session = Arc::clone(&self.session);
        let handlers = TaskTracker::new();
        Ok(Consumer(Arc::new(Shared {
            subscription,
            session,
            works,
            handlers,
            has_ended: AtomicBool::new(false),
        })))
    }

    fn works(
        &self,
        subscription: &Subscription,
        selection: Selection,
        names: &QueueNames,
        link: &Arc<Link>,
    ) -> Result<Arc<Works>, BuildError> {
        let producer = ProducerBuilder::new(self.cluster.clone(), self.app_code.clone())
            .client_id(&*subscription.client_id)
            .build_on(Arc::clone(link))?;
        let group = subscription.group.clone();
        let redeliverer = Redeliverer::new(producer, names.failed.clone(), group, self.max_retries);
        let limits = PullLimits {
            unacked_max: self.unacked_max.unwrap_or(self.limits.batch * 2),
            ..self.limits
        };
        let leftovers = if selection.is_broadcast {
            // Nobody else has this retry subject.
            Leftovers::Keep
        } else {
            self.leftovers
        };
        Ok(Arc::new(Works {
            link: Arc::clone(link),
            inbox: Arc::new(Inbox::new()),
            rules: Arc::new(Rules {
                limits,
                policy: self.policy,
                selection,
                leftovers,
                redeliverer,
            }),
            offline: watch::Sender::new(false),
            stop: CancellationToken::new(),
            drain: CancellationToken::new(),
            abort: CancellationToken::new(),
            pulls: TaskTracker::new(),
            ackers: TaskTracker::new(),
            group_queues: Mutex::default(),
        }))
    }

    fn check(&self) -> Result<(), BuildError> {
        let setting = |what, bounds| Err(BuildError::Setting { what, bounds });
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(BuildError::NoRuntime);
        }
        if !(1..=PULL_MAX).contains(&self.limits.batch) {
            return setting("pull_batch", "1..=10000");
        }
        if !(1..=1_000_000).contains(&self.unacked_max.unwrap_or(1)) {
            return setting("unacked_max", "1..=1000000");
        }
        if !(1..=1_000_000).contains(&self.policy.batch) {
            return setting("ack_batch", "1..=1000000");
        }
        if !(Duration::from_millis(1)..=PULL_WAIT_MAX).contains(&self.limits.wait) {
            return setting("pull_wait", "1 ms..=5 min");
        }
        if !(Duration::from_millis(1)..=PULL_WAIT_MAX).contains(&self.limits.allowance) {
            return setting("pull_allowance", "1 ms..=5 min");
        }
        if self.policy.linger > PULL_WAIT_MAX {
            return setting("ack_linger", "0..=5 min");
        }
        let keep_alive = Duration::from_millis(1)..=Duration::from_secs(90);
        if !keep_alive.contains(&self.policy.keep_alive) {
            return setting("keep_alive", "1 ms..=90 s");
        }
        self.selection.check()
    }

    fn link(&self) -> Result<Arc<Link>, BuildError> {
        let mut link = lock(&self.session.link);
        if let Some(link) = &*link {
            return Ok(Arc::clone(link));
        }
        let made = Arc::new(Link::new(&self.cluster, &self.app_code)?);
        *link = Some(Arc::clone(&made));
        Ok(made)
    }
}
