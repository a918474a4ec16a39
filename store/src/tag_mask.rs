//! A Bloom mask of a message's tags: says without the payload that a message lacks a tag.

use qmq_model::payload::FLAG_TAGS;

use crate::format::Fields;

/// Bits that each tag sets, as far as they differ.
const BITS_PER_TAG: u32 = 4;
/// A string with its length at its longest.
const STRING_BYTES_MAX: usize = 2 + qmq_model::payload::STRING_BYTES_MAX;
/// Bytes of a payload that surely hold its tags: flag, times, subject, message id, 127 tags.
pub(crate) const TAGGED_HEAD_BYTES_MAX: usize =
    17 + 2 * STRING_BYTES_MAX + 1 + 127 * STRING_BYTES_MAX;

/// Which tags a message may have: 4 of 64 bits per tag. 0 means that it has none.
///
/// Never lacks a tag that the message has, but may show one that it does not have: who filters
/// looks at the payload of what remains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TagMask(pub u64);

impl TagMask {
    /// The mask that rules nothing out, for payloads whose tags cannot be read.
    pub const ANY: Self = Self(u64::MAX);

    /// The mask of these tags.
    pub fn of_tags<'a>(tags: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mask = tags.into_iter().map(bits).fold(0, |all, tag| all | tag);
        Self(mask)
    }

    /// Whether the message may have this tag; `false` is certain.
    #[must_use]
    pub fn may_have(self, tag: &[u8]) -> bool {
        let bits = bits(tag);
        self.0 & bits == bits
    }

    /// The mask of a payload of which at least the first byte is there; `None` when the bytes end
    /// before its tags do.
    pub(crate) fn of_payload(payload: &[u8]) -> Option<Self> {
        let mut fields = Fields(payload);
        if fields.u8()? & FLAG_TAGS == 0 {
            return Some(Self(0));
        }
        fields.array::<16>()?;
        fields.string()?;
        fields.string()?;
        let count = fields.u8()?;
        let mut mask = 0;
        for _ in 0..count {
            mask |= bits(fields.string()?);
        }
        Some(Self(mask))
    }
}

/// The bits of one tag: six bits of its CRC-32C each, from the lowest on.
fn bits(tag: &[u8]) -> u64 {
    let crc = crc32c::crc32c(tag);
    (0..BITS_PER_TAG).fold(0, |bits, at| bits | 1 << (crc >> (6 * at) & 63))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use qmq_model::payload::put_str;

    use super::*;

    fn payload(flag: u8, tags: &[Vec<u8>]) -> Vec<u8> {
        let mut out = vec![flag];
        out.extend([0; 16]);
        put_str(&mut out, b"order.paid");
        put_str(&mut out, b"id-1");
        out.push(u8::try_from(tags.len()).unwrap());
        tags.iter().for_each(|tag| put_str(&mut out, tag));
        out
    }

    #[test]
    fn the_bits_never_change() {
        // They stand in index runs on disk.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xE306_9283);
        let bits = [0x03, 0x0A, 0x29, 0x01].map(|bit: u32| 1_u64 << bit);
        let mask = bits.iter().sum();
        assert_eq!(TagMask::of_tags([&b"123456789"[..]]), TagMask(mask));
    }

    #[test]
    fn without_tags_nothing_is_there() {
        assert_eq!(TagMask::of_tags([]), TagMask(0));
        assert!(!TagMask(0).may_have(b"a"));
        assert!(TagMask::ANY.may_have(b"a"));
        assert_eq!(TagMask::of_payload(&[0]), Some(TagMask(0)));
        assert_eq!(TagMask::of_payload(&[]), None);
    }

    #[test]
    fn a_tag_that_is_not_there_is_mostly_ruled_out() {
        let mask = TagMask::of_tags([&b"red"[..], b"green"]);
        let other = |n: &u32| mask.may_have(format!("other-{n}").as_bytes());
        assert!((0..1000).filter(other).count() < 20);
    }

    proptest! {
        #[test]
        fn never_lacks_a_tag(tags in proptest::collection::vec(any::<Vec<u8>>(), 0..10)) {
            let mask = TagMask::of_tags(tags.iter().map(Vec::as_slice));
            for tag in &tags {
                prop_assert!(mask.may_have(tag));
            }
            let bytes = payload(FLAG_TAGS, &tags);
            prop_assert_eq!(TagMask::of_payload(&bytes), Some(mask));
            for len in 0..bytes.len() {
                prop_assert_eq!(TagMask::of_payload(&bytes[..len]), None);
            }
        }
    }
}
