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
    /// The reader is not to sleep the next time, or any longer.
    is_called: bool,
    closed: bool,
}

impl<Q> Mailbox<Q> {
    /// Changes the queues, and wakes the reader if it sleeps.
    ///
    /// # Errors
    /// After [`Self::close`]; nothing is changed then.
    pub fn put(&self, push: impl FnOnce(&mut Q)) -> Result<(), Stopped> {
        let mut state = self.open()?;
        push(&mut state.queues);
        self.wake(state);
        Ok(())
    }

    /// Changes the queues and lets the reader sleep: the caller calls it if need be.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn put_quietly(&self, push: impl FnOnce(&mut Q)) -> Result<(), Stopped> {
        push(&mut self.open()?.queues);
        Ok(())
    }

    /// Wakes the reader, also if the queues are idle; if it is awake, it will not sleep the next time.
    pub fn call(&self) {
        let mut state = self.lock();
        state.is_called = true;
        self.wake(state);
    }

    fn open(&self) -> Result<MutexGuard<'_, State<Q>>, Stopped> {
        let state = self.lock();
        if state.closed {
            Err(Stopped)
        } else {
            Ok(state)
        }
    }

    fn wake(&self, mut state: MutexGuard<'_, State<Q>>) {
        let sleeps = std::mem::take(&mut state.reader_sleeps);
        drop(state);
        if sleeps {
            self.work.notify_one();
        }
    }

    /// Sleeps up to `patience` while the queues are idle and not closed and nobody calls, then hands
    /// them to `take`, with whether they are closed.
    pub fn take<R>(
        &self,
        patience: Duration,
        is_idle: impl Fn(&Q) -> bool,
        take: impl FnOnce(&mut Q, bool) -> R,
    ) -> R {
        let mut state = self.lock();
        if is_idle(&state.queues) && !state.closed && !patience.is_zero() {
            let waited = self.work.wait_timeout_while(state, patience, |state| {
                let may_sleep = is_idle(&state.queues) && !state.closed && !state.is_called;
                state.reader_sleeps = may_sleep;
                may_sleep
            });
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.reader_sleeps = false;
            state.is_called = false;
        }
        let closed = state.closed;
        take(&mut state.queues, closed)
    }

    /// Looks into the queues, and may take something out of them.
    pub fn look_into<R>(&self, look: impl FnOnce(&mut Q) -> R) -> R {
        look(&mut self.lock().queues)
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
    fn what_is_put_quietly_is_found_when_the_reader_is_called() {
        let mailbox = Arc::new(Mailbox::<Vec<u32>>::default());
        mailbox.put_quietly(|queue| queue.push(1)).unwrap();
        let take = |queue: &mut Vec<u32>, _| std::mem::take(queue);
        assert_eq!(mailbox.take(LONG, Vec::is_empty, take), [1]);
        // A call is not forgotten, whether it comes before the sleep or during it.
        mailbox.call();
        assert!(mailbox.take(LONG, Vec::is_empty, take).is_empty());
        let reader = Arc::clone(&mailbox);
        let reader = std::thread::spawn(move || reader.take(LONG, Vec::is_empty, take));
        mailbox.call();
        assert!(reader.join().unwrap().is_empty());
        mailbox.close();
        assert_eq!(mailbox.put_quietly(|queue| queue.push(2)), Err(Stopped));
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
