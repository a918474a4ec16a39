//! Rules of dispatch: which messages leave next and to whom, and what a reply means (pure).
//!
//! ```text
//!          due -> queue of the subject -> lane of a broker group -> Begin -> Send
//!                   ^    ^                  ^                                 |
//!                   |    '-- not delivered -|---------------------------------+--> Confirm
//!                   '------ group is gone --'--------- outcome unknown -------'
//! ```
//!
//! - A message is **begun** durably, with the group's name, before it leaves; it is done when a
//!   broker confirmed *it*. Where an attempt may or may not have arrived, the message is sent to
//!   the same group again, where a repeat is recognised, until that group is called dead.
//! - Subjects take turns, so that none waits behind another's million. One without a route waits
//!   alone; a group that fails is left alone for a while, longer each time.
//! - Memory is bounded: what finds no room stays in the store, [`Dispatch::take_left`] says from
//!   when on to look there again. A message may so be handed over twice: the store refuses to begin
//!   what is begun or done, and what it leaves out is forgotten here.
//!
//! Inputs are calls, outputs come from [`Dispatch::poll`], which is called after them and when
//! [`Dispatch::next_wake`] says.

mod aside;
mod asks;
mod backoff;
mod lanes;
pub mod limits;
mod lines;
mod rate;
mod replies;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use qmq_model::UnixMillis;
use rand::SeedableRng;
use rand::rngs::SmallRng;

pub use backoff::Backoff;
pub use limits::Limits;

use aside::Aside;
use asks::Asks;
use lanes::{Lanes, Repeat};
use limits::{
    LEFT_PAUSE, RELEASE_PAUSE, RELEASE_VISITS_MAX, ROUTE_BACKOFF, ROUTE_FRESH, TRIM_PAUSE,
};
use lines::{LaneId, Lines};
use qmq_store::{DelaySubject, Pending};
use rate::Rate;

/// Time since the scheduler started, by a clock that nobody sets.
pub type Moment = Duration;

/// Names one request to a broker, over all its attempts to be sent once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Which queue a message belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeliness {
    /// Its time has just come.
    OnTime,
    /// Its time came long ago: it must not push aside those that are on time.
    Overdue,
}

/// What became of one message of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The broker has it.
    Confirmed,
    /// The broker does not take messages now, and did not take this one: header 52, code 4, or no
    /// connection could be made.
    TurnedAway,
    /// The broker refused this message for its own sake: it has it not.
    Rejected,
    /// It may have it or not: time-out, connection lost, code 6.
    Unknown,
    /// It could not be read from the store and was left out of the request.
    Unreadable,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The same for all messages.
    All(Outcome),
    /// For each message, in the order of the request; of those that are missing at the end the
    /// outcome is unknown.
    Each(Vec<Outcome>),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask the metaserver; answered by [`Dispatch::route`] or [`Dispatch::route_failed`].
    AskRoute {
        /// Whose groups.
        subject: DelaySubject,
    },
    /// Write down durably that these leave for the group; answered by [`Dispatch::began`] or
    /// [`Dispatch::not_begun`].
    Begin {
        /// Its name until the reply.
        request: RequestId,
        /// Where they go.
        group: Arc<str>,
        /// What is to leave; never empty.
        entries: Arc<[Pending]>,
    },
    /// Send them, byte for byte as they were received; answered by [`Dispatch::replied`].
    Send {
        /// Its name until the reply.
        request: RequestId,
        /// Where they go.
        group: Arc<str>,
        /// What is sent; never empty.
        entries: Arc<[Pending]>,
        /// Attempts before this one that may have arrived; above 0 nothing is begun again.
        attempt: u32,
    },
    /// Write down that these are delivered. Nothing waits for it.
    Confirm {
        /// What a broker has; never empty.
        entries: Vec<Pending>,
    },
    /// Write down that these are pending again. Nothing waits for it: what is begun later is
    /// written down later.
    Refuse {
        /// What is not begun any more; never empty.
        entries: Vec<Pending>,
    },
}

/// What happened so far, in messages unless it says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Confirmed by a broker.
    pub confirmed: u64,
    /// Sent again because the outcome was unknown.
    pub repeated: u64,
    /// Of unknown outcome in a group that was called dead: sent to another one, so they may be
    /// there twice.
    pub abandoned: u64,
    /// Not taken by a broker that takes nothing now.
    pub turned_away: u64,
    /// Refused by a broker for their own sake.
    pub rejected: u64,
    /// Not readable.
    pub unreadable: u64,
    /// Requests without an answer, or with one that leaves the outcome open.
    pub unknown_requests: u64,
}

/// How one broker group fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneState<'a> {
    /// The group.
    pub group: &'a str,
    /// Requests that are begun or under way.
    pub in_flight: usize,
    /// Requests that wait to be sent again.
    pub repeats: usize,
    /// Requests in a row that failed.
    pub failures: u32,
}

#[derive(Debug)]
struct Request {
    lane: LaneId,
    entries: Arc<[Pending]>,
    attempt: u32,
}

/// The state of all messages that are due.
#[derive(Debug)]
pub struct Dispatch {
    limits: Limits,
    rng: SmallRng,
    lines: Lines,
    lanes: Lanes,
    asks: Asks,
    aside: Aside,
    requests: HashMap<RequestId, Request>,
    last_request: u64,
    out: Vec<Output>,
    overdue_rate: Rate,
    next_release: Moment,
    next_trim: Moment,
    next_left: Moment,
    /// The store could not write, so many times in a row.
    begin_failures: u32,
    /// Nothing is begun before.
    begin_at: Moment,
    /// The lane that is served first, so that each is at times.
    first_lane: usize,
    is_stopping: bool,
    polled_at: Moment,
    counts: Counts,
}

impl Dispatch {
    /// Nothing is due yet. `seed` decides how pauses differ.
    #[must_use]
    pub fn new(limits: Limits, seed: u64) -> Self {
        Self {
            limits,
            rng: SmallRng::seed_from_u64(seed),
            lines: Lines::default(),
            lanes: Lanes::default(),
            asks: Asks::default(),
            aside: Aside::default(),
            requests: HashMap::new(),
            last_request: 0,
            out: Vec::new(),
            overdue_rate: Rate::new(limits.overdue_per_second),
            next_release: Duration::ZERO,
            next_trim: Duration::ZERO,
            next_left: Duration::ZERO,
            begin_failures: 0,
            begin_at: Duration::ZERO,
            first_lane: 0,
            is_stopping: false,
            polled_at: Duration::ZERO,
            counts: Counts::default(),
        }
    }

    /// Lets so many overdue messages through per second from now on.
    pub fn set_overdue_rate(&mut self, per_second: u32) {
        self.overdue_rate.set(per_second);
    }

    /// After a start: these were begun for `group` and may have arrived there. They are sent there
    /// again.
    pub fn resume(&mut self, group: &Arc<str>, begun: &[Pending], now: Moment) {
        let id = self.lanes.id(group);
        self.lanes.all[id].repeat(begun, 1, &self.limits);
        for entry in begun {
            self.refresh_route(entry.subject, now);
        }
    }

    /// These are due. What finds no room stays in the store.
    pub fn due(&mut self, entries: &[Pending], when: Timeliness, now: Moment) {
        for entry in entries {
            if !self.lines.push(*entry, when, &self.limits) {
                continue;
            }
            let line = self.lines.line(entry.subject);
            if !self.lanes.any_there(&line.lanes) || now >= line.asked_at + ROUTE_FRESH {
                self.asks.want(entry.subject, line, now);
            }
            if when == Timeliness::OnTime {
                self.lanes.join(entry.subject, &line.lanes);
            }
        }
    }

    /// From when on the store has due messages that found no room before and do now: they are to
    /// be handed over, as overdue. Looks once in a while only, however often it is called.
    pub fn take_left(&mut self, now: Moment) -> Option<UnixMillis> {
        if now < self.next_left {
            return None;
        }
        self.next_left = now + LEFT_PAUSE;
        let lanes = &self.lanes;
        self.lines
            .take_left(&self.limits, |line| lanes.any_well(&line.lanes))
    }

    /// How many overdue messages find room now.
    #[must_use]
    pub fn overdue_room(&self) -> usize {
        let overdue = self.lines.overdue_count();
        self.limits.overdue_max.saturating_sub(overdue)
    }

    /// The groups that take messages of the subject now. None at all means that there is no
    /// answer: what is known is kept.
    pub fn route(&mut self, subject: DelaySubject, groups: &[Arc<str>], now: Moment) {
        if groups.is_empty() {
            return self.route_failed(subject, now);
        }
        let lanes: Vec<_> = groups.iter().map(|group| self.lanes.id(group)).collect();
        for id in &lanes {
            let lane = &mut self.lanes.all[*id];
            if lane.is_gone {
                lane.is_gone = false;
                lane.answered();
            }
        }
        let was_asked = self.asks.answered(subject);
        let Some(line) = self.lines.find(subject) else {
            return;
        };
        line.asked_at = now;
        line.failed_asks = 0;
        line.is_asking &= !was_asked;
        if !line.ready.is_empty() {
            self.lanes.join(subject, &lanes);
        }
        self.lines.set_lanes(subject, lanes);
    }

    /// There was no answer. A subject without a route is asked for again.
    pub fn route_failed(&mut self, subject: DelaySubject, now: Moment) {
        let was_asked = self.asks.answered(subject);
        let Some(line) = self.lines.find(subject) else {
            return;
        };
        line.asked_at = now;
        line.is_asking &= !was_asked;
        if !self.lanes.any_there(&line.lanes) && !line.is_empty() {
            line.failed_asks = line.failed_asks.saturating_add(1);
            let pause = ROUTE_BACKOFF.pause(line.failed_asks, &mut self.rng);
            self.asks.want(subject, line, now + pause);
        }
        self.lines.forget_idle(subject);
    }

    /// Ends the beginning: what is under way is waited for, see [`Self::requests`].
    pub fn stop(&mut self) {
        self.is_stopping = true;
    }

    /// Requests that are begun or under way.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.requests.len()
    }

    /// Messages that wait in memory, those under way apart.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.lines.ready_count() + self.lines.overdue_count() + self.aside.len()
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Messages that found no room so far, each time counted.
    #[must_use]
    pub fn left_count(&self) -> u64 {
        self.lines.left_count()
    }

    /// How the broker groups fare.
    pub fn lanes(&self) -> impl Iterator<Item = LaneState<'_>> {
        self.lanes.all.iter().map(|lane| LaneState {
            group: &lane.name,
            in_flight: lane.in_flight,
            repeats: lane.repeats.len(),
            failures: lane.failures,
        })
    }

    /// Adds to `out` what is to be done now.
    pub fn poll(&mut self, now: Moment, out: &mut Vec<Output>) {
        self.polled_at = now;
        self.take_from_aside(now);
        if now >= self.next_trim {
            self.next_trim = now + TRIM_PAUSE;
            let lanes = &self.lanes;
            self.lines
                .trim(&self.limits, |line| lanes.any_well(&line.lanes));
        }
        self.release(now);
        out.append(&mut self.out);
        if self.is_stopping {
            return;
        }
        while let Some(subject) = self.asks.pop(now) {
            out.push(Output::AskRoute { subject });
        }
        let lanes = self.lanes.all.len();
        for turn in 0..lanes {
            self.serve((self.first_lane + turn) % lanes, now, out);
        }
        self.first_lane = self.first_lane.wrapping_add(1);
    }

    /// When to poll again, if nothing happens before.
    #[must_use]
    pub fn next_wake(&self) -> Option<Moment> {
        let lanes = self.lanes.all.iter().filter(|lane| lane.waits());
        let lanes = lanes.map(|lane| lane.resume_at.max(self.begin_at));
        let release = (self.lines.overdue_count() > 0).then_some(self.next_release);
        let all = [self.aside.next_wake(), self.asks.next_wake(), release];
        let all = all.into_iter().flatten().chain(lanes);
        all.filter(|at| *at > self.polled_at).min()
    }

    /// Lets overdue messages through, as many as their rate allows.
    fn release(&mut self, now: Moment) {
        if now < self.next_release || self.lines.overdue_count() == 0 {
            return;
        }
        let mut left = self.overdue_rate.available(now);
        let mut visits = self.lines.overdue_turns().min(RELEASE_VISITS_MAX);
        let mut released = 0;
        while left > 0 && visits > 0 {
            let lanes = &self.lanes;
            let subject = self
                .lines
                .release(&self.limits, |line| lanes.any_well(&line.lanes));
            let Some(subject) = subject else {
                visits -= 1;
                continue;
            };
            left -= 1;
            released += 1;
            if let Some(line) = self.lines.get(subject) {
                self.lanes.join(subject, &line.lanes);
            }
        }
        self.overdue_rate.take(released);
        let pause = if released > 0 {
            RELEASE_PAUSE
        } else {
            10 * RELEASE_PAUSE
        };
        self.next_release = now + pause;
    }

    /// Sends and begins what the group may have now.
    fn serve(&mut self, id: LaneId, now: Moment, out: &mut Vec<Output>) {
        while self.lanes.all[id].has_turn(&self.limits, now) {
            if let Some(repeat) = self.lanes.all[id].repeats.pop_front() {
                self.counts.repeated += repeat.entries.len() as u64;
                let Repeat { entries, attempt } = repeat;
                let (request, group) = self.take_request(id, entries.clone(), attempt);
                out.push(Output::Send {
                    request,
                    group,
                    entries,
                    attempt,
                });
                continue;
            }
            if now < self.begin_at || self.aside.is_full() {
                return;
            }
            let entries = self.lanes.all[id].take(id, &mut self.lines, &self.limits);
            if entries.is_empty() {
                return;
            }
            let entries: Arc<[Pending]> = entries.into();
            let (request, group) = self.take_request(id, entries.clone(), 0);
            out.push(Output::Begin {
                request,
                group,
                entries,
            });
        }
    }

    fn take_request(
        &mut self,
        lane: LaneId,
        entries: Arc<[Pending]>,
        attempt: u32,
    ) -> (RequestId, Arc<str>) {
        self.last_request += 1;
        let request = RequestId(self.last_request);
        let known = Request {
            lane,
            entries,
            attempt,
        };
        self.requests.insert(request, known);
        let lane = &mut self.lanes.all[lane];
        lane.in_flight += 1;
        (request, lane.name.clone())
    }
}
