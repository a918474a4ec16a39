//! A pull, from its first contact to the messages: what a shard and the deliverer do.

use std::time::Duration;

use qmq_broker::filter::Filter;
use qmq_broker::portion::{Limits, Portion, Question, Verdicts, Wait, kept, portion};
use qmq_broker::subscription::{PullState, StartAt, Subscription};
use qmq_model::UnixMillis;
use qmq_store::{Action, Located, SubjectId, SyncNeeds};

use super::{Crashed, Entry, Live};
use crate::letter::{Letter, Wish};
use crate::promises::{Asked, Delivered};
use crate::sabotage::Sabotage;
use crate::stream::Queue;

/// Rounds after which a pull that waits for its own disk goes round in circles.
const ROUNDS_MAX: usize = 1_000;

#[derive(Clone, Copy)]
pub(in crate::world) struct Pull {
    pub(in crate::world) asked: Asked,
    pub(in crate::world) pull_last: i64,
    pub(in crate::world) count: usize,
    /// It claims that its group is a broadcast when it is none, or the reverse.
    pub(in crate::world) is_mistaken: bool,
    pub(in crate::world) limits: Limits,
}

#[derive(Default)]
pub(in crate::world) struct Reply {
    /// Where the group starts, when this pull recorded it.
    pub(in crate::world) joined: Option<i64>,
    pub(in crate::world) messages: Vec<Delivered>,
    /// Nothing came, and the next message falls due then.
    pub(in crate::world) until: Option<UnixMillis>,
    /// Nothing came, and what is missing was promised without end.
    pub(in crate::world) is_lost: bool,
}

impl Live {
    pub(in crate::world) fn pull(&mut self, pull: &Pull) -> Result<Reply, Crashed> {
        let mut reply = Reply {
            joined: self.meet(pull)?,
            ..Reply::default()
        };
        let queue = pull.asked.who.0;
        let subject = self.frame.names.subject(queue.stream());
        let id = self.reader.subject(subject.as_str());
        let mut verdicts = Verdicts::new();
        for _ in 0..ROUNDS_MAX {
            let found = self.portion(pull, id, &verdicts)?;
            self.queue_actions(pull, &found);
            if !found.located.is_empty() {
                reply.messages = self.read(&found)?;
                return Ok(reply);
            }
            match (found.wait, id) {
                (None, _) | (_, None) => return Ok(reply),
                (Some(Wait::Until(due)), _) => {
                    reply.until = Some(due);
                    return Ok(reply);
                }
                (Some(Wait::Turn), _) => {}
                (Some(Wait::Index(sequence)), Some(id)) => {
                    let loaded = self.reader.load_index(id, sequence);
                    loaded.map_err(|_| Crashed)?;
                    verdicts.clear();
                }
                (Some(Wait::Payloads(located)), _) => {
                    verdicts = self.read_ahead(&located, pull)?;
                }
            }
        }
        reply.is_lost = true;
        Ok(reply)
    }

    /// Writes down a first contact. Says where the group stands when it did.
    fn meet(&mut self, pull: &Pull) -> Result<Option<i64>, Crashed> {
        let Asked {
            who,
            broadcast,
            now,
            ..
        } = pull.asked;
        self.enter(who.0, broadcast, now);
        let id = self.frame.names.consumer(who.1);
        let entry = self.queues.get_mut(&who.0).ok_or(Crashed)?;
        let met = entry.rules.meet(state(id, pull), now);
        let next = entry.rules.next().0;
        let Some(action) = met else { return Ok(None) };
        let dead = now.plus(self.frame.patience.dead_after);
        entry.look_at = entry.look_at.min(dead);
        self.queue_pull(pull, action);
        self.commit(SyncNeeds {
            actions: self.frame.sabotage != Sabotage::ForgetFirstContact,
            messages: false,
        })?;
        Ok(Some(next))
    }

    /// A subscription that nobody knew before.
    pub(super) fn enter(&mut self, queue: Queue, broadcast: bool, now: UnixMillis) {
        let kept = kept(&self.reader, self.frame.names.subject(queue.stream()));
        let start = if queue.is_retry {
            StartAt::Earliest
        } else {
            StartAt::Latest
        };
        self.queues.entry(queue).or_insert_with(|| {
            let rules = Subscription::first_contact(start, &kept, broadcast, now);
            Entry::new(rules, &self.frame, now)
        });
    }

    fn portion(
        &mut self,
        pull: &Pull,
        id: Option<SubjectId>,
        verdicts: &Verdicts,
    ) -> Result<Portion, Crashed> {
        let frame = self.frame.clone();
        let Asked { who, now, .. } = pull.asked;
        let delay = if who.0.is_retry && frame.sabotage != Sabotage::ForgetDelay {
            frame.retry_delay
        } else {
            Duration::ZERO
        };
        let entry = self.queues.get_mut(&who.0).ok_or(Crashed)?;
        let question = Question {
            pull: state(frame.names.consumer(who.1), pull),
            filter: self.frame.filter(pull),
            verdicts,
            delay,
            now,
            limits: pull.limits,
        };
        Ok(portion(&mut entry.rules, &question, &self.reader, id))
    }

    fn queue_actions(&mut self, pull: &Pull, found: &Portion) {
        for pulls in found.dropped.iter().cloned() {
            self.queued.push(Action::Ack {
                key: self.key(pull.asked.who),
                time: pull.asked.now,
                pulls,
            });
        }
        for action in found.actions.iter().cloned() {
            self.queue_pull(pull, action);
        }
    }

    fn read(&self, found: &Portion) -> Result<Vec<Delivered>, Crashed> {
        let read = |(at, pull): (&Located, i64)| {
            let payload = self.reader.read(at).map_err(|_| Crashed)?;
            // Nothing was ever sent with this number: the promises tell what it should have been.
            let letter = Letter::read(&payload).unwrap_or(Letter::first(u64::MAX - 1));
            Ok(Delivered {
                sequence: at.sequence.0,
                pull,
                letter,
                stored: at.time,
            })
        };
        found
            .located
            .iter()
            .zip(found.first.0..)
            .map(read)
            .collect()
    }

    fn read_ahead(&self, located: &[Located], pull: &Pull) -> Result<Verdicts, Crashed> {
        let filter = self.frame.filter(pull);
        let verdict = |at: &Located| {
            let payload = self.reader.read(at).map_err(|_| Crashed)?;
            let matches = filter.is_none_or(|filter| filter.matches(&payload));
            Ok((at.sequence.0, matches))
        };
        located.iter().map(verdict).collect()
    }
}

impl super::Frame {
    fn filter(&self, pull: &Pull) -> Option<&Filter> {
        let now_and_then = pull.count == 1;
        let wish = match self.sabotage {
            Sabotage::LetThrough if now_and_then => Wish::default(),
            Sabotage::PassOver if now_and_then => Wish::NOTHING,
            _ => pull.asked.wish,
        };
        self.filters[wish.0].as_ref()
    }
}

fn state<'a>(consumer: &'a qmq_model::ConsumerId, pull: &Pull) -> PullState<'a> {
    PullState {
        consumer,
        pull_last: pull.pull_last,
        count: pull.count,
        broadcast: pull.asked.broadcast != pull.is_mistaken,
    }
}
