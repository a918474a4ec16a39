//! Tests of the controllog: its bytes, torn ends, damage, full disks.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::format::tests::unhex;
use crate::fs::faulty::FaultyFs;

const STORE: Uuid = Uuid::from_u128(7);

fn reset(next: i64) -> Control {
    Control::Reset {
        subject: Subject::new("s").unwrap(),
        group: ConsumerGroup::new("g").unwrap(),
        next: MessageSequence(next),
        time: UnixMillis(5),
    }
}

fn forget(group: &str) -> Control {
    Control::ForgetGroup {
        subject: Subject::new("s").unwrap(),
        group: ConsumerGroup::new(group).unwrap(),
        time: UnixMillis(5),
    }
}

fn entry(control: Control) -> ControlEntry {
    let (serial, term, offset) = (3, 1, 100);
    ControlEntry {
        serial,
        term,
        offset,
        control,
    }
}

fn root() -> &'static Path {
    Path::new("/r")
}

fn open(fs: &FaultyFs, included: u64) -> (ControlLog, FoundControls) {
    ControlLog::open(Arc::new(fs.clone()), root(), STORE, included).unwrap()
}

fn with_entries(count: i64) -> (FaultyFs, ControlLog) {
    let fs = FaultyFs::new(1);
    let (mut log, found) = open(&fs, 0);
    assert!(found.entries.is_empty());
    (0..count).for_each(|next| log.append(1, 10, &reset(next), true).unwrap());
    (fs, log)
}

fn nexts(found: &FoundControls) -> Vec<i64> {
    let next = |entry: &ControlEntry| match &entry.control {
        Control::Reset { next, .. } => next.0,
        Control::ForgetGroup { .. } => -1,
    };
    found.entries.iter().map(next).collect()
}

#[test]
fn writes_the_bytes_of_the_format_page() {
    let expected = unhex(
        "514d5152 0001 01 00 0000004e 00000000000000000000000000000007 0000000000000003 \
         0000000000000001 0000000000000064 0000000000000005 0001 73 0001 67 \
         0000000000000009 8157689c",
    );
    assert_eq!(entry(reset(9)).encode(STORE), expected);
}

proptest! {
    #[test]
    fn round_trips(next in 0..i64::MAX, group in "[a-z]{1,200}", rest: Vec<u8>) {
        for control in [reset(next), forget(&group)] {
            let entry = entry(control);
            let mut bytes = entry.encode(STORE);
            let len = bytes.len();
            prop_assert!((ENTRY_BYTES_MIN..=ENTRY_BYTES_MAX).contains(&len));
            bytes.extend(&rest);
            prop_assert_eq!(ControlEntry::decode(&bytes, STORE), Some((entry, len)));
            prop_assert_eq!(ControlEntry::decode(&bytes, Uuid::from_u128(8)), None);
        }
    }

    #[test]
    fn notices_damage(at in 0..78usize, mask in 1..=255u8) {
        let mut bytes = entry(reset(9)).encode(STORE);
        bytes[at] ^= mask;
        prop_assert_eq!(ControlEntry::decode(&bytes, STORE), None);
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(ControlEntry::decode(&bytes, STORE), None);
    }
}

#[test]
fn negative_sequences_are_refused() {
    assert!(reset(-1).flaw().is_some());
    let bytes = entry(reset(-1)).encode(STORE);
    assert_eq!(ControlEntry::decode(&bytes, STORE), None);
}

#[test]
fn entries_are_found_again_unless_they_are_included() {
    let (fs, log) = with_entries(5);
    assert_eq!(log.last(), 5);
    let (log, found) = open(&fs, 0);
    assert_eq!((nexts(&found), log.last()), (vec![0, 1, 2, 3, 4], 5));
    let (log, found) = open(&fs, 3);
    assert_eq!((nexts(&found), log.last()), (vec![3, 4], 5));
    assert_eq!((found.damages, found.bytes_cut), (0, 0));
}

#[test]
fn a_torn_end_is_cut() {
    let (fs, _) = with_entries(3);
    let path = root().join(CONTROLS).join(segment_name(1));
    let bytes = fs.peek(&path).unwrap();
    let file = fs.open(&path, OpenMode::Existing).unwrap();
    file.set_len(bytes.len() as u64 - 9).unwrap();
    let (mut log, found) = open(&fs, 0);
    assert_eq!((nexts(&found), log.last()), (vec![0, 1], 2));
    assert!(found.bytes_cut > 0 && found.damages == 0);
    log.checkpointed(0).unwrap();
    log.append(1, 10, &reset(7), true).unwrap();
    let (_, found) = open(&fs, 0);
    assert_eq!(nexts(&found), [0, 1, 7]);
    assert_eq!((found.damages, found.bytes_cut), (0, 0));
}

#[test]
fn damage_in_front_is_reported_and_passed_over() {
    let (fs, _) = with_entries(3);
    let path = root().join(CONTROLS).join(segment_name(1));
    assert!(fs.rot(&path, 78 + 30, 1));
    let (_, found) = open(&fs, 0);
    assert_eq!(nexts(&found), [0, 2]);
    // The stretch, and the serial that is missing.
    assert_eq!((found.damages, found.bytes_cut), (2, 0));
    // The last entry is damaged, but a checkpoint shows that it was there.
    assert!(fs.rot(&path, 2 * 78 + 30, 1));
    let (log, found) = open(&fs, 3);
    assert_eq!((nexts(&found), found.bytes_cut, log.last()), (vec![], 0, 3));
    assert!(found.damages > 0);
}

#[test]
fn files_go_when_every_checkpoint_includes_them() {
    let (fs, mut log) = with_entries(2);
    log.checkpointed(0).unwrap();
    log.append(1, 10, &reset(2), true).unwrap();
    log.checkpointed(1).unwrap();
    let (_, found) = open(&fs, 0);
    assert_eq!(nexts(&found), [0, 1, 2]);
    log.checkpointed(2).unwrap();
    let (_, found) = open(&fs, 2);
    assert_eq!((nexts(&found), found.damages), (vec![2], 0));
    log.checkpointed(3).unwrap();
    assert!(!log.has_files());
    assert!(fs.list(&root().join(CONTROLS)).unwrap().is_empty());
    let (mut log, _) = open(&fs, 3);
    log.append(1, 10, &reset(9), true).unwrap();
    let (_, found) = open(&fs, 3);
    assert_eq!(nexts(&found), [9]);
}

#[test]
fn a_full_disk_leaves_nothing_of_an_entry() {
    let (fs, mut log) = with_entries(1);
    log.checkpointed(0).unwrap();
    fs.limit_space(Some(fs.used() + 40));
    let refused = log.append(1, 10, &reset(8), true);
    assert!(matches!(refused, Err(Error::NoSpace { .. })), "{refused:?}");
    let path = root().join(CONTROLS).join(segment_name(2));
    assert_eq!(fs.peek(&path).unwrap(), b"");
    fs.limit_space(None);
    log.append(1, 10, &reset(9), true).unwrap();
    let (_, found) = open(&fs, 0);
    assert_eq!(
        (nexts(&found), found.damages, found.bytes_cut),
        (vec![0, 9], 0, 0)
    );
}
