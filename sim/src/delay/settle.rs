//! The end of a world: everything is healed, and what is owed is delivered.

use std::time::Duration;

use super::DelayWorld;
use crate::promises::Broken;

/// Turns in which everything must be delivered.
const TURNS_MAX: usize = 20_000;
/// Where nothing is due for longer, the machine sleeps until shortly before it is.
const SLEEP: Duration = Duration::from_secs(200);

impl DelayWorld {
    /// Nothing fails any more. Time goes on until nobody waits for anything.
    pub(super) fn settle(&mut self) -> Result<(), Broken> {
        self.is_settling = true;
        self.fs.calm();
        self.fs.limit_space(None);
        for broker in &mut self.brokers {
            broker.heal();
        }
        for _ in 0..TURNS_MAX {
            if self.live.is_none() {
                let opened = self.open();
                self.survive(opened)?;
                continue;
            }
            let turn = self.turn();
            self.survive(turn)?;
            if self.is_quiet() && self.has_settled() {
                return Ok(());
            }
        }
        let owed = self.promises.owed().map(|(number, _)| number);
        let owed = owed.map(|number| (number, self.promises.describe(number)));
        Err(Broken(format!(
            "at {} it is not over: {owed:?}",
            self.now()
        )))
    }

    fn turn(&mut self) -> Result<(), super::Stop> {
        self.schedule()?;
        self.write()?;
        self.load()?;
        while !self.flights.is_empty() {
            self.answer()?;
        }
        while !self.questions.is_empty() {
            self.answer_question();
        }
        while !self.stragglers.is_empty() {
            self.straggle()?;
        }
        if self.is_quiet() {
            self.sleep();
        }
        Ok(())
    }

    fn is_quiet(&self) -> bool {
        let is_idle = self.live.as_ref().is_some_and(super::Live::is_idle);
        is_idle && self.flights.is_empty() && self.questions.is_empty()
    }

    fn has_settled(&self) -> bool {
        let Some(live) = &self.live else {
            return false;
        };
        let is_empty = live.dispatch.queued() == 0 && live.dispatch.requests() == 0;
        self.promises.owed().is_none() && is_empty
    }

    /// Until something is to be done.
    fn sleep(&mut self) {
        let now = self.now();
        let Some(live) = &self.live else { return };
        let wake = live.sleeps(now, self.moment).unwrap_or(SLEEP);
        let has_queue = live.dispatch.queued() > 0;
        // The store knows better than the promises: a change of a message's time that got no answer
        // may have put it off.
        let next = live.first_due().map(|due| due.since(now));
        let far = next.filter(|next| *next > SLEEP && !has_queue);
        let time = far.map_or(wake, |next| next - SLEEP / 2);
        self.pass(time.max(Duration::from_millis(1)));
    }
}
