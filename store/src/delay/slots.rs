//! How runs are cut by due time, and which to merge (pure).

use std::cmp::Reverse;

use crate::run::tiers;

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
const MONTH: i64 = 30 * DAY;
/// Most runs in one merge.
const FAN_IN_MAX: usize = 32;
/// Larger runs are not merged: it would take too long at once.
const BYTES_MAX: u64 = 4 << 30;

/// A stretch of due times, `begin..end` in ms. What falls into it at a merge goes into one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot {
    pub(crate) begin: i64,
    pub(crate) end: i64,
}

impl Slot {
    /// Rises with the due times of a merge. A day may end with its last hour: the hour is first.
    pub(crate) fn rank(self) -> (i64, Reverse<i64>) {
        (self.end, Reverse(self.begin))
    }
}

/// The slot of runs that were not cut by due time: earlier versions wrote such ones.
pub(crate) const WHOLE: Slot = Slot {
    begin: 0,
    end: i64::MAX,
};

/// Where a message belongs in a merge at `now`: coarse far away, finer near, so that a run is
/// finished soon after its first message is due, and there are some hundred runs at most. What is
/// overdue belongs to this hour. Slots rise with the due time, although a day may begin before
/// the last of the hours in front of it.
pub(crate) fn slot_of(due: i64, now: i64) -> Slot {
    let due = due.max(now).max(0);
    let width = match due - now.max(0) {
        ..DAY => HOUR,
        DAY..MONTH => DAY,
        _ => MONTH,
    };
    let begin = due - due % width;
    Slot {
        begin,
        end: begin.saturating_add(width),
    }
}

/// What a merge is chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunSize {
    pub(crate) number: u64,
    pub(crate) slot: Slot,
    pub(crate) bytes: u64,
}

/// Numbers of the runs to merge next: those that were not cut by due time at once, others of one
/// slot when there are enough of about the same size, so that a message is written once per level.
pub(crate) fn to_merge(runs: &[RunSize], unit: u64) -> Option<Vec<u64>> {
    let uncut = of_slot(runs, WHOLE).map(|run| run.number);
    let uncut: Vec<u64> = uncut.take(FAN_IN_MAX).collect();
    if !uncut.is_empty() {
        return Some(uncut);
    }
    let mut slots: Vec<Slot> = runs.iter().map(|run| run.slot).collect();
    slots.sort_unstable();
    slots.dedup();
    slots
        .into_iter()
        .filter(|slot| *slot != WHOLE)
        .find_map(|slot| {
            let within: Vec<RunSize> = of_slot(runs, slot).collect();
            let bytes: Vec<u64> = within.iter().map(|run| run.bytes).collect();
            let chosen = tiers::to_merge(&bytes, unit)?;
            Some(within[chosen].iter().map(|run| run.number).collect())
        })
}

fn of_slot(runs: &[RunSize], slot: Slot) -> impl Iterator<Item = RunSize> {
    let of = runs.iter().copied();
    of.filter(move |run| run.slot == slot && run.bytes < BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000 * DAY + 5 * HOUR + 7;

    fn slot(begin: i64, width: i64) -> Slot {
        Slot {
            begin,
            end: begin + width,
        }
    }

    #[test]
    fn ranks_rise_with_the_due_time_wherever_the_day_stands() {
        let minute = HOUR / 60;
        for late in 0..150 {
            let now = NOW + late * 10 * minute;
            for edge in [now + DAY, now + MONTH] {
                let dues = (-200..400).map(|step| edge + step * 7 * minute);
                let slots: Vec<Slot> = dues.map(|due| slot_of(due, now)).collect();
                for pair in slots.windows(2) {
                    let is_same = pair[0] == pair[1];
                    assert!(
                        is_same || pair[0].rank() < pair[1].rank(),
                        "{now}: {pair:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn slots_are_fine_near_and_coarse_far_away() {
        let hour = slot(1_000 * DAY + 5 * HOUR, HOUR);
        for due in [0, NOW - DAY, NOW, NOW + 3] {
            assert_eq!(slot_of(due, NOW), hour, "{due}");
        }
        let next_day = 1_001 * DAY;
        assert_eq!(slot_of(next_day, NOW), slot(next_day, HOUR));
        assert_eq!(slot_of(NOW + DAY, NOW), slot(next_day, DAY));
        let far = slot_of(NOW + 400 * DAY, NOW);
        assert_eq!((far.end - far.begin, far.begin % MONTH), (MONTH, 0));
        assert!(slot_of(i64::MAX, 0).begin < i64::MAX);
    }

    #[test]
    fn slots_rise_with_the_due_time() {
        let mut last = slot_of(0, NOW);
        for hours in 0..24 * 90 {
            let next = slot_of(NOW + hours * HOUR, NOW);
            assert!(next == last || next.end > last.end, "{hours}");
            last = next;
        }
    }

    fn run(number: u64, slot: Slot, bytes: u64) -> RunSize {
        RunSize {
            number,
            slot,
            bytes,
        }
    }

    #[test]
    fn runs_of_everything_go_first_then_levels_of_a_slot() {
        let (a, b) = (slot(0, HOUR), slot(HOUR, HOUR));
        let mut runs = vec![run(2, a, 10), run(3, a, 10), run(4, b, 10)];
        assert_eq!(to_merge(&runs, 10), None);
        runs.extend([run(5, a, 10), run(6, a, 10)]);
        assert_eq!(to_merge(&runs, 10), Some(vec![2, 3, 5, 6]));
        runs.extend([run(1, WHOLE, 10), run(7, WHOLE, 10)]);
        assert_eq!(to_merge(&runs, 10), Some(vec![1, 7]));
    }

    #[test]
    fn very_large_runs_stay_as_they_are() {
        let runs: Vec<RunSize> = (0..8)
            .map(|number| run(number, slot(0, HOUR), BYTES_MAX))
            .collect();
        assert_eq!(to_merge(&runs, 10), None);
    }
}
