//! What users of a delay server were promised, as a plain model: nothing lost, nothing early, a
//! second copy only after an unknown outcome, and answers to cancellations that are true.

use std::collections::BTreeMap;

use qmq_model::UnixMillis;
use qmq_store::{CancelAnswer, EntryState, RescheduleAnswer};

use crate::promises::Broken;

/// Number of a broker group.
pub(super) type Group = usize;

/// Fails with a description unless the condition holds.
macro_rules! promise {
    ($holds:expr, $($words:tt)+) => {
        if !$holds {
            return Err(Broken(format!($($words)+)));
        }
    };
}

/// What became of a message, as far as its sender knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Word {
    /// No answer came: it may be stored or not.
    #[default]
    Doubtful,
    Accepted,
    /// A cancellation got no answer.
    MaybeCancelled,
    Cancelled,
}

/// What is known of its delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Waits,
    /// It left for this group, and the answer has not come.
    Left(Group),
    /// An attempt there may have arrived: nobody else may get it.
    Unknown(Group),
    /// It is written down that a broker has it; this is lost with the power.
    Confirmed(Group),
    /// As before, and on the disk.
    Delivered,
}

#[derive(Clone, Debug, Default)]
struct Fate {
    word: Word,
    stage: Stage,
    /// It must not leave before; of several possible times the earliest.
    due: UnixMillis,
    /// Its time came, and the clock was set back after that.
    was_due: bool,
    /// Broker groups that have it, once for each copy.
    copies: Vec<Group>,
    /// An attempt had an unknown outcome at some time.
    was_unknown: bool,
    /// And its group was called dead.
    was_abandoned: bool,
    /// It is written down that it leaves.
    is_begun: bool,
    /// The power went after it was confirmed: that may be on the disk or not.
    maybe_confirmed: bool,
}

/// What came of the promises.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// Copies in brokers.
    pub(super) copies: u64,
    /// Those of them that were there already.
    pub(super) second_copies: u64,
    /// Cancelled while an attempt in a dead group may have arrived.
    pub(super) cancelled_abandoned: u64,
}

/// Every message there ever was, by its number.
#[derive(Debug, Default)]
pub(super) struct Promises {
    fates: BTreeMap<u64, Fate>,
    pub(super) tally: Tally,
}

impl Promises {
    /// A producer sends it.
    pub(super) fn sent(&mut self, number: u64, due: UnixMillis) {
        let fate = Fate {
            due,
            ..Fate::default()
        };
        self.fates.insert(number, fate);
    }

    /// The producer was told that it is stored.
    pub(super) fn accepted(&mut self, number: u64) {
        self.fate(number).word = Word::Accepted;
    }

    /// The clock is about to be set back.
    pub(super) fn clock_set_back(&mut self, now: UnixMillis) {
        for fate in self.fates.values_mut().filter(|fate| fate.due <= now) {
            fate.was_due = true;
        }
    }

    /// It leaves for a broker group.
    pub(super) fn leaves(
        &mut self,
        number: u64,
        group: Group,
        now: UnixMillis,
    ) -> Result<(), Broken> {
        let fate = self.fate(number);
        promise!(
            fate.due <= now || fate.was_due,
            "message {number} leaves at {now}, {} ms early",
            fate.due.0 - now.0
        );
        promise!(
            fate.word != Word::Cancelled,
            "message {number} leaves and is cancelled"
        );
        match fate.stage {
            Stage::Waits => {}
            Stage::Unknown(bound) => promise!(
                bound == group,
                "message {number} leaves for {group} and may have arrived in {bound}"
            ),
            stage => return Err(Broken(format!("message {number} leaves and is {stage:?}"))),
        }
        if fate.word != Word::Accepted {
            // It is there after all.
            fate.word = Word::Accepted;
        }
        fate.stage = Stage::Left(group);
        Ok(())
    }

    /// A broker group appended a copy.
    pub(super) fn arrived(&mut self, number: u64, group: Group) -> Result<(), Broken> {
        let fate = self.fate(number);
        promise!(
            fate.copies.is_empty() || fate.was_unknown,
            "message {number} is there twice and its outcome was always known"
        );
        promise!(
            fate.word != Word::Cancelled || fate.was_abandoned,
            "message {number} arrives and is cancelled"
        );
        let is_second = !fate.copies.is_empty();
        fate.copies.push(group);
        self.tally.copies += 1;
        self.tally.second_copies += u64::from(is_second);
        Ok(())
    }

    /// The attempt may have arrived or not.
    pub(super) fn unknown(&mut self, number: u64, group: Group) {
        let fate = self.fate(number);
        fate.stage = Stage::Unknown(group);
        fate.was_unknown = true;
    }

    /// The attempt did not arrive. Of those before it nothing is said.
    pub(super) fn refused(&mut self, number: u64, group: Group, is_first: bool) {
        self.fate(number).stage = if is_first {
            Stage::Waits
        } else {
            Stage::Unknown(group)
        };
    }

    /// It is written down that it leaves, or that it did not.
    pub(super) fn begun(&mut self, number: u64, is_begun: bool) {
        self.fate(number).is_begun = is_begun;
    }

    /// It is written down that it is delivered.
    pub(super) fn confirmed(&mut self, number: u64) -> Result<(), Broken> {
        let fate = self.fate(number);
        promise!(
            !fate.copies.is_empty(),
            "message {number} counts as delivered and no broker has it"
        );
        if let Stage::Left(group) | Stage::Unknown(group) = fate.stage {
            fate.stage = Stage::Confirmed(group);
        }
        fate.is_begun = false;
        Ok(())
    }

    /// What was confirmed is on the disk.
    pub(super) fn synced(&mut self) {
        for fate in self.fates.values_mut() {
            if let Stage::Confirmed(_) = fate.stage {
                fate.stage = Stage::Delivered;
            }
        }
    }

    /// Nobody knows whether it was written down that these are delivered.
    pub(super) fn doubt_confirmed(&mut self, numbers: impl Iterator<Item = u64>) {
        for number in numbers {
            self.fate(number).maybe_confirmed = true;
        }
    }

    /// The group is called dead: what it may have may go elsewhere.
    pub(super) fn group_died(&mut self, group: Group) {
        for fate in self.fates.values_mut() {
            if fate.stage == Stage::Unknown(group) {
                fate.abandon();
            }
        }
    }

    /// The attempt may have arrived in a group that is called dead.
    pub(super) fn abandoned(&mut self, number: u64) {
        let fate = self.fate(number);
        fate.was_unknown = true;
        fate.abandon();
    }

    /// The server is gone: who waited for an answer does not get it.
    pub(super) fn stopped(&mut self, power_was_cut: bool) {
        for fate in self.fates.values_mut() {
            match fate.stage {
                Stage::Left(group) => {
                    fate.stage = Stage::Unknown(group);
                    fate.was_unknown = true;
                }
                Stage::Confirmed(group) if power_was_cut => {
                    fate.stage = Stage::Unknown(group);
                    fate.was_unknown = true;
                    fate.maybe_confirmed = true;
                }
                Stage::Confirmed(_) => fate.stage = Stage::Delivered,
                Stage::Waits | Stage::Unknown(_) | Stage::Delivered => {}
            }
        }
    }

    /// What a restart finds begun, and for whom.
    pub(super) fn found_begun(&mut self, begun: &BTreeMap<u64, Group>) -> Result<(), Broken> {
        for (number, fate) in &mut self.fates {
            let found = begun.get(number);
            fate.is_begun = found.is_some();
            let was_confirmed = std::mem::take(&mut fate.maybe_confirmed);
            let Stage::Unknown(group) = fate.stage else {
                continue;
            };
            if found.is_none() && was_confirmed {
                fate.stage = Stage::Delivered;
                continue;
            }
            promise!(
                found == Some(&group),
                "message {number} left for {group} and is begun for {found:?}"
            );
        }
        Ok(())
    }

    /// A cancellation got no answer.
    pub(super) fn doubt_cancel(&mut self, number: u64) {
        let fate = self.fate(number);
        if fate.word != Word::Cancelled {
            fate.word = Word::MaybeCancelled;
        }
    }

    /// A cancellation was answered.
    pub(super) fn cancel_answered(
        &mut self,
        number: u64,
        answer: CancelAnswer,
    ) -> Result<(), Broken> {
        let fate = self.fate(number);
        let is_true = match answer {
            CancelAnswer::Cancelled => {
                let may_be_there = !fate.copies.is_empty() && !fate.was_abandoned;
                fate.stage == Stage::Waits && !fate.is_begun && !may_be_there
            }
            CancelAnswer::AlreadyCancelled => {
                matches!(fate.word, Word::Cancelled | Word::MaybeCancelled)
            }
            CancelAnswer::Dispatching => fate.is_begun,
            CancelAnswer::Delivered => fate.is_delivered(),
            CancelAnswer::Expired | CancelAnswer::Moved | CancelAnswer::Unknown => false,
        };
        promise!(
            is_true,
            "message {number} is said to be {answer:?} and is {fate:?}"
        );
        let is_cancelled = matches!(
            answer,
            CancelAnswer::Cancelled | CancelAnswer::AlreadyCancelled
        );
        if is_cancelled {
            fate.word = Word::Cancelled;
        }
        let is_abandoned = fate.was_abandoned;
        self.tally.cancelled_abandoned += u64::from(is_cancelled && is_abandoned);
        Ok(())
    }

    /// The store finds no such message.
    pub(super) fn not_found(&self, number: u64) -> Result<(), Broken> {
        let fate = &self.fates[&number];
        promise!(fate.is_settled(), "message {number} is not found: {fate:?}");
        Ok(())
    }

    /// A change of its time got no answer.
    pub(super) fn doubt_move(&mut self, number: u64, due: UnixMillis) {
        let fate = self.fate(number);
        fate.due = fate.due.min(due);
    }

    /// A change of its time to `due` was answered.
    pub(super) fn move_answered(
        &mut self,
        number: u64,
        due: UnixMillis,
        answer: RescheduleAnswer,
    ) -> Result<(), Broken> {
        let fate = self.fate(number);
        let is_true = match answer {
            RescheduleAnswer::Rescheduled(entry) => {
                let is_waiting = fate.stage == Stage::Waits && !fate.is_begun;
                entry.due == due && is_waiting && fate.word != Word::Cancelled
            }
            RescheduleAnswer::NotPending(EntryState::Dispatching) => fate.is_begun,
            RescheduleAnswer::NotPending(EntryState::Delivered) => fate.is_delivered(),
            RescheduleAnswer::NotPending(EntryState::Cancelled) => {
                matches!(fate.word, Word::Cancelled | Word::MaybeCancelled)
            }
            RescheduleAnswer::NotPending(EntryState::Pending | EntryState::Expired) => false,
            RescheduleAnswer::Moved | RescheduleAnswer::Unknown => false,
        };
        promise!(
            is_true,
            "message {number} is moved: {answer:?}, and is {fate:?}"
        );
        if let RescheduleAnswer::Rescheduled(_) = answer {
            fate.due = due;
            fate.was_due = false;
            if fate.word == Word::MaybeCancelled {
                fate.word = Word::Accepted;
            }
        }
        Ok(())
    }

    /// Messages that somebody still waits for, and the earliest of their due times.
    pub(super) fn owed(&self) -> Option<(u64, UnixMillis)> {
        let owed = self.fates.iter().filter(|(_, fate)| fate.is_owed());
        let earliest = owed.min_by_key(|(_, fate)| fate.due)?;
        Some((*earliest.0, earliest.1.due))
    }

    /// What is known of a message, for the reader of a failure.
    pub(super) fn describe(&self, number: u64) -> String {
        format!("{:?}", self.fates.get(&number))
    }

    fn fate(&mut self, number: u64) -> &mut Fate {
        self.fates.entry(number).or_default()
    }
}

impl Fate {
    fn abandon(&mut self) {
        self.stage = Stage::Waits;
        self.was_abandoned = true;
    }

    fn is_owed(&self) -> bool {
        let is_wanted = self.word == Word::Accepted;
        is_wanted && !matches!(self.stage, Stage::Confirmed(_) | Stage::Delivered)
    }

    fn is_delivered(&self) -> bool {
        let is_confirmed = matches!(self.stage, Stage::Confirmed(_) | Stage::Delivered);
        is_confirmed && !self.copies.is_empty()
    }

    /// Whether nobody misses it when the store does not know it.
    fn is_settled(&self) -> bool {
        self.word != Word::Accepted || self.is_delivered()
    }
}
