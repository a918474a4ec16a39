//! Round trips and damage of the record of a delayed message.

use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::format::tests::unhex;
use crate::fs::FileSystem;
use crate::fs::faulty::FaultyFs;
use crate::log::segment::Segments;

const PAYLOAD: &str = "02 0000000000000005 0000000000000009 0001 73 0002 6964 00000000";

fn sample(payload: &[u8]) -> RecordView<'_> {
    RecordView {
        key: Key {
            due: 9,
            sequence: 3,
        },
        stored_at: UnixMillis(5),
        replaces: None,
        subject: "s",
        crc: 0xaabb_ccdd,
        payload,
    }
}

fn put(view: &RecordView<'_>) -> BytesMut {
    let mut out = BytesMut::new();
    view.put(&mut out);
    out
}

fn examine(bytes: &[u8]) -> Examined<DelayedItem> {
    let fs: Arc<dyn FileSystem> = Arc::new(FaultyFs::new(1));
    let dir = PathBuf::from("/log");
    fs.create_dir(&dir).unwrap();
    let segments = Segments::open(fs, LogKind::Delayed, dir, 1 << 20).unwrap();
    segments.write(bytes, 0, |_, _| {}).unwrap();
    let limit = bytes.len() as u64;
    DelayedFormat
        .examine(&mut Window::new(&segments), 0, limit)
        .unwrap()
}

#[test]
fn writes_the_bytes_of_the_format_page() {
    let payload = unhex(PAYLOAD);
    let expected = unhex(
        "514d5154 00 00000048 0000000000000003 0000000000000009 0000000000000005 aabbccdd 0001 73 \
         02 0000000000000005 0000000000000009 0001 73 0002 6964 00000000",
    );
    let record = put(&sample(&payload));
    assert_eq!(record[..record.len() - 4], expected);
    let moved = RecordView {
        replaces: Some(Key {
            due: 7,
            sequence: 1,
        }),
        ..sample(&payload)
    };
    let expected = unhex(
        "514d5154 02 00000058 0000000000000003 0000000000000009 0000000000000005 aabbccdd 0001 \
         0000000000000001 0000000000000007 73 \
         02 0000000000000005 0000000000000009 0001 73 0002 6964 00000000",
    );
    let record = put(&moved);
    assert_eq!(record[..record.len() - 4], expected);
    assert_eq!(RecordView::decode(&record), Some(moved));
}

#[test]
fn ids_are_found_in_payloads() {
    let payload = unhex(PAYLOAD);
    assert_eq!(message_id(&payload), Some(&b"id"[..]));
    let subject = Subject::new("s").unwrap();
    assert_eq!(id_hash(&payload), id_hash_of(&subject, b"id"));
    assert_ne!(id_hash(&payload), id_hash_of(&subject, b"ie"));
    assert_eq!(flaw(&subject, UnixMillis(0), &payload), None);
    assert!(flaw(&subject, UnixMillis(-1), &payload).is_some());
    assert!(flaw(&subject, UnixMillis(0), &payload[1..]).is_some());
    assert!(flaw(&Subject::new("t").unwrap(), UnixMillis(0), &payload).is_some());
}

#[test]
fn fillers_are_known() {
    let mut out = BytesMut::new();
    put_filler(&mut out, 20);
    assert_eq!(out.len(), 20);
    assert_eq!(examine(&out), Examined::Filler);
    assert_eq!(examine(&[0; 100]), Examined::Nothing);
}

proptest! {
    #[test]
    fn round_trips(
        due in 0..i64::MAX, sequence in 1..u64::MAX, crc: u32,
        replaces in proptest::option::of((0..i64::MAX, 1..u64::MAX)),
        subject in "[a-z.]{3,100}",
        payload in proptest::collection::vec(any::<u8>(), 30..300),
    ) {
        let view = RecordView {
            key: Key { due, sequence },
            replaces: replaces.map(|(due, sequence)| Key { due, sequence }),
            subject: &subject,
            crc,
            ..sample(&payload)
        };
        let record = put(&view);
        prop_assert_eq!(record.len() as u64, view.bytes());
        let whole = matches!(
            examine(&record),
            Examined::Record { length, item } if length == view.bytes() && item.key == view.key
        );
        prop_assert!(whole);
        prop_assert_eq!(RecordView::decode(&record), Some(view));
    }

    #[test]
    fn notices_damage(at in 0..72usize, mask in 1..=255u8) {
        let payload = unhex(PAYLOAD);
        let mut record = put(&sample(&payload));
        record[at] ^= mask;
        prop_assert_eq!(RecordView::decode(&record), None);
        let is_taken = matches!(examine(&record), Examined::Record { .. });
        prop_assert!(!is_taken);
    }

    #[test]
    fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 80..200)) {
        bytes[..9].copy_from_slice(&unhex("514d515400 00000048"));
        RecordView::decode(&bytes[..72]);
        examine(&bytes);
    }
}

#[test]
fn every_truncation_is_no_record() {
    let payload = unhex(PAYLOAD);
    let record = put(&sample(&payload));
    for len in 0..record.len() {
        assert_eq!(RecordView::decode(&record[..len]), None, "{len}");
        assert_eq!(examine(&record[..len]), Examined::Nothing, "{len}");
    }
}
