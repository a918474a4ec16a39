//! The thread that knows what is due: owns the window on the store and the rules of dispatch, and
//! hands what they decide to those who do it.
//!
//! It never waits for the disk or for a broker. Whatever it asks for comes back as [`News`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use qmq_client::FoundRoute;
use qmq_daemon::mailbox::Mailbox;
use qmq_model::{Clock, UnixMillis};
use qmq_store::{Begun, DelaySubject, LoadCursor, Pending};
use tracing::{info, warn};

use crate::clock_watch::ClockWatch;
use crate::dispatch::{Dispatch, Output, Reply, RequestId, Timeliness};
use crate::hands::Hands;
use crate::metrics::{Gauges, Metrics};
use crate::window::Window;

/// Due messages taken out of the wheel before the rules look at them.
const DUE_MAX: usize = 8192;
/// Longest sleep: so soon is it noticed that somebody set the clock.
const PATIENCE_MAX: Duration = Duration::from_millis(100);
/// How often the gauges are set.
const GAUGES_EVERY: Duration = Duration::from_secs(1);

/// What came of what was asked for, or was accepted. Bounded by what is asked for at a time, and by
/// the batches of the writer.
#[derive(Debug)]
pub enum News {
    /// Messages that are due soon were accepted and can be read.
    Accepted(Vec<Pending>),
    /// A portion of the store was read.
    Loaded(Vec<Pending>, Option<LoadCursor>),
    /// It could not be.
    LoadFailed,
    /// These of a request are begun.
    Began(RequestId, Vec<Pending>),
    /// There was no room to write that down.
    NotBegun(RequestId),
    /// What became of a request to a broker.
    Replied(RequestId, Reply),
    /// The metaserver's answer about a subject.
    Route(DelaySubject, Result<FoundRoute, String>),
    /// So many overdue messages may go out per second.
    OverdueRate(u32),
    /// Nothing more is begun.
    Stop,
}

/// The way to the scheduler. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct NewsBox(Arc<Mailbox<Vec<News>>>);

impl NewsBox {
    /// Tells it something. Once the scheduler has stopped nobody listens, which is no loss: what
    /// is on disk is what counts.
    pub fn tell(&self, news: News) {
        let _ = self.0.put(|queue| queue.push(news));
    }

    fn take(&self, patience: Duration) -> Vec<News> {
        self.0
            .take(patience, Vec::is_empty, |queue, _| std::mem::take(queue))
    }

    fn close(&self) {
        self.0.close();
    }
}

/// Owner of all that is due.
pub struct Scheduler {
    window: Window<LoadCursor>,
    dispatch: Dispatch,
    hands: Hands,
    news: NewsBox,
    clock: Arc<dyn Clock>,
    started: Instant,
    watch: ClockWatch,
    metrics: Arc<Metrics>,
    gauges: Gauges,
    next_gauges: Duration,
    /// The groups that the last answer about a subject named.
    served: HashMap<DelaySubject, Vec<Arc<str>>>,
    due: Vec<Pending>,
    outputs: Vec<Output>,
    stopping: Option<Duration>,
}

impl Scheduler {
    /// Begins with what was begun before the last stop; the rest is read from the store.
    #[must_use]
    pub fn new(
        dispatch: Dispatch,
        begun: Vec<Begun>,
        hands: Hands,
        news: NewsBox,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let wall = clock.now();
        let mut scheduler = Self {
            window: Window::new(wall),
            dispatch,
            hands,
            news,
            clock,
            started: Instant::now(),
            watch: ClockWatch::new(wall, Duration::ZERO),
            gauges: Gauges::default(),
            metrics,
            next_gauges: Duration::ZERO,
            served: HashMap::new(),
            due: Vec::new(),
            outputs: Vec::new(),
            stopping: None,
        };
        scheduler.resume(begun);
        scheduler
    }

    /// What may have arrived is sent to the same group again.
    fn resume(&mut self, begun: Vec<Begun>) {
        let mut by_group: HashMap<Arc<str>, Vec<Pending>> = HashMap::new();
        for Begun { entry, group } in begun {
            self.served.insert(entry.subject, vec![Arc::clone(&group)]);
            by_group.entry(group).or_default().push(entry);
        }
        for (group, entries) in by_group {
            let messages = entries.len();
            warn!(%group, messages, "sent before the stop, outcome unknown: sent there again");
            self.dispatch.resume(&group, &entries, Duration::ZERO);
        }
    }

    /// Works until it is told to stop and every request under way has an answer, but not longer
    /// than `drain` after that.
    pub fn run(mut self, drain: Duration) {
        let mut patience = Duration::ZERO;
        loop {
            let news = self.news.take(patience);
            let (wall, now) = (self.clock.now(), self.started.elapsed());
            if let Some(step) = self.watch.look(wall, now) {
                warn!(milliseconds = step, "the clock was set");
                self.metrics.clock_steps.inc();
            }
            for news in news {
                self.hear(news, wall, now);
            }
            let more = self.turn(wall, now);
            if self.is_over(now, drain) {
                break;
            }
            patience = if more {
                Duration::ZERO
            } else {
                self.patience(wall, now)
            };
        }
        self.news.close();
        let left = self.dispatch.requests();
        info!(unanswered_requests = left, "dispatch has stopped");
    }

    fn is_over(&self, now: Duration, drain: Duration) -> bool {
        let Some(since) = self.stopping else {
            return false;
        };
        self.dispatch.requests() == 0 || now >= since + drain
    }

    fn hear(&mut self, news: News, wall: UnixMillis, now: Duration) {
        match news {
            News::Accepted(entries) => self.window.accepted(&entries),
            News::Loaded(entries, next) => {
                self.due.clear();
                self.window.loaded(wall, &entries, next, &mut self.due);
                self.dispatch.due(&self.due, Timeliness::Overdue, now);
            }
            News::LoadFailed => self.window.load_failed(wall),
            News::Began(request, accepted) => self.dispatch.began(request, &accepted, now),
            News::NotBegun(request) => self.dispatch.not_begun(request, now),
            News::Replied(request, reply) => self.dispatch.replied(request, &reply, now),
            News::Route(subject, Ok(route)) => self.routed(subject, &route, now),
            News::Route(subject, Err(_)) => self.dispatch.route_failed(subject, now),
            News::OverdueRate(per_second) => self.dispatch.set_overdue_rate(per_second),
            News::Stop => {
                self.stopping = Some(now);
                self.dispatch.stop();
            }
        }
    }

    /// A group that served the subject and is not listed any more while others are is gone. When
    /// none is listed, what is known is kept.
    fn routed(&mut self, subject: DelaySubject, route: &FoundRoute, now: Duration) {
        let groups = self.hands.learn(route);
        if !route.listed.is_empty() {
            let before = self.served.insert(subject, route.listed.clone());
            for gone in before.unwrap_or_default() {
                if !route.listed.contains(&gone) {
                    self.dispatch.group_gone(&gone, now);
                }
            }
            if self.served.len() > 2 * crate::dispatch::limits::SUBJECTS_KEPT_MAX {
                // What is needed is learned again.
                self.served.clear();
            }
        }
        self.dispatch.route(subject, &groups, now);
    }

    /// Does what can be done now; whether there is more at once.
    fn turn(&mut self, wall: UnixMillis, now: Duration) -> bool {
        self.due.clear();
        self.window.pop_due(wall, DUE_MAX, &mut self.due);
        let more = self.due.len() == DUE_MAX;
        if !self.due.is_empty() {
            self.dispatch.due(&self.due, Timeliness::OnTime, now);
        }
        if self.stopping.is_none() {
            if let Some(from) = self.dispatch.take_left(now) {
                self.window.read_again(from, wall);
            }
            let room = self.dispatch.overdue_room();
            if let Some(load) = self.window.next_load(wall, room) {
                self.hands.load(&load);
            }
        }
        let mut outputs = std::mem::take(&mut self.outputs);
        self.dispatch.poll(now, &mut outputs);
        for output in outputs.drain(..) {
            self.hands.carry_out(output);
        }
        self.outputs = outputs;
        if now >= self.next_gauges {
            self.next_gauges = now + GAUGES_EVERY;
            let loaded = self.window.len();
            self.gauges.set(&self.metrics, &self.dispatch, loaded);
        }
        more
    }

    fn patience(&self, wall: UnixMillis, now: Duration) -> Duration {
        let due = self.window.next_wake().map(|at| at.since(wall));
        let rules = self.dispatch.next_wake();
        let rules = rules.map(|at| at.saturating_sub(now));
        let next = [due, rules].into_iter().flatten().min();
        // Zero would be a spin: whatever is due now has just been looked at.
        next.unwrap_or(PATIENCE_MAX)
            .clamp(Duration::from_millis(1), PATIENCE_MAX)
    }
}
