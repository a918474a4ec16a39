//! Who waits for which subject: the writer's only way to wake consumers.
//!
//! A shard registers a subject, *then* looks once more whether messages are there; the writer
//! publishes, *then* looks who is registered. Whatever the order of the two, one of them sees the
//! other: no wake-up is lost, nothing is polled. A registration is used up by the first wake-up, so
//! the list of subjects to look at is never longer than the list of subjects waited for.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use qmq_model::Subject;
use qmq_store::SubjectId;
use tokio::sync::Notify;

/// Shards that wait for a subject, as bits. Also the reason for the bound on their number.
type Shards = u64;
/// Most shards one broker can have.
pub const SHARDS_MAX: usize = Shards::BITS as usize;

/// Registrations of all shards.
#[derive(Debug, Default)]
pub struct Waiting {
    registered: Mutex<Registered>,
    ready: Vec<Ready>,
}

#[derive(Debug, Default)]
struct Registered {
    by_id: HashMap<SubjectId, Shards>,
    /// Subjects that hold no message yet have no id.
    by_name: HashMap<Subject, Shards>,
}

#[derive(Debug, Default)]
struct Ready {
    subjects: Mutex<HashSet<Subject>>,
    notify: Notify,
}

impl Waiting {
    /// For `shards` shards, at most [`SHARDS_MAX`].
    #[must_use]
    pub fn new(shards: usize) -> Self {
        assert!(shards <= SHARDS_MAX, "a shard is a bit of a word");
        let ready = (0..shards).map(|_| Ready::default()).collect();
        Self {
            registered: Mutex::default(),
            ready,
        }
    }

    /// `shard` wants to know when `subject` gains messages, once. `id` is its id if it has one.
    pub fn register(&self, shard: usize, subject: &Subject, id: Option<SubjectId>) {
        let mut registered = lock(&self.registered);
        let shards = match id {
            Some(id) => registered.by_id.entry(id).or_default(),
            None => registered.by_name.entry(subject.clone()).or_default(),
        };
        *shards |= 1 << shard;
    }

    /// Wakes the shards that wait for any of `published`. `name` tells a subject's name.
    pub fn wake(&self, published: &[SubjectId], name: impl Fn(SubjectId) -> Option<Subject>) {
        let mut woken: Shards = 0;
        {
            let mut registered = lock(&self.registered);
            if registered.by_id.is_empty() && registered.by_name.is_empty() {
                return;
            }
            for id in published {
                let by_id = registered.by_id.remove(id);
                if by_id.is_none() && registered.by_name.is_empty() {
                    continue;
                }
                let Some(subject) = name(*id) else { continue };
                let by_name = registered.by_name.remove(&subject);
                let shards = by_id.unwrap_or(0) | by_name.unwrap_or(0);
                self.mark_ready(shards, &subject);
                woken |= shards;
            }
        }
        bits(woken).for_each(|shard| self.ready[shard].notify.notify_one());
    }

    /// Waits until a subject registered by `shard` gained messages.
    pub async fn ready(&self, shard: usize) {
        self.ready[shard].notify.notified().await;
    }

    /// Takes the subjects that gained messages.
    #[must_use]
    pub fn take_ready(&self, shard: usize) -> HashSet<Subject> {
        std::mem::take(&mut *lock(&self.ready[shard].subjects))
    }

    fn mark_ready(&self, shards: Shards, subject: &Subject) {
        for shard in bits(shards) {
            lock(&self.ready[shard].subjects).insert(subject.clone());
        }
    }
}

fn bits(shards: Shards) -> impl Iterator<Item = usize> {
    (0..SHARDS_MAX).filter(move |shard| shards & (1 << shard) != 0)
}

/// The maps stay whole if a holder panics: every change is a single insert or remove.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(name: &str) -> Subject {
        Subject::new(name).unwrap()
    }

    #[test]
    fn wakes_only_who_registered_and_only_once() {
        let waiting = Waiting::new(2);
        let name = |_| Some(subject("a"));
        waiting.register(1, &subject("a"), Some(SubjectId(7)));
        waiting.wake(&[SubjectId(3)], |_| Some(subject("b")));
        assert!(waiting.take_ready(1).is_empty());
        waiting.wake(&[SubjectId(7)], name);
        assert!(waiting.take_ready(0).is_empty());
        assert_eq!(waiting.take_ready(1).len(), 1);
        waiting.wake(&[SubjectId(7)], name);
        assert!(waiting.take_ready(1).is_empty());
    }

    #[test]
    fn a_subject_without_messages_is_known_by_name() {
        let waiting = Waiting::new(1);
        waiting.register(0, &subject("new"), None);
        waiting.wake(&[SubjectId(0)], |_| Some(subject("new")));
        assert_eq!(waiting.take_ready(0).len(), 1);
    }
}
