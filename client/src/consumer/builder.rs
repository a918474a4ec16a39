//! Settings of consumers, their bounds, and what makes up a subscription.

use std::collections::HashSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use qmq_model::names::SubjectKind;
use qmq_model::{ConsumerGroup, NameError, Subject};
use qmq_protocol::command::client_register::ClientType;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ack_queue::{AckPolicy, KEEP_ALIVE};
use super::inbox::Inbox;
use super::puller::PullLimits;
use super::queue::{QueueKind, Works};
use super::{Consumer, PULL_MAX, PULL_WAIT_MAX, Shared, lock};
use crate::error::BuildError;
use crate::identity::{check_client_id, default_client_id};
use crate::link::{Link, RouteKey};
use crate::route::Route;

/// Settings of [`Consumer`]s. All consumers of one builder and its clones share connections.
#[derive(Clone)]
pub struct ConsumerBuilder {
    meta_url: String,
    app_code: String,
    client_id: Option<String>,
    limits: PullLimits,
    unacked_max: Option<usize>,
    policy: AckPolicy,
    session: Arc<Session>,
}

/// What the consumers of one builder share.
#[derive(Default)]
pub(super) struct Session {
    link: Mutex<Option<Arc<Link>>>,
    /// What is being consumed.
    pub(super) open: Mutex<HashSet<Subscription>>,
}

/// One subject, group and client id.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Subscription {
    subject: String,
    group: String,
    client_id: String,
}

impl ConsumerBuilder {
    pub(super) fn new(meta_url: String, app_code: String) -> Self {
        Self {
            meta_url,
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

    /// Begins to consume `subject` as a member of `group`: finds the brokers now, pulls when
    /// [`Consumer::pull`] or [`Consumer::run`] wants messages.
    ///
    /// # Errors
    /// When a setting is outside its bounds, a name or the URL cannot be used, the subscription is
    /// already open, or there is no tokio runtime.
    pub fn subscribe(&self, subject: &str, group: &str) -> Result<Consumer, BuildError> {
        self.check()?;
        let client_id = self.client_id.clone().unwrap_or_else(default_client_id);
        check_client_id(&client_id)?;
        let queues = queue_names(subject, group)?;
        let link = self.link()?;
        let subscription = Subscription {
            subject: subject.to_owned(),
            group: group.to_owned(),
            client_id,
        };
        if !lock(&self.session.open).insert(subscription.clone()) {
            let Subscription { subject, group, .. } = subscription;
            return Err(BuildError::AlreadySubscribed { subject, group });
        }
        let unacked_max = self.unacked_max.unwrap_or(self.limits.batch * 2);
        let works = Arc::new(Works {
            link: Arc::clone(&link),
            inbox: Arc::new(Inbox::new()),
            limits: PullLimits {
                unacked_max,
                ..self.limits
            },
            policy: self.policy,
            offline: watch::Sender::new(false),
            stop: CancellationToken::new(),
            drain: CancellationToken::new(),
            abort: CancellationToken::new(),
            pulls: TaskTracker::new(),
            ackers: TaskTracker::new(),
            group_queues: Mutex::default(),
        });
        for (queue, kind) in queues {
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
        Ok(())
    }

    fn link(&self) -> Result<Arc<Link>, BuildError> {
        let mut link = lock(&self.session.link);
        if let Some(link) = &*link {
            return Ok(Arc::clone(link));
        }
        let made = Arc::new(Link::new(&self.meta_url, &self.app_code)?);
        *link = Some(Arc::clone(&made));
        Ok(made)
    }
}

/// The queues that make up a subscription.
fn queue_names(subject: &str, group: &str) -> Result<Vec<(String, QueueKind)>, BuildError> {
    let name_error = |what, name: &str| {
        let name = name.to_owned();
        move |source: NameError| BuildError::Name { what, name, source }
    };
    let checked = Subject::new(subject).map_err(name_error("subject", subject))?;
    let group = ConsumerGroup::new(group).map_err(name_error("consumer group", group))?;
    let mut queues = vec![(subject.to_owned(), QueueKind::Subject)];
    if checked.kind() == SubjectKind::Real {
        let retry =
            Subject::retry(&checked, &group).map_err(name_error("retry subject", subject))?;
        queues.push((retry.as_str().to_owned(), QueueKind::Retry));
    }
    Ok(queues)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(subject: &str, group: &str) -> Vec<String> {
        queue_names(subject, group)
            .unwrap()
            .into_iter()
            .map(|(name, _)| name)
            .collect()
    }

    #[test]
    fn a_subject_brings_its_retry_subject() {
        assert_eq!(names("a.b", "g"), ["a.b", "%RETRY%a.b%g"]);
        assert_eq!(names("%DEAD_RETRY%a.b%g", "g"), ["%DEAD_RETRY%a.b%g"]);
        assert_eq!(names("%RETRY%a.b%g", "g"), ["%RETRY%a.b%g"]);
    }

    #[test]
    fn bad_names_are_refused() {
        for (subject, group) in [
            ("a b", "g"),
            ("a/b", "g"),
            ("a", ""),
            ("a", "g/h"),
            ("", "g"),
        ] {
            assert!(matches!(
                queue_names(subject, group),
                Err(BuildError::Name { .. })
            ));
        }
    }
}
