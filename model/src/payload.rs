//! The bytes of a message, the same on the wire and on disk.
//!
//! ```text
//! u8  flag            bit 0 low reliability, bit 1 delayed, bit 2 tags present
//! i64 create time     ms
//! i64 second time     due time when delayed, otherwise noise (the reference never looks at it)
//! str subject         i16 length, then UTF-8
//! str message id
//! u8  tag count, then str each      only with bit 2
//! i32 body length
//! ..  body            str key, str value, repeated to the end
//! ```
//!
//! All integers are big-endian. On the way to a broker each message is preceded by `i64 crc`, the
//! CRC-32 (zlib polynomial) of the bytes above; consumers get them without it. Property order is
//! the sender's and the CRC covers it, so a message is never encoded again.

use bytes::BufMut;

/// Bit of the flag byte: the reply need not wait for a slave.
pub const FLAG_LOW_RELIABILITY: u8 = 1;
/// Bit of the flag byte: the second time is the due time.
pub const FLAG_DELAY: u8 = 2;
/// Bit of the flag byte: tags follow the message id.
pub const FLAG_TAGS: u8 = 4;

/// Longest string: its length is a signed 16-bit number everywhere.
pub const STRING_BYTES_MAX: usize = 32_767;
/// Most tags a consumer can decode.
pub const TAGS_MAX: usize = 10;
/// Longest message id in UTF-16 units: Java consumers cannot decode longer ones.
pub const MESSAGE_ID_UNITS_MAX: usize = 100;
/// Shortest payload: flag, two times, two empty strings, empty body.
pub const PAYLOAD_BYTES_MIN: usize = 1 + 8 + 8 + 2 + 2 + 4;

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// The bytes end before the message does.
    #[error("message is cut off")]
    Truncated,
    /// A length or count is negative.
    #[error("negative length or count")]
    NegativeLength,
}

/// One message, borrowed from the bytes it came in.
///
/// Only the structure is checked here: names may be empty or malformed, properties are not looked
/// at. The servers decide per message what they take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload<'a> {
    /// Bits `FLAG_*`; others are kept as received.
    pub flag: u8,
    /// When the producer made it, ms.
    pub create_ms: i64,
    /// The due time with [`FLAG_DELAY`], otherwise meaningless.
    pub second_ms: i64,
    /// Subject as sent: unchecked bytes.
    pub subject: &'a [u8],
    /// Message id as sent: unchecked bytes.
    pub message_id: &'a [u8],
    /// Number of tags.
    pub tag_count: u8,
    /// The tags, each `i16` length and bytes.
    pub tags: &'a [u8],
    /// The properties, each `str key, str value`.
    pub body: &'a [u8],
    /// All bytes of the message.
    pub bytes: &'a [u8],
}

impl<'a> Payload<'a> {
    /// Takes one message off the front of `bytes`; returns it and what follows.
    ///
    /// # Errors
    /// When the bytes end early or hold a negative length.
    pub fn split_first(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), PayloadError> {
        let mut rest = bytes;
        let [flag] = take(&mut rest)?;
        let create_ms = i64::from_be_bytes(take(&mut rest)?);
        let second_ms = i64::from_be_bytes(take(&mut rest)?);
        let subject = take_str(&mut rest)?;
        let message_id = take_str(&mut rest)?;
        let (tag_count, tags) = take_tags(flag, &mut rest)?;
        let body_len = i32::from_be_bytes(take(&mut rest)?);
        let body_len = usize::try_from(body_len).map_err(|_| PayloadError::NegativeLength)?;
        let body = take_slice(&mut rest, body_len)?;
        let bytes = &bytes[..bytes.len() - rest.len()];
        let payload = Self {
            flag,
            create_ms,
            second_ms,
            subject,
            message_id,
            tag_count,
            tags,
            body,
            bytes,
        };
        Ok((payload, rest))
    }

    /// Whether the due time counts.
    #[must_use]
    pub const fn is_delayed(&self) -> bool {
        self.flag & FLAG_DELAY != 0
    }

    /// The tags in wire order.
    pub fn tag_iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = self.tags;
        std::iter::from_fn(move || take_str(&mut rest).ok())
    }

    /// The properties in wire order, up to the first one that cannot be read. Values may be up to
    /// 65 535 bytes: senders write the low 16 bits of the length.
    pub fn properties(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut rest = self.body;
        std::iter::from_fn(move || {
            let key = take_long_str(&mut rest).ok()?;
            Some((key, take_long_str(&mut rest).ok()?))
        })
    }

    /// The value of a property, if it is there. A repeated key keeps the last value.
    #[must_use]
    pub fn property(&self, key: &[u8]) -> Option<&'a [u8]> {
        self.properties()
            .filter(|(k, _)| *k == key)
            .last()
            .map(|(_, value)| value)
    }

    /// Whether a Java consumer can read every property: each length fits 15 bits, nothing is left.
    #[must_use]
    pub fn properties_are_readable(&self) -> bool {
        let mut rest = self.body;
        while !rest.is_empty() {
            if take_str(&mut rest).is_err() || take_str(&mut rest).is_err() {
                return false;
            }
        }
        true
    }

    /// The checksum that precedes the message on its way to a broker.
    #[must_use]
    pub fn crc(&self) -> u32 {
        crc32fast::hash(self.bytes)
    }

    /// Where the flag byte stands in [`Self::bytes`].
    pub const FLAG_AT: usize = 0;
}

/// Appends a string with its length.
///
/// # Panics
/// When `text` is longer than [`STRING_BYTES_MAX`]: callers check before.
pub fn put_str(out: &mut impl BufMut, text: &[u8]) {
    let len = i16::try_from(text.len()).expect("string lengths are checked before encoding");
    out.put_i16(len);
    out.put_slice(text);
}

fn take_tags<'a>(flag: u8, rest: &mut &'a [u8]) -> Result<(u8, &'a [u8]), PayloadError> {
    if flag & FLAG_TAGS == 0 {
        return Ok((0, &[]));
    }
    let [count] = take(rest)?;
    if count > 127 {
        return Err(PayloadError::NegativeLength);
    }
    let start = *rest;
    for _ in 0..count {
        take_str(rest)?;
    }
    Ok((count, &start[..start.len() - rest.len()]))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], PayloadError> {
    let (head, tail) = rest
        .split_first_chunk::<N>()
        .ok_or(PayloadError::Truncated)?;
    *rest = tail;
    Ok(*head)
}

fn take_slice<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], PayloadError> {
    let (head, tail) = rest.split_at_checked(len).ok_or(PayloadError::Truncated)?;
    *rest = tail;
    Ok(head)
}

fn take_str<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], PayloadError> {
    let len = i16::from_be_bytes(take(rest)?);
    let len = usize::try_from(len).map_err(|_| PayloadError::NegativeLength)?;
    take_slice(rest, len)
}

fn take_long_str<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], PayloadError> {
    let len = u16::from_be_bytes(take(rest)?);
    take_slice(rest, usize::from(len))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(tags: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u8(if tags.is_empty() { 0 } else { FLAG_TAGS });
        out.put_i64(1_000);
        out.put_i64(2_000);
        put_str(&mut out, b"a.b");
        put_str(&mut out, b"id-1");
        if !tags.is_empty() {
            out.put_u8(u8::try_from(tags.len()).unwrap());
            tags.iter()
                .for_each(|tag| put_str(&mut out, tag.as_bytes()));
        }
        out.put_i32(6);
        put_str(&mut out, b"k");
        put_str(&mut out, b"v");
        out
    }

    #[test]
    fn reads_every_field() {
        let bytes = sample(&["t1", "t2"]);
        let (payload, rest) = Payload::split_first(&bytes).unwrap();
        assert!(rest.is_empty());
        assert_eq!(payload.subject, b"a.b");
        assert_eq!(payload.message_id, b"id-1");
        assert_eq!(payload.tag_iter().collect::<Vec<_>>(), [b"t1", b"t2"]);
        assert_eq!(payload.property(b"k"), Some(&b"v"[..]));
        assert_eq!(payload.bytes, &bytes[..]);
    }

    #[test]
    fn splits_two_messages() {
        let mut bytes = sample(&[]);
        bytes.extend(sample(&["x"]));
        let (first, rest) = Payload::split_first(&bytes).unwrap();
        let (second, rest) = Payload::split_first(rest).unwrap();
        assert!(rest.is_empty());
        assert_eq!(first.tag_count, 0);
        assert_eq!(second.tag_count, 1);
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = sample(&["t1"]);
        for len in 0..bytes.len() {
            assert_eq!(
                Payload::split_first(&bytes[..len]),
                Err(PayloadError::Truncated),
                "{len}"
            );
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok((payload, _)) = Payload::split_first(&bytes) {
                payload.tag_iter().count();
                payload.properties().count();
            }
        }
    }
}
