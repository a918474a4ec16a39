//! How many received bytes may be in memory, per process.
//!
//! A byte counts from the moment it is read until the request it belongs to is answered. With the
//! budget spent nothing is read, in the order of asking. That alone could stand still: if begun
//! frames fill the budget, none of them can be completed. So one connection at a time may
//! overdraw, to complete its begun frame and for nothing else; the next may when that request has
//! been answered. The bound is therefore the budget and one frame. A connection that overdraws
//! and then sends nothing is closed by the time limit for begun frames, as are all that began
//! when it did: nobody can keep the budget spent for longer than that without sending it again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The largest budget that can be configured.
pub(crate) const BUDGET_BYTES_MAX: usize = Semaphore::MAX_PERMITS;

/// Bytes that may still be received.
#[derive(Debug)]
pub(crate) struct Budget {
    room: Semaphore,
    limit: usize,
    overdraft: Arc<Semaphore>,
    overdrawn: AtomicUsize,
}

/// The right to read a number of bytes; what is not used goes back.
#[derive(Debug)]
pub(crate) struct Grant<'a> {
    budget: &'a Budget,
    bytes: usize,
    backed: bool,
}

/// The right to go beyond the budget for one frame, and how far that went.
#[derive(Debug)]
pub(crate) struct Overdraft {
    bytes: usize,
    _permit: OwnedSemaphorePermit,
}

/// Received bytes that count; they must be given back to the budget they came from.
#[derive(Debug, Default)]
pub(crate) struct Charge {
    bytes: usize,
    overdraft: Option<Box<Overdraft>>,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            room: Semaphore::new(limit),
            limit,
            overdraft: Arc::new(Semaphore::new(1)),
            overdrawn: AtomicUsize::new(0),
        }
    }

    /// Bytes received and not yet answered.
    pub(crate) fn used(&self) -> usize {
        let backed = self.limit.saturating_sub(self.room.available_permits());
        backed + self.overdrawn.load(Ordering::Relaxed)
    }

    /// At most `bytes`, at least one; `None` when the budget is spent.
    pub(crate) fn try_take(&self, bytes: usize) -> Option<Grant<'_>> {
        loop {
            let bytes = bytes.min(self.room.available_permits());
            if bytes == 0 {
                return None;
            }
            if let Ok(permit) = self.room.try_acquire_many(permits(bytes)) {
                permit.forget();
                return Some(Grant {
                    budget: self,
                    bytes,
                    backed: true,
                });
            }
        }
    }

    /// Waits for `bytes`, first come, first served.
    pub(crate) async fn take(&self, bytes: usize) -> Grant<'_> {
        let permit = self.room.acquire_many(permits(bytes)).await;
        permit.expect("never closed").forget();
        Grant {
            budget: self,
            bytes,
            backed: true,
        }
    }

    /// Waits for the right to overdraw.
    pub(crate) async fn overdraft(&self) -> Overdraft {
        let permit = Arc::clone(&self.overdraft).acquire_owned().await;
        Overdraft {
            bytes: 0,
            _permit: permit.expect("never closed"),
        }
    }

    /// Takes back what an answered request was charged.
    pub(crate) fn give_back(&self, charge: &mut Charge) {
        let overdraft = charge.overdraft.take();
        let overdrawn = overdraft.as_ref().map_or(0, |overdraft| overdraft.bytes);
        self.overdrawn.fetch_sub(overdrawn, Ordering::Relaxed);
        self.room.add_permits(charge.bytes - overdrawn);
        charge.bytes = 0;
    }
}

impl Grant<'_> {
    /// How many bytes may be read.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Grant<'_> {
    fn drop(&mut self) {
        if self.backed {
            self.budget.room.add_permits(self.bytes);
        }
    }
}

impl Charge {
    /// How many bytes are charged.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the begun frame may go beyond the budget.
    pub(crate) fn may_overdraw(&self) -> bool {
        self.overdraft.is_some()
    }

    /// From now on `grant` gives what the budget does not have.
    pub(crate) fn overdraw(&mut self, overdraft: Overdraft) {
        self.overdraft = Some(Box::new(overdraft));
    }

    /// A grant for bytes of the begun frame that the budget does not have.
    pub(crate) fn overdrawn_grant<'a>(&self, budget: &'a Budget, bytes: usize) -> Grant<'a> {
        assert!(self.may_overdraw());
        Grant {
            budget,
            bytes,
            backed: false,
        }
    }

    /// Charges what was read of `grant`.
    pub(crate) fn add(&mut self, mut grant: Grant<'_>, read: usize) {
        assert!(read <= grant.bytes);
        grant.bytes -= read;
        self.bytes += read;
        if !grant.backed {
            let overdraft = self
                .overdraft
                .as_mut()
                .expect("unbacked grants come from it");
            overdraft.bytes += read;
            grant.budget.overdrawn.fetch_add(read, Ordering::Relaxed);
        }
    }

    /// Splits off the charge of a completed frame; an overdraft was for this frame.
    pub(crate) fn split(&mut self, bytes: usize) -> Self {
        assert!(bytes <= self.bytes);
        self.bytes -= bytes;
        Self {
            bytes,
            overdraft: self.overdraft.take(),
        }
    }
}

fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("one read is small")
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    fn charge(budget: &Budget, bytes: usize) -> Charge {
        let mut charge = Charge::default();
        charge.add(budget.try_take(bytes).expect("room"), bytes);
        charge
    }

    #[test]
    fn unused_part_of_a_grant_goes_back() {
        let budget = Budget::new(100);
        let mut charge = Charge::default();
        charge.add(budget.try_take(80).expect("room"), 30);
        assert_eq!(budget.used(), 30);
        assert_eq!(budget.try_take(1000).expect("room").bytes(), 70);
        assert_eq!(budget.used(), 30);
        budget.give_back(&mut charge);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn split_charges_are_given_back_one_by_one() {
        let budget = Budget::new(100);
        let mut buffer = charge(&budget, 100);
        assert!(budget.try_take(1).is_none());
        let mut request = buffer.split(60);
        budget.give_back(&mut request);
        assert_eq!(budget.used(), 40);
        budget.give_back(&mut buffer);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn one_overdraft_at_a_time_until_its_request_is_answered() {
        let budget = Budget::new(10);
        let mut all = charge(&budget, 10);
        all.overdraw(budget.overdraft().await);
        let grant = all.overdrawn_grant(&budget, 7);
        all.add(grant, 5);
        assert_eq!(budget.used(), 15);

        let mut next = std::pin::pin!(budget.overdraft());
        let first = std::future::poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx).is_ready()));
        assert!(!first.await);
        let mut request = all.split(15);
        assert!(!all.may_overdraw());
        budget.give_back(&mut request);
        assert_eq!(budget.used(), 0);
        next.await;
    }
}
