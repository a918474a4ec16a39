//! What waits to be written, and who waits for it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// While so many bytes wait nothing more is read from the sockets.
const BATCH_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Records that were taken and not yet written, with the requests they came in.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Records, as they are written.
    pub(crate) bytes: Vec<u8>,
    /// Connection and number of each request.
    pub(crate) requests: Vec<(usize, i32)>,
    /// Messages in it.
    pub(crate) messages: u64,
}

impl Batch {
    /// Makes it empty; its memory stays.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.requests.clear();
        self.messages = 0;
    }
}

/// Hands batches from the thread that reads to the one that writes.
#[derive(Debug, Default)]
pub(crate) struct Handover {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    batch: Batch,
    is_closed: bool,
}

impl Handover {
    /// Adds all of `more` and leaves it empty; waits while too much is there already.
    pub(crate) fn add(&self, more: &mut Batch) {
        let mut state = self.lock();
        while state.batch.bytes.len() >= BATCH_BYTES_MAX && !state.is_closed {
            state = self.wait(state);
        }
        if state.batch.requests.is_empty() {
            std::mem::swap(&mut state.batch, more);
        } else {
            state.batch.bytes.extend_from_slice(&more.bytes);
            state.batch.requests.extend_from_slice(&more.requests);
            state.batch.messages += more.messages;
        }
        more.clear();
        drop(state);
        self.changed.notify_all();
    }

    /// Waits for something and takes all of it in exchange for `empty`; `false` at the end.
    pub(crate) fn take(&self, empty: &mut Batch) -> bool {
        let mut state = self.lock();
        while state.batch.requests.is_empty() {
            if state.is_closed {
                return false;
            }
            state = self.wait(state);
        }
        std::mem::swap(&mut state.batch, empty);
        drop(state);
        self.changed.notify_all();
        true
    }

    /// Nothing more comes, or nobody takes any more.
    pub(crate) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No holder can panic half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(opaque: i32) -> Batch {
        Batch {
            bytes: vec![7; 3],
            requests: vec![(0, opaque)],
            messages: 1,
        }
    }

    #[test]
    fn what_queued_up_is_taken_at_once() {
        let handover = Handover::default();
        (0..3).for_each(|opaque| handover.add(&mut batch(opaque)));
        let mut taken = Batch::default();
        assert!(handover.take(&mut taken));
        assert_eq!((taken.bytes.len(), taken.messages), (9, 3));
        assert_eq!(taken.requests, [(0, 0), (0, 1), (0, 2)]);
        handover.close();
        taken.clear();
        assert!(!handover.take(&mut taken));
    }

    #[test]
    fn a_full_handover_waits_until_it_is_taken() {
        let handover = Handover::default();
        let mut full = batch(0);
        full.bytes = vec![0; BATCH_BYTES_MAX];
        handover.add(&mut full);
        std::thread::scope(|scope| {
            scope.spawn(|| handover.add(&mut batch(1)));
            let (mut taken, mut requests) = (Batch::default(), Vec::new());
            while requests.len() < 2 {
                assert!(handover.take(&mut taken));
                assert!(taken.bytes.len() <= BATCH_BYTES_MAX);
                requests.append(&mut taken.requests);
                taken.clear();
            }
            assert_eq!(requests, [(0, 0), (0, 1)]);
        });
    }
}
