//! Runs are read as they were written, and damage is noticed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::delay::run::builder::{DelayRunBuilder, Sizes};
use crate::delay::run::walk::{Entries, Ids, Records};
use crate::format::tests::unhex;
use crate::fs::faulty::FaultyFs;
use crate::run::block::BLOCK_BYTES;
use crate::run::builder::Place;

const STORE: Uuid = Uuid::from_u128(7);

fn place() -> (FaultyFs, Place) {
    let fs = FaultyFs::new(1);
    let dir = PathBuf::from("/runs");
    fs.create_dir(&dir).unwrap();
    let place = Place {
        fs: Arc::new(fs.clone()),
        dir,
        store: STORE,
    };
    (fs, place)
}

fn key(due: i64, sequence: u64) -> Key {
    Key { due, sequence }
}

/// Keys with a record and the hash of an id.
type Model = BTreeMap<Key, (Vec<u8>, u64)>;

fn build(place: &Place, model: &Model) -> DelayRun {
    let sizes = Sizes {
        messages: model.len() as u64,
        record_bytes: model.values().map(|(record, _)| record.len() as u64).sum(),
    };
    let mut builder = DelayRunBuilder::new(place, 3, sizes).unwrap();
    let mut ids = Vec::new();
    for (key, (record, hash)) in model {
        builder.add(*key, DelaySubject(5), record).unwrap();
        ids.push((*hash, *key));
    }
    ids.sort_unstable();
    for (hash, key) in ids {
        builder.add_id(hash, key).unwrap();
    }
    builder.finish().unwrap()
}

fn model(count: u64) -> Model {
    let message = |number: u64| {
        let due = i64::try_from(number / 3).unwrap() * 10;
        let record = vec![u8::try_from(number % 256).unwrap(); 5 + (number % 7) as usize];
        (key(due, 1 + (number ^ 5)), (record, number % 50))
    };
    (0..count).map(message).collect()
}

#[test]
fn everything_is_found_again() {
    for count in [1, 126, 127, 128, 500, 127 * 254 + 1] {
        let (_, place) = place();
        let model = model(count);
        let run = Arc::new(build(&place, &model));
        let cache = BlockCache::new(1 << 20);
        assert_eq!(run.len(), model.len() as u64);
        let keys: Vec<Key> = model.keys().copied().collect();
        assert_eq!(*run.due().start(), keys[0].due);
        assert_eq!(*run.due().end(), keys[keys.len() - 1].due);
        let mut walk = Entries::new(&run, 0);
        let mut records = Records::new(&run);
        for key in &keys {
            let entry = walk.next().unwrap().unwrap();
            assert_eq!((entry.key, entry.subject), (*key, DelaySubject(5)));
            assert_eq!(records.read(&entry).unwrap(), model[key].0);
        }
        assert!(walk.next().unwrap().is_none());
        for (rank, key) in (0..).zip(&keys).step_by(11) {
            let entry = run.get(*key, &cache).unwrap().unwrap();
            assert_eq!(run.read_record(&entry).unwrap(), model[key].0);
            assert_eq!(run.rank(*key, &cache).unwrap(), rank);
            let other = Key {
                sequence: key.sequence + 1_000_000,
                ..*key
            };
            assert_eq!(run.get(other, &cache).unwrap(), None);
        }
        for hash in [0, 7, 49, 50] {
            let expected: Vec<Key> = model
                .iter()
                .filter(|(_, (_, of))| *of == hash)
                .map(|(key, _)| *key)
                .collect();
            assert_eq!(run.with_hash(hash, &cache).unwrap(), expected, "{count}");
        }
        let mut ids = Ids::new(&run);
        let mut last = None;
        while let Some(id) = ids.next().unwrap() {
            assert!(last < Some(id));
            last = Some(id);
        }
    }
}

#[test]
fn the_footer_has_the_bytes_of_the_format_page() {
    let footer = Footer {
        number: 3,
        record_bytes: 72,
        due: (9, 10),
        sequences: (1, 4),
        messages: 2,
        blocks: [1, 3, 2, 3],
    };
    let expected = unhex(
        "514d5155 0001 0000 00000000000000000000000000000007 0000000000000003 0000000000000048 \
         0000000000000009 000000000000000a 0000000000000001 0000000000000004 0000000000000002 \
         00000001 00000003 00000002 00000003",
    );
    let bytes = footer.encode(STORE);
    assert_eq!(bytes[..bytes.len() - 4], expected);
    assert_eq!(bytes.len(), FOOTER_BYTES);
    assert_eq!(Footer::decode(&bytes, STORE), Some(footer));
    assert_eq!(Footer::decode(&bytes, Uuid::from_u128(8)), None);
    for len in 0..bytes.len() {
        assert_eq!(Footer::decode(&bytes[..len], STORE), None, "{len}");
    }
}

#[test]
fn damage_in_a_block_stands_in_nobodys_way() {
    let (fs, place) = place();
    let model = model(400);
    let run = Arc::new(build(&place, &model));
    let (first, _) = run.entries.leaves();
    let second = u64::from(first + 1) * BLOCK_BYTES as u64;
    assert!(fs.rot(&run.file.path, second + 9, 1));
    let mut walk = Entries::new(&run, 0);
    let mut seen = 0;
    while walk.next_readable().unwrap().is_some() {
        seen += 1;
    }
    assert_eq!(seen, 400 - 127);
    let cache = BlockCache::new(1 << 20);
    let keys: Vec<Key> = model.keys().copied().collect();
    let broken = run.get(keys[130], &cache);
    assert!(matches!(broken, Err(Error::Corrupt { .. })));
    assert!(run.get(keys[300], &cache).unwrap().is_some());
}

#[test]
fn what_is_no_run_is_not_opened() {
    let (fs, place) = place();
    let run = build(&place, &model(10));
    let open = || DelayRun::open(place.fs.as_ref(), &place.dir, STORE, 3);
    assert!(open().is_ok());
    assert!(fs.rot(&run.file.path, run.bytes() - 20, 1));
    assert!(matches!(open(), Err(Error::Corrupt { .. })));
}

proptest! {
    #[test]
    fn random_footers_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 90..100)) {
        seal(&mut bytes);
        prop_assert_eq!(Footer::decode(&bytes, STORE), None);
    }
}
