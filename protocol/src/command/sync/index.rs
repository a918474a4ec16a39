//! SYNC_LOG_REQUEST (20) of a broker, type 5: a digest of its messages for a backup.
//!
//! ```text
//! i32 size               bytes of all entries
//! i64 next               offset to ask for next, not where the entries begin
//! ..  entries            i64 sequence, i64 create time, str subject, str message id
//! ```

use bytes::{BufMut, BytesMut};
use qmq_model::payload::put_str;

use super::{read_size, size_of};
use crate::codec::{Decode, Encode, Reader};
use crate::error::DecodeError;

/// One message of a digest. Names are as stored: unchecked bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncIndexEntry<'a> {
    /// Its number within the subject.
    pub sequence: i64,
    /// When the producer made it, ms.
    pub create_ms: i64,
    /// Its subject.
    pub subject: &'a [u8],
    /// Its id.
    pub message_id: &'a [u8],
}

impl SyncIndexEntry<'_> {
    /// Appends this entry.
    ///
    /// # Panics
    /// When a name is over 32 767 bytes, which none that was stored is.
    pub fn put(&self, out: &mut impl BufMut) {
        out.put_i64(self.sequence);
        out.put_i64(self.create_ms);
        put_str(out, self.subject);
        put_str(out, self.message_id);
    }
}

/// The answer to type 5. The structure of all entries has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncIndexResponse<'a> {
    /// The messagelog offset to ask for next. It moves on even without entries, when only records
    /// without a digest were read.
    pub next: i64,
    entries: &'a [u8],
}

impl<'a> SyncIndexResponse<'a> {
    /// A response with entries that [`SyncIndexEntry::put`] wrote.
    ///
    /// # Errors
    /// When the last one is cut off or a name has a negative length.
    pub fn new(next: i64, entries: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(entries);
        while !reader.rest().is_empty() {
            read_entry(&mut reader)?;
        }
        Ok(Self { next, entries })
    }

    /// The entries in the order of the messagelog.
    pub fn entries(&self) -> impl Iterator<Item = SyncIndexEntry<'a>> + use<'a> {
        let mut reader = Reader::new(self.entries);
        std::iter::from_fn(move || {
            let more = !reader.rest().is_empty();
            more.then(|| read_entry(&mut reader).expect("the entries were checked before"))
        })
    }
}

impl Encode for SyncIndexResponse<'_> {
    fn encode(&self, _version: i16, out: &mut BytesMut) {
        out.put_i32(size_of(self.entries));
        out.put_i64(self.next);
        out.put_slice(self.entries);
    }
}

impl<'a> Decode<'a> for SyncIndexResponse<'a> {
    fn decode(version: i16, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let size = read_size(&mut reader)?;
        let next = reader.i64("next")?;
        let response = Self::new(next, reader.bytes("entries", size)?)?;
        reader.end_of(version)?;
        Ok(response)
    }
}

fn read_entry<'a>(reader: &mut Reader<'a>) -> Result<SyncIndexEntry<'a>, DecodeError> {
    Ok(SyncIndexEntry {
        sequence: reader.i64("sequence")?,
        create_ms: reader.i64("createTime")?,
        subject: reader.short_bytes("subject")?,
        message_id: reader.short_bytes("messageId")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: SyncIndexEntry<'_> = SyncIndexEntry {
        sequence: 3,
        create_ms: 99,
        subject: b"a.b",
        message_id: b"\xFF",
    };

    #[test]
    fn entries_are_checked_as_a_whole() {
        let mut entries = BytesMut::new();
        ENTRY.put(&mut entries);
        let one = entries.len();
        ENTRY.put(&mut entries);
        let mut body = BytesMut::new();
        let response = SyncIndexResponse::new(500, &entries).unwrap();
        response.encode(9, &mut body);
        let read = SyncIndexResponse::decode(9, &body).unwrap();
        assert_eq!(read, response);
        assert_eq!(read.entries().collect::<Vec<_>>(), [ENTRY; 2]);
        for len in 0..entries.len() {
            let is_whole = len % one == 0;
            assert_eq!(
                SyncIndexResponse::new(0, &entries[..len]).is_ok(),
                is_whole,
                "{len}"
            );
        }
    }

    #[test]
    fn without_entries_the_offset_still_moves_on() {
        let body = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        let response = SyncIndexResponse::decode(9, &body).unwrap();
        assert_eq!((response.next, response.entries().count()), (256, 0));
    }
}
