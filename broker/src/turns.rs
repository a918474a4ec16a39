//! Whose turn it is to read the log: few at a time, and those who are behind first.
//!
//! Consumers that work off a backlog side by side want neighbouring records. Served in the order of
//! the log they stay side by side, and what was read for one is still in memory for the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Others that may come first although they asked later.
pub const OVERTAKEN_MAX: u64 = 64;

/// Gives out turns.
#[derive(Clone, Debug)]
pub struct Turns(Arc<Mutex<Queue>>);

#[derive(Debug)]
struct Queue {
    free: usize,
    /// In the order of asking: where in the log, and how many turns had been given before.
    asked: BTreeMap<u64, (u64, u64)>,
    /// In the order of the log.
    waiting: BTreeMap<(u64, u64), oneshot::Sender<Turn>>,
    serial: u64,
    given: u64,
}

/// The right to read, until dropped.
#[derive(Debug)]
pub struct Turn(Option<Turns>);

impl Turns {
    /// At most `count` turns at the same time.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self(Arc::new(Mutex::new(Queue {
            free: count,
            asked: BTreeMap::new(),
            waiting: BTreeMap::new(),
            serial: 0,
            given: 0,
        })))
    }

    /// Waits for a turn to read from `offset` on.
    pub async fn take(&self, offset: u64) -> Turn {
        let given = {
            let mut queue = self.queue();
            if queue.free > 0 {
                queue.free -= 1;
                queue.given += 1;
                return Turn(Some(self.clone()));
            }
            let (give, given) = oneshot::channel();
            let (serial, before) = (queue.serial, queue.given);
            queue.serial += 1;
            queue.asked.insert(serial, (offset, before));
            queue.waiting.insert((offset, serial), give);
            given
        };
        given.await.expect("who waits is given a turn in the end")
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Whole between any two statements that could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes a turn on to the next one who still waits.
    fn pass_on(&self) {
        loop {
            let next = {
                let mut queue = self.queue();
                let next = queue.next();
                queue.free += usize::from(next.is_none());
                next
            };
            let Some(next) = next else { return };
            match next.send(Turn(Some(self.clone()))) {
                Ok(()) => return,
                Err(mut turn) => turn.0 = None,
            }
        }
    }
}

impl Queue {
    /// Takes the one furthest behind, unless somebody was overtaken too often.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let (oldest, (offset, before)) = self.asked.first_key_value()?;
        let key = if self.given - before >= OVERTAKEN_MAX {
            (*offset, *oldest)
        } else {
            *self.waiting.first_key_value()?.0
        };
        self.asked.remove(&key.1);
        self.given += 1;
        self.waiting.remove(&key)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.0.take() {
            turns.pass_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    type Asking<'a> = Pin<Box<dyn Future<Output = Turn> + 'a>>;

    fn ask(turns: &Turns, offset: u64) -> (u64, Asking<'_>) {
        let mut asking: Asking<'_> = Box::pin(turns.take(offset));
        assert!(given(&mut asking).is_none(), "{offset} did not wait");
        (offset, asking)
    }

    fn given(asking: &mut Asking<'_>) -> Option<Turn> {
        match asking
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    /// Gives `turn` back until nobody waits; who was served in which order.
    fn served(mut waiting: Vec<(u64, Asking<'_>)>, mut turn: Turn) -> Vec<u64> {
        let mut order = Vec::new();
        while !waiting.is_empty() {
            drop(turn);
            let mut next = None;
            waiting.retain_mut(|(offset, asking)| {
                let Some(got) = given(asking) else {
                    return true;
                };
                assert!(next.is_none(), "one turn for two");
                order.push(*offset);
                next = Some(got);
                false
            });
            turn = next.expect("somebody is served");
        }
        order
    }

    fn free(turns: &Turns) -> usize {
        turns.queue().free
    }

    #[test]
    fn those_behind_come_first() {
        let turns = Turns::new(2);
        let mut first: Asking<'_> = Box::pin(turns.take(9));
        let mut second: Asking<'_> = Box::pin(turns.take(8));
        let (first, second) = (given(&mut first).unwrap(), given(&mut second).unwrap());
        let waiting = [5, 7, 1, 5, 3].map(|offset| ask(&turns, offset));
        assert_eq!(served(waiting.into(), first), [1, 3, 5, 5, 7]);
        drop(second);
        assert_eq!(free(&turns), 2);
    }

    #[test]
    fn nobody_is_overtaken_for_ever() {
        let turns = Turns::new(1);
        let mut first: Asking<'_> = Box::pin(turns.take(0));
        let turn = given(&mut first).unwrap();
        let ahead = ask(&turns, u64::MAX);
        let behind = (0..2 * OVERTAKEN_MAX).map(|offset| ask(&turns, offset));
        let waiting: Vec<_> = std::iter::once(ahead).chain(behind).collect();
        let order = served(waiting, turn);
        let overtakers = order.iter().position(|offset| *offset == u64::MAX);
        assert_eq!(overtakers, usize::try_from(OVERTAKEN_MAX).ok());
        assert_eq!(free(&turns), 1);
    }

    #[test]
    fn the_turn_of_who_went_away_is_passed_on() {
        let turns = Turns::new(1);
        let mut first: Asking<'_> = Box::pin(turns.take(0));
        let turn = given(&mut first).unwrap();
        let gone = [ask(&turns, 1), ask(&turns, 2)];
        let (_, mut stays) = ask(&turns, 3);
        let [(_, gone_before), (_, gone_after)] = gone;
        drop(gone_before);
        drop(turn);
        // Given, but not taken: dropped with who asked.
        drop(gone_after);
        assert!(given(&mut stays).is_some());
        assert_eq!(free(&turns), 1);
    }
}
