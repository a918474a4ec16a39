//! Follows the route of one pull queue and keeps a pull loop and an acker per broker group.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ack_queue::AckPolicy;
use super::delivery::Delivery;
use super::group_queue::{GroupQueue, Reach};
use super::inbox::Inbox;
use super::puller::{PullLimits, Puller};
use super::redelivery::Redeliverer;
use super::subscription::Selection;
use crate::link::Link;
use crate::route::Route;
use crate::route::cache::{RouteGroup, RouteView};

/// What becomes of messages that were pulled and not handed out when a consumer is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leftovers {
    /// They stay unacknowledged and come again when a consumer with this client id starts. Right for
    /// a restart.
    Keep,
    /// They are put into the retry subject and acknowledged, so that other members of the group get
    /// them after the retry delay of the broker. The request under way is waited for (up to
    /// [`pull_wait`](crate::ConsumerBuilder::pull_wait)). Right when this client id does not come
    /// back. In broadcast there are no other members, so it means [`Self::Keep`] there.
    GiveBack,
}

/// How one consumer treats messages.
pub(crate) struct Rules {
    /// Bounds of pulls.
    pub limits: PullLimits,
    /// When acks are sent.
    pub policy: AckPolicy,
    /// Which messages are wanted.
    pub selection: Selection,
    /// What becomes of the rest at the end.
    pub leftovers: Leftovers,
    /// Hands on what was not handled.
    pub redeliverer: Redeliverer,
}

/// What the tasks of one consumer share.
pub(crate) struct Works {
    /// Connections.
    pub link: Arc<Link>,
    /// Where messages go.
    pub inbox: Arc<Inbox<Delivery>>,
    /// How messages are treated.
    pub rules: Arc<Rules>,
    /// Whether an operator has taken the consumer offline.
    pub offline: watch::Sender<bool>,
    /// Ends pulling.
    pub stop: CancellationToken,
    /// Makes ackers send what they can and end.
    pub drain: CancellationToken,
    /// Ends ackers at once.
    pub abort: CancellationToken,
    /// Tasks that pull, and those that find whom to pull from.
    pub pulls: TaskTracker,
    /// Tasks that confirm.
    pub ackers: TaskTracker,
    /// Every queue of every broker group so far.
    pub group_queues: Mutex<Vec<Arc<GroupQueue>>>,
}

/// Whether the metaserver's on/off state of this queue counts for the whole consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueKind {
    /// The subject itself: its state counts.
    Subject,
    /// The retry subject follows.
    Retry,
}

impl Works {
    /// Finished messages that are not confirmed.
    pub(crate) fn confirmable(&self) -> usize {
        let queues = self
            .group_queues
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        queues.iter().map(|queue| queue.acks().confirmable()).sum()
    }

    /// Ends everything at once. What is left of the consumer asks and tells nobody any more.
    pub(crate) fn end(&self) {
        self.stop.cancel();
        self.abort.cancel();
        self.rules.redeliverer.end();
        let queues = self
            .group_queues
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        queues.iter().for_each(|queue| queue.route.close());
    }

    /// Starts to pull the queue of `route` from whoever serves it.
    pub(crate) fn start(self: &Arc<Self>, route: Arc<Route>, kind: QueueKind) {
        let works = Arc::clone(self);
        let stop = self.stop.clone();
        self.pulls.spawn(async move {
            stop.run_until_cancelled(works.follow(route, kind)).await;
        });
    }

    async fn follow(self: Arc<Self>, route: Arc<Route>, kind: QueueKind) {
        let mut view = route.watch();
        let mut reaches: HashMap<Arc<str>, watch::Sender<Reach>> = HashMap::new();
        loop {
            let RouteView {
                groups, is_offline, ..
            } = view.borrow_and_update().clone();
            if kind == QueueKind::Subject {
                self.offline
                    .send_if_modified(|old| std::mem::replace(old, is_offline) != is_offline);
            }
            for group in &*groups {
                let reach = Reach {
                    master: Arc::clone(&group.master),
                    is_listed: true,
                };
                match reaches.get(&group.name) {
                    Some(sender) => update(sender, reach),
                    None => {
                        let (sender, receiver) = watch::channel(reach);
                        reaches.insert(Arc::clone(&group.name), sender);
                        self.start_group(&route, group, receiver);
                    }
                }
            }
            // A group that is not listed now may hold messages of ours and may come back: its
            // tasks stay, without pulling.
            for (name, sender) in &reaches {
                if !groups.iter().any(|group| group.name == *name) {
                    let master = Arc::clone(&sender.borrow().master);
                    update(
                        sender,
                        Reach {
                            master,
                            is_listed: false,
                        },
                    );
                }
            }
            if view.changed().await.is_err() {
                return;
            }
        }
    }

    fn start_group(
        self: &Arc<Self>,
        route: &Arc<Route>,
        group: &RouteGroup,
        reach: watch::Receiver<Reach>,
    ) {
        let queue = Arc::new(GroupQueue::new(
            Arc::clone(&self.link),
            Arc::clone(route),
            Arc::clone(&group.name),
            reach,
            Arc::clone(&self.rules),
        ));
        self.group_queues
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&queue));
        let puller = Puller {
            queue: Arc::clone(&queue),
            inbox: Arc::clone(&self.inbox),
            offline: self.offline.subscribe(),
            stop: self.stop.clone(),
        };
        let (drain, abort) = (self.drain.clone(), self.abort.clone());
        let aborted = abort.clone();
        self.pulls
            .spawn(async move { aborted.run_until_cancelled(puller.run()).await });
        self.ackers.spawn(async move {
            abort
                .run_until_cancelled(queue.keep_confirming(drain))
                .await
        });
    }
}

fn update(sender: &watch::Sender<Reach>, reach: Reach) {
    sender.send_if_modified(|old| {
        let is_new = *old != reach;
        *old = reach;
        is_new
    });
}
