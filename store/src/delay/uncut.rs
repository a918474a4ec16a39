//! How much of the write-ahead log stays without a run, and what is cut next (pure).

use crate::delay::config::DelayConfig;
use crate::delay::table::Table;

/// Full tables that become runs together: the more, the fewer and larger the runs of each slot.
const CUT_MAX: usize = 4;
/// Full tables that may wait beyond those that are kept, before who appends waits for a cut.
pub(crate) const WAITING_MAX: usize = 4;

/// When a table is full.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Full {
    bytes: u64,
    messages: usize,
}

impl Full {
    pub(crate) fn of(config: &DelayConfig) -> Self {
        Self {
            bytes: config.run_bytes,
            messages: config.run_messages,
        }
    }

    /// Whether the table is, when its stretch of the log ends at `end`.
    pub(crate) fn is_reached(self, table: &Table, end: u64) -> bool {
        end - table.range.start >= self.bytes || table.len() >= self.messages
    }
}

/// How many of the oldest full tables are to be cut now. `are_done` says of each, oldest first,
/// whether all of it is durably done. Such ones cost nothing; others stay while they are among the
/// newest `kept`: what is due soon will be done before it has to be written to a run.
pub(crate) fn to_cut(are_done: impl Iterator<Item = bool> + Clone, kept: usize) -> usize {
    let done = are_done.clone().take_while(|is_done| *is_done).count();
    let rest = are_done.count() - done;
    let cut = if rest > kept { rest.min(CUT_MAX) } else { 0 };
    done + cut
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to_cut_of(are_done: &[bool], kept: usize) -> usize {
        to_cut(are_done.iter().copied(), kept)
    }

    #[test]
    fn the_newest_are_kept_and_the_oldest_cut_together() {
        assert_eq!(to_cut_of(&[], 0), 0);
        assert_eq!(to_cut_of(&[false], 0), 1);
        assert_eq!(to_cut_of(&[false; 6], 6), 0);
        assert_eq!(to_cut_of(&[false; 7], 6), CUT_MAX);
    }

    #[test]
    fn what_is_done_goes_at_once_when_nothing_is_in_front() {
        assert_eq!(to_cut_of(&[true, true, false, true], 6), 2);
        assert_eq!(to_cut_of(&[false, true, true], 6), 0);
        assert_eq!(to_cut_of(&[true, false, false, false], 2), 1 + 3);
    }
}
