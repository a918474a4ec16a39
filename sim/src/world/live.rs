//! A running broker: the store, the rules, and what a shard and the writer do between them.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use qmq_broker::portion::{Limits, Question, Verdicts, kept, portion};
use qmq_broker::subscription::{PullAction, PullState, StartAt, Subscription};
use qmq_model::{Clock, Payload, UnixMillis};
use qmq_store::fs::faulty::FaultyFs;
use qmq_store::{
    Action, ConsumerKey as StoreKey, Error, NewMessage, Opened, Progress, RealtimeStore,
    StoreConfig, StoreReader, StoreWriter, SyncNeeds,
};

use super::{Settings, consumer, group, subject};
use crate::promises::{ConsumerKey, Delivered, GroupId};
use crate::sabotage::Sabotage;

/// By how much the store raises pull sequences after an unclean stop.
const JUMP: i64 = 1 << 20;

/// The call did not come to its end: the power was cut, or the store refuses to go on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crashed;

pub(super) struct Live {
    writer: StoreWriter,
    reader: StoreReader,
    groups: HashMap<GroupId, Subscription>,
    /// Actions on their way to the writer. Replies do not wait for them.
    queued: Vec<Action>,
}

pub(super) struct Pull {
    pub(super) who: ConsumerKey,
    pub(super) broadcast: bool,
    pub(super) pull_last: i64,
    pub(super) count: usize,
    pub(super) limits: Limits,
    pub(super) now: UnixMillis,
}

#[derive(Default)]
pub(super) struct Reply {
    /// Where the group starts, when this pull recorded it.
    pub(super) joined: Option<i64>,
    pub(super) messages: Vec<Delivered>,
}

impl Live {
    pub(super) fn open(
        fs: Arc<FaultyFs>,
        config: StoreConfig,
        clock: Arc<dyn Clock>,
        settings: &Settings,
    ) -> Result<Self, Error> {
        let now = clock.now();
        let opened = RealtimeStore::open(fs, Path::new("/store"), config, clock)?;
        let Opened {
            writer,
            reader,
            progress,
            ..
        } = opened;
        let groups = restore(&progress, settings, now);
        Ok(Self {
            writer,
            reader,
            groups,
            queued: Vec::new(),
        })
    }

    /// Sends messages; returns their sequences once they are acknowledged.
    pub(super) fn send(&mut self, messages: &[NewMessage]) -> Result<Vec<i64>, Crashed> {
        let mut placed = Vec::new();
        self.writer
            .append_messages(messages, &mut placed)
            .map_err(|_| Crashed)?;
        self.commit(false)?;
        Ok(placed.iter().map(|placed| placed.sequence.0).collect())
    }

    pub(super) fn pull(&mut self, pull: &Pull, sabotage: Sabotage) -> Result<Reply, Crashed> {
        let ((subject_number, group_number), consumer_number) = pull.who;
        let subject = subject(subject_number);
        let id = consumer(consumer_number);
        let state = PullState {
            consumer: &id,
            pull_last: pull.pull_last,
            count: pull.count,
        };
        let kept = kept(&self.reader, &subject);
        let first =
            || Subscription::first_contact(StartAt::Latest, &kept, pull.broadcast, pull.now);
        let rules = self.groups.entry(pull.who.0).or_insert_with(first);
        let mut reply = Reply::default();
        let met = rules.meet(state, pull.now);
        let next = rules.next().0;
        if let Some(action) = met {
            self.queue(pull, action);
            self.commit(sabotage != Sabotage::ForgetFirstContact)?;
            reply.joined = Some(next);
        }
        let rules = self
            .groups
            .get_mut(&(subject_number, group_number))
            .ok_or(Crashed)?;
        let subject_id = self.reader.subject(subject.as_str());
        let question = Question {
            pull: state,
            filter: None,
            verdicts: &Verdicts::new(),
            delay: Duration::ZERO,
            now: pull.now,
            limits: pull.limits,
        };
        let found = portion(rules, &question, &self.reader, subject_id);
        for action in found.actions {
            self.queue(pull, action);
        }
        for (at, number) in found.located.iter().zip(found.first.0..) {
            let payload = self.reader.read(at).map_err(|_| Crashed)?;
            let content = content(&payload);
            reply.messages.push(Delivered {
                sequence: at.sequence.0,
                pull: number,
                content,
            });
        }
        Ok(reply)
    }

    /// Acks; returns what it confirmed: pull sequences and the messages they stand for.
    pub(super) fn ack(
        &mut self,
        who: ConsumerKey,
        pulls: &Range<i64>,
        now: UnixMillis,
    ) -> Result<Vec<(i64, i64)>, Crashed> {
        let id = consumer(who.1);
        let Some(rules) = self.groups.get_mut(&who.0) else {
            return Ok(Vec::new());
        };
        let held = rules
            .unacked(&id)
            .flat_map(|run| (0..run.count).map(|i| (run.pull + i, run.message + i)));
        let confirmed: Vec<_> = held.filter(|(pull, _)| pulls.contains(pull)).collect();
        let Some(pulls) = rules.ack(&id, pulls, now) else {
            return Ok(Vec::new());
        };
        self.queued.push(Action::Ack {
            key: key(who),
            time: now,
            pulls,
        });
        self.commit(false)?;
        Ok(confirmed)
    }

    /// A sign of life: it confirms nothing.
    pub(super) fn keep_alive(&mut self, who: ConsumerKey, now: UnixMillis) {
        if let Some(rules) = self.groups.get_mut(&who.0) {
            rules.keep_alive(&consumer(who.1), now);
        }
    }

    pub(super) fn next_pull(&self, who: ConsumerKey) -> i64 {
        let next = self
            .groups
            .get(&who.0)
            .and_then(|rules| rules.next_pull(&consumer(who.1)));
        next.map_or(0, |next| next.0)
    }

    /// The writer gets to its queue.
    pub(super) fn flush(&mut self) -> Result<(), Crashed> {
        self.commit(false)
    }

    pub(super) fn tick(&mut self, now: UnixMillis) -> Result<(), Crashed> {
        self.writer.tick(now).map(drop).map_err(|_| Crashed)
    }

    pub(super) fn close(mut self) -> Result<(), Crashed> {
        self.commit(false)?;
        self.writer.close().map_err(|_| Crashed)
    }

    fn queue(&mut self, pull: &Pull, action: PullAction) {
        let PullAction { pulls, messages } = action;
        let (key, time, broadcast) = (key(pull.who), pull.now, pull.broadcast);
        self.queued.push(Action::Pull {
            key,
            time,
            broadcast,
            pulls,
            messages,
        });
    }

    fn commit(&mut self, actions: bool) -> Result<(), Crashed> {
        if !self.queued.is_empty() {
            self.writer
                .append_actions(&self.queued)
                .map_err(|_| Crashed)?;
            self.queued.clear();
        }
        let needs = SyncNeeds {
            actions,
            messages: false,
        };
        self.writer
            .commit(needs, &mut Vec::new())
            .map_err(|_| Crashed)
    }
}

fn restore(
    progress: &Progress,
    settings: &Settings,
    now: UnixMillis,
) -> HashMap<GroupId, Subscription> {
    let mut groups = HashMap::new();
    for number in settings.all_groups() {
        let names = (subject(number.0), group(number.1));
        let found = progress
            .groups()
            .find(|(s, g, _)| (*s, *g) == (&names.0, &names.1));
        let Some((_, _, state)) = found else { continue };
        let mut state = state.clone();
        if settings.sabotage == Sabotage::ReusePullSequences {
            for consumer in state
                .consumers
                .values_mut()
                .filter(|c| c.next_pull.0 >= JUMP)
            {
                consumer.next_pull.0 -= JUMP;
            }
        }
        groups.insert(number, Subscription::restore(&state, now));
    }
    groups
}

fn key(who: ConsumerKey) -> StoreKey {
    let ((subject_number, group_number), consumer_number) = who;
    StoreKey {
        subject: subject(subject_number),
        group: group(group_number),
        consumer: consumer(consumer_number),
    }
}

/// What the body of a message says.
fn content(payload: &[u8]) -> u64 {
    let parsed = Payload::split_first(payload)
        .ok()
        .map(|(payload, _)| payload);
    let value = parsed.and_then(|payload| payload.property(b"content").map(<[u8]>::to_vec));
    let value = value.and_then(|value| String::from_utf8(value).ok());
    value
        .and_then(|value| value.parse().ok())
        .unwrap_or(u64::MAX)
}
