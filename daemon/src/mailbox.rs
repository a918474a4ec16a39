//! Queues that many fill and one thread empties: it sleeps while they are empty, and is woken once.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The thread that empties it has stopped: nothing more is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the thread behind the queue has stopped")]
pub struct Stopped;

/// Queues `Q` and the way to wake their one reader. Who fills them bounds them.
#[derive(Debug, Default)]
pub struct Mailbox<Q> {
    state: Mutex<State<Q>>,
    work: Condvar,
}

#[derive(Debug, Default)]
struct State<Q> {
    queues: Q,
    reader_sleeps: bool,
    closed: bool,
}

impl<Q> Mailbox<Q> {
    /// Changes the queues, and wakes the reader if it sleeps.
    ///
    /// # Errors
    /// After [`Self::close`]; nothing is changed then.
    pub fn put(&self, push: impl FnOnce(&mut Q)) -> Result<(), Stopped> {
        let mut state = self.lock();
        if state.closed {
            return Err(Stopped);
        }
        push(&mut state.queues);
        let sleeps = std::mem::take(&mut state.reader_sleeps);
        drop(state);
        if sleeps {
            self.work.notify_one();
        }
        Ok(())
    }

    /// Sleeps up to `patience` while the queues are idle and not closed, then hands them to `take`,
    /// with whether they are closed.
    pub fn take<R>(
        &self,
        patience: Duration,
        is_idle: impl Fn(&Q) -> bool,
        take: impl FnOnce(&mut Q, bool) -> R,
    ) -> R {
        let mut state = self.lock();
        if is_idle(&state.queues) && !state.closed && !patience.is_zero() {
            state.reader_sleeps = true;
            let waited = self.work.wait_timeout_while(state, patience, |state| {
                is_idle(&state.queues) && !state.closed
            });
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.reader_sleeps = false;
        }
        let closed = state.closed;
        take(&mut state.queues, closed)
    }

    /// Looks at the queues.
    pub fn look<R>(&self, look: impl FnOnce(&Q) -> R) -> R {
        look(&self.lock().queues)
    }

    /// Takes no more; what is queued can still be taken out.
    pub fn close(&self) {
        self.lock().closed = true;
        self.work.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State<Q>> {
        // Pushes and drains leave the queues whole, so a panic elsewhere does not spoil them.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_sleeping_reader_is_woken_by_what_it_waits_for() {
        let mailbox = Arc::new(Mailbox::<Vec<u32>>::default());
        let reader = Arc::clone(&mailbox);
        // Sleeps until there are two.
        let is_idle = |queue: &Vec<u32>| queue.len() < 2;
        let take = |queue: &mut Vec<u32>, _| std::mem::take(queue);
        let reader = std::thread::spawn(move || reader.take(LONG, is_idle, take));
        for n in [1, 2] {
            mailbox.put(|queue| queue.push(n)).unwrap();
        }
        assert_eq!(reader.join().unwrap(), [1, 2]);
    }

    #[test]
    fn closing_wakes_the_reader_and_leaves_what_is_queued() {
        let mailbox = Arc::new(Mailbox::<Vec<u32>>::default());
        let reader = Arc::clone(&mailbox);
        let reader = std::thread::spawn(move || reader.take(LONG, |_| true, |_, closed| closed));
        mailbox.put(|queue| queue.push(7)).unwrap();
        mailbox.close();
        assert!(reader.join().unwrap());
        assert_eq!(mailbox.put(|queue| queue.push(8)), Err(Stopped));
        let left = mailbox.take(LONG, Vec::is_empty, |queue, _| std::mem::take(queue));
        assert_eq!(left, [7]);
    }
}
