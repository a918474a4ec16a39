//! Every bound of the dispatch, with what it is for.

use std::time::Duration;

use super::backoff::Backoff;

/// Outstanding questions for a route, of all subjects together.
pub const ROUTE_ASKS_MAX: usize = 64;
/// A route that is used is asked for again after this time.
pub const ROUTE_FRESH: Duration = Duration::from_secs(60);
/// After trouble with a group a route is asked for again, but not more often.
pub const ROUTE_PAUSE: Duration = Duration::from_secs(1);
/// Pauses between questions for the route of a subject that has none.
pub const ROUTE_BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(500),
    longest: Duration::from_secs(30),
};
/// Messages that a subject without a route keeps in memory; the rest stays in the store.
pub const PARKED_MAX: usize = 1000;
/// Messages that subjects keep in memory of which all groups fail, once memory gets short.
pub const STUCK_MAX: usize = 100;
/// A subject with fewer messages than this finds room when the others have used up theirs.
pub const SMALL_QUEUE: usize = 1000;
/// Subjects without messages of which the route is remembered.
pub const SUBJECTS_KEPT_MAX: usize = 10_000;
/// Pauses before a message is tried again that a broker refused for its own sake.
pub const REJECTED_BACKOFF: Backoff = Backoff {
    first: Duration::from_secs(1),
    longest: Duration::from_secs(300),
};
/// Pause before a message is tried again that could not be read.
pub const UNREADABLE_PAUSE: Duration = Duration::from_secs(60);
/// Messages that wait for another try on their own. When there are as many of unknown outcome,
/// nothing new is begun.
pub const ASIDE_MAX: usize = 1 << 16;
/// How often the queues are looked through for subjects of which all groups fail.
pub const TRIM_PAUSE: Duration = Duration::from_secs(1);
/// How often what was left in the store is asked for.
pub const LEFT_PAUSE: Duration = Duration::from_secs(1);
/// How often overdue messages are let through.
pub const RELEASE_PAUSE: Duration = Duration::from_millis(10);
/// Subjects that are asked for overdue messages at a time.
pub const RELEASE_VISITS_MAX: usize = 256;

/// The bounds an operator may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests under way to one broker group. Default: 8.
    pub requests_per_group: usize,
    /// Messages of one request. Default: 200.
    pub batch_messages: usize,
    /// Payload bytes of one request; a larger message goes alone. Default: 1 MiB.
    pub batch_bytes: usize,
    /// Messages that are due and wait in memory; the rest stays in the store until there is room.
    /// Default: 1 Mi, 32 MiB of memory.
    pub queued_max: usize,
    /// Overdue messages that wait in memory beside those. Default: 64 Ki.
    pub overdue_max: usize,
    /// Overdue messages let through per second, beside those that are due now. Default: 20 000.
    pub overdue_per_second: u32,
    /// Pauses of a broker group that fails.
    pub backoff: Backoff,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_per_group: 8,
            batch_messages: 200,
            batch_bytes: 1 << 20,
            queued_max: 1 << 20,
            overdue_max: 1 << 16,
            overdue_per_second: 20_000,
            backoff: Backoff {
                first: Duration::from_millis(100),
                longest: Duration::from_secs(5),
            },
        }
    }
}

impl Limits {
    /// Messages that one subject gives before it is the next one's turn.
    pub(super) fn turn(&self) -> usize {
        (self.batch_messages / 4).max(1)
    }
}
