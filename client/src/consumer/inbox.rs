//! Messages that were pulled and wait for the application, and how many more it wants.
//!
//! Nothing is pulled ahead of demand: a message that was pulled belongs to this consumer, and no
//! other consumer of the group gets it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// What pull loops should fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Messages wanted and not here yet.
    pub messages: usize,
    /// Until when somebody waits for them; `None` means for good.
    pub until: Option<Instant>,
}

const NO_DEMAND: Demand = Demand {
    messages: 0,
    until: None,
};

/// Shared by the pull loops and the callers of one consumer.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    state: Mutex<State<T>>,
    arrived: Notify,
    demand: watch::Sender<Demand>,
}

#[derive(Debug)]
struct State<T> {
    ready: VecDeque<T>,
    wanted: usize,
    callers: usize,
    until: Option<Instant>,
}

/// The wish of one caller; ends when dropped.
#[derive(Debug)]
pub(crate) struct Wish<T> {
    inbox: Arc<Inbox<T>>,
    messages: usize,
    is_standing: bool,
}

impl<T> Inbox<T> {
    /// Empty, nobody wants anything.
    pub(crate) fn new() -> Self {
        let state = State {
            ready: VecDeque::new(),
            wanted: 0,
            callers: 0,
            until: None,
        };
        Self {
            state: Mutex::new(state),
            arrived: Notify::new(),
            demand: watch::Sender::new(NO_DEMAND),
        }
    }

    /// The demand, and a way to wait for changes of it.
    pub(crate) fn watch_demand(&self) -> watch::Receiver<Demand> {
        self.demand.subscribe()
    }

    /// A caller wants `messages` until `until`; with `None` it always wants so many in stock.
    pub(crate) fn wish(self: &Arc<Self>, messages: usize, until: Option<Instant>) -> Wish<T> {
        let mut state = self.lock();
        state.until = match state.callers {
            0 => until,
            _ => state.until.zip(until).map(|(a, b)| a.max(b)),
        };
        state.callers += 1;
        state.wanted += messages;
        self.publish(&state);
        drop(state);
        Wish {
            inbox: Arc::clone(self),
            messages,
            is_standing: until.is_none(),
        }
    }

    /// Messages have been pulled.
    pub(crate) fn put(&self, messages: impl IntoIterator<Item = T>) {
        let mut state = self.lock();
        state.ready.extend(messages);
        self.publish(&state);
        drop(state);
        self.arrived.notify_waiters();
    }

    /// Takes everything that nobody has taken.
    pub(crate) fn clear(&self) -> Vec<T> {
        self.lock().ready.drain(..).collect()
    }

    fn publish(&self, state: &State<T>) {
        let messages = state.wanted.saturating_sub(state.ready.len());
        let demand = Demand {
            messages,
            until: state.until,
        };
        self.demand
            .send_if_modified(|old| std::mem::replace(old, demand) != demand);
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Wish<T> {
    /// Waits until there is a message and takes up to `max`.
    pub(crate) async fn take(&mut self, max: usize) -> Vec<T> {
        let inbox = Arc::clone(&self.inbox);
        loop {
            let mut arrived = std::pin::pin!(inbox.arrived.notified());
            // From here on an arrival is noticed even before it is awaited.
            arrived.as_mut().enable();
            let taken = self.take_ready(max);
            if !taken.is_empty() {
                return taken;
            }
            arrived.await;
        }
    }

    /// Waits until there is a message that nobody has taken.
    pub(crate) async fn ready(&self) {
        loop {
            let mut arrived = std::pin::pin!(self.inbox.arrived.notified());
            arrived.as_mut().enable();
            if !self.inbox.lock().ready.is_empty() {
                return;
            }
            arrived.await;
        }
    }

    /// Takes up to `max` of what is there.
    pub(crate) fn take_ready(&mut self, max: usize) -> Vec<T> {
        let inbox = Arc::clone(&self.inbox);
        let mut state = inbox.lock();
        let count = max.min(state.ready.len());
        let taken = state.ready.drain(..count).collect();
        if !self.is_standing {
            // In one step with the taking: a pull loop must not see a demand that is fulfilled.
            let fulfilled = count.min(self.messages);
            self.messages -= fulfilled;
            state.wanted -= fulfilled;
        }
        inbox.publish(&state);
        taken
    }
}

impl<T> Drop for Wish<T> {
    fn drop(&mut self) {
        let mut state = self.inbox.lock();
        state.callers -= 1;
        state.wanted -= self.messages;
        self.inbox.publish(&state);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn demand_is_what_callers_want_and_is_not_here() {
        let inbox = Arc::new(Inbox::new());
        let demand = inbox.watch_demand();
        let soon = Instant::now() + Duration::from_secs(1);
        let mut first = inbox.wish(3, Some(soon));
        let second = inbox.wish(2, Some(soon + Duration::from_secs(1)));
        let until = Some(soon + Duration::from_secs(1));
        assert_eq!(*demand.borrow(), Demand { messages: 5, until });
        inbox.put(['a', 'b']);
        assert_eq!(demand.borrow().messages, 3);
        assert_eq!(first.take(10).await, ['a', 'b']);
        assert_eq!(
            demand.borrow().messages,
            3,
            "one more for the first, two for the second"
        );
        drop(first);
        assert_eq!(demand.borrow().messages, 2);
        drop(second);
        assert_eq!(demand.borrow().messages, 0);
    }

    #[tokio::test]
    async fn a_standing_wish_is_never_fulfilled() {
        let inbox = Arc::new(Inbox::new());
        let demand = inbox.watch_demand();
        let mut stock = inbox.wish(2, None);
        inbox.put(['a', 'b', 'c']);
        assert_eq!(*demand.borrow(), NO_DEMAND);
        assert_eq!(stock.take(2).await, ['a', 'b']);
        assert_eq!(demand.borrow().messages, 1);
        assert_eq!(inbox.clear(), ['c']);
    }

    #[tokio::test]
    async fn a_waiting_caller_gets_what_arrives() {
        let inbox = Arc::new(Inbox::new());
        let mut wish = inbox.wish(1, None);
        let (taken, ()) = tokio::join!(wish.take(1), async {
            tokio::task::yield_now().await;
            inbox.put([1, 2]);
        });
        assert_eq!(taken, [1]);
        assert_eq!(wish.take(9).await, [2]);
    }
}
