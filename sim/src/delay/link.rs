//! Broker groups, and the link that loses and delays what is sent to them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use qmq_delay_server::dispatch::{Outcome, Reply, RequestId};
use qmq_store::Pending;
use rand::Rng;

use super::live::Crashed;
use super::promises::Group;
use super::sabotage::DelaySabotage;
use super::{DelayWorld, Stop};
use crate::promises::Broken;

/// How long a broker recognises a message that is repeated.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(600);

/// A broker group as producers see it.
#[derive(Debug)]
pub(super) struct Broker {
    pub(super) name: Arc<str>,
    pub(super) is_up: bool,
    /// Otherwise it answers with code 4.
    pub(super) takes: bool,
    /// The metaserver calls it dead.
    pub(super) is_dead: bool,
    /// When it appended each message.
    seen: HashMap<u64, Duration>,
}

impl Broker {
    pub(super) fn new(number: usize) -> Self {
        Self {
            name: format!("group{number}").into(),
            is_up: true,
            takes: true,
            is_dead: false,
            seen: HashMap::new(),
        }
    }

    pub(super) fn heal(&mut self) {
        self.is_up = true;
        self.takes = true;
        self.is_dead = false;
    }
}

/// A request that left, and was not answered yet.
#[derive(Debug)]
pub(super) struct Flight {
    request: RequestId,
    group: Group,
    /// Of the messages in order; `None`: it could not be read and was left out.
    numbers: Vec<Option<u64>>,
    is_first: bool,
}

impl Flight {
    pub(super) fn group(&self) -> Group {
        self.group
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.numbers.iter().flatten().copied()
    }
}

/// What happens to a request on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Journey {
    Answered,
    /// One message is refused for its own sake.
    OneRejected,
    /// The answer says nothing about one message.
    OneMissing,
    /// It never arrives.
    Lost,
    AnswerLost,
    /// It arrives when nobody waits for it any more.
    Late,
    /// Nobody listens.
    NotConnected,
    /// Code 4 or header 52.
    TurnedAway,
}

impl DelayWorld {
    /// A request leaves.
    pub(super) fn depart(
        &mut self,
        (request, attempt): (RequestId, u32),
        group: &str,
        entries: &[Pending],
    ) -> Result<(), Stop> {
        if entries.is_empty() {
            return Err(Broken("an empty request leaves".to_owned()).into());
        }
        let group = self.group(group);
        let Some(live) = &self.live else {
            return Ok(());
        };
        let mut read = Vec::new();
        live.reader.read(entries, &mut read);
        let mut numbers = Vec::with_capacity(read.len());
        for message in read {
            let message = match message {
                Ok(message) => message,
                Err(_) if self.fs.power_is_off() => return Err(Crashed.into()),
                Err(error) => return Err(Broken(format!("unreadable: {error}")).into()),
            };
            let number = self.letters.recognise(&message.payload, message.crc);
            let Some(number) = number else {
                let what = format!("message {} is not as it was sent", message.sequence.0);
                return Err(Broken(what).into());
            };
            // Now and then the disk fails for a moment.
            let is_readable = self.is_settling || self.rng.random_range(0..300) > 0;
            if is_readable {
                let now = self.now();
                self.promises.leaves(number, group, now)?;
            }
            numbers.push(is_readable.then_some(number));
        }
        self.flights.push(Flight {
            request,
            group,
            numbers,
            is_first: attempt == 0,
        });
        Ok(())
    }

    /// One of the requests under way has its fate.
    pub(super) fn answer(&mut self) -> Result<(), Stop> {
        if self.flights.is_empty() {
            return Ok(());
        }
        let flight = self
            .flights
            .swap_remove(self.rng.random_range(0..self.flights.len()));
        let journey = self.journey(&flight);
        let mut outcomes = vec![Outcome::Confirmed; flight.numbers.len()];
        let odd = self.rng.random_range(0..outcomes.len());
        match journey {
            Journey::Answered | Journey::AnswerLost => {}
            Journey::OneRejected => outcomes[odd] = Outcome::Rejected,
            Journey::OneMissing => outcomes.truncate(odd),
            Journey::Lost | Journey::Late => outcomes.fill(Outcome::Unknown),
            Journey::NotConnected | Journey::TurnedAway => outcomes.fill(Outcome::TurnedAway),
        }
        for (index, number) in flight.numbers.iter().enumerate() {
            let outcome = outcomes.get(index).copied();
            let Some(number) = *number else {
                if index < outcomes.len() {
                    outcomes[index] = Outcome::Unreadable;
                }
                continue;
            };
            match (journey, outcome) {
                (Journey::Late, _) => self.stragglers.push((flight.group, number)),
                // One without a result may have been appended or not.
                (_, Some(Outcome::Confirmed)) => self.arrive(flight.group, number)?,
                (_, None) if self.rng.random() => self.arrive(flight.group, number)?,
                _ => {}
            }
        }
        let is_silent = matches!(journey, Journey::Lost | Journey::Late | Journey::AnswerLost);
        self.summary.unknown_requests += u64::from(is_silent);
        let reply = match journey {
            Journey::NotConnected => Reply::All(Outcome::TurnedAway),
            _ if !is_silent => Reply::Each(outcomes),
            _ => match self.settings.sabotage {
                DelaySabotage::TrustSilence => Reply::All(Outcome::Confirmed),
                DelaySabotage::LeaveUnknown => Reply::All(Outcome::TurnedAway),
                _ => Reply::All(Outcome::Unknown),
            },
        };
        self.note(&flight, &reply, is_silent);
        if let Some(live) = &mut self.live {
            live.dispatch.replied(flight.request, &reply, self.moment);
        }
        Ok(())
    }

    fn journey(&mut self, flight: &Flight) -> Journey {
        let broker = &self.brokers[flight.group];
        if !broker.is_up {
            return if self.rng.random_range(0..4) == 0 {
                Journey::Lost
            } else {
                Journey::NotConnected
            };
        }
        if self.is_settling {
            return Journey::Answered;
        }
        match self.rng.random_range(0..100) {
            0..6 => Journey::Lost,
            6..12 => Journey::AnswerLost,
            12..15 => Journey::Late,
            15..18 => Journey::OneMissing,
            _ if !broker.takes => Journey::TurnedAway,
            18..20 => Journey::OneRejected,
            _ => Journey::Answered,
        }
    }

    /// What the server knows now, in the words of the promises.
    fn note(&mut self, flight: &Flight, reply: &Reply, is_silent: bool) {
        let is_dead = self.brokers[flight.group].is_dead;
        for (index, number) in flight.numbers.iter().enumerate() {
            let Some(number) = *number else { continue };
            let outcome = match reply {
                _ if is_silent => Outcome::Unknown,
                Reply::All(outcome) => *outcome,
                Reply::Each(outcomes) => outcomes.get(index).copied().unwrap_or(Outcome::Unknown),
            };
            match outcome {
                Outcome::Confirmed => {}
                Outcome::TurnedAway | Outcome::Rejected | Outcome::Unreadable => {
                    self.promises.refused(number, flight.group, flight.is_first);
                    if is_dead && !flight.is_first {
                        self.promises.abandoned(number);
                    }
                }
                Outcome::Unknown => {
                    self.promises.unknown(number, flight.group);
                    if is_dead {
                        self.promises.abandoned(number);
                    }
                }
            }
        }
    }

    /// A request arrives that nobody waits for any more, or it never does.
    pub(super) fn straggle(&mut self) -> Result<(), Stop> {
        if self.stragglers.is_empty() {
            return Ok(());
        }
        let number = self.rng.random_range(0..self.stragglers.len());
        let (group, number) = self.stragglers.swap_remove(number);
        if self.brokers[group].is_up && self.rng.random() {
            self.arrive(group, number)?;
        }
        Ok(())
    }

    fn arrive(&mut self, group: Group, number: u64) -> Result<(), Stop> {
        let seen = &mut self.brokers[group].seen;
        let last = seen.get(&number).copied();
        if last.is_some_and(|last| self.moment - last <= DUPLICATE_WINDOW) {
            self.summary.recognised += 1;
            return Ok(());
        }
        seen.insert(number, self.moment);
        Ok(self.promises.arrived(number, group)?)
    }

    /// A group fails, recovers, is called dead, or is there again.
    pub(super) fn change_group(&mut self) {
        let group = self.rng.random_range(0..self.brokers.len());
        let broker = &mut self.brokers[group];
        match self.rng.random_range(0..6) {
            0 => broker.is_up = false,
            1 => broker.takes = false,
            2 => {
                broker.is_dead = true;
                self.bury(group);
            }
            _ => {
                broker.is_up = true;
                broker.takes = true;
            }
        }
    }

    /// The server hears that a group is dead.
    pub(super) fn bury(&mut self, group: Group) {
        if let Some(live) = &mut self.live {
            live.dispatch
                .group_gone(&self.brokers[group].name, self.moment);
            self.promises.group_died(group);
        }
    }

    /// The metaserver answers, or does not.
    pub(super) fn answer_question(&mut self) {
        let Some(subject) = self.questions.pop_front() else {
            return;
        };
        let Some(live) = &mut self.live else { return };
        let index = live
            .reader
            .name(subject)
            .map(|name| self.letters.subject_index(&name));
        let groups = index.map(|index| self.routes[index].clone());
        let mut listed = Vec::new();
        if self.is_settling || self.rng.random_range(0..4) > 0 {
            for group in groups.into_iter().flatten() {
                let broker = &mut self.brokers[group];
                // Who was dead comes back at times.
                if broker.is_dead && (self.is_settling || self.rng.random_range(0..3) == 0) {
                    broker.is_dead = false;
                }
                if !broker.is_dead {
                    listed.push(broker.name.clone());
                }
            }
        }
        live.dispatch.route(subject, &listed, self.moment);
    }

    pub(super) fn group(&self, name: &str) -> Group {
        let found = self.brokers.iter().position(|broker| &*broker.name == name);
        found.expect("one of ours")
    }
}
