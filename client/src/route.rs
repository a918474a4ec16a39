//! Asks the metaserver which brokers serve a subject, and keeps asking.

pub(crate) mod cache;
pub(crate) mod finder;

use std::sync::Arc;
use std::time::Duration;

use qmq_protocol::command::client_register::{
    ClientRegisterResponse, ClientRequestType, ClientType,
};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use crate::link::Link;
pub(crate) use crate::link::RouteKey;
use crate::retry::Backoff;
use cache::{RouteCache, RouteGroup, RouteView};

/// Time between two questions when nothing is wrong.
const REFRESH_INTERVAL: Duration = Duration::from_secs(60);
/// Shortest time between two questions, whatever happens.
const REFRESH_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Time between the questions of a consumer that has no broker.
const UNROUTED: Backoff = Backoff {
    first: Duration::from_secs(2),
    max: Duration::from_secs(10),
};

/// What is known about one subject. A task asks for as long as this is held and not closed.
#[derive(Debug)]
pub(crate) struct Route {
    key: RouteKey,
    view: watch::Receiver<RouteView>,
    refresh: Arc<Notify>,
    stop: DropGuard,
}

impl Route {
    /// Begins to ask. Must be called within a tokio runtime.
    pub(crate) fn open(link: Arc<Link>, key: RouteKey) -> Arc<Self> {
        let (sender, view) = watch::channel(RouteView::default());
        let refresh = Arc::new(Notify::new());
        let stop = CancellationToken::new();
        let asker = Asker {
            link,
            key: key.clone(),
            cache: RouteCache::new(key.client_type),
            view: sender,
            refresh: Arc::clone(&refresh),
        };
        let stopped = stop.clone();
        // Ends with the route; a failure of one question is kept in the view and asked again.
        tokio::spawn(async move { stopped.run_until_cancelled(asker.run()).await });
        Arc::new(Self {
            key,
            view,
            refresh,
            stop: stop.drop_guard(),
        })
    }

    /// What was asked for.
    pub(crate) fn key(&self) -> &RouteKey {
        &self.key
    }

    /// What is known, and a way to wait for changes.
    pub(crate) fn watch(&self) -> watch::Receiver<RouteView> {
        self.view.clone()
    }

    /// The groups that serve the subject now.
    pub(crate) fn groups(&self) -> Arc<[RouteGroup]> {
        Arc::clone(&self.view.borrow().groups)
    }

    /// Asks again soon: a broker rejected a request or cannot be reached.
    pub(crate) fn request_refresh(&self) {
        self.refresh.notify_one();
    }

    /// Asks no more.
    pub(crate) fn close(&self) {
        self.stop.token().cancel();
    }

    /// Waits until there is a group.
    ///
    /// # Errors
    /// When there is none after `wait`, with the reason.
    pub(crate) async fn first_groups(&self, wait: Duration) -> Result<Arc<[RouteGroup]>, String> {
        let deadline = Instant::now() + wait;
        let mut view = self.watch();
        loop {
            let problem = {
                let view = view.borrow_and_update();
                if !view.groups.is_empty() {
                    return Ok(Arc::clone(&view.groups));
                }
                view.problem.clone()
            };
            if problem.is_some() {
                self.request_refresh();
            }
            if tokio::time::timeout_at(deadline, view.changed())
                .await
                .is_err()
            {
                let problem = problem
                    .as_deref()
                    .unwrap_or("the metaserver does not answer");
                return Err(format!(
                    "no broker for {:?} after {wait:?}: {problem}",
                    self.key.subject
                ));
            }
        }
    }
}

/// The task behind a route.
struct Asker {
    link: Arc<Link>,
    key: RouteKey,
    cache: RouteCache,
    view: watch::Sender<RouteView>,
    refresh: Arc<Notify>,
}

impl Asker {
    async fn run(mut self) {
        let mut request_type = ClientRequestType::Online;
        let mut unrouted = 0;
        loop {
            let asked = Instant::now();
            if self.ask(request_type).await {
                // Only "online" makes the metaserver of the reference list the client.
                request_type = ClientRequestType::Heartbeat;
            }
            unrouted = if self.view.borrow().groups.is_empty() {
                unrouted + 1
            } else {
                0
            };
            let pause = self.pause(unrouted);
            tokio::select! {
                () = tokio::time::sleep_until(asked + pause) => {}
                () = self.refresh.notified() => {
                    tokio::time::sleep_until(asked + REFRESH_INTERVAL_MIN).await;
                }
            }
        }
    }

    /// Consumers ask on by themselves until they have a broker; producers when somebody sends.
    fn pause(&self, unrouted: u32) -> Duration {
        if unrouted > 0 && self.key.client_type == ClientType::Consumer {
            UNROUTED.delay(unrouted, rand::random())
        } else {
            REFRESH_INTERVAL
        }
    }

    /// Asks once; whether there was a reply.
    async fn ask(&mut self, request_type: ClientRequestType) -> bool {
        let Self {
            link, key, cache, ..
        } = self;
        let digest = |reply: &ClientRegisterResponse<'_>| {
            cache.on_reply(reply, Instant::now().into_std());
        };
        let asked = link.register(key, request_type, digest).await;
        if let Err(problem) = &asked {
            cache.on_problem(problem);
        }
        let view = cache.view().clone();
        self.report(&view);
        self.view.send_replace(view);
        asked.is_ok()
    }

    fn report(&self, view: &RouteView) {
        let RouteKey { subject, group, .. } = &self.key;
        let had = self.view.borrow();
        if had.groups != view.groups {
            let groups: Vec<_> = view.groups.iter().map(|group| &*group.name).collect();
            debug!(subject, group, ?groups, "route changed");
        }
        if let Some(problem) = view
            .problem
            .as_deref()
            .filter(|_| had.problem != view.problem)
        {
            warn!(
                subject,
                group,
                problem,
                known_groups = view.groups.len(),
                "no new route"
            );
        }
    }
}
