//! What users were promised, as plainly as it can be written down.

pub mod owed;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use qmq_model::UnixMillis;

use crate::letter::{Letter, Wish};
use crate::stream::{ConsumerKey, GroupId, Queue, Stream};

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("promise broken: {0}")]
pub struct Broken(pub String);

/// Fails with a description unless the condition holds.
macro_rules! promise {
    ($holds:expr, $($words:tt)+) => {
        if !$holds {
            return Err(Broken(format!($($words)+)));
        }
    };
}
use promise;

/// One message on its way to a consumer.
#[derive(Clone, Copy, Debug)]
pub struct Delivered {
    /// Its message sequence.
    pub sequence: i64,
    /// The pull sequence it was given.
    pub pull: i64,
    /// What it says.
    pub letter: Letter,
    /// When it was stored.
    pub stored: UnixMillis,
}

/// Who asks, and for what.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The consumer.
    pub who: ConsumerKey,
    /// Pull sequences are to be message sequences.
    pub broadcast: bool,
    /// What it wants.
    pub wish: Wish,
    /// When.
    pub now: UnixMillis,
}

/// What became of a message that a consumer acked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was dealt with.
    Finished,
    /// A copy for later was stored.
    Failed,
}

/// A message that was acknowledged to whoever sent it.
#[derive(Clone, Copy, Debug)]
struct Kept {
    letter: Letter,
    stored: UnixMillis,
    moment: u64,
}

/// The record of everything that was promised.
#[derive(Debug)]
pub struct Promises {
    /// How old messages of retry subjects are when they are handed out.
    retry_delay: Duration,
    kept: BTreeMap<(Stream, i64), Kept>,
    /// Every message ever handed to a consumer.
    seen: BTreeMap<(Stream, i64), Letter>,
    queues: BTreeMap<Queue, QueuePromise>,
    groups: HashMap<GroupId, GroupPromise>,
    /// What each pull sequence stood for, over all crashes.
    pulls: BTreeMap<(ConsumerKey, i64), i64>,
    /// Consumers that were forgotten since they started last.
    forgotten: HashSet<ConsumerKey>,
    /// Counts crashes: a message may come again to somebody else after one.
    life: u64,
    /// Counts everything that happens.
    moment: u64,
}

#[derive(Debug, Default)]
struct QueuePromise {
    /// First message owed. `None`: nothing is.
    start: Option<i64>,
    /// Who was handed a message last, and in which life.
    holder: BTreeMap<i64, (usize, u64)>,
    /// Confirmed in this life, so nobody may see them again before a crash.
    done_now: BTreeSet<i64>,
    /// Handed out before the group was moved back to them: several consumers may hold them.
    doubled: BTreeSet<i64>,
    /// Where the group was moved to, and at which moment.
    moves: Vec<(i64, u64)>,
}

#[derive(Debug, Default)]
struct GroupPromise {
    /// Numbers of messages that a consumer dealt with.
    finished: HashSet<u64>,
    /// Numbers of messages that the group was moved past.
    excused: HashSet<u64>,
    handed: HashSet<Letter>,
    /// When each wish was pulled with last.
    wishes: [Option<u64>; Wish::COUNT],
}

impl Promises {
    /// Nothing is promised yet, but that messages of retry subjects wait for `retry_delay`.
    #[must_use]
    pub fn new(retry_delay: Duration) -> Self {
        Self {
            retry_delay,
            kept: BTreeMap::new(),
            seen: BTreeMap::new(),
            queues: BTreeMap::new(),
            groups: HashMap::new(),
            pulls: BTreeMap::new(),
            forgotten: HashSet::new(),
            life: 0,
            moment: 0,
        }
    }

    /// The broker acknowledged a message, or says that a copy of its own is safe.
    ///
    /// # Errors
    /// When its sequence was given to another acknowledged or delivered message.
    pub fn acknowledged(
        &mut self,
        stream: Stream,
        sequence: i64,
        letter: Letter,
        stored: UnixMillis,
    ) -> Result<(), Broken> {
        self.moment += 1;
        let kept = Kept {
            letter,
            stored,
            moment: self.moment,
        };
        let key = (stream, sequence);
        let before = self.kept.insert(key, kept).map(|before| before.letter);
        let before = before.or_else(|| self.seen.get(&key).copied());
        promise!(
            before.is_none_or(|before| before == letter),
            "sequence {sequence} of {stream:?} was handed out twice"
        );
        Ok(())
    }

    /// A first contact was answered: the group is owed everything from `start` on.
    pub fn joined(&mut self, queue: Queue, start: i64) {
        let queue = self.queues.entry(queue).or_default();
        queue.start.get_or_insert(start);
    }

    /// A consumer asks for messages: what it does not want may be passed over for its group.
    pub fn asked(&mut self, asked: &Asked) {
        self.moment += 1;
        let group = self.groups.entry(asked.who.0.group).or_default();
        group.wishes[asked.wish.0] = Some(self.moment);
    }

    /// A message reached a consumer.
    ///
    /// # Errors
    /// When it is not what was stored, was not wanted, came early, belongs to somebody else, was
    /// confirmed, or its pull sequence stood for another message.
    pub fn delivered(&mut self, asked: &Asked, message: Delivered) -> Result<(), Broken> {
        self.is_as_stored(asked, &message)?;
        let Delivered { sequence, pull, .. } = message;
        let Asked { who, broadcast, .. } = *asked;
        promise!(
            asked.wish.wants(message.letter),
            "{who:?} did not want {message:?}"
        );
        promise!(
            !broadcast || pull == sequence,
            "broadcast gave {who:?} {message:?}"
        );
        let earlier = *self.pulls.entry((who, pull)).or_insert(sequence);
        promise!(
            earlier == sequence,
            "pull sequence {pull} of {who:?} stands for {earlier} and for {sequence}"
        );
        let life = self.life;
        let queue = self.queues.entry(who.0).or_default();
        let holder = queue.holder.insert(sequence, (who.1, life));
        if queue.doubled.contains(&sequence) {
            return Ok(());
        }
        promise!(
            !queue.done_now.contains(&sequence),
            "{sequence} came to {who:?} again although it was confirmed"
        );
        promise!(
            holder.is_none_or(|(holder, when)| holder == who.1 || when != life),
            "{sequence} came to {who:?} while {holder:?} held it"
        );
        Ok(())
    }

    /// Whether the message is what was stored there, and may be there.
    fn is_as_stored(&mut self, asked: &Asked, message: &Delivered) -> Result<(), Broken> {
        let Delivered {
            sequence, letter, ..
        } = *message;
        let stream = asked.who.0.stream();
        let key = (stream, sequence);
        let kept = self.kept.get(&key);
        let seen = self.seen.insert(key, letter);
        for known in [kept.map(|kept| kept.letter), seen].into_iter().flatten() {
            promise!(
                known == letter,
                "{key:?} holds {letter:?} instead of {known:?}"
            );
        }
        promise!(
            kept.is_none_or(|kept| kept.stored == message.stored),
            "{message:?} was stored at another time: {kept:?}"
        );
        let group = self.groups.entry(asked.who.0.group).or_default();
        if asked.who.0.is_retry {
            promise!(
                asked.now.since(message.stored) >= self.retry_delay,
                "{message:?} came early, at {}",
                asked.now
            );
            promise!(!letter.is_dead(), "{letter:?} is no dead letter");
        }
        promise!(
            is_in_its_place(stream, letter, &group.handed),
            "nobody failed what {letter:?} in {stream:?} is a copy of"
        );
        group.handed.insert(letter);
        Ok(())
    }

    /// The broker confirmed an ack of these messages.
    pub fn confirmed(
        &mut self,
        queue: Queue,
        sequences: impl IntoIterator<Item = i64>,
        outcome: Outcome,
    ) {
        let sequences: Vec<i64> = sequences.into_iter().collect();
        let done = &mut self.queues.entry(queue).or_default().done_now;
        done.extend(&sequences);
        self.perhaps_confirmed(queue, sequences, outcome);
    }

    /// A consumer acked these messages and the broker died before it answered.
    pub fn perhaps_confirmed(
        &mut self,
        queue: Queue,
        sequences: impl IntoIterator<Item = i64>,
        outcome: Outcome,
    ) {
        if outcome == Outcome::Failed {
            return; // The copy is owed instead.
        }
        let seen = &self.seen;
        let letters = sequences
            .into_iter()
            .filter_map(|sequence| seen.get(&(queue.stream(), sequence)));
        let group = self.groups.entry(queue.group).or_default();
        group.finished.extend(letters.map(|letter| letter.number));
    }

    /// The broker forgot a consumer that was silent for long. It starts anew; but if it lives, the
    /// numbers up to `received`, which it knows, must not come back.
    pub fn consumer_forgotten(&mut self, who: ConsumerKey, received: i64) {
        self.forgotten.insert(who);
        self.forget_pulls(who, received);
    }

    fn forget_pulls(&mut self, who: ConsumerKey, received: i64) {
        let beyond = (who, received.saturating_add(1))..(who, i64::MAX);
        self.pulls.extract_if(beyond, |_, _| true).for_each(drop);
    }

    /// A consumer starts again and knows no numbers. If the broker does not know it either, all of
    /// them may come back.
    pub fn consumer_restarted(&mut self, who: ConsumerKey) {
        if self.forgotten.remove(&who) {
            self.forget_pulls(who, -1);
        }
    }

    /// The broker lost what was not synced: acks may be forgotten, messages may change hands.
    pub fn power_cut(&mut self) {
        self.life += 1;
        self.queues
            .values_mut()
            .for_each(|queue| queue.done_now.clear());
    }

    /// The process died and the machine did not: confirmed stays confirmed.
    pub fn killed(&mut self) {
        self.life += 1;
    }

    /// How many messages were acknowledged.
    #[must_use]
    pub fn acknowledged_count(&self) -> usize {
        self.kept.len()
    }
}

/// A copy counts one delivery more than what somebody was handed, and no other stands there.
fn is_in_its_place(stream: Stream, letter: Letter, handed: &HashSet<Letter>) -> bool {
    if let Stream::Real(_) = stream {
        return letter.times == 1;
    }
    let before = Letter {
        times: letter.times - 1,
        ..letter
    };
    letter.times > 1 && handed.contains(&before)
}

#[cfg(test)]
mod tests;
