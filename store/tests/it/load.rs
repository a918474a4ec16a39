//! Random load on a world: producers, consumers, time. Every step knows what must come of it.

use std::collections::HashSet;
use std::ops::Range;
use std::time::Duration;

use bytes::BufMut;
use qmq_model::payload::put_str;
use qmq_model::{Clock, ConsumerGroup, ConsumerId, MessageSequence, Subject};
use qmq_store::{
    Action, AppendError, ConsumerKey, Control, LogKind, NewMessage, Placed, ReadError, SyncNeeds,
};
use rand::Rng;

use crate::groups::{Change, Groups};
use crate::world::{
    Checked, Controls, DUPLICATE_WINDOW, Message, SUBJECTS, Trouble, World, ensure, stopped,
};

const GROUPS: [&str; 3] = ["g1", "g2", "broadcast"];

impl World {
    /// Runs `steps` random steps; stops at the first error of the store.
    pub(crate) fn load(&mut self, steps: usize) -> Checked {
        for _ in 0..steps {
            match self.rng.random_range(0..22) {
                0..10 => self.send()?,
                10..15 => self.consume()?,
                15..17 => self.ack()?,
                17 => self.leave()?,
                18 => self.pass_time()?,
                19..21 if self.controls != Controls::Never => self.control()?,
                _ => self.look_around()?,
            }
        }
        Ok(())
    }

    fn send(&mut self) -> Checked {
        for _ in 0..self.rng.random_range(1..3) {
            self.append_messages()?;
        }
        if self.rng.random_bool(0.9) {
            let messages = self.rng.random_bool(0.1);
            self.commit(SyncNeeds {
                messages,
                actions: false,
            })?;
        }
        Ok(())
    }

    fn append_messages(&mut self) -> Checked {
        let count = self.rng.random_range(1..6);
        let mut batch: Vec<(NewMessage, &'static str)> = Vec::new();
        for _ in 0..count {
            let repeated = match self.rng.random_range(0..20) {
                0 => batch.last().cloned(),
                1 | 2 => self.earlier_message(),
                _ => None,
            };
            let message = repeated.unwrap_or_else(|| self.new_message());
            batch.push(message);
        }
        let (new, subjects): (Vec<NewMessage>, Vec<&'static str>) = batch.into_iter().unzip();
        let mut placed = Vec::new();
        match self.writer().append_messages(&new, &mut placed) {
            Err(AppendError::NoSpace) if self.is_full => {
                ensure!(placed.is_empty(), "refused messages were placed");
                self.refused += 1;
                return Ok(());
            }
            appended => appended.map_err(stopped)?,
        }
        ensure!(placed.len() == new.len(), "not every message was placed");
        for ((message, placed), subject) in new.into_iter().zip(&placed).zip(subjects) {
            self.check_placed(message, placed, subject)?;
        }
        Ok(())
    }

    fn check_placed(
        &mut self,
        message: NewMessage,
        placed: &Placed,
        subject: &'static str,
    ) -> Checked {
        let time = self.clock.now();
        let all = || self.kept.iter().chain(&self.fresh.messages);
        let is_same = |m: &&Message| m.subject == subject && m.payload == message.payload;
        let lately = |m: &&Message| {
            let age = time.0.abs_diff(m.time.0);
            u128::from(age) <= DUPLICATE_WINDOW.as_millis()
        };
        let original = all().filter(is_same).find(lately);
        let original = original.filter(|_| message.fingerprint.is_some());
        let appended = match placed {
            Placed::Repeat { end } => {
                let Some(original) = original else {
                    return Err(Trouble::Broken(format!("{subject}: no repeat was refused")));
                };
                ensure!(
                    original.end == end.0,
                    "{subject}: repeat of another message"
                );
                return Ok(());
            }
            Placed::Appended(appended) => appended,
        };
        ensure!(original.is_none(), "{subject}: a repeat was stored again");
        let sequence = appended.sequence.0;
        let next = all().filter(|m| m.subject == subject);
        let next = next.map(|m| m.sequence + 1).max();
        let next = next.or_else(|| self.expired.get(subject).copied());
        let next = next.unwrap_or(0);
        ensure!(
            sequence >= next,
            "{subject} gives {sequence} again, {next} is next"
        );
        ensure!(
            self.has_gaps || sequence == next,
            "{subject} skips {next}..{sequence}"
        );
        let end = appended.offset.0 + u64::from(appended.bytes);
        self.fresh.messages.push(Message {
            subject,
            sequence,
            payload: message.payload,
            end,
            time,
        });
        Ok(())
    }

    /// One that was sent before, perhaps lost since.
    fn earlier_message(&mut self) -> Option<(NewMessage, &'static str)> {
        if self.sent.is_empty() {
            return None;
        }
        let number = self.rng.random_range(0..self.sent.len());
        Some(self.sent[number].clone())
    }

    fn new_message(&mut self) -> (NewMessage, &'static str) {
        self.counter += 1;
        let name = SUBJECTS[self.rng.random_range(0..SUBJECTS.len())];
        let len = if self.rng.random_bool(0.1) {
            600
        } else {
            self.rng.random_range(1..120)
        };
        // Copies in a retry subject keep the payload of the original.
        let payload_subject = name.trim_start_matches("%RETRY%").trim_end_matches("%g1");
        let mut payload = vec![0; 17];
        put_str(&mut payload, payload_subject.as_bytes());
        put_str(&mut payload, self.counter.to_string().as_bytes());
        payload.put_i32(len);
        payload.extend((0..len).map(|_| self.rng.random::<u8>()));
        let crc = crc32fast::hash(&payload);
        let subject = Subject::new(name).unwrap();
        // Never in a retry subject.
        let fingerprint = (payload_subject == name)
            .then(|| self.store().reader.fingerprint(&payload))
            .flatten();
        let message = NewMessage {
            subject,
            payload: payload.into(),
            crc,
            fingerprint,
        };
        self.sent.push((message.clone(), name));
        (message, name)
    }

    /// Commits; now and then more is appended between the halves of it.
    fn commit(&mut self, needs: SyncNeeds) -> Checked {
        let waits = self.writer().begin_commit(needs).map_err(stopped)?;
        let begun = [self.fresh.messages.len(), self.fresh.actions.len()];
        if self.rng.random_bool(0.3) {
            if waits && self.rng.random_bool(0.7) {
                self.writer().start_sync().map_err(stopped)?;
            }
            self.append_messages()?;
        }
        let mut published = Vec::new();
        self.writer()
            .finish_commit(&mut published)
            .map_err(stopped)?;
        let distinct: HashSet<_> = published.iter().collect();
        ensure!(distinct.len() == published.len(), "a subject is told twice");
        [self.fresh.messages_acked, self.fresh.actions_acked] = begun;
        let reader = self.store().reader.clone();
        let is_visible = |message: &Message| {
            let id = reader.subject(message.subject);
            id.is_some_and(|id| reader.bounds(id).end.0 > message.sequence)
        };
        let (committed, later) = self.fresh.messages.split_at(begun[0]);
        ensure!(
            committed.last().is_none_or(is_visible),
            "a committed message is not visible"
        );
        ensure!(
            !later.first().is_some_and(is_visible),
            "a message is visible before its commit"
        );
        Ok(())
    }

    /// A consumer pulls; its first contact is durable before it is answered.
    fn consume(&mut self) -> Checked {
        let group = GROUPS[self.rng.random_range(0..GROUPS.len())];
        let broadcast = group == "broadcast";
        let key = self.consumer(group, broadcast);
        let subject = key.subject.as_str();
        let end = self.end_of(subject);
        let state = self.groups_now();
        let name = (subject.to_owned(), key.group.as_str().to_owned());
        let group = state.0.get(&name);
        let next = group.map_or(end, |group| group.next);
        let consumer = group.and_then(|group| group.consumers.get(key.consumer.as_str()));
        let Some(consumer) = consumer else {
            let first = if broadcast { next } else { 0 };
            let pulled = self.pull(key, broadcast, first..first, next..next);
            return pulled.and_then(|()| {
                self.commit(SyncNeeds {
                    actions: true,
                    messages: false,
                })
            });
        };
        let from = (next + i64::from(self.rng.random_bool(0.2))).min(end);
        let count = self.rng.random_range(0..5).min(end - from);
        let messages = from..from + count;
        let first = if broadcast { from } else { consumer.next_pull };
        self.pull(key, broadcast, first..first + count, messages)?;
        if self.rng.random_bool(0.9) {
            self.commit(SyncNeeds::default())?;
        }
        Ok(())
    }

    fn groups_now(&self) -> Groups {
        let mut state = self.groups.clone();
        self.fresh
            .actions
            .iter()
            .for_each(|(change, _)| state.take(change));
        state
    }

    /// Behind the last visible message of a subject.
    fn end_of(&mut self, subject: &str) -> i64 {
        let reader = &self.store().reader;
        reader
            .subject(subject)
            .map_or(0, |id| reader.bounds(id).end.0)
    }

    fn consumer(&mut self, group: &str, broadcast: bool) -> ConsumerKey {
        let subject = SUBJECTS[self.rng.random_range(0..2)];
        let consumer = format!("c{}", self.rng.random_range(0..2));
        // In broadcast each consumer is its own group.
        let group = if broadcast { &consumer } else { group };
        ConsumerKey {
            subject: Subject::new(subject).unwrap(),
            group: ConsumerGroup::new(group).unwrap(),
            consumer: ConsumerId::new(&consumer).unwrap(),
        }
    }

    fn pull(
        &mut self,
        key: ConsumerKey,
        broadcast: bool,
        pulls: Range<i64>,
        messages: Range<i64>,
    ) -> Checked {
        let time = self.clock.now();
        let name = [
            key.subject.as_str(),
            key.group.as_str(),
            key.consumer.as_str(),
        ];
        let [subject, group, consumer] = name.map(str::to_owned);
        let end = pulls.end;
        let is_stored = self.act(Action::Pull {
            key,
            time,
            broadcast,
            pulls,
            messages,
        })?;
        // The consumer is told after the commit.
        if !broadcast && is_stored {
            self.commit(SyncNeeds {
                actions: end == 0,
                messages: false,
            })?;
            let handed = self.handed.entry((subject, group, consumer)).or_default();
            *handed = end.max(*handed);
        }
        Ok(())
    }

    fn ack(&mut self) -> Checked {
        let group = GROUPS[self.rng.random_range(0..GROUPS.len())];
        let key = self.consumer(group, group == "broadcast");
        let time = self.clock.now();
        let name = (
            key.subject.as_str().to_owned(),
            key.group.as_str().to_owned(),
        );
        let group = self.groups.0.get(&name);
        let state = group.and_then(|group| group.consumers.get(key.consumer.as_str()));
        let first = state
            .and_then(|state| state.unacked.keys().next().copied())
            .unwrap_or(0);
        let first = first + self.rng.random_range(0..3);
        let pulls = first..first + self.rng.random_range(0..4);
        self.act(Action::Ack { key, time, pulls }).map(|_| ())
    }

    /// A consumer that never comes back under this id.
    fn leave(&mut self) -> Checked {
        let group = GROUPS[self.rng.random_range(0..2)];
        let mut key = self.consumer(group, false);
        key.consumer = ConsumerId::new(&format!("gone{}", self.counter)).unwrap();
        self.counter += 1;
        let time = self.clock.now();
        if self.rng.random_bool(0.5) {
            let name = (
                key.subject.as_str().to_owned(),
                key.group.as_str().to_owned(),
            );
            let next = self.groups_now().0.get(&name).map(|group| group.next);
            let next = next.unwrap_or_else(|| self.end_of(key.subject.as_str()));
            let (key, broadcast) = (key.clone(), false);
            let (pulls, messages) = (0..0, next..next);
            self.act(Action::Pull {
                key,
                time,
                broadcast,
                pulls,
                messages,
            })?;
        }
        self.act(Action::ForeverOffline { key, time }).map(|_| ())
    }

    /// Whether there was room for it.
    fn act(&mut self, action: Action) -> Checked<bool> {
        match self.writer().append_actions(std::slice::from_ref(&action)) {
            Err(AppendError::NoSpace) if self.is_full => {
                self.refused += 1;
                return Ok(false);
            }
            appended => appended.map_err(stopped)?,
        }
        let end = self.store().reader.positions(LogKind::Action).written;
        self.fresh.actions.push((Change::Action(action), end));
        Ok(true)
    }

    /// Somebody resets or forgets a group, which may not exist.
    fn control(&mut self) -> Checked {
        let group = GROUPS[self.rng.random_range(0..GROUPS.len())];
        let ConsumerKey { subject, group, .. } = self.consumer(group, group == "broadcast");
        let time = self.clock.now();
        let control = if self.rng.random_bool(0.3) {
            let of_it = |key: &(String, String, String)| {
                key.0 == subject.as_str() && key.1 == group.as_str()
            };
            // Whoever forgets a group does not mind its pull sequences.
            self.handed.retain(|key, _| !of_it(key));
            Control::ForgetGroup {
                subject,
                group,
                time,
            }
        } else {
            let end = self.end_of(subject.as_str());
            let name = (subject.as_str().to_owned(), group.as_str().to_owned());
            let reached = self.groups_now().0.get(&name).map_or(0, |group| group.next);
            let from = if self.controls == Controls::Forward {
                reached.min(end)
            } else {
                0
            };
            let next = MessageSequence(self.rng.random_range(from..=end));
            Control::Reset {
                subject,
                group,
                next,
                time,
            }
        };
        // It may survive a power cut before it is acknowledged.
        let change = Change::Control(control.clone());
        self.fresh.actions.push((change, u64::MAX));
        match self.writer().append_control(&control) {
            Err(AppendError::NoSpace) if self.is_full => {
                self.fresh.actions.pop();
                self.refused += 1;
                return Ok(());
            }
            appended => appended.map_err(stopped)?,
        }
        // A barrier: it is durable, and so is everything before it.
        let positions = self.store().reader.positions(LogKind::Action);
        ensure!(
            positions.durable == positions.written,
            "actions before a control are not durable"
        );
        let fresh = &mut self.fresh;
        fresh.actions.last_mut().expect("pushed above").1 = positions.durable;
        fresh.actions_acked = fresh.actions.len();
        Ok(())
    }

    fn pass_time(&mut self) -> Checked {
        let by = [1, 60, 150, 700, 61_000][self.rng.random_range(0..5)];
        self.clock.advance(Duration::from_millis(by));
        let now = self.clock.now();
        if self.commits_before_ticks {
            self.commit(SyncNeeds::default())?;
        }
        let wait = self.writer().tick(now).map_err(stopped)?;
        ensure!(
            wait != Some(Duration::ZERO),
            "tick wants to be called at once"
        );
        Ok(())
    }

    /// Reads a random message that is visible, from memory and from disk.
    fn look_around(&mut self) -> Checked {
        let visible = self.kept.len() + self.fresh.messages_acked;
        if visible == 0 {
            return Ok(());
        }
        let number = self.rng.random_range(0..visible);
        let mut all = self.kept.iter().chain(&self.fresh.messages);
        let message = all.nth(number).cloned().expect("below their number");
        let reader = self.store().reader.clone();
        let (subject, sequence) = (message.subject, message.sequence);
        let id = reader.subject(subject).expect("it was stored");
        let range = MessageSequence(sequence)..MessageSequence(sequence + 1);
        let mut located = Vec::new();
        match reader.locate_blocking(id, range, 1, usize::MAX, &mut located) {
            // A call that was told to fail, or the power is off.
            Err(ReadError::Index(error)) => return Err(stopped(error)),
            found => found.map_err(|error| Trouble::Broken(error.to_string()))?,
        };
        if located.is_empty() && self.may_be_gone(&message) {
            return Ok(());
        }
        ensure!(located.len() == 1, "{subject} {sequence} is not found");
        let read = match reader.read(&located[0]) {
            // A call that was told to fail, or the power is off.
            Err(ReadError::Io { source, .. }) => return Err(stopped(source)),
            read => read,
        };

        ensure!(
            read.as_ref()
                .is_ok_and(|payload| *payload == message.payload),
            "{subject} {sequence} reads as {read:?}"
        );
        let recent = reader.read_recent(&located[0]);
        ensure!(
            recent.is_none_or(|payload| payload == message.payload),
            "{subject} {sequence} differs in memory"
        );
        Ok(())
    }
}
