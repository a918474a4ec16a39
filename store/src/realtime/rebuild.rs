//! What the logs add up to at start: the index and the next sequences from the messagelog, the
//! progress of groups from the actionlog.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use qmq_model::names::SubjectKind;
use qmq_model::{ConsumerGroup, ConsumerId, MessageOffset, MessageSequence, Subject};

use crate::checkpoint::Checkpoint;
use crate::duplicates::rebuild::Rebuilding;
use crate::error::Error;
use crate::format::LogKind;
use crate::log::scan::{Found, scan, scan_to};
use crate::log::segment::Segments;
use crate::log::verify::Verifier;
use crate::realtime::action_log::{Action, ActionFormat, ConsumerKey};
use crate::realtime::consumer_log::keeper::RunKeeper;
use crate::realtime::consumer_log::{ConsumerLog, Located, SubjectId};
use crate::realtime::control_log::{Control, ControlEntry};
use crate::realtime::message_log::{MessageItem, PayloadSubject, RECORD_BYTES_MIN};
use crate::realtime::progress::{Progress, Unacked};
use crate::report::{Damage, DamageKind, Findings, RecoveryReport};

/// What the messagelog adds up to.
pub(crate) struct Messages<'a> {
    log: &'a ConsumerLog,
    /// Where reading begins: what is in front is in runs.
    begin: u64,
    /// Behind the last record of each subject that was read; `None` without one.
    next: Vec<Option<i64>>,
    /// How many records the damage so far can have held.
    lost: i64,
    /// The same, for damage that the checkpoint does not make harmless.
    lost_behind_checkpoint: i64,
}

impl<'a> Messages<'a> {
    /// Nothing is read yet. The checkpoint's subjects keep their numbers.
    pub(crate) fn new(log: &'a ConsumerLog, checkpoint: Option<&Checkpoint>) -> Self {
        let mut messages = Self {
            log,
            begin: log.covered(),
            next: Vec::new(),
            lost: 0,
            lost_behind_checkpoint: 0,
        };
        let known = checkpoint.map_or(&[][..], |checkpoint| &checkpoint.subjects);
        let has_runs = !log.runs().is_empty();
        for (subject, next) in known {
            let id = messages.intern(subject);
            if has_runs && next.0 > 0 {
                log.tail.restore_first(id, 0);
            }
        }
        messages
    }

    /// Reads the messagelog up to `end`, from where runs end on. What has grown enough goes into
    /// runs on the way, so that memory is bounded.
    pub(crate) fn read(
        &mut self,
        (keeper, segments): (&RunKeeper, &Segments),
        end: u64,
        verifier: &mut Verifier<'_>,
        checkpoint: Option<&Checkpoint>,
        duplicates: &mut Rebuilding,
        report: &mut RecoveryReport,
    ) -> Result<(), Error> {
        let covered = checkpoint.map_or(0, |checkpoint| checkpoint.positions[0]);
        let format = duplicates.format();
        let mut at = self.begin;
        while at < end {
            let enough = at.saturating_add(keeper.run_bytes());
            at = scan_to(segments, &format, at..end, enough, verifier, |found| {
                duplicates.take(&found);
                if let Err((damage, records)) = self.take(found) {
                    self.lost += records;
                    if damage.range.end > covered {
                        self.lost_behind_checkpoint += records;
                    }
                    report.add(damage);
                } else {
                    report.messages.records += 1;
                }
            })?;
            if at >= enough {
                keeper.cut(at)?;
                keeper.improve()?;
            }
        }
        Ok(())
    }

    fn intern(&mut self, subject: &Subject) -> SubjectId {
        let (id, is_new) = self.log.intern(subject);
        if is_new {
            self.next.push(None);
        }
        id
    }

    /// Indexes a record, or says what is wrong with it and how many records it may stand for.
    fn take(&mut self, found: Found<MessageItem>) -> Result<(), (Damage, i64)> {
        let damage = |range, kind, message| {
            let damage = Damage {
                log: LogKind::Message,
                range,
                kind,
                message,
            };
            Err((damage, 1))
        };
        let lost = |range: Range<u64>, kind| {
            let records = (range.end - range.start).div_ceil(RECORD_BYTES_MIN);
            let records = i64::try_from(records).unwrap_or(i64::MAX);
            Err((
                Damage {
                    log: LogKind::Message,
                    range,
                    kind,
                    message: None,
                },
                records,
            ))
        };
        let (range, item, is_trusted) = match found {
            Found::Record {
                range,
                item,
                is_trusted,
            } => (range, item, is_trusted),
            Found::Damage {
                range,
                item: Some(item),
            } => {
                let message = self.quarantine(&range, &item);
                return damage(range, DamageKind::Record, message);
            }
            Found::Damage { range, item: None } => return lost(range, DamageKind::Record),
            Found::Missing { range } => return lost(range, DamageKind::Missing),
        };
        let Ok(subject) = Subject::new(&item.subject) else {
            return damage(range, DamageKind::Record, None);
        };
        let sequence = item.sequence.0;
        if !is_trusted && !self.is_plausible(&item) {
            return damage(range, DamageKind::Untrusted, None);
        }
        let id = self.intern(&subject);
        let next = &mut self.next[id.0 as usize];
        if next.is_some_and(|next| sequence < next) {
            return damage(range, DamageKind::Sequence, Some((subject, item.sequence)));
        }
        *next = Some(sequence + 1);
        self.log.tail.push(&Located::of(id, &range, &item));
        Ok(())
    }

    /// Whether a header that cannot be trusted names the subject of its payload, or a known retry
    /// subject of it, and the next sequence there, apart from those that were lost.
    fn is_plausible(&self, item: &MessageItem) -> bool {
        let id = self.log.subject(&item.subject);
        match item.payload_subject {
            PayloadSubject::Same => {}
            PayloadSubject::Original if id.is_some() => {}
            PayloadSubject::Original | PayloadSubject::Other => return false,
        }
        let next = id.and_then(|id| {
            // Nothing read yet: the runs know. If they cannot be read nothing vouches for it.
            let in_runs = || self.log.next_before(id, self.begin).ok().flatten();
            self.next[id.0 as usize].or_else(in_runs)
        });
        let next = next.unwrap_or(0);
        (next..=next.saturating_add(self.lost)).contains(&item.sequence.0)
    }

    /// Keeps the place of a broken record whose header is plausible.
    fn quarantine(
        &mut self,
        range: &Range<u64>,
        item: &MessageItem,
    ) -> Option<(Subject, MessageSequence)> {
        let subject = Subject::new(&item.subject)
            .ok()
            .filter(|_| self.is_plausible(item))?;
        let id = self.intern(&subject);
        self.next[id.0 as usize] = Some(item.sequence.0 + 1);
        self.log
            .tail
            .push_quarantined(id, item.sequence.0, MessageOffset(range.start));
        Some((subject, item.sequence))
    }

    /// The next sequence of every subject: none that a record, the checkpoint or a group has seen,
    /// and none that lost records can have had.
    pub(crate) fn next_sequences(
        &mut self,
        checkpoint: Option<&Checkpoint>,
        progress: &Progress,
        report: &mut RecoveryReport,
    ) -> Vec<MessageSequence> {
        let raise = |messages: &mut Self, subject: &Subject, to: MessageSequence| {
            let id = messages.intern(subject);
            let next = &mut messages.next[id.0 as usize];
            *next = Some(next.unwrap_or(0).max(to.0));
        };
        let known = checkpoint.map_or(&[][..], |checkpoint| &checkpoint.subjects);
        known
            .iter()
            .for_each(|(subject, next)| raise(self, subject, *next));
        let groups = progress
            .groups()
            .map(|(subject, _, group)| (subject, group.next));
        let mut groups: Vec<_> = groups.collect();
        // New subjects are numbered in an order that repeats.
        groups.sort_unstable();
        for (subject, next) in groups {
            raise(self, subject, next);
        }
        let lost = self.lost_behind_checkpoint;
        report.message_sequences_raised = lost.unsigned_abs();
        let next = self
            .next
            .iter()
            .map(|next| next.unwrap_or(0).saturating_add(lost));
        let next: Vec<i64> = next.collect();
        for (id, end) in (0..).zip(&next) {
            self.log.tail.raise_end(SubjectId(id), *end);
        }
        next.into_iter().map(MessageSequence).collect()
    }
}

/// Messages that an action which is gone may have handed out.
struct Orphans {
    subject: Subject,
    group: ConsumerGroup,
    consumer: ConsumerId,
    messages: Range<i64>,
}

/// What the actionlog adds up to.
pub(crate) struct Actions {
    pub(crate) progress: Progress,
    /// Actions were lost that the checkpoint does not include.
    pub(crate) is_damaged: bool,
    /// Groups that pulled since the last damage: from there on nothing is missing.
    settled: HashSet<(Subject, ConsumerGroup)>,
    orphans: Vec<Orphans>,
    /// Up to where groups were known to have come that were reset since the last damage, and have
    /// not pulled since.
    reset_from: HashMap<(Subject, ConsumerGroup), i64>,
    /// Groups that were forgotten: who comes back may begin anywhere.
    forgotten: HashSet<(Subject, ConsumerGroup)>,
    /// Ends of the subjects when the checkpoint was written.
    first_unknown: HashMap<Subject, MessageSequence>,
}

impl Actions {
    /// Replays the actions in `range` on top of the checkpoint.
    pub(crate) fn replay(
        segments: &Segments,
        range: Range<u64>,
        verifier: &mut Verifier<'_>,
        checkpoint: Option<&Checkpoint>,
        controls: &[ControlEntry],
        report: &mut RecoveryReport,
    ) -> Result<Self, Error> {
        let mut controls = controls.iter().peekable();
        let mut actions = Self {
            progress: checkpoint
                .map(|found| found.progress.clone())
                .unwrap_or_default(),
            is_damaged: false,
            settled: HashSet::new(),
            orphans: Vec::new(),
            reset_from: HashMap::new(),
            forgotten: HashSet::new(),
            first_unknown: checkpoint
                .map(|found| found.subjects.iter().cloned().collect())
                .unwrap_or_default(),
        };
        scan(segments, &ActionFormat, range, verifier, |found| {
            let at = found.range().start;
            while let Some(entry) = controls.next_if(|entry| entry.offset <= at) {
                actions.apply_control(&entry.control);
                report.controls_replayed += 1;
            }
            let (range, kind) = match found {
                Found::Record {
                    item,
                    is_trusted: true,
                    ..
                } => {
                    actions.apply(&item);
                    report.actions_replayed += 1;
                    return;
                }
                Found::Record { range, .. } => (range, DamageKind::Untrusted),
                Found::Damage { range, .. } => (range, DamageKind::Record),
                Found::Missing { range } => (range, DamageKind::Missing),
            };
            actions.is_damaged = true;
            actions.settled.clear();
            report.add(Damage {
                log: LogKind::Action,
                range,
                kind,
                message: None,
            });
        })?;
        for entry in controls {
            actions.apply_control(&entry.control);
            report.controls_replayed += 1;
        }
        report.actions.records = report.actions_replayed;
        Ok(actions)
    }

    fn apply_control(&mut self, control: &Control) {
        let (subject, group) = control.key();
        let key = (subject.clone(), group.clone());
        match control {
            Control::Reset { next, .. } if self.is_damaged && !self.settled.contains(&key) => {
                // How far the group had come is not known any more: the next pull shows only
                // where it was put. What it was handed from there on may be lost as well.
                let known = self.known(subject, group).min(next.0);
                let from = self.reset_from.entry(key).or_insert(known);
                *from = known.min(*from);
            }
            Control::Reset { .. } => {}
            Control::ForgetGroup { .. } => {
                self.reset_from.remove(&key);
                self.forgotten.insert(key.clone());
                self.settled.insert(key);
            }
        }
        self.progress.apply_control(control);
    }

    /// Up to where the group is known to have come.
    fn known(&self, subject: &Subject, group: &ConsumerGroup) -> i64 {
        match self.progress.group(subject.as_str(), group.as_str()) {
            Some(group) => group.next.0,
            // Groups of retry subjects begin with the oldest message.
            None if matches!(subject.kind(), SubjectKind::Retry { .. }) => 0,
            None if self.forgotten.contains(&(subject.clone(), group.clone())) => 0,
            // Others that the checkpoint does not know began behind it. If this is its very
            // first contact it gets messages it never asked for; that is better than none.
            None => self.first_unknown.get(subject).map_or(0, |next| next.0),
        }
    }

    fn apply(&mut self, action: &Action) {
        if self.is_damaged
            && let Action::Pull { key, messages, .. } = action
            && self
                .settled
                .insert((key.subject.clone(), key.group.clone()))
        {
            let reset_from = self
                .reset_from
                .remove(&(key.subject.clone(), key.group.clone()));
            let known = reset_from.unwrap_or_else(|| self.known(&key.subject, &key.group));
            if known < messages.start {
                let ConsumerKey {
                    subject,
                    group,
                    consumer,
                } = key.clone();
                let messages = known..messages.start;
                self.orphans.push(Orphans {
                    subject,
                    group,
                    consumer,
                    messages,
                });
            }
        }
        self.progress.apply(action);
    }

    /// Gives orphaned messages to the consumer that pulled next, under pull sequences that were
    /// never handed out. To be called after pull sequences were raised.
    pub(crate) fn adopt_orphans(&mut self) {
        for ((subject, group), from) in self.reset_from.drain() {
            // Nobody pulled since: the group itself gets them again.
            let group = self.progress.group_mut(&subject, &group);
            group.next.0 = group.next.0.min(from);
        }
        for orphans in self.orphans.drain(..) {
            let group = self.progress.group_mut(&orphans.subject, &orphans.group);
            let broadcast = group.broadcast;
            let consumer = group.consumers.entry(orphans.consumer).or_default();
            let (message, count) = (
                orphans.messages.start,
                orphans.messages.end - orphans.messages.start,
            );
            if broadcast {
                let unacked = Unacked {
                    pull: message,
                    message,
                    count,
                };
                let at = consumer
                    .unacked
                    .partition_point(|range| range.pull < message);
                consumer.unacked.insert(at, unacked);
            } else {
                let pull = consumer.next_pull.0;
                consumer.push(Unacked {
                    pull,
                    message,
                    count,
                });
                consumer.next_pull.0 += count;
            }
        }
    }
}
