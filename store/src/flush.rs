//! When to sync (pure).

use std::time::Duration;

use qmq_model::UnixMillis;

use crate::config::FlushMode;

/// In sync mode, how long actions that nobody waits for may stay unsynced; as in the reference.
pub(crate) const ACTION_FLUSH_INTERVAL: Duration = Duration::from_millis(500);
/// How long nothing must happen before the durable positions are stated in an idle record.
pub(crate) const IDLE_AFTER: Duration = Duration::from_millis(100);
/// Time between checkpoints while something changes.
pub(crate) const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(60);

/// What a commit must make durable before it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Unsynced bytes in the messagelog.
    pub(crate) has_messages: bool,
    /// The caller needs the messages durable in any mode.
    pub(crate) needs_messages: bool,
    /// The caller, or the limit of unsynced pull sequences, needs the actions durable.
    pub(crate) needs_actions: bool,
    /// Since when the oldest unsynced byte is there.
    pub(crate) dirty_since: Option<UnixMillis>,
}

/// Which logs a commit syncs; none by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) messages: bool,
    pub(crate) actions: bool,
}

/// How long written bytes may stay unsynced when nobody waits for them.
pub(crate) const fn interval(mode: FlushMode) -> Duration {
    match mode {
        FlushMode::Sync => ACTION_FLUSH_INTERVAL,
        FlushMode::Async { interval } => interval,
    }
}

/// Time until everything must be synced; zero when it is due. `None` when nothing is dirty.
pub(crate) fn due_in(
    mode: FlushMode,
    dirty_since: Option<UnixMillis>,
    now: UnixMillis,
) -> Option<Duration> {
    dirty_since.map(|since| left(interval(mode), since, now))
}

/// What is left of `wait` that began at `since`. A clock that was set back ends the wait: nothing
/// may stay unsynced until it has caught up.
pub(crate) fn left(wait: Duration, since: UnixMillis, now: UnixMillis) -> Duration {
    if now < since {
        Duration::ZERO
    } else {
        wait.saturating_sub(now.since(since))
    }
}

/// What a commit at `now` syncs. In async mode what is only due is left to the next tick, so that
/// no producer waits for it.
pub(crate) fn plan(mode: FlushMode, wanted: Wanted, now: UnixMillis) -> Plan {
    let is_due = due_in(mode, wanted.dirty_since, now).is_some_and(|left| left.is_zero());
    match mode {
        FlushMode::Sync => Plan {
            messages: wanted.has_messages,
            actions: wanted.needs_actions || (is_due && wanted.has_messages),
        },
        FlushMode::Async { .. } => Plan {
            messages: wanted.needs_messages && wanted.has_messages,
            actions: wanted.needs_actions,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASYNC: FlushMode = FlushMode::Async {
        interval: Duration::from_millis(500),
    };

    fn wanted() -> Wanted {
        Wanted {
            has_messages: true,
            needs_messages: false,
            needs_actions: false,
            dirty_since: None,
        }
    }

    #[test]
    fn sync_mode_syncs_messages_and_leaves_actions_for_later() {
        let plan = plan(FlushMode::Sync, wanted(), UnixMillis(0));
        assert_eq!(
            plan,
            Plan {
                messages: true,
                actions: false
            }
        );
    }

    #[test]
    fn actions_that_are_due_ride_along() {
        let old = Wanted {
            dirty_since: Some(UnixMillis(0)),
            ..wanted()
        };
        assert!(!plan(FlushMode::Sync, old, UnixMillis(499)).actions);
        assert!(plan(FlushMode::Sync, old, UnixMillis(500)).actions);
    }

    #[test]
    fn async_mode_syncs_only_what_is_asked_for() {
        let old = Wanted {
            dirty_since: Some(UnixMillis(0)),
            ..wanted()
        };
        let nothing = Plan {
            messages: false,
            actions: false,
        };
        assert_eq!(plan(ASYNC, old, UnixMillis(9000)), nothing);
        let asked = Wanted {
            needs_messages: true,
            needs_actions: true,
            ..old
        };
        assert_eq!(
            plan(ASYNC, asked, UnixMillis(0)),
            Plan {
                messages: true,
                actions: true
            }
        );
    }

    #[test]
    fn nothing_dirty_is_never_due() {
        assert_eq!(due_in(ASYNC, None, UnixMillis(9000)), None);
        let left = due_in(ASYNC, Some(UnixMillis(100)), UnixMillis(200));
        assert_eq!(left, Some(Duration::from_millis(400)));
    }

    #[test]
    fn a_clock_that_was_set_back_puts_nothing_off() {
        assert_eq!(
            due_in(ASYNC, Some(UnixMillis(9000)), UnixMillis(200)),
            Some(Duration::ZERO)
        );
    }
}
