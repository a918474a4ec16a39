//! Record format of a delayed message: in the write-ahead log, and as it is in a run.
//!
//! ```text
//!  0 4 magic   4 1 attribute: 0 message, 1 end of segment, 2 message in the place of another one
//!  5 4 bytes of the whole record     9 8 accept sequence   17 8 due ms    25 8 stored at ms
//! 33 4 CRC-32 of the payload        37 2 subject length n
//! 39 attribute 2 only: 8 accept sequence and 8 due ms of the message that this one replaces
//! .. n subject   .. payload   .. 4 CRC-32C of all before
//! ```

use bytes::{BufMut, BytesMut};
use qmq_model::names::check_subject;
use qmq_model::payload::Payload;
use qmq_model::{Subject, UnixMillis};
use twox_hash::XxHash3_128;

use crate::delay::entry::Key;
use crate::error::Error;
use crate::format::{ATTRIBUTE_END, ATTRIBUTE_RECORD, DELAYED_MAGIC, Fields, LogKind, checked};
use crate::log::scan::{Examined, Format, Window};

/// Attribute byte of a message that replaces another one.
const ATTRIBUTE_MOVED: u8 = 2;
/// Bytes in front of the subject, without what is replaced.
const FIXED_BYTES: usize = 39;
const REPLACED_BYTES: usize = 16;
const CRC_BYTES: usize = 4;
/// Bytes up to the end of the length.
const LENGTH_END: usize = 9;
/// Shortest record: one byte of subject, and the shortest message there is.
pub(crate) const RECORD_BYTES_MIN: usize =
    FIXED_BYTES + 1 + qmq_model::payload::PAYLOAD_BYTES_MIN + CRC_BYTES;
/// Where the subject stands in a payload, with its length, and behind it the id with its length.
const PAYLOAD_NAMES_AT: usize = 17;

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordView<'a> {
    pub(crate) key: Key,
    pub(crate) stored_at: UnixMillis,
    /// The message that this one replaces.
    pub(crate) replaces: Option<Key>,
    pub(crate) subject: &'a str,
    /// CRC-32 of the payload.
    pub(crate) crc: u32,
    pub(crate) payload: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// Bytes of the whole record.
    pub(crate) fn bytes(&self) -> u64 {
        let replaced = self.replaces.map_or(0, |_| REPLACED_BYTES);
        (FIXED_BYTES + replaced + self.subject.len() + CRC_BYTES) as u64 + self.payload.len() as u64
    }

    /// Appends the record. It has less than 2^32 bytes.
    pub(crate) fn put(&self, out: &mut BytesMut) {
        let begin = out.len();
        let attribute = self.replaces.map_or(ATTRIBUTE_RECORD, |_| ATTRIBUTE_MOVED);
        out.put_u32(DELAYED_MAGIC);
        out.put_u8(attribute);
        out.put_u32(u32::try_from(self.bytes()).expect("a record fits its segment"));
        out.put_u64(self.key.sequence);
        out.put_i64(self.key.due);
        out.put_i64(self.stored_at.0);
        out.put_u32(self.crc);
        out.put_u16(u16::try_from(self.subject.len()).expect("names have at most 255 bytes"));
        if let Some(replaced) = self.replaces {
            out.put_u64(replaced.sequence);
            out.put_i64(replaced.due);
        }
        out.put_slice(self.subject.as_bytes());
        out.put_slice(self.payload);
        out.put_u32(crc32c::crc32c(&out[begin..]));
    }

    /// Reads exactly one record; `None` when it is none, or does not match its checksum.
    pub(crate) fn decode(record: &'a [u8]) -> Option<Self> {
        let view = Self::decode_unchecked(record)?;
        checked(record)?;
        Some(view)
    }

    fn decode_unchecked(record: &'a [u8]) -> Option<Self> {
        let mut fields = Fields(record.split_last_chunk::<CRC_BYTES>()?.0);
        if fields.u32()? != DELAYED_MAGIC {
            return None;
        }
        let attribute = fields.u8()?;
        let length = usize::try_from(fields.u32()?).ok()?;
        let key = take_key(&mut fields)?;
        let stored_at = UnixMillis(fields.i64()?);
        let crc = fields.u32()?;
        let subject_len = usize::from(fields.u16()?);
        let replaces = match attribute {
            ATTRIBUTE_RECORD => None,
            ATTRIBUTE_MOVED => Some(take_key(&mut fields)?),
            _ => return None,
        };
        let subject = std::str::from_utf8(fields.bytes(subject_len)?).ok()?;
        let payload = fields.rest();
        let is_sane = length == record.len() && check_subject(subject).is_ok();
        (is_sane && !payload.is_empty()).then_some(Self {
            key,
            stored_at,
            replaces,
            subject,
            crc,
            payload,
        })
    }
}

fn take_key(fields: &mut Fields<'_>) -> Option<Key> {
    let sequence = fields.u64()?;
    let due = fields.i64()?;
    (sequence > 0 && due >= 0).then_some(Key { due, sequence })
}

/// Appends the filler that ends a segment, `len` bytes in all.
pub(crate) fn put_filler(out: &mut BytesMut, len: u64) {
    out.put_u32(DELAYED_MAGIC);
    out.put_u8(ATTRIBUTE_END);
    let zeros = len - LogKind::Delayed.filler_bytes();
    out.put_bytes(0, usize::try_from(zeros).expect("less than a record"));
}

/// Why a message can never be stored; `None` when it can.
pub(crate) fn flaw(subject: &Subject, due: UnixMillis, payload: &[u8]) -> Option<&'static str> {
    if due.0 < 0 {
        return Some("due time is negative");
    }
    match Payload::split_first(payload) {
        Ok((message, [])) if message.subject == subject.as_str().as_bytes() => None,
        Ok((_, [])) => Some("payload has another subject"),
        Ok(_) => Some("bytes behind the message"),
        Err(_) => Some("payload is not a message"),
    }
}

/// The id of a message, if its payload can be read.
pub(crate) fn message_id(payload: &[u8]) -> Option<&[u8]> {
    let mut fields = Fields(payload.get(PAYLOAD_NAMES_AT..)?);
    fields.string()?;
    fields.string()
}

/// Hash of subject and id, by which messages are looked up; others may have the same.
pub(crate) fn id_hash(payload: &[u8]) -> u64 {
    let names = payload.get(PAYLOAD_NAMES_AT..).unwrap_or_default();
    let mut fields = Fields(names);
    let is_whole = fields.string().is_some() && fields.string().is_some();
    let len = if is_whole {
        names.len() - fields.rest().len()
    } else {
        0
    };
    hash(&names[..len])
}

/// The same of a subject and an id.
pub(crate) fn id_hash_of(subject: &Subject, message_id: &[u8]) -> u64 {
    let mut names = BytesMut::new();
    qmq_model::payload::put_str(&mut names, subject.as_str().as_bytes());
    qmq_model::payload::put_str(&mut names, message_id);
    hash(&names)
}

fn hash(names: &[u8]) -> u64 {
    let high = XxHash3_128::oneshot(names) >> 64;
    u64::try_from(high).expect("64 bits are left")
}

/// What a record in the write-ahead log says, without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DelayedItem {
    pub(crate) key: Key,
    pub(crate) replaces: Option<Key>,
    pub(crate) subject: String,
    pub(crate) id_hash: u64,
}

/// The write-ahead log, for scans.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DelayedFormat;

impl Format for DelayedFormat {
    type Item = DelayedItem;
    const MAGIC: u32 = DELAYED_MAGIC;

    fn examine(
        &self,
        window: &mut Window<'_>,
        offset: u64,
        limit: u64,
    ) -> Result<Examined<DelayedItem>, Error> {
        let mut fields = Fields(window.get(offset, LENGTH_END, limit)?);
        if fields.u32() != Some(DELAYED_MAGIC) {
            return Ok(Examined::Nothing);
        }
        let attribute = fields.u8();
        if attribute == Some(ATTRIBUTE_END) {
            return Ok(Examined::Filler);
        }
        let length = fields.u32().unwrap_or(0) as usize;
        if length < RECORD_BYTES_MIN || offset + length as u64 > limit {
            return Ok(Examined::Nothing);
        }
        let record = window.get(offset, length, limit)?;
        let Some(view) = RecordView::decode_unchecked(record) else {
            return Ok(Examined::Nothing);
        };
        let length = length as u64;
        let item = DelayedItem {
            key: view.key,
            replaces: view.replaces,
            subject: view.subject.to_owned(),
            id_hash: id_hash(view.payload),
        };
        Ok(match checked(record) {
            Some(_) => Examined::Record { length, item },
            None => Examined::Broken { length, item },
        })
    }
}

#[cfg(test)]
mod tests;
