//! Producers that send, operators that cancel and change due times.

use std::time::Duration;

use qmq_model::UnixMillis;
use qmq_store::{CancelAnswer, Found, RescheduleAnswer};
use rand::Rng;

use super::live::{Crashed, Job};
use super::{DelayWorld, SUBJECTS, Stop};
use crate::promises::Broken;

/// Messages that operators remember.
const RECENT_MAX: usize = 64;
/// A cancellation races with the dispatch when the message was due within this time.
const RACE: Duration = Duration::from_secs(1);
/// Messages of which one is cancelled: with fewer, another one is sent.
const RACERS_MIN: usize = 8;

impl DelayWorld {
    /// A producer sends a few messages in one request.
    pub(super) fn accept(&mut self) {
        let count = match self.rng.random_range(0..20) {
            0 => 30,
            _ => self.rng.random_range(1..4),
        };
        let now = self.now();
        let mut letters = Vec::new();
        for _ in 0..count {
            let subject = self.rng.random_range(0..SUBJECTS);
            let due = UnixMillis(now.0 + self.ahead());
            let padding = self.rng.random_range(0..400);
            let (number, message) = self.letters.write(subject, due, padding);
            self.promises.sent(number, due);
            self.remember(number, due);
            letters.push((number, message));
        }
        self.push(Job::Accept(letters));
    }

    /// How far ahead messages are scheduled, in milliseconds; at times it is past.
    fn ahead(&mut self) -> i64 {
        let range = match self.rng.random_range(0..100) {
            0..5 => -100_000..0,
            5..55 => 0..1_000,
            55..80 => 1_000..60_000,
            80..95 => 60_000..1_000_000,
            _ => 1_000_000..200_000_000,
        };
        self.rng.random_range(range)
    }

    fn remember(&mut self, number: u64, due: UnixMillis) {
        if self.recent.len() >= RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((number, due));
    }

    fn push(&mut self, job: Job) {
        if let Some(live) = &mut self.live {
            live.push(job);
        }
    }

    /// Somebody cancels a message, most often one that is due about now.
    pub(super) fn cancel(&mut self) -> Result<(), Stop> {
        let Some((number, _)) = self.choose() else {
            return Ok(());
        };
        self.cancel_message(number)
    }

    /// Cancels a message that is about to leave, is leaving, or has just left.
    pub(super) fn race(&mut self) -> Result<(), Stop> {
        let now = self.now();
        let from = now.0 - i64::try_from(RACE.as_millis()).expect("a second");
        let is_near = |due: &UnixMillis| (from..now.0 + 20).contains(&due.0);
        let near = self.recent.iter().filter(|(_, due)| is_near(due));
        let near: Vec<_> = near.map(|(number, _)| *number).collect();
        if near.len() < RACERS_MIN {
            let subject = self.rng.random_range(0..SUBJECTS);
            let due = UnixMillis(now.0 + self.rng.random_range(0..60));
            let (number, message) = self.letters.write(subject, due, 10);
            self.promises.sent(number, due);
            self.remember(number, due);
            self.push(Job::Accept(vec![(number, message)]));
            return Ok(());
        }
        let number = near[self.rng.random_range(0..near.len())];
        self.recent.retain(|(other, _)| *other != number);
        self.cancel_message(number)
    }

    fn cancel_message(&mut self, number: u64) -> Result<(), Stop> {
        if let Some(found) = self.find(number)? {
            self.push(Job::Cancel(number, found));
        }
        Ok(())
    }

    /// Somebody changes the due time of a message.
    pub(super) fn reschedule(&mut self) -> Result<(), Stop> {
        let Some((number, _)) = self.choose() else {
            return Ok(());
        };
        let due = UnixMillis(self.now().0 + self.ahead());
        if let Some(found) = self.find(number)? {
            self.push(Job::Move(number, found, due));
        }
        Ok(())
    }

    fn choose(&mut self) -> Option<(u64, UnixMillis)> {
        if self.recent.is_empty() {
            return None;
        }
        let now = self.now();
        let recent = &self.recent;
        let picks = std::array::from_fn::<_, 3, _>(|_| self.rng.random_range(0..recent.len()));
        let picks = picks.into_iter().map(|pick| recent[pick]);
        picks.min_by_key(|(_, due)| due.0.abs_diff(now.0))
    }

    fn find(&mut self, number: u64) -> Result<Option<Found>, Stop> {
        let (subject, id) = self.letters.name(number);
        let Some(live) = &self.live else {
            return Ok(None);
        };
        let mut found = live
            .reader
            .find(&subject, id.as_bytes())
            .map_err(|_| Crashed)?;
        if found.len() > 1 {
            return Err(Broken(format!("message {number} is stored twice: {found:?}")).into());
        }
        if found.is_empty() {
            self.promises.not_found(number)?;
        }
        Ok(found.pop())
    }

    pub(super) fn note_cancelled(&mut self, number: u64, answer: CancelAnswer) -> Result<(), Stop> {
        if matches!(answer, CancelAnswer::Moved | CancelAnswer::Unknown) {
            // Whoever asked asks again, for the message as it is now.
            return self.cancel_message(number);
        }
        self.promises.cancel_answered(number, answer)?;
        match answer {
            CancelAnswer::Cancelled | CancelAnswer::AlreadyCancelled => {
                self.summary.cancelled += 1;
            }
            CancelAnswer::Dispatching => self.summary.dispatching += 1,
            _ => self.summary.too_late += 1,
        }
        Ok(())
    }

    pub(super) fn note_moved(
        &mut self,
        number: u64,
        due: UnixMillis,
        answer: RescheduleAnswer,
    ) -> Result<(), Stop> {
        if matches!(answer, RescheduleAnswer::Moved | RescheduleAnswer::Unknown) {
            // It is there under another key, or done and forgotten.
            return self.find(number).map(drop);
        }
        self.promises.move_answered(number, due, answer)?;
        if let RescheduleAnswer::Rescheduled(entry) = answer {
            self.letters.placed(number, entry.sequence);
            self.remember(number, due);
            self.summary.moved += 1;
        }
        Ok(())
    }
}
