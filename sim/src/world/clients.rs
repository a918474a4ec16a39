//! What producers and consumers do.

use std::ops::Range;
use std::time::Duration;

use qmq_broker::portion::Limits;
use qmq_model::UnixMillis;
use rand::Rng;

use super::{HOUR, MINUTE, Process, ProcessId, World, live};
use crate::client::Client;
use crate::letter::{Letter, Wish};
use crate::promises::{Asked, Broken, Delivered, Outcome};
use crate::stream::{ConsumerKey, Queue, Stream};

/// What may be handed out: little, so that limits are met.
const LIMITS: Limits = Limits {
    unacked_max: 60,
    reply_bytes_max: 4000,
};

/// What a pull came to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Got {
    pub(super) messages: usize,
    /// Nothing came, and the next message falls due then.
    pub(super) until: Option<UnixMillis>,
}

impl World {
    pub(super) fn send(&mut self) -> Result<(), Broken> {
        let count = self.rng.random_range(1..8);
        let batch: Vec<_> = (0..count).map(|_| self.new_message()).collect();
        let to_message = |(stream, letter): &(Stream, Letter)| {
            letter.to_message(self.frame.names.subject(*stream))
        };
        let messages: Vec<_> = batch.iter().map(to_message).collect();
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        let Ok(placed) = live.send(&messages) else {
            return self.crashed();
        };
        for (sent, sequence) in batch.into_iter().zip(placed) {
            self.stored(sent.0, sequence, sent.1)?;
            self.summary.acknowledged += 1;
        }
        Ok(())
    }

    fn new_message(&mut self) -> (Stream, Letter) {
        self.number += 1;
        let subject = self.rng.random_range(0..self.settings.subjects);
        (Stream::Real(subject), Letter::first(self.number))
    }

    pub(super) fn stored(
        &mut self,
        stream: Stream,
        sequence: i64,
        letter: Letter,
    ) -> Result<(), Broken> {
        let now = self.now();
        self.promises.acknowledged(stream, sequence, letter, now)
    }

    pub(super) fn now(&self) -> UnixMillis {
        qmq_model::Clock::now(&self.clock)
    }

    /// A consumer pulls; now and then it asks again when the next message falls due.
    pub(super) fn pull(&mut self) -> Result<(), Broken> {
        let Some(who) = self.some_consumer() else {
            return Ok(());
        };
        let got = self.pull_as(who)?;
        let Some(due) = got.until else { return Ok(()) };
        if self.rng.random_range(0..4) == 0 {
            self.clock.advance(due.since(self.now()));
            let wish = self.process(who).wish;
            let again = self.pull_as(who)?;
            let is_there = again.messages > 0 || again.until.is_some_and(|until| until > due);
            if !is_there && wish == Wish::default() && self.live.is_some() {
                return Err(Broken(format!(
                    "{who:?} got nothing at {due}, when it was due"
                )));
            }
        }
        Ok(())
    }

    pub(super) fn pull_as(&mut self, who: ConsumerKey) -> Result<Got, Broken> {
        let asked = Asked {
            who,
            broadcast: self.settings.is_broadcast(who.0.group),
            wish: self.process(who).wish,
            now: self.now(),
        };
        let client = self.clients.entry(who).or_default();
        let is_mistaken = self.rng.random_range(0..100) == 0;
        let Some(live) = &mut self.live else {
            return Ok(Got::default());
        };
        let request = live::Pull {
            asked,
            pull_last: client.pull_last(),
            count: self.rng.random_range(1..20),
            // The first consumer of a group decides, so that one is right.
            is_mistaken: is_mistaken && live.knows(who),
            limits: LIMITS,
        };
        self.promises.asked(&asked);
        let Ok(reply) = live.pull(&request) else {
            return self.crashed().map(|()| Got::default());
        };
        if reply.is_lost {
            return Err(Broken(format!("a pull of {who:?} goes round in circles")));
        }
        if let Some(start) = reply.joined {
            self.promises.joined(who.0, start);
        }
        for message in &reply.messages {
            self.promises.delivered(&asked, *message)?;
            self.summary.delivered += 1;
        }
        if let Some(due) = reply.until.filter(|due| *due <= asked.now) {
            return Err(Broken(format!("{who:?} waits until {due}, which is over")));
        }
        // Now and then a reply is lost on the way.
        if self.rng.random_range(0..20) > 0 {
            let client = self.clients.entry(who).or_default();
            client.receive(&reply.messages);
        }
        self.hear(who);
        Ok(Got {
            messages: reply.messages.len(),
            until: reply.until,
        })
    }

    pub(super) fn ack(&mut self) -> Result<(), Broken> {
        let Some(who) = self.some_consumer() else {
            return Ok(());
        };
        let count = self.rng.random_range(1..30);
        self.ack_as(who, count, Outcome::Finished)
    }

    /// Acks the first messages that a consumer holds, `count` at most.
    pub(super) fn ack_as(
        &mut self,
        who: ConsumerKey,
        count: usize,
        outcome: Outcome,
    ) -> Result<(), Broken> {
        let client = self.clients.entry(who).or_default();
        let prefix = client.prefix(count);
        let (Some(first), Some(last)) = (prefix.first(), prefix.last()) else {
            return Ok(());
        };
        let pulls = first.pull..last.pull + 1;
        let now = self.now();
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        let Ok(confirmed) = live.ack(who, &pulls, now) else {
            let asked = prefix.iter().map(|message| message.sequence);
            self.promises.perhaps_confirmed(who.0, asked, outcome);
            return self.crashed();
        };
        for (pull, sequence) in &confirmed {
            let held = prefix.iter().find(|message| message.pull == *pull);
            if held.is_none_or(|message| message.sequence != *sequence) {
                let what = format!("an ack of {held:?} confirmed {sequence} for {who:?}");
                return Err(Broken(what));
            }
        }
        self.summary.confirmed += confirmed.len() as u64;
        let confirmed = confirmed.into_iter().map(|(_, sequence)| sequence);
        self.promises.confirmed(who.0, confirmed, outcome);
        self.clients.entry(who).or_default().forget(prefix.len());
        self.hear(who);
        Ok(())
    }

    /// A consumer fails at a message: it sends a copy for later, and acks when that is stored. Now
    /// and then it does not come to the ack, or acks although others took the message over.
    pub(super) fn fail(&mut self) -> Result<(), Broken> {
        let Some(who) = self.some_consumer() else {
            return Ok(());
        };
        let group = who.0.group;
        let first = self.clients.entry(who).or_default().prefix(1);
        let Some(Delivered { letter, .. }) = first.first().copied() else {
            return Ok(());
        };
        if self.settings.is_broadcast(group) {
            return Ok(());
        }
        let copy = letter.again();
        let stream = if copy.is_dead() {
            Stream::Dead(group)
        } else {
            Stream::Retry(group)
        };
        let message = copy.to_message(self.frame.names.subject(stream));
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        let Ok(placed) = live.send(&[message]) else {
            return self.crashed();
        };
        for sequence in placed {
            self.stored(stream, sequence, copy)?;
            self.summary.failed += 1;
        }
        if self.rng.random_range(0..10) == 0 {
            return Ok(());
        }
        self.ack_as(who, 1, Outcome::Failed)
    }

    /// A consumer forgets to ack some messages and goes on with those behind.
    pub(super) fn lose_acks(&mut self) -> Result<(), Broken> {
        let Some(who) = self.some_consumer() else {
            return Ok(());
        };
        let count = self.rng.random_range(1..5);
        self.clients.entry(who).or_default().forget(count);
        self.ack_as(who, 5, Outcome::Finished)
    }

    pub(super) fn keep_alive(&mut self) -> Result<(), Broken> {
        let Some(who) = self.some_consumer() else {
            return Ok(());
        };
        let now = self.now();
        if let Some(live) = &mut self.live {
            live.keep_alive(who, now);
            self.hear(who);
        }
        Ok(())
    }

    /// Acks of numbers that nobody was given: they must confirm nothing.
    pub(super) fn ack_nonsense(&mut self) -> Result<(), Broken> {
        let Some(who) = self.some_consumer() else {
            return Ok(());
        };
        let now = self.now();
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        let beyond = live.next_pull(who);
        let pulls = match self.rng.random_range(0..3) {
            0 => beyond..i64::MAX,
            1 => beyond + 5..beyond + 5000,
            _ => Range { start: 10, end: 2 },
        };
        let acked = live.ack(who, &pulls, now);
        self.hear(who);
        match acked {
            Ok(confirmed) if confirmed.is_empty() => Ok(()),
            Ok(_) => Err(Broken(format!("{pulls:?} of {who:?} confirmed something"))),
            Err(_) => self.crashed(),
        }
    }

    /// A process ends and starts again, with what its group wants now.
    pub(super) fn restart_client(&mut self) -> Result<(), Broken> {
        let process = self.some_process();
        self.restart(process);
        Ok(())
    }

    pub(super) fn restart(&mut self, process: ProcessId) {
        let (group, number) = process;
        for queue in self.settings.queues_of(group) {
            self.clients.remove(&(queue, number));
            self.promises.consumer_restarted((queue, number));
        }
        let state = self.processes.entry(process).or_default();
        state.wish = self.wishes.get(&group).copied().unwrap_or_default();
        state.away_until = UnixMillis::default();
    }

    /// A process falls silent for minutes, hours or for good. It comes back with all it held,
    /// unless it is restarted.
    pub(super) fn stop_client(&mut self) -> Result<(), Broken> {
        let process = self.some_process();
        let away = match self.rng.random_range(0..4) {
            0 | 1 => MINUTE * self.rng.random_range(1..10),
            2 => HOUR * self.rng.random_range(1..10),
            _ => Duration::MAX,
        };
        let until = self.now().plus(away);
        self.processes.entry(process).or_default().away_until = until;
        Ok(())
    }

    pub(super) fn change_wish(&mut self) -> Result<(), Broken> {
        let (group, _) = self.some_process();
        let wish = Wish(self.rng.random_range(0..Wish::COUNT));
        self.wishes.insert(group, wish);
        Ok(())
    }

    fn process(&mut self, who: ConsumerKey) -> &mut Process {
        let wishes = &self.wishes;
        let group = who.0.group;
        self.processes
            .entry((group, who.1))
            .or_insert_with(|| Process {
                wish: wishes.get(&group).copied().unwrap_or_default(),
                ..Process::default()
            })
    }

    /// The broker hears of a consumer, if it ever pulled.
    fn hear(&mut self, who: ConsumerKey) {
        if self.live.as_ref().is_some_and(|live| live.knows(who)) {
            self.process(who).heard = self.now();
        }
    }

    pub(super) fn some_process(&mut self) -> ProcessId {
        let subject = self.rng.random_range(0..self.settings.subjects);
        let group = (subject, self.rng.random_range(0..self.settings.groups));
        let consumers = self.settings.consumers_of(group);
        (group, self.rng.random_range(0..consumers))
    }

    /// A queue of a process; `None` when the process is away.
    fn some_consumer(&mut self) -> Option<ConsumerKey> {
        let (group, number) = self.some_process();
        let wants_retry = self.rng.random_range(0..3) == 0;
        let is_retry = wants_retry && !self.settings.is_broadcast(group);
        let who = (Queue { group, is_retry }, number);
        let now = self.now();
        (self.process(who).away_until <= now).then_some(who)
    }

    /// What a client knows of its numbers.
    pub(super) fn received(&self, who: ConsumerKey) -> i64 {
        self.clients.get(&who).map_or(-1, Client::pull_last)
    }
}
