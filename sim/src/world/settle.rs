//! The end of a world: those who are left get everything their groups are owed.

use std::time::Duration;

use rand::Rng;

use super::{PATIENCE, ProcessId, World};
use crate::promises::owed::DeadLetters;
use crate::promises::{Broken, Outcome};
use crate::stream::Stream;

/// Rounds, each with a look, in which everything must have come. A group of few consumers that hold
/// dozens of messages each, of which ten are copied at a time, needs less than half. All of it
/// takes less time than a consumer needs to be forgotten: who is dead is found long before.
const ROUNDS_MAX: usize = 40;

impl World {
    /// Some consumers of every group start again, the others are gone for good. Time goes on until
    /// nothing comes any more and nobody holds anything.
    pub(super) fn settle(&mut self) -> Result<(), Broken> {
        self.fs.calm();
        let survivors = self.survivors();
        for _ in 0..ROUNDS_MAX {
            while self.live.is_none() {
                self.open()?;
            }
            let dead_for_long = PATIENCE.dead_after + Duration::from_secs(1);
            self.clock.advance(dead_for_long);
            self.look()?;
            // What is copied now is not handed out in this round.
            let mut got = 0;
            while self.live.as_ref().is_some_and(|live| live.job_count() > 0) {
                self.go_on()?;
                got += 1;
            }
            for process in &survivors {
                got += self.take_all(*process)?;
            }
            let Some(live) = &self.live else { continue };
            if got == 0 && live.unacked_count() == 0 {
                return self.has_settled();
            }
        }
        let held = self.live.as_ref().map(super::Live::unacked_count);
        Err(Broken(format!("{held:?} messages stay with the dead")))
    }

    fn survivors(&mut self) -> Vec<ProcessId> {
        let mut survivors = Vec::new();
        for group in self.settings.all_groups() {
            let consumers = self.settings.consumers_of(group);
            let first = self.rng.random_range(0..consumers);
            survivors.extend((first..consumers).map(|consumer| (group, consumer)));
        }
        for process in &survivors {
            self.restart(*process);
        }
        survivors
    }

    /// Pulls and acks all there is; returns how much that was.
    fn take_all(&mut self, process: ProcessId) -> Result<usize, Broken> {
        let (group, consumer) = process;
        let mut got = 0;
        for queue in self.settings.queues_of(group) {
            let who = (queue, consumer);
            loop {
                let count = self.pull_as(who)?.messages;
                got += count;
                while self.clients.get(&who).is_some_and(|it| it.held() > 0) {
                    if self.live.is_none() {
                        return Ok(got);
                    }
                    self.ack_as(who, usize::MAX, Outcome::Finished)?;
                }
                if count == 0 {
                    break;
                }
            }
        }
        // A lost reply is asked for again by a restarted client.
        self.restart(process);
        Ok(got)
    }

    fn has_settled(&mut self) -> Result<(), Broken> {
        let Some(live) = &self.live else {
            return Ok(());
        };
        let groups = self.settings.all_groups();
        let dead = groups.map(|group| (group, live.letters(Stream::Dead(group))));
        let dead: DeadLetters = dead.collect();
        self.summary.dead_letters += dead.values().map(|d| d.len() as u64).sum::<u64>();
        self.promises.settle(&dead)
    }
}
