//! A checkpoint of a delay store: the book, the numbers of subjects, and how far the logs are
//! included.
//!
//! ```text
//! 4 magic  2 version  2 zero  16 uuid  8 number  8 term  8 message_log position
//! 8 dispatch_log position  8 time ms  8 next accept sequence  8 messages dropped as overdue
//! 4 subjects: str name             4 begun: 8 sequence, 8 due, str broker group
//! 4 hours: 8 hour since 1970, 8 messages that are not done
//! 4 times: 8 bytes of the set, the set in the portable format of Roaring bitmaps (64 bit): done,
//! and which of those were cancelled, moved, expired           4 CRC-32C of all before
//! ```

use std::path::Path;
use std::sync::Arc;

use qmq_model::{Subject, UnixMillis};
use roaring::RoaringTreemap;
use uuid::Uuid;

use crate::checkpoint::Numbered;
use crate::delay::book::{BegunAt, Book};
use crate::error::Error;
use crate::format::{BOOK_MAGIC, CHECKPOINTS, Fields, VERSION, checked, checkpoint_name, seal};
use crate::fs::{FileSystem, replace_file};

/// State that no log can give back once its oldest segments are gone.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DelayCheckpoint {
    /// Rises with every checkpoint of a store.
    pub(crate) number: u64,
    pub(crate) term: u64,
    /// Everything below is included, by [`LogKind::index`](crate::LogKind).
    pub(crate) positions: [u64; 2],
    pub(crate) time: UnixMillis,
    /// Subjects by their number.
    pub(crate) subjects: Vec<Subject>,
    pub(crate) book: Book,
}

impl Numbered for DelayCheckpoint {
    fn number(&self) -> u64 {
        self.number
    }
}

/// Writes what [`DelayCheckpoint::encode`] gave, durably.
pub(crate) fn save(
    fs: &dyn FileSystem,
    root: &Path,
    number: u64,
    bytes: &[u8],
) -> Result<(), Error> {
    replace_file(fs, &root.join(CHECKPOINTS), &checkpoint_name(number), bytes)
}

/// What stands in front of the state of a checkpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CheckpointHead {
    pub(crate) number: u64,
    pub(crate) term: u64,
    pub(crate) positions: [u64; 2],
    pub(crate) time: UnixMillis,
}

impl CheckpointHead {
    /// The bytes of a checkpoint of this state.
    pub(crate) fn encode(&self, store: Uuid, subjects: &[Subject], book: &Book) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&BOOK_MAGIC.to_be_bytes());
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(store.as_bytes());
        for field in [self.number, self.term, self.positions[0], self.positions[1]] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        out.extend_from_slice(&self.time.0.to_be_bytes());
        out.extend_from_slice(&book.next.to_be_bytes());
        out.extend_from_slice(&book.expired_total.to_be_bytes());
        put_count(&mut out, subjects.len());
        for subject in subjects {
            put_text(&mut out, subject.as_str());
        }
        put_count(&mut out, book.begun.len());
        let mut begun: Vec<_> = book.begun.iter().collect();
        // Equal state gives equal bytes.
        begun.sort_unstable_by_key(|(sequence, _)| **sequence);
        for (sequence, BegunAt { due, group }) in begun {
            out.extend_from_slice(&sequence.to_be_bytes());
            out.extend_from_slice(&due.to_be_bytes());
            put_text(&mut out, group);
        }
        put_count(&mut out, book.by_hour.len());
        for (hour, count) in &book.by_hour {
            out.extend_from_slice(&hour.to_be_bytes());
            out.extend_from_slice(&count.to_be_bytes());
        }
        for set in [&book.done, &book.cancelled, &book.moved, &book.expired] {
            out.extend_from_slice(&(set.serialized_size() as u64).to_be_bytes());
            let written = set.serialize_into(&mut out);
            written.expect("a vector takes every byte");
        }
        seal(&mut out);
        out
    }
}

impl DelayCheckpoint {
    pub(crate) fn decode(bytes: &[u8], store: Uuid) -> Option<Self> {
        let mut fields = Fields(checked(bytes)?);
        let is_ours = fields.u32()? == BOOK_MAGIC && fields.u16()? == VERSION;
        if !is_ours || fields.u16()? != 0 || fields.uuid()? != store {
            return None;
        }
        let [number, term] = [fields.u64()?, fields.u64()?];
        let positions = [fields.u64()?, fields.u64()?];
        let time = UnixMillis(fields.i64()?);
        let mut book = Book {
            next: fields.u64()?,
            expired_total: fields.u64()?,
            ..Book::default()
        };
        let mut subjects = Vec::new();
        for _ in 0..fields.u32()? {
            subjects.push(Subject::new(fields.text()?).ok()?);
        }
        for _ in 0..fields.u32()? {
            let sequence = fields.u64()?;
            let due = fields.i64()?;
            let group = Arc::from(fields.text()?);
            book.begun.insert(sequence, BegunAt { due, group });
        }
        for _ in 0..fields.u32()? {
            book.by_hour.insert(fields.i64()?, fields.u64()?);
        }
        for set in book.sets_mut() {
            let len = usize::try_from(fields.u64()?).ok()?;
            *set = RoaringTreemap::deserialize_from(fields.bytes(len)?).ok()?;
        }
        let is_whole = fields.rest().is_empty() && book.next > 0;
        is_whole.then_some(Self {
            number,
            term,
            positions,
            time,
            subjects,
            book,
        })
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("fewer than 2^32 of anything");
    out.extend_from_slice(&count.to_be_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let len = u16::try_from(text.len()).expect("names have at most 255 bytes");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::delay::dispatch_log::Verb;
    use crate::delay::entry::Key;
    use crate::format::tests::unhex;

    const STORE: Uuid = Uuid::from_u128(7);

    fn sample(done: &[u64]) -> DelayCheckpoint {
        let mut book = Book::new();
        for sequence in 1..=4 {
            let due = 9;
            book.accept(Key { due, sequence }, None);
        }
        let key = |sequence: u64| Key { due: 9, sequence };
        book.apply(Verb::Begin, "g1", &[key(2)]);
        for sequence in done {
            book.apply(Verb::Cancel, "", &[key(*sequence)]);
        }
        DelayCheckpoint {
            number: 3,
            term: 1,
            positions: [100, 50],
            time: UnixMillis(5),
            subjects: vec![Subject::new("order.changed").unwrap()],
            book,
        }
    }

    fn encode(checkpoint: &DelayCheckpoint) -> Vec<u8> {
        let head = CheckpointHead {
            number: checkpoint.number,
            term: checkpoint.term,
            positions: checkpoint.positions,
            time: checkpoint.time,
        };
        head.encode(STORE, &checkpoint.subjects, &checkpoint.book)
    }

    #[test]
    fn writes_the_bytes_of_the_format_page() {
        let expected = unhex(
            "514d5142 0001 0000 00000000000000000000000000000007 0000000000000003 \
             0000000000000001 0000000000000064 0000000000000032 0000000000000005 \
             0000000000000005 0000000000000000 \
             00000001 000d 6f726465722e6368616e676564 \
             00000001 0000000000000002 0000000000000009 0002 6731 \
             00000001 0000000000000000 0000000000000004 \
             0000000000000008 0000000000000000 0000000000000008 0000000000000000 \
             0000000000000008 0000000000000000 0000000000000008 0000000000000000",
        );
        let bytes = encode(&sample(&[]));
        assert_eq!(bytes[..bytes.len() - 4], expected);
    }

    proptest! {
        #[test]
        fn round_trips(done in proptest::collection::vec(5..1_u64 << 40, 0..50)) {
            let checkpoint = sample(&done);
            let bytes = encode(&checkpoint);
            let other = DelayCheckpoint::decode(&bytes, Uuid::from_u128(8));
            prop_assert_eq!(other, None);
            prop_assert_eq!(DelayCheckpoint::decode(&bytes, STORE), Some(checkpoint));
        }

        #[test]
        fn notices_damage(at in 0..200usize, mask in 1..=255u8) {
            let mut bytes = encode(&sample(&[3, 4]));
            let at = at % bytes.len();
            bytes[at] ^= mask;
            prop_assert_eq!(DelayCheckpoint::decode(&bytes, STORE), None);
        }

        #[test]
        fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            // With a right checksum, so that the fields are read.
            seal(&mut bytes);
            prop_assert_eq!(DelayCheckpoint::decode(&bytes, STORE), None);
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        let bytes = encode(&sample(&[3]));
        for len in 0..bytes.len() {
            assert_eq!(DelayCheckpoint::decode(&bytes[..len], STORE), None, "{len}");
        }
    }
}
