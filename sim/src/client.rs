//! A consumer as the Java client behaves: what it holds, what it says about itself.

use std::collections::VecDeque;

use crate::promises::Delivered;

/// One queue of a consumer instance. It survives crashes of the broker and forgets all at its own
/// restart.
#[derive(Clone, Debug)]
pub struct Client {
    held: VecDeque<Delivered>,
    pull_last: i64,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            held: VecDeque::new(),
            pull_last: -1,
        }
    }
}

impl Client {
    /// Last pull sequence it received since its start, -1 for none.
    #[must_use]
    pub fn pull_last(&self) -> i64 {
        self.pull_last
    }

    /// Takes a reply. Messages whose pull sequence does not rise are skipped, as Java does: they
    /// would be confirmed by acks for others.
    pub fn receive(&mut self, messages: &[Delivered]) {
        for message in messages {
            if message.pull > self.pull_last {
                self.pull_last = message.pull;
                self.held.push_back(*message);
            }
        }
    }

    /// The first `count` messages it holds, as far as their pull sequences have no gap: what one
    /// ack covers.
    #[must_use]
    pub fn prefix(&self, count: usize) -> Vec<Delivered> {
        let mut prefix: Vec<Delivered> = Vec::new();
        for message in self.held.iter().take(count) {
            if prefix
                .last()
                .is_some_and(|last| last.pull + 1 != message.pull)
            {
                break;
            }
            prefix.push(*message);
        }
        prefix
    }

    /// Lets go of the first `count` messages, at most of all: they are acked, or it lost them.
    pub fn forget(&mut self, count: usize) {
        self.held.drain(..count.min(self.held.len()));
    }

    /// Number of messages held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }
}
