//! Look-ups in the tail; those that reach into runs.

use super::*;

fn index() -> ConsumerLog {
    ConsumerLog::new(Vec::new(), 0, 0)
}

const ID: SubjectId = SubjectId(65);
const ALL: Limits = Limits {
    count_max: usize::MAX,
    bytes_max: usize::MAX,
};

fn at(sequence: i64) -> Located {
    let offset = MessageOffset((1 << 40) + 100 * u64::try_from(sequence).unwrap());
    Located {
        subject: ID,
        sequence: MessageSequence(sequence),
        offset,
        bytes: 100,
        time: UnixMillis(sequence),
        tags: TagMask(7),
    }
}

fn locate(index: &ConsumerLog, range: Range<i64>, limits: Limits) -> (Vec<i64>, Skipped) {
    let mut out = Vec::new();
    let skipped = index.locate(ID, &range, limits, &mut out);
    assert!(out.iter().all(|found| *found == at(found.sequence.0)));
    (out.iter().map(|found| found.sequence.0).collect(), skipped)
}

fn skipped(missing: u64, quarantined: u64, next: i64) -> Skipped {
    Skipped {
        missing,
        quarantined,
        next: MessageSequence(next),
        cold: None,
    }
}

#[test]
fn an_unknown_subject_is_empty() {
    let index = index();
    assert_eq!(index.bounds(ID), 0..0);
    assert_eq!(locate(&index, 0..10, ALL), (vec![], skipped(0, 0, 0)));
}

#[test]
fn finds_across_chunks() {
    let index = index();
    (0..3000).for_each(|sequence| index.tail.push(&at(sequence)));
    assert_eq!(index.bounds(ID), 0..3000);
    let (found, rest) = locate(&index, 1000..2100, ALL);
    assert_eq!(found, (1000..2100).collect::<Vec<i64>>());
    assert_eq!(rest, skipped(0, 0, 2100));
    let (found, rest) = locate(&index, 2990..4000, ALL);
    assert_eq!((found.len(), rest), (10, skipped(0, 0, 3000)));
}

#[test]
fn gaps_are_missing_and_damage_is_quarantined() {
    let index = index();
    index.tail.push(&at(5));
    index.tail.push_quarantined(ID, 6, MessageOffset(1));
    index.tail.push(&at(9));
    index.tail.raise_end(ID, 12);
    assert_eq!(index.bounds(ID), 5..12);
    assert_eq!(
        locate(&index, 0..20, ALL),
        (vec![5, 9], skipped(5 + 2 + 2, 1, 12))
    );
    assert_eq!(locate(&index, 7..9, ALL), (vec![], skipped(2, 0, 9)));
}

#[test]
fn finds_by_time_although_the_clock_was_set_back() {
    let index = index();
    let times = [10, 20, 5, 30];
    for (sequence, time) in (0..).zip(times) {
        let time = UnixMillis(time);
        index.tail.push(&Located {
            time,
            ..at(sequence)
        });
    }
    let first = |time| index.first_since(ID, UnixMillis(time)).unwrap();
    assert_eq!([0, 10, 11, 21, 31].map(first), [0, 0, 1, 3, 4]);
    assert_eq!(index.first_since(SubjectId(1), UnixMillis(0)).unwrap(), 0);
}

#[test]
fn stops_at_limits_but_gives_one() {
    let index = index();
    (0..10).for_each(|sequence| index.tail.push(&at(sequence)));
    let count = Limits {
        count_max: 3,
        ..ALL
    };
    assert_eq!(
        locate(&index, 2..10, count),
        (vec![2, 3, 4], skipped(0, 0, 5))
    );
    let bytes = Limits {
        bytes_max: 250,
        ..ALL
    };
    assert_eq!(locate(&index, 2..10, bytes), (vec![2, 3], skipped(0, 0, 4)));
    let tiny = Limits {
        bytes_max: 1,
        ..ALL
    };
    assert_eq!(locate(&index, 2..10, tiny), (vec![2], skipped(0, 0, 3)));
    let none = Limits {
        count_max: 0,
        ..ALL
    };
    assert_eq!(locate(&index, 2..10, none), (vec![], skipped(0, 0, 2)));
}
