//! What one pull gets: from the rules' offer to the positions of messages.
//!
//! Shared by the shards and the simulator, so that what is tested is what runs.

use std::ops::Range;

use qmq_model::{MessageSequence, PullSequence, Subject};
use qmq_store::{Located, StoreReader, SubjectId, Unacked};

use crate::subscription::{Offer, PullAction, PullState, Subscription};

/// What may be handed out.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Unacked messages one consumer may hold.
    pub unacked_max: u64,
    /// Record bytes of one reply; a single larger message is still delivered.
    pub reply_bytes_max: usize,
}

/// Share of a connection's outbox that one reply may fill: a client has one connection for all its
/// subjects, so several replies can be on their way at once.
const OUTBOX_SHARE: usize = 8;

impl Limits {
    /// These limits for a connection whose outbox still takes `room` bytes.
    #[must_use]
    pub fn within(self, room: usize) -> Self {
        Self {
            reply_bytes_max: self.reply_bytes_max.min(room / OUTBOX_SHARE),
            ..self
        }
    }
}

/// What a pull gets, and what has to be written down for it.
#[derive(Debug, Default)]
pub struct Portion {
    /// Pull sequence of the first message; the others follow without a gap.
    pub first: PullSequence,
    /// The messages, in order.
    pub located: Vec<Located>,
    /// To be written down before the messages leave, in order.
    pub actions: Vec<PullAction>,
}

/// Messages of a subject that may be handed out now.
#[must_use]
pub fn kept(reader: &StoreReader, subject: &Subject) -> Range<i64> {
    reader
        .subject(subject.as_str())
        .map_or(0..0, |id| bounds(reader, id))
}

fn bounds(reader: &StoreReader, id: SubjectId) -> Range<i64> {
    let Range { start, end } = reader.bounds(id);
    start.0..end.0
}

/// What `pull` gets now: what it has not acked, or else new messages.
#[must_use]
pub fn portion(
    rules: &mut Subscription,
    pull: PullState<'_>,
    reader: &StoreReader,
    id: Option<SubjectId>,
    limits: Limits,
) -> Portion {
    let mut found = Portion::default();
    let Some(id) = id else { return found };
    let kept = bounds(reader, id);
    loop {
        match rules.offer(pull, &kept, limits.unacked_max) {
            Offer::Nothing => return found,
            Offer::Again(runs) => {
                if let Some(first) = locate_again(reader, id, &runs, limits, &mut found.located) {
                    found.first = first;
                    return found;
                }
                // None of these can be delivered any more: they expired or are quarantined.
                let end = runs.last().map_or(0, |run| run.pull + run.count);
                rules.pass_over(pull.consumer, &(runs[0].pull..end));
            }
            Offer::New(range) => {
                let max = limits.reply_bytes_max;
                let wanted = MessageSequence(range.start)..MessageSequence(range.end);
                reader.locate(id, wanted, pull.count, max, &mut found.located);
                if rules.is_broadcast() {
                    keep_first_run(&mut found.located);
                }
                let runs = runs_of(&found.located);
                let until = runs.last().map_or(range.end, |run| run.end);
                let (first, actions) = rules.hand_out(pull.consumer, &runs, until);
                found.first = first;
                found.actions.extend(actions);
                if !runs.is_empty() {
                    return found;
                }
            }
        }
    }
}

/// Finds the messages of `runs` that are still there, from the first such one to the next gap.
fn locate_again(
    reader: &StoreReader,
    id: SubjectId,
    runs: &[Unacked],
    limits: Limits,
    located: &mut Vec<Located>,
) -> Option<PullSequence> {
    let mut first = None;
    let mut expected = 0;
    let mut bytes = 0;
    for run in runs {
        let wanted = MessageSequence(run.message)..MessageSequence(run.message + run.count);
        let mut found = Vec::new();
        let left = limits.reply_bytes_max.saturating_sub(bytes);
        if first.is_some() && left == 0 {
            break;
        }
        let count = usize::try_from(run.count).unwrap_or(0);
        reader.locate(id, wanted, count, left, &mut found);
        for message in found {
            let pull = run.pull + (message.sequence.0 - run.message);
            if first.is_some() && pull != expected {
                return first;
            }
            first.get_or_insert(PullSequence(pull));
            expected = pull + 1;
            bytes += message.bytes as usize;
            located.push(message);
        }
    }
    first
}

/// Consecutive sequences of `located`, which ascend.
fn runs_of(located: &[Located]) -> Vec<Range<i64>> {
    let mut runs: Vec<Range<i64>> = Vec::new();
    for message in located {
        let sequence = message.sequence.0;
        match runs.last_mut().filter(|run| run.end == sequence) {
            Some(run) => run.end += 1,
            None => runs.push(sequence..sequence + 1),
        }
    }
    runs
}

fn keep_first_run(located: &mut Vec<Located>) {
    let gap = located
        .windows(2)
        .position(|pair| pair[0].sequence.0 + 1 != pair[1].sequence.0);
    if let Some(gap) = gap {
        located.truncate(gap + 1);
    }
}
