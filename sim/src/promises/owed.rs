//! What a group is owed: from where on, what it was moved past, and whether it got it in the end.

use std::collections::{BTreeMap, HashSet};

use super::{Broken, GroupPromise, Kept, Promises, QueuePromise, is_in_its_place, promise};
use crate::letter::Letter;
use crate::letter::Wish;
use crate::stream::{GroupId, Queue, Stream};

/// Dead letters of all groups, as they stand in the store.
pub type DeadLetters = BTreeMap<GroupId, BTreeMap<i64, Letter>>;

/// A group is moved.
#[derive(Clone, Copy, Debug)]
pub struct Move {
    /// What it pulls from.
    pub queue: Queue,
    /// Where it was.
    pub from: i64,
    /// Where it goes on.
    pub to: i64,
    /// What consumers hold goes with the old position: pull sequences are message sequences.
    pub broadcast: bool,
}

impl Promises {
    /// A group was moved: it is owed everything from there on once more, and nothing of what it
    /// was moved past.
    pub fn moved(&mut self, step: Move) {
        self.perhaps_moved(step);
        let Move { queue, to, .. } = step;
        let group = self.groups.entry(queue.group).or_default();
        let stream = queue.stream();
        for (_, kept) in self.kept.range((stream, to)..=(stream, i64::MAX)) {
            group.finished.remove(&kept.letter.number);
            group.excused.remove(&kept.letter.number);
        }
        let state = self.queues.entry(queue).or_default();
        state.start = Some(state.start.map_or(to, |start| start.min(to)));
        state.moves.push((to, self.moment));
    }

    /// The power was cut while a group was moved: it stays where it was, or it does not.
    pub fn perhaps_moved(&mut self, step: Move) {
        self.moment += 1;
        let Move { queue, to, .. } = step;
        let from = if step.broadcast { 0 } else { step.from };
        let state = self.queues.entry(queue).or_default();
        let again = state.holder.range(to..).map(|(sequence, _)| *sequence);
        state.doubled.extend(again);
        if from >= to {
            return;
        }
        let group = self.groups.entry(queue.group).or_default();
        let stream = queue.stream();
        let passed = self.kept.range((stream, from)..(stream, to));
        let passed = passed.map(|(_, kept)| kept.letter.number);
        group.excused.extend(passed);
    }

    /// Where a group that is moved to `time` must at the latest go on: nothing that was stored then
    /// or later lies before.
    #[must_use]
    pub fn first_since(&self, stream: Stream, time: qmq_model::UnixMillis) -> i64 {
        let kept = self.kept.range((stream, i64::MIN)..=(stream, i64::MAX));
        let mut since = kept.filter(|(_, kept)| kept.stored >= time);
        since
            .next()
            .map_or(i64::MAX, |((_, sequence), _)| *sequence)
    }

    /// A group that nobody belongs to is forgotten, or perhaps is: it is owed nothing until it
    /// comes back.
    pub fn group_forgotten(&mut self, queue: Queue) {
        self.queues.remove(&queue);
    }

    /// Everything was pulled and acked until nothing came any more, and `dead` is what stands in
    /// the dead-letter subjects.
    ///
    /// # Errors
    /// When a group did not get a message that it was owed, or has a dead letter that is none.
    pub fn settle(&self, dead: &DeadLetters) -> Result<(), Broken> {
        for ((stream, sequence), kept) in &self.kept {
            let Stream::Dead(group) = stream else {
                continue;
            };
            let found = dead.get(group).and_then(|letters| letters.get(sequence));
            promise!(
                found == Some(&kept.letter),
                "dead letter {sequence} of {group:?} is {found:?} instead of {kept:?}"
            );
        }
        for (queue, state) in &self.queues {
            let none = BTreeMap::new();
            let dead = dead.get(&queue.group).unwrap_or(&none);
            self.has_its_messages(*queue, state, dead)?;
        }
        Ok(())
    }

    fn has_its_messages(
        &self,
        queue: Queue,
        state: &QueuePromise,
        dead: &BTreeMap<i64, Letter>,
    ) -> Result<(), Broken> {
        let (none, stream) = (GroupPromise::default(), queue.stream());
        let group = self.groups.get(&queue.group).unwrap_or(&none);
        for letter in dead.values() {
            promise!(
                letter.is_dead()
                    && is_in_its_place(Stream::Dead(queue.group), *letter, &group.handed),
                "{letter:?} of {queue:?} is no dead letter"
            );
        }
        let dead: HashSet<u64> = dead.values().map(|letter| letter.number).collect();
        let Some(start) = state.start else {
            return Ok(());
        };
        for ((_, sequence), kept) in self.kept.range((stream, start)..=(stream, i64::MAX)) {
            let number = kept.letter.number;
            let is_settled = group.finished.contains(&number)
                || group.excused.contains(&number)
                || dead.contains(&number);
            promise!(
                is_settled || !group.always_wanted(kept, state.owed_since(*sequence, kept)),
                "{queue:?} never got {sequence}, {kept:?}; it started at {start}"
            );
        }
        Ok(())
    }
}

impl QueuePromise {
    /// From which moment on the group was owed a message: since it was there, or since the group
    /// was moved to it or before it.
    fn owed_since(&self, sequence: i64, kept: &Kept) -> u64 {
        let moves = self.moves.iter().filter(|(to, _)| *to <= sequence);
        moves.fold(kept.moment, |since, (_, moment)| since.max(*moment))
    }
}

impl GroupPromise {
    /// Whether nobody of the group pulled with another wish since then: the message was not passed
    /// over because one consumer did not want it.
    fn always_wanted(&self, kept: &Kept, since: u64) -> bool {
        let used = |wish: &usize| self.wishes[*wish].is_some_and(|last| last >= since);
        let mut used = (0..Wish::COUNT).filter(used).map(Wish);
        used.all(|wish| wish.wants(kept.letter))
    }
}
