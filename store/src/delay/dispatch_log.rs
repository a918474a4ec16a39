//! Record format of the dispatch log: what was begun, confirmed, refused, cancelled, dropped.
//!
//! ```text
//!  0 4 magic   4 1 attribute: 0 record, 1 end of segment   5 4 bytes of the whole record
//!  9 1 verb: 1 begin, 2 confirm, 3 refuse, 4 cancel, 5 expire      10 8 time ms
//! 18 2 length of the broker group n, 0 unless the verb is begin    20 n broker group
//! .. 4 count   .. count times: 8 accept sequence, 8 due ms         .. 4 CRC-32C of all before
//! ```

use bytes::{BufMut, BytesMut};
use qmq_model::UnixMillis;

use crate::config::GROUP_NAME_BYTES_MAX;
use crate::delay::entry::Key;
use crate::error::Error;
use crate::format::{ATTRIBUTE_END, ATTRIBUTE_RECORD, DISPATCH_MAGIC, Fields, LogKind, checked};
use crate::log::scan::{Examined, Format, Window};

/// Most messages in one record; more are written as several.
pub(crate) const ENTRIES_MAX: usize = 4096;
const ENTRY_BYTES: usize = 16;
/// Bytes beside broker group and entries.
const FIXED_BYTES: usize = 28;
/// Bytes up to the end of the length.
const LENGTH_END: usize = 9;

/// What happens to messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// They are about to be sent.
    Begin,
    /// A broker confirmed them.
    Confirm,
    /// A broker refused them: they are pending again.
    Refuse,
    /// They were cancelled.
    Cancel,
    /// They were overdue for too long.
    Expire,
}

impl Verb {
    const ALL: [Self; 5] = [
        Self::Begin,
        Self::Confirm,
        Self::Refuse,
        Self::Cancel,
        Self::Expire,
    ];

    fn code(self) -> u8 {
        match self {
            Self::Begin => 1,
            Self::Confirm => 2,
            Self::Refuse => 3,
            Self::Cancel => 4,
            Self::Expire => 5,
        }
    }
}

/// One record: the same happens to all of its messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DispatchRecord {
    pub(crate) verb: Verb,
    pub(crate) time: UnixMillis,
    /// Name of the broker group they are sent to; empty unless they are begun.
    pub(crate) group: String,
    pub(crate) keys: Vec<Key>,
}

impl DispatchRecord {
    /// Bytes of a record of so many messages.
    fn bytes_of(group: &str, count: usize) -> usize {
        FIXED_BYTES + group.len() + count * ENTRY_BYTES
    }

    /// Most messages of a record in segments of this size, at least one.
    pub(crate) fn keys_max(segment_bytes: u64) -> usize {
        let room = usize::try_from(segment_bytes / 2).unwrap_or(usize::MAX);
        let room = room.saturating_sub(FIXED_BYTES + GROUP_NAME_BYTES_MAX);
        (room / ENTRY_BYTES).clamp(1, ENTRIES_MAX)
    }

    /// Bytes of the whole record.
    pub(crate) fn bytes(&self) -> u64 {
        Self::bytes_of(&self.group, self.keys.len()) as u64
    }

    /// Appends the record.
    pub(crate) fn put(&self, out: &mut BytesMut) {
        let begin = out.len();
        out.put_u32(DISPATCH_MAGIC);
        out.put_u8(ATTRIBUTE_RECORD);
        out.put_u32(u32::try_from(self.bytes()).expect("at most ENTRIES_MAX entries"));
        out.put_u8(self.verb.code());
        out.put_i64(self.time.0);
        out.put_u16(u16::try_from(self.group.len()).expect("names have at most 255 bytes"));
        out.put_slice(self.group.as_bytes());
        out.put_u32(u32::try_from(self.keys.len()).expect("at most ENTRIES_MAX"));
        for key in &self.keys {
            out.put_u64(key.sequence);
            out.put_i64(key.due);
        }
        out.put_u32(crc32c::crc32c(&out[begin..]));
    }

    /// Reads exactly one record.
    fn decode(record: &[u8]) -> Option<Self> {
        let mut fields = Fields(checked(record)?);
        if fields.u32()? != DISPATCH_MAGIC || fields.u8()? != ATTRIBUTE_RECORD {
            return None;
        }
        if usize::try_from(fields.u32()?) != Ok(record.len()) {
            return None;
        }
        let code = fields.u8()?;
        let verb = Verb::ALL.into_iter().find(|verb| verb.code() == code)?;
        let time = UnixMillis(fields.i64()?);
        let group = fields.text()?.to_owned();
        let count = usize::try_from(fields.u32()?).ok()?;
        if fields.rest().len() != count.checked_mul(ENTRY_BYTES)? {
            return None;
        }
        let mut keys = Vec::with_capacity(count);
        while !fields.rest().is_empty() {
            let sequence = fields.u64()?;
            let due = fields.i64()?;
            keys.push(Key { due, sequence });
        }
        Some(Self {
            verb,
            time,
            group,
            keys,
        })
    }
}

/// Appends the filler that ends a segment, `len` bytes in all.
pub(crate) fn put_filler(out: &mut BytesMut, len: u64) {
    out.put_u32(DISPATCH_MAGIC);
    out.put_u8(ATTRIBUTE_END);
    let zeros = len - LogKind::Dispatch.filler_bytes();
    out.put_bytes(0, usize::try_from(zeros).expect("less than a record"));
}

/// The dispatch log, for scans.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DispatchFormat;

impl Format for DispatchFormat {
    type Item = DispatchRecord;
    const MAGIC: u32 = DISPATCH_MAGIC;

    fn examine(
        &self,
        window: &mut Window<'_>,
        offset: u64,
        limit: u64,
    ) -> Result<Examined<DispatchRecord>, Error> {
        let mut fields = Fields(window.get(offset, LENGTH_END, limit)?);
        if fields.u32() != Some(DISPATCH_MAGIC) {
            return Ok(Examined::Nothing);
        }
        if fields.u8() == Some(ATTRIBUTE_END) {
            return Ok(Examined::Filler);
        }
        let length = fields.u32().unwrap_or(0) as usize;
        let longest = FIXED_BYTES + GROUP_NAME_BYTES_MAX + ENTRIES_MAX * ENTRY_BYTES;
        if !(FIXED_BYTES..=longest).contains(&length) {
            return Ok(Examined::Nothing);
        }
        let record = window.get(offset, length, limit)?;
        let length = length as u64;
        Ok(match DispatchRecord::decode(record) {
            Some(item) => Examined::Record { length, item },
            None => Examined::Nothing,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::tests::unhex;

    fn sample() -> DispatchRecord {
        let keys = [(3, 9), (4, 7)];
        let keys = keys.map(|(sequence, due)| Key { due, sequence });
        DispatchRecord {
            verb: Verb::Begin,
            time: UnixMillis(5),
            group: "g1".into(),
            keys: keys.to_vec(),
        }
    }

    fn put(record: &DispatchRecord) -> BytesMut {
        let mut out = BytesMut::new();
        record.put(&mut out);
        out
    }

    #[test]
    fn writes_the_bytes_of_the_format_page() {
        let expected = unhex(
            "514d5150 00 0000003e 01 0000000000000005 0002 6731 00000002 \
             0000000000000003 0000000000000009 0000000000000004 0000000000000007",
        );
        let record = put(&sample());
        assert_eq!(record[..record.len() - 4], expected);
        assert_eq!(DispatchRecord::decode(&record), Some(sample()));
    }

    #[test]
    fn records_fit_the_smallest_segment() {
        let most = DispatchRecord::keys_max(1024);
        assert!(DispatchRecord::bytes_of(&"g".repeat(255), most) <= 1024 - 5);
        assert_eq!(DispatchRecord::keys_max(32 << 20), ENTRIES_MAX);
    }

    proptest! {
        #[test]
        fn round_trips(
            verb in 0..5usize, group in "[a-z]{0,30}",
            keys in proptest::collection::vec((any::<i64>(), any::<u64>()), 0..50),
        ) {
            let keys = keys.into_iter().map(|(due, sequence)| Key { due, sequence });
            let record = DispatchRecord {
                verb: Verb::ALL[verb],
                group,
                keys: keys.collect(),
                ..sample()
            };
            let bytes = put(&record);
            prop_assert_eq!(bytes.len() as u64, record.bytes());
            prop_assert_eq!(DispatchRecord::decode(&bytes), Some(record));
        }

        #[test]
        fn notices_damage(at in 0..62usize, mask in 1..=255u8) {
            let mut bytes = put(&sample());
            bytes[at] ^= mask;
            prop_assert_eq!(DispatchRecord::decode(&bytes), None);
        }

        #[test]
        fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            crate::format::seal(&mut bytes);
            prop_assert_eq!(DispatchRecord::decode(&bytes), None);
        }
    }

    #[test]
    fn every_truncation_is_no_record() {
        let bytes = put(&sample());
        for len in 0..bytes.len() {
            assert_eq!(DispatchRecord::decode(&bytes[..len]), None, "{len}");
        }
    }
}
