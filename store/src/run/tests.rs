//! Runs against a sorted map; their bytes; damage.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::*;
use crate::format::tests::unhex;
use crate::fs::faulty::FaultyFs;
use crate::run::builder::Place;
use crate::run::merge::merge;

const STORE: Uuid = Uuid::from_u128(7);
type Model = BTreeMap<(u32, i64), Entry>;

fn place() -> (Place, FaultyFs) {
    let fs = FaultyFs::new(1);
    let dir = PathBuf::from("/runs");
    fs.create_dir(&dir).unwrap();
    let place = Place {
        fs: Arc::new(fs.clone()),
        dir,
        store: STORE,
    };
    (place, fs)
}

fn entry(offset: u64) -> Entry {
    Entry {
        offset: MessageOffset(offset),
        time: UnixMillis(5 + i64::try_from(offset % 7).unwrap()),
        tags: TagMask(offset),
        bytes: 9,
    }
}

fn build(place: &Place, number: u64, range: Range<u64>, model: &Model) -> Run {
    let entries = model.len() as u64;
    let run = place.build(number, range, entries, |run| {
        model
            .iter()
            .try_for_each(|((subject, sequence), entry)| run.add(*subject, *sequence, entry))
    });
    run.unwrap()
}

/// Consecutive sequences from a list of (subject, length, gap in front).
fn model(pieces: &[(u32, u16, bool)], begin: u64) -> Model {
    let (mut model, mut next) = (Model::new(), BTreeMap::new());
    let mut offset = begin;
    for (subject, length, has_gap) in pieces {
        let next = next
            .entry(*subject)
            .or_insert(i64::try_from(begin).unwrap());
        *next += i64::from(*has_gap);
        for _ in 0..*length {
            model.insert((*subject, *next), entry(offset));
            (*next, offset) = (*next + 1, offset + 1);
        }
    }
    model
}

fn all(run: &Run) -> Model {
    let mut walk = Walk::new(run);
    let mut found = Model::new();
    while let Some((subject, sequence, entry)) = walk.next_entry().unwrap() {
        assert_eq!(found.insert((subject, sequence), entry), None);
    }
    found
}

#[test]
fn writes_the_bytes_of_the_format_page() {
    let (place, fs) = place();
    let entry = Entry {
        offset: MessageOffset(0x0100),
        time: UnixMillis(0x0200),
        tags: TagMask(0x0300),
        bytes: 0x40,
    };
    build(
        &place,
        3,
        0x80..0x400,
        &Model::from([((6, 0x1_0000_0001), entry)]),
    );
    let bytes = fs.peek(&place.dir.join(run_name(3))).unwrap();
    assert_eq!(bytes.len(), 2 * BLOCK_BYTES + SPARSE_BYTES + FOOTER_BYTES);
    let expected = unhex("0000000000000100 0000000000000200 0000000000000300 00000040 00000001");
    assert_eq!(bytes[..ROW_BYTES], expected);
    assert!(bytes[ROW_BYTES..TRAILER_AT].iter().all(|byte| *byte == 0));
    let trailer = unhex("00000000000000000000000000000007 0000000000000003 00000000");
    assert_eq!(bytes[TRAILER_AT..TRAILER_AT + 28], trailer);
    let row = unhex("00000006 00000001 0000000100000001 0000000000000000 0000000000000200");
    assert_eq!(bytes[BLOCK_BYTES..BLOCK_BYTES + ROW_BYTES], row);
    let rest = unhex(
        "00000006 0000000100000001 \
         514d5149 0001 0000 00000000000000000000000000000007 0000000000000003 \
         0000000000000080 0000000000000400 0000000000000001 0000000000000001 00000001 00000001",
    );
    assert_eq!(bytes[2 * BLOCK_BYTES..][..rest.len()], rest);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn agrees_with_a_sorted_map(
        pieces in proptest::collection::vec((0..40u32, 1..150u16, any::<bool>()), 0..60),
        asked in proptest::collection::vec((0..42u32, 0..900i64), 50),
    ) {
        let (place, _) = place();
        let model = model(&pieces, 0);
        let run = build(&place, 1, 0..10_000, &model);
        prop_assert!(all(&run) == model);
        let mut blocks = Direct::default();
        for (subject, sequence) in asked {
            let next = model.range((subject, sequence)..=(subject, i64::MAX)).next();
            let row = run.row_at(subject, sequence, &mut blocks).unwrap();
            let found = row.map(|(_, row)| row.first.max(sequence));
            prop_assert_eq!(found, next.map(|((_, sequence), _)| *sequence));
            if let (Some((_, row)), Some((_, expected))) = (row, next) {
                let at = row.first.max(sequence);
                prop_assert_eq!(run.entry(&row, at, &mut blocks).unwrap(), *expected);
                let times = model.range((subject, row.first)..(subject, row.end()));
                prop_assert_eq!(Some(row.time_max), times.map(|(_, entry)| entry.time).max());
            }
            let before = model.range((subject, 0)..=(subject, sequence)).next_back();
            let row = run.row_before(subject, sequence, &mut blocks).unwrap();
            prop_assert_eq!(row.is_some(), before.is_some());
        }
    }

    #[test]
    fn merges_without_loss(
        pieces in proptest::collection::vec(
            proptest::collection::vec((0..9u32, 1..60u16, any::<bool>()), 0..20), 1..5),
        oldest in 0..3000u64,
    ) {
        let (place, _) = place();
        let (mut runs, mut expected) = (Vec::new(), Model::new());
        for (pieces, number) in pieces.iter().zip(0..) {
            let begin = number * 2000;
            let model = model(pieces, begin);
            runs.push(Arc::new(build(&place, number, begin..begin + 2000, &model)));
            expected.extend(model);
        }
        expected.retain(|_, entry| entry.offset.0 >= oldest);
        let count = runs.iter().map(|run| run.entry_count()).sum();
        let end = 2000 * runs.len() as u64;
        let never = AtomicBool::new(false);
        let merged = place.build(9, 0..end, count, |out| {
            merge(&runs, oldest, &never, out).map_err(|(_, error)| error)
        });
        prop_assert_eq!(all(&merged.unwrap()), expected);
    }

    #[test]
    fn notices_damage(at in any::<prop::sample::Index>(), mask in 1..=255u8) {
        let (place, fs) = place();
        let model = model(&[(1, 300, false), (2, 1, false)], 0);
        build(&place, 1, 0..10, &model);
        let path = place.dir.join(run_name(1));
        let at = at.index(fs.peek(&path).unwrap().len());
        prop_assert!(fs.rot(&path, at as u64, mask));
        let opened = Run::open(place.fs.as_ref(), &place.dir, STORE, 1, &(0..10));
        let read = opened.and_then(|run| {
            let mut walk = Walk::new(&run);
            while walk.next_entry()?.is_some() {}
            Ok(())
        });
        let is_noticed = matches!(read, Err(Error::Corrupt { .. }));
        prop_assert!(is_noticed);
    }
}

#[test]
fn every_truncation_and_every_other_name_is_refused() {
    let (place, fs) = place();
    build(&place, 1, 0..10, &model(&[(1, 3, false)], 0));
    let path = place.dir.join(run_name(1));
    let open = |number, range| Run::open(place.fs.as_ref(), &place.dir, STORE, number, &range);
    assert!(open(1, 0..10).is_ok());
    assert!(matches!(open(1, 0..11), Err(Error::Corrupt { .. })));
    let other = Uuid::from_u128(8);
    let foreign = Run::open(place.fs.as_ref(), &place.dir, other, 1, &(0..10));
    assert!(matches!(foreign, Err(Error::Corrupt { .. })));
    let whole = fs.peek(&path).unwrap();
    let file = place.fs.open(&path, OpenMode::Existing).unwrap();
    for len in (0..whole.len()).step_by(7) {
        file.set_len(len as u64).unwrap();
        assert!(
            matches!(open(1, 0..10), Err(Error::Corrupt { .. })),
            "{len}"
        );
        file.write_at(&whole, 0).unwrap();
    }
}

#[test]
fn an_empty_run_has_nothing() {
    let (place, _) = place();
    let run = build(&place, 1, 0..10, &Model::new());
    assert_eq!(run.row_at(0, 0, &mut Direct::default()).unwrap(), None);
    assert_eq!(run.row_before(9, 9, &mut Direct::default()).unwrap(), None);
    assert_eq!(all(&run), Model::new());
}
