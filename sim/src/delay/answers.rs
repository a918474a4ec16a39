//! What the writer has done becomes known: to the scheduler, and to those who were promised
//! something. When the power goes before it does, some of it stays in doubt.

use qmq_store::{CancelAnswer, Pending, RescheduleAnswer};
use rand::Rng;

use super::live::{Ahead, Done};
use super::{DelayWorld, Stop};
use crate::promises::Broken;

impl DelayWorld {
    /// The writer takes a turn.
    pub(super) fn write(&mut self) -> Result<(), Stop> {
        let count = if self.rng.random() { usize::MAX } else { 1 };
        let is_ahead = self.rng.random_range(0..3) == 0;
        let ahead = if is_ahead {
            Ahead::OfTheDisk
        } else {
            Ahead::No
        };
        self.write_jobs(count, ahead)
    }

    /// The writer ends what it began.
    pub(super) fn rest(&mut self) -> Result<(), Stop> {
        self.write_jobs(0, Ahead::No)
    }

    /// The writer does up to `count` of its jobs.
    fn write_jobs(&mut self, count: usize, ahead: Ahead) -> Result<(), Stop> {
        let ended = self.live.as_mut().map(|live| live.write(count));
        self.note_commit(&ended.transpose()?.unwrap_or_default())?;
        let ended = self.live.as_mut().map(|live| live.commit(ahead));
        self.note_commit(&ended.transpose()?.unwrap_or_default())
    }

    /// A commit ended.
    fn note_commit(&mut self, done: &[Done]) -> Result<(), Stop> {
        for (index, what) in done.iter().enumerate() {
            if let Err(stop) = self.note_done(what) {
                self.doubt_done(&done[index..]);
                return Err(stop);
            }
        }
        if done.iter().any(Done::is_durable) {
            self.promises.synced();
        }
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        for done in done {
            live.hear(done, self.moment);
        }
        Ok(())
    }

    fn note_done(&mut self, done: &Done) -> Result<(), Stop> {
        match done {
            Done::Accepted(entries) => {
                for (number, entry) in entries {
                    self.letters.placed(*number, entry.sequence);
                    self.promises.accepted(*number);
                    self.summary.accepted += 1;
                }
            }
            Done::Began { accepted, .. } => {
                for entry in accepted {
                    let number = self.number_of(entry)?;
                    self.promises.begun(number, true);
                }
            }
            Done::NotBegun(_) => {}
            Done::Confirmed(entries) => {
                for entry in entries {
                    let number = self.number_of(entry)?;
                    self.promises.confirmed(number)?;
                    self.summary.delivered += 1;
                }
            }
            Done::Refused(entries) => {
                for entry in entries {
                    let number = self.number_of(entry)?;
                    self.promises.begun(number, false);
                }
            }
            Done::Cancelled(number, answer) => self.note_cancelled(*number, *answer)?,
            Done::Moved(number, due, answer) => self.note_moved(*number, *due, *answer)?,
        }
        Ok(())
    }

    /// The power went off after this was written, and before anybody heard of it: what was not
    /// synced may be lost, and nobody who asked has an answer.
    fn doubt_done(&mut self, unheard: &[Done]) {
        for done in unheard {
            match done {
                Done::Confirmed(entries) => self.doubt_confirmed(entries),
                Done::Cancelled(number, CancelAnswer::Cancelled) => {
                    self.promises.doubt_cancel(*number);
                }
                Done::Moved(number, due, RescheduleAnswer::Rescheduled(_)) => {
                    self.promises.doubt_move(*number, *due);
                }
                // Who sent a message hears nothing, as after a crash before it was written. What
                // is begun is found again; what is not was refused when its answer came.
                Done::Accepted(_)
                | Done::Began { .. }
                | Done::NotBegun(_)
                | Done::Refused(_)
                | Done::Cancelled(..)
                | Done::Moved(..) => {}
            }
        }
    }

    /// Nobody knows whether it is on the disk that these are delivered.
    pub(super) fn doubt_confirmed(&mut self, entries: &[Pending]) {
        let letters = &self.letters;
        let known = entries.iter().map(|entry| letters.known(entry.sequence));
        self.promises.doubt_confirmed(known.flatten());
    }

    /// The message behind an entry; one whose producer got no answer has to be read.
    pub(super) fn number_of(&mut self, entry: &Pending) -> Result<u64, Stop> {
        if let Some(number) = self.letters.known(entry.sequence) {
            return Ok(number);
        }
        let Some(live) = &self.live else {
            return Err(Stop::Crashed);
        };
        let mut read = Vec::new();
        live.reader.read(&[*entry], &mut read);
        let number = match read.pop() {
            Some(Ok(message)) => self.letters.recognise(&message.payload, message.crc),
            _ if self.fs.power_is_off() => return Err(Stop::Crashed),
            _ => None,
        };
        let Some(number) = number else {
            let what = format!("nobody sent message {}", entry.sequence.0);
            return Err(Broken(what).into());
        };
        self.letters.placed(number, entry.sequence);
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use qmq_delay_server::dispatch::RequestId;
    use qmq_model::UnixMillis;
    use qmq_store::Found;

    use super::*;
    use crate::delay::live::Job;
    use crate::delay::{DelaySettings, START};

    /// When the messages are due that did not leave; one of them is moved to an earlier time.
    const LATER: UnixMillis = UnixMillis(START.0 + 60_000);
    const SOONER: UnixMillis = UnixMillis(START.0 + 30_000);
    const UNHEARD: u64 = 0;
    const LEFT: u64 = 1;
    const CANCELLED: u64 = 2;
    const MOVED: u64 = 3;

    fn survived<T>(done: Result<T, Stop>) -> T {
        match done {
            Ok(done) => done,
            Err(Stop::Crashed) => panic!("crashed"),
            Err(Stop::Broken(broken)) => panic!("{broken}"),
        }
    }

    impl DelayWorld {
        /// The message as an operator finds it.
        fn look_up(&self, number: u64) -> Found {
            let (subject, id) = self.letters.name(number);
            let reader = &self.live.as_ref().unwrap().reader;
            reader.find(&subject, id.as_bytes()).unwrap()[0]
        }

        fn order(&mut self, job: Job) {
            self.live.as_mut().unwrap().push(job);
        }

        fn order_begin(&mut self, number: u64) {
            let entries = [self.look_up(number).entry].into();
            let (request, group) = (RequestId(1000 + number), self.brokers[0].name.clone());
            self.order(Job::Begin {
                request,
                group,
                entries,
            });
        }
    }

    /// Four messages: of one the producer has no answer, one has arrived in a broker, and a turn
    /// of the writer is to begin the first, to confirm the second, to cancel the third and to move
    /// the last.
    fn before_the_turn() -> DelayWorld {
        let mut world = DelayWorld::new(DelaySettings::small(1));
        survived(world.open());
        for (number, due) in [
            (UNHEARD, START),
            (LEFT, START),
            (CANCELLED, LATER),
            (MOVED, LATER),
        ] {
            let (_, message) = world.letters.write(0, due, 10);
            world.promises.sent(number, due);
            world.order(Job::Accept(vec![(number, message)]));
            if number == UNHEARD {
                // Nobody hears of it.
                let live = world.live.as_mut().unwrap();
                assert!(live.write(1).is_ok() && live.commit(Ahead::No).is_ok());
            }
        }
        survived(world.write_jobs(usize::MAX, Ahead::No));
        world.order_begin(LEFT);
        survived(world.write_jobs(usize::MAX, Ahead::No));
        assert!(world.promises.leaves(LEFT, 0, START).is_ok());
        assert!(world.promises.arrived(LEFT, 0).is_ok());

        world.order_begin(UNHEARD);
        world.order(Job::Confirm(vec![world.look_up(LEFT).entry]));
        world.order(Job::Cancel(CANCELLED, world.look_up(CANCELLED)));
        world.order(Job::Move(MOVED, world.look_up(MOVED), SOONER));
        world
    }

    #[test]
    fn the_power_may_go_at_any_call_of_a_turn_and_of_its_answers() {
        let mut unheard = 0;
        for calls in 0.. {
            let mut world = before_the_turn();
            world.fs.cut_after(calls);
            let done = world.write_jobs(usize::MAX, Ahead::No);
            if !world.fs.power_is_off() {
                survived(done);
                break;
            }
            // Everything is written, and what became of the first message cannot be read.
            unheard += u32::from(world.live.as_ref().unwrap().is_idle());
            let survived_it = world.survive(done).and_then(|()| {
                let opened = world.open();
                world.survive(opened)
            });
            survived_it.unwrap_or_else(|broken| panic!("after {calls} calls: {broken}"));
            // Whoever got no answer asks again.
            world.order(Job::Cancel(CANCELLED, world.look_up(CANCELLED)));
            survived(world.write_jobs(usize::MAX, Ahead::No));
            let settled = world.settle();
            settled.unwrap_or_else(|broken| panic!("after {calls} calls: {broken}"));
        }
        assert!(unheard > 0, "the power never went after the turn");
    }

    #[test]
    fn a_cancellation_may_stand_of_a_message_whose_producer_has_no_answer() {
        let mut world = DelayWorld::new(DelaySettings::small(1));
        let promises = &mut world.promises;
        promises.sent(UNHEARD, START);
        let says = CancelAnswer::AlreadyCancelled;
        assert!(promises.cancel_answered(UNHEARD, says).is_err());
        promises.doubt_cancel(UNHEARD);
        assert!(promises.cancel_answered(UNHEARD, says).is_ok());
    }
}
