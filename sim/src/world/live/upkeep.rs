//! What time brings: dead consumers, lost acks, forgotten consumers and groups; and moves of groups.

use std::ops::Range;

use qmq_broker::shard::give_back::read_copies;
use qmq_broker::shard::{ResetTo, SubscriptionKey};
use qmq_model::message::property;
use qmq_model::{ConsumerId, Message, MessageSequence, Payload, UnixMillis};
use qmq_store::{Action, Control, NewMessage, SyncNeeds, Unacked};

use super::{Crashed, Live};
use crate::letter::Letter;
use crate::promises::owed::Move;
use crate::sabotage::Sabotage;
use crate::stream::{ConsumerKey, Queue, Stream};

/// Messages of one consumer on their way to the retry subject.
pub(super) struct Job {
    who: ConsumerKey,
    stage: Stage,
}

enum Stage {
    /// To be copied.
    Overdue(Vec<Unacked>),
    /// Copies are durable: to be acked on behalf of the consumer.
    Copied(Vec<Range<i64>>),
    /// Acked on behalf of the consumer, and not yet copied. Never so, but in sabotage.
    Acked(Vec<NewMessage>),
}

/// What one look came to.
#[derive(Debug, Default)]
pub(in crate::world) struct Looked {
    /// Consumers whose messages are to be copied because they were silent for too long.
    pub(in crate::world) dead: Vec<ConsumerKey>,
    /// Consumers that are forgotten.
    pub(in crate::world) forgotten: Vec<ConsumerKey>,
    /// Groups that nobody belongs to any more.
    pub(in crate::world) abandoned: Vec<Queue>,
}

/// Copies that are safe: where, and what they say.
pub(in crate::world) type Copied = Vec<(Stream, i64, Letter)>;

impl Live {
    /// Looks at every subscription for which it is time.
    pub(in crate::world) fn look(&mut self, now: UnixMillis) -> Looked {
        let mut looked = Looked::default();
        if self.frame.sabotage == Sabotage::NeverLook {
            return looked;
        }
        let due = self.queues.iter().filter(|(_, entry)| entry.look_at <= now);
        let due: Vec<Queue> = due.map(|(queue, _)| *queue).collect();
        for queue in due {
            self.hear_of_twin(queue, now);
            self.look_at(queue, now, &mut looked);
        }
        looked
    }

    fn look_at(&mut self, queue: Queue, now: UnixMillis, looked: &mut Looked) {
        let frame = self.frame.clone();
        let patience = &frame.patience;
        let Some(entry) = self.queues.get_mut(&queue) else {
            return;
        };
        let number = |consumer: &ConsumerId| frame.names.number_of(consumer);
        let forgotten = entry.rules.forget(now, patience);
        let mut forgotten: Vec<_> = forgotten.iter().filter_map(number).collect();
        forgotten.sort_unstable();
        let mut silent: Vec<_> = entry
            .rules
            .silent(now, patience)
            .filter_map(number)
            .collect();
        silent.sort_unstable();
        let overdue = entry.rules.overdue(now, patience).into_iter();
        let overdue = overdue.filter_map(|it| Some((number(&it.consumer)?, it.runs)));
        let mut overdue: Vec<_> = overdue.collect();
        // The rules name them in no order, and a run is to be repeated by its seed.
        overdue.sort_by_key(|(consumer, _)| *consumer);
        let is_abandoned = entry.giving_back.is_empty() && entry.rules.is_abandoned(now, patience);
        entry.look_at = entry.rules.look_again(now, patience);
        for (consumer, runs) in overdue {
            if entry.giving_back.insert(consumer) {
                let (who, stage) = ((queue, consumer), Stage::Overdue(runs));
                self.jobs.push(Job { who, stage });
            }
        }
        for consumer in forgotten {
            self.queued.push(Action::ForeverOffline {
                key: self.key((queue, consumer)),
                time: now,
            });
            looked.forgotten.push((queue, consumer));
        }
        looked
            .dead
            .extend(silent.into_iter().map(|consumer| (queue, consumer)));
        looked.abandoned.extend(is_abandoned.then_some(queue));
    }

    /// Who is alive in the retry subject is alive in the subject, and the reverse.
    fn hear_of_twin(&mut self, queue: Queue, now: UnixMillis) {
        let (Some(entry), Some(twin)) = (self.queues.get(&queue), self.queues.get(&queue.twin()))
        else {
            return;
        };
        let silent = entry.rules.silent(now, &self.frame.patience);
        let seen = silent.filter_map(|id| Some((id.clone(), twin.rules.last_seen(id)?)));
        let seen: Vec<_> = seen.collect();
        if let Some(entry) = self.queues.get_mut(&queue) {
            for (consumer, at) in seen {
                entry.rules.keep_alive(&consumer, at);
            }
        }
    }

    /// Consumers that hold messages of which nothing is being copied and that nobody looks at before
    /// `due`.
    pub(in crate::world) fn not_looked_at(&self, due: UnixMillis) -> Vec<ConsumerKey> {
        let queues = self.queues.iter();
        let later = queues.filter(|(_, it)| it.look_at > due && !it.rules.is_broadcast());
        let holders = later.flat_map(|(queue, entry)| {
            let consumers = entry.rules.consumers();
            let holding = consumers.filter(|(_, consumer)| consumer.unacked_count() > 0);
            let numbers = holding.filter_map(|(id, _)| self.frame.names.number_of(id));
            let idle = numbers.filter(|number| !entry.giving_back.contains(number));
            idle.map(|number| (*queue, number))
        });
        holders.collect()
    }

    /// How many consumers' messages are being copied.
    pub(in crate::world) fn job_count(&self) -> usize {
        self.jobs.len()
    }

    /// One of them goes a step further; returns copies that are safe with it.
    pub(in crate::world) fn go_on(
        &mut self,
        at: usize,
        now: UnixMillis,
    ) -> Result<Copied, Crashed> {
        let Job { who, stage } = self.jobs.swap_remove(at);
        match stage {
            Stage::Overdue(runs) => self.copy(who, &runs, now),
            Stage::Acked(batch) => self.store(&batch),
            Stage::Copied(done) => {
                self.ack_on_behalf(who, done, now);
                self.given_back(who);
                Ok(Copied::new())
            }
        }
    }

    fn copy(
        &mut self,
        who: ConsumerKey,
        runs: &[Unacked],
        now: UnixMillis,
    ) -> Result<Copied, Crashed> {
        let key = SubscriptionKey {
            subject: self.frame.names.subject(who.0.stream()).clone(),
            group: self.frame.names.group(who.0.group).clone(),
        };
        let mut copies = read_copies(&self.reader, &key, runs);
        match self.frame.sabotage {
            Sabotage::AckWithoutCopy => copies.batch.clear(),
            Sabotage::KeepTimes => copies.batch.iter_mut().for_each(count_down),
            Sabotage::AckBeforeCopy => {
                self.ack_on_behalf(who, copies.done, now);
                self.commit(SyncNeeds {
                    actions: true,
                    messages: false,
                })?;
                let stage = Stage::Acked(copies.batch);
                self.given_back(who);
                self.jobs.push(Job { who, stage });
                return Ok(Copied::new());
            }
            _ => {}
        }
        let copied = self.store(&copies.batch)?;
        let stage = Stage::Copied(copies.done);
        self.jobs.push(Job { who, stage });
        Ok(copied)
    }

    fn store(&mut self, batch: &[NewMessage]) -> Result<Copied, Crashed> {
        let sequences = self.send(batch)?;
        let copied = |(message, sequence): (&NewMessage, i64)| {
            let stream = self.frame.names.stream(&message.subject)?;
            Some((stream, sequence, Letter::read(&message.payload)?))
        };
        Ok(batch.iter().zip(sequences).filter_map(copied).collect())
    }

    fn ack_on_behalf(&mut self, who: ConsumerKey, done: Vec<Range<i64>>, now: UnixMillis) {
        let key = self.key(who);
        let id = self.frame.names.consumer(who.1);
        let Some(entry) = self.queues.get_mut(&who.0) else {
            return;
        };
        let held = done
            .into_iter()
            .filter(|pulls| entry.rules.pass_over(id, pulls));
        let ack = |pulls| Action::Ack {
            key: key.clone(),
            time: now,
            pulls,
        };
        self.queued.extend(held.map(ack));
    }

    fn given_back(&mut self, who: ConsumerKey) {
        if let Some(entry) = self.queues.get_mut(&who.0) {
            entry.giving_back.remove(&who.1);
        }
    }

    /// Where a group stands and would go on; `None` when its subject holds nothing.
    pub(in crate::world) fn plan_move(
        &mut self,
        queue: Queue,
        to: ResetTo,
        now: UnixMillis,
    ) -> Result<Option<Move>, Crashed> {
        let subject = self.frame.names.subject(queue.stream());
        let Some(id) = self.reader.subject(subject.as_str()) else {
            return Ok(None);
        };
        let bounds = self.reader.bounds(id);
        let to = match to {
            ResetTo::Latest => bounds.end,
            ResetTo::Earliest => bounds.start,
            ResetTo::Time(time) => self.reader.sequence_at(id, time).map_err(|_| Crashed)?,
        };
        self.enter(queue, false, now);
        let entry = self.queues.get(&queue).ok_or(Crashed)?;
        Ok(Some(Move {
            queue,
            from: entry.rules.next().0,
            to: to.0,
            broadcast: entry.rules.is_broadcast(),
        }))
    }

    /// Moves a group; it returns when that is durable.
    pub(in crate::world) fn move_group(
        &mut self,
        step: Move,
        now: UnixMillis,
    ) -> Result<(), Crashed> {
        let next = MessageSequence(step.to);
        let (subject, group) = self.names_of(step.queue);
        if self.frame.sabotage != Sabotage::ForgetMove {
            self.control(&Control::Reset {
                subject,
                group,
                next,
                time: now,
            })?;
        }
        if let Some(entry) = self.queues.get_mut(&step.queue) {
            entry.rules.reset(next);
        }
        Ok(())
    }

    /// Forgets a group; it returns when that is durable.
    pub(in crate::world) fn forget_group(
        &mut self,
        queue: Queue,
        now: UnixMillis,
    ) -> Result<(), Crashed> {
        let (subject, group) = self.names_of(queue);
        self.control(&Control::ForgetGroup {
            subject,
            group,
            time: now,
        })?;
        self.queues.remove(&queue);
        Ok(())
    }

    /// In order with the actions that are on their way.
    fn control(&mut self, control: &Control) -> Result<(), Crashed> {
        self.append_queued()?;
        self.writer.append_control(control).map_err(|_| Crashed)
    }

    fn names_of(&self, queue: Queue) -> (qmq_model::Subject, qmq_model::ConsumerGroup) {
        let names = &self.frame.names;
        let subject = names.subject(queue.stream()).clone();
        (subject, names.group(queue.group).clone())
    }
}

/// Takes the last delivery of a copy back: in sabotage only.
fn count_down(copy: &mut NewMessage) {
    let Ok((payload, _)) = Payload::split_first(&copy.payload) else {
        return;
    };
    let mut message = Message::from_payload(&payload);
    let times = message.times().saturating_sub(1);
    message.set_property(property::TIMES, times.to_string());
    let payload = message.to_payload().expect("a good message");
    copy.crc = crc_of(&payload);
    copy.payload = payload;
}

fn crc_of(payload: &[u8]) -> u32 {
    Payload::split_first(payload).map_or(0, |(payload, _)| payload.crc())
}
