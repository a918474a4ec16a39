//! What answers change: of the store about beginnings, of brokers about requests, of the
//! metaserver about groups.

use super::aside::{Reason, Waiting};
use super::limits::ROUTE_PAUSE;
use super::lines::LaneId;
use super::{Dispatch, Moment, Outcome, Output, Reply, Request, RequestId};
use qmq_store::{DelaySubject, Pending};

/// The messages of a request, by what is to become of them.
#[derive(Default)]
struct Sorted {
    confirmed: Vec<Pending>,
    /// Not delivered: they are pending again.
    refused: Vec<Pending>,
    /// Of these, the ones that go into their queues at once.
    queued: Vec<Pending>,
    /// Of unknown outcome, to be sent again together.
    repeated: Vec<Pending>,
    aside: Vec<(Waiting, Reason)>,
    /// The group takes nothing now.
    has_turned_away: bool,
    has_unknown: bool,
    has_answered: bool,
}

impl Dispatch {
    /// It is written down that these leave: the others were delivered, cancelled or moved
    /// meanwhile, or are under way already.
    pub fn began(&mut self, request: RequestId, accepted: &[Pending], now: Moment) {
        self.begin_failures = 0;
        let Some(known) = self.requests.get_mut(&request) else {
            return;
        };
        let lane = known.lane;
        if accepted.is_empty() {
            self.requests.remove(&request);
            self.lanes.all[lane].in_flight -= 1;
            return;
        }
        known.entries = accepted.into();
        if self.lanes.all[lane].is_gone {
            // Nothing has left yet.
            return self.replied(request, &Reply::All(Outcome::TurnedAway), now);
        }
        self.out.push(Output::Send {
            request,
            group: self.lanes.all[lane].name.clone(),
            entries: known.entries.clone(),
            attempt: 0,
        });
    }

    /// The store could not write it down: nothing has left. Nothing is begun for a while.
    pub fn not_begun(&mut self, request: RequestId, now: Moment) {
        self.begin_failures = self.begin_failures.saturating_add(1);
        let pause = self
            .limits
            .backoff
            .pause(self.begin_failures, &mut self.rng);
        self.begin_at = now + pause;
        if let Some(known) = self.requests.remove(&request) {
            self.lanes.all[known.lane].in_flight -= 1;
            self.queue_again(&known.entries, now);
        }
    }

    /// A broker answered, or did not.
    pub fn replied(&mut self, request: RequestId, reply: &Reply, now: Moment) {
        let Some(known) = self.requests.remove(&request) else {
            return;
        };
        self.lanes.all[known.lane].in_flight -= 1;
        let sorted = self.sort(&known, reply);
        self.note_health(&known, &sorted, now);
        let Sorted {
            confirmed,
            mut refused,
            queued,
            repeated,
            aside,
            ..
        } = sorted;
        for entry in &confirmed {
            self.aside.done(entry.sequence);
        }
        self.counts.confirmed += confirmed.len() as u64;
        if !confirmed.is_empty() {
            self.out.push(Output::Confirm { entries: confirmed });
        }
        if self.lanes.all[known.lane].is_gone {
            let bound = aside
                .iter()
                .filter(|(waiting, _)| waiting.bound_to.is_some());
            let mut abandoned: Vec<_> = bound.map(|(waiting, _)| waiting.entry).collect();
            abandoned.extend(&repeated);
            self.abandon(&abandoned, now);
        } else {
            self.lanes.all[known.lane].repeat(&repeated, known.attempt + 1, &self.limits);
        }
        let is_gone = self.lanes.all[known.lane].is_gone;
        for (waiting, reason) in aside {
            if waiting.bound_to.is_none() || !is_gone {
                self.put_aside(waiting, reason, now);
            }
        }
        self.queue_again(&queued, now);
        refused.extend(queued);
        if !refused.is_empty() {
            self.out.push(Output::Refuse { entries: refused });
        }
    }

    /// The metaserver calls the group dead: what may have arrived there goes to another one.
    pub fn group_gone(&mut self, group: &str, now: Moment) {
        let Some(id) = self.lanes.find(group) else {
            return;
        };
        let lane = &mut self.lanes.all[id];
        lane.is_gone = true;
        let repeats = std::mem::take(&mut lane.repeats);
        let repeats = repeats.iter().flat_map(|repeat| repeat.entries.iter());
        let mut entries: Vec<_> = repeats.copied().collect();
        entries.append(&mut self.aside.take_bound(id));
        self.abandon(&entries, now);
        for subject in self.lanes.all[id].waiting_subjects() {
            self.refresh_route(subject, now);
        }
    }

    /// Tries those again of which the pause is over.
    pub(super) fn take_from_aside(&mut self, now: Moment) {
        let mut bound: Vec<(LaneId, Vec<Pending>)> = Vec::new();
        while let Some(waiting) = self.aside.pop(now) {
            let Some(lane) = waiting.bound_to else {
                self.queue_again(&[waiting.entry], now);
                continue;
            };
            match bound.iter_mut().find(|(id, _)| *id == lane) {
                Some((_, entries)) => entries.push(waiting.entry),
                None => bound.push((lane, vec![waiting.entry])),
            }
        }
        for (lane, entries) in bound {
            self.lanes.all[lane].repeat(&entries, 1, &self.limits);
        }
    }

    /// Asks for the route again after trouble, but not too often.
    pub(super) fn refresh_route(&mut self, subject: DelaySubject, now: Moment) {
        let line = self.lines.line(subject);
        if line.lanes.is_empty() || now >= line.asked_at + ROUTE_PAUSE {
            self.asks.want(subject, line, now);
        }
    }

    fn sort(&mut self, known: &Request, reply: &Reply) -> Sorted {
        let mut sorted = Sorted::default();
        let is_first = known.attempt == 0;
        let (each, rest): (&[Outcome], Outcome) = match reply {
            Reply::All(outcome) => (&[], *outcome),
            Reply::Each(outcomes) => (outcomes, Outcome::Unknown),
        };
        let outcomes = each.iter().copied().chain(std::iter::repeat(rest));
        for (entry, outcome) in known.entries.iter().copied().zip(outcomes) {
            let bound = |reason| {
                let bound_to = (!is_first || outcome == Outcome::Unknown).then_some(known.lane);
                (Waiting { entry, bound_to }, reason)
            };
            match outcome {
                Outcome::Confirmed => sorted.confirmed.push(entry),
                Outcome::TurnedAway if is_first => sorted.queued.push(entry),
                Outcome::TurnedAway => sorted.repeated.push(entry),
                // One that the broker answered without a result must not hold up the others.
                Outcome::Unknown if matches!(reply, Reply::Each(_)) => {
                    sorted.aside.push(bound(Reason::Refused));
                }
                Outcome::Unknown => sorted.repeated.push(entry),
                Outcome::Rejected => sorted.aside.push(bound(Reason::Refused)),
                Outcome::Unreadable => sorted.aside.push(bound(Reason::Unreadable)),
            }
            match outcome {
                Outcome::TurnedAway => self.counts.turned_away += 1,
                Outcome::Rejected => self.counts.rejected += 1,
                Outcome::Unreadable => self.counts.unreadable += 1,
                Outcome::Confirmed | Outcome::Unknown => {}
            }
            sorted.has_answered |= matches!(outcome, Outcome::Confirmed | Outcome::Rejected);
            sorted.has_turned_away |= outcome == Outcome::TurnedAway;
            sorted.has_unknown |= outcome == Outcome::Unknown;
        }
        let is_definite = |waiting: &Waiting| waiting.bound_to.is_none();
        let definite = sorted
            .aside
            .iter()
            .filter(|(waiting, _)| is_definite(waiting));
        sorted.refused = definite.map(|(waiting, _)| waiting.entry).collect();
        self.counts.unknown_requests += u64::from(sorted.has_unknown);
        sorted
    }

    /// A group that fails is left alone for a while, and the metaserver asked whether it is there.
    fn note_health(&mut self, known: &Request, sorted: &Sorted, now: Moment) {
        let lane = &mut self.lanes.all[known.lane];
        let has_failed = sorted.has_turned_away || sorted.has_unknown && !sorted.has_answered;
        if !has_failed {
            if sorted.has_answered {
                lane.answered();
            }
            return;
        }
        lane.failures = lane.failures.saturating_add(1);
        lane.resume_at = now + self.limits.backoff.pause(lane.failures, &mut self.rng);
        for entry in known.entries.iter() {
            self.refresh_route(entry.subject, now);
        }
    }

    /// Nobody will ever know: they are pending again, and may be delivered twice.
    fn abandon(&mut self, entries: &[Pending], now: Moment) {
        if entries.is_empty() {
            return;
        }
        self.counts.abandoned += entries.len() as u64;
        self.queue_again(entries, now);
        self.out.push(Output::Refuse {
            entries: entries.to_vec(),
        });
    }

    fn put_aside(&mut self, waiting: Waiting, reason: Reason, now: Moment) {
        if !self.aside.put(waiting, reason, now, &mut self.rng) {
            self.lines.leave(waiting.entry);
        }
    }

    /// In front of their queues, in the order they had.
    fn queue_again(&mut self, entries: &[Pending], now: Moment) {
        for entry in entries.iter().rev() {
            self.lines.put_back(*entry);
            let line = self.lines.line(entry.subject);
            if !self.lanes.any_there(&line.lanes) {
                self.asks.want(entry.subject, line, now);
            }
            self.lanes.join(entry.subject, &line.lanes);
        }
    }
}
