//! What one pull gets: from the rules' offer to the positions of messages.
//!
//! Shared by the shards and the simulator, so that what is tested is what runs. Nothing here waits
//! for a disk: what has to be read first is named, and the same question is asked again later.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use qmq_model::{MessageSequence, PullSequence, Subject, UnixMillis};
use qmq_store::{Located, StoreReader, SubjectId, Unacked};

use crate::filter::Filter;
use crate::subscription::{Offer, PullAction, PullState, Subscription};

/// Index entries a filter looks at before other subscriptions get their turn.
pub const SCAN_MAX: usize = 4096;
/// Messages that are read ahead for a filter at a time.
pub const READ_AHEAD_MAX: usize = 256;
/// Offers one question may go through before others get their turn.
const ROUNDS_MAX: usize = 64;

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

/// Which of the messages that were read ahead a filter wants, by message sequence.
pub type Verdicts = HashMap<i64, bool>;

/// A pull, and all that decides what it gets.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Who pulls, and how much.
    pub pull: PullState<'a>,
    /// Which messages it wants; `None`: all.
    pub filter: Option<&'a Filter>,
    /// What `filter` said about messages that were read ahead.
    pub verdicts: &'a Verdicts,
    /// How old a message must be: retry subjects hand nothing out before.
    pub delay: Duration,
    /// The time.
    pub now: UnixMillis,
    /// How much fits the reply.
    pub limits: Limits,
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
    /// Pull sequences the consumer held and will not see again: gone, or not wanted any more. To be
    /// written down as acked.
    pub dropped: Vec<Range<i64>>,
    /// Why there is nothing, when asking again without anything new would help.
    pub wait: Option<Wait>,
}

/// What has to happen before the same question has another answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The next message falls due at this time.
    Until(UnixMillis),
    /// The index of this message has to be loaded.
    Index(MessageSequence),
    /// The filter needs to see these messages.
    Payloads(Vec<Located>),
    /// There is more to look at; others get their turn first.
    Turn,
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

/// What a pull gets now: what its consumer has not acked, or else new messages.
#[must_use]
pub fn portion(
    rules: &mut Subscription,
    ask: &Question<'_>,
    reader: &StoreReader,
    id: Option<SubjectId>,
) -> Portion {
    let mut found = Portion::default();
    let Some(id) = id else { return found };
    let kept = bounds(reader, id);
    let look = Look { ask, reader, id };
    for _ in 0..ROUNDS_MAX {
        match rules.offer(ask.pull, &kept, ask.limits.unacked_max) {
            Offer::Nothing => return found,
            Offer::Again(runs) => look.again(&runs, &mut found),
            Offer::New { messages, count } => look.fresh(messages, count, rules, &mut found),
        }
        for pulls in &found.dropped {
            rules.pass_over(ask.pull.consumer, pulls);
        }
        if !found.located.is_empty() || found.wait.is_some() {
            return found;
        }
    }
    found.wait = Some(Wait::Turn);
    found
}

struct Look<'a> {
    ask: &'a Question<'a>,
    reader: &'a StoreReader,
    id: SubjectId,
}

/// What a look at consecutive messages came to.
#[derive(Default)]
struct Chosen {
    located: Vec<Located>,
    /// Everything below is decided.
    until: i64,
    /// Why it went no further, when that can change.
    wait: Option<Wait>,
}

impl Look<'_> {
    /// Hands out new messages.
    fn fresh(
        &self,
        messages: Range<i64>,
        count: usize,
        rules: &mut Subscription,
        found: &mut Portion,
    ) {
        let mut chosen = self.choose(&messages, count);
        if rules.is_broadcast() {
            keep_first_run(&mut chosen);
        }
        let runs = runs_of(&chosen.located);
        let (first, actions) = rules.hand_out(self.ask.pull.consumer, &runs, chosen.until);
        found.first = first;
        found.actions.extend(actions);
        found.located = chosen.located;
        if found.located.is_empty() {
            found.wait = chosen.wait;
        }
    }

    fn choose(&self, messages: &Range<i64>, count: usize) -> Chosen {
        let bytes_max = self.ask.limits.reply_bytes_max;
        let (look, look_bytes) = match self.ask.filter {
            Some(_) => (SCAN_MAX, usize::MAX),
            None => (count, bytes_max),
        };
        let wanted = MessageSequence(messages.start)..MessageSequence(messages.end);
        let mut seen = Vec::new();
        let skipped = self
            .reader
            .locate(self.id, wanted, look, look_bytes, &mut seen);
        let mut chosen = Chosen {
            until: skipped.next.0,
            wait: skipped.cold.map(Wait::Index),
            ..Chosen::default()
        };
        let looked = seen.len();
        let mut bytes = 0_usize;
        // What is chosen moves to the front of what was seen.
        let mut count_chosen = 0;
        for at in 0..looked {
            let message = seen[at];
            bytes = bytes.saturating_add(message.bytes as usize);
            let stop = if let Some(due) = self.due(&message) {
                Some(Some(Wait::Until(due)))
            } else {
                match self.is_wanted(&message) {
                    Some(false) => {
                        bytes -= message.bytes as usize;
                        continue;
                    }
                    Some(true) => {
                        let is_full = count_chosen >= count || bytes > bytes_max;
                        (is_full && count_chosen > 0).then_some(None)
                    }
                    None => Some(Some(Wait::Payloads(self.unread(&seen[at..])))),
                }
            };
            if let Some(wait) = stop {
                chosen.until = message.sequence.0;
                chosen.wait = wait;
                break;
            }
            seen[count_chosen] = message;
            count_chosen += 1;
        }
        seen.truncate(count_chosen);
        chosen.located = seen;
        let is_long = self.ask.filter.is_some() && looked >= SCAN_MAX;
        if is_long && chosen.located.is_empty() && chosen.wait.is_none() {
            chosen.wait = Some(Wait::Turn);
        }
        chosen
    }

    /// When a message may be handed out, if not yet. A clock that was set back ends the wait.
    fn due(&self, message: &Located) -> Option<UnixMillis> {
        let due = message.time.plus(self.ask.delay);
        (message.time <= self.ask.now && self.ask.now < due).then_some(due)
    }

    /// Whether the consumer wants a message; `None` when that takes its bytes.
    fn is_wanted(&self, message: &Located) -> Option<bool> {
        let Some(filter) = self.ask.filter else {
            return Some(true);
        };
        if !filter.may_match(message.tags) {
            return Some(false);
        }
        let verdict = self.ask.verdicts.get(&message.sequence.0).copied();
        verdict.or_else(|| Some(filter.matches(&self.reader.read_recent(message)?)))
    }

    /// The next messages that the filter has to see.
    fn unread(&self, messages: &[Located]) -> Vec<Located> {
        let unread = messages
            .iter()
            .filter(|message| self.is_wanted(message).is_none());
        unread.take(READ_AHEAD_MAX).copied().collect()
    }

    /// Finds what of `runs` is still there and wanted, from the first such message to the next gap.
    fn again(&self, runs: &[Unacked], found: &mut Portion) {
        let mut room = self.ask.limits.reply_bytes_max;
        // Where the reply goes on; not known before its first message.
        let mut expected = None;
        for run in runs {
            let wanted = MessageSequence(run.message)..MessageSequence(run.message + run.count);
            let count = usize::try_from(run.count).unwrap_or(0);
            let is_full = room == 0 && expected.is_some();
            if is_full || expected.is_some_and(|expected| expected != run.pull) {
                return;
            }
            let mut seen = Vec::new();
            let skipped = self.reader.locate(self.id, wanted, count, room, &mut seen);
            let pull_of = |message: i64| run.pull + (message - run.message);
            let mut decided = run.pull;
            for message in &seen {
                let pull = pull_of(message.sequence.0);
                match self.is_wanted(message) {
                    Some(true) if expected.is_none_or(|expected| expected == pull) => {
                        found.drop_pulls(decided..pull);
                        if expected.is_none() {
                            found.first = PullSequence(pull);
                        }
                        expected = Some(pull + 1);
                        decided = pull + 1;
                        room = room.saturating_sub(message.bytes as usize);
                        found.located.push(*message);
                    }
                    _ if expected.is_some() => return,
                    Some(_) => {}
                    None => {
                        found.drop_pulls(decided..pull);
                        let from = seen.partition_point(|other| other.sequence < message.sequence);
                        found.wait = Some(Wait::Payloads(self.unread(&seen[from..])));
                        return;
                    }
                }
            }
            let is_whole = skipped.next.0 >= run.message + run.count;
            if expected.is_some() {
                // Something of this run is missing at its end: the next pull goes on there.
                if !is_whole || decided < run.pull + run.count {
                    return;
                }
                continue;
            }
            found.drop_pulls(decided..pull_of(skipped.next.0));
            if !is_whole {
                found.wait = skipped.cold.map(Wait::Index);
                return;
            }
        }
    }
}

impl Portion {
    fn drop_pulls(&mut self, pulls: Range<i64>) {
        if !pulls.is_empty() {
            self.dropped.push(pulls);
        }
    }
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

/// In broadcast pull sequences are message sequences, and a reply has no gap in them.
fn keep_first_run(chosen: &mut Chosen) {
    let located = &mut chosen.located;
    let gap = located
        .windows(2)
        .position(|pair| pair[0].sequence.0 + 1 != pair[1].sequence.0);
    if let Some(gap) = gap {
        located.truncate(gap + 1);
        chosen.until = located[gap].sequence.0 + 1;
    }
}
