//! ACK_REQUEST (12): a consumer is done with a range, or only alive.
//!
//! ```text
//! str subject            as pulled, retry subjects included
//! str group              broadcast: the client id
//! str consumer id
//! i64 first sequence     negative: nothing is done, only a sign of life
//! i64 last sequence      inclusive
//! i8  broadcast          version >= 8 only; exactly 1 means yes
//! ```
//!
//! The response has no body.

use bytes::{BufMut, BytesMut};
use qmq_model::payload::put_str;

use crate::codec::{Decode, Encode, Reader};
use crate::error::DecodeError;
use crate::frame::VERSION_TAGS;

/// A request to acknowledge pulled messages. Names are unchecked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckRequest<'a> {
    /// Subject as it was pulled.
    pub subject: &'a str,
    /// Consumer group; in broadcast the client id.
    pub group: &'a str,
    /// Client id.
    pub consumer_id: &'a str,
    /// First pull sequence that is done; negative for a mere sign of life.
    pub pull_begin: i64,
    /// Last pull sequence that is done, inclusive as on the wire.
    pub pull_last: i64,
    /// Whether the sequences are message sequences of a broadcast. Always false below version 8.
    pub is_broadcast: bool,
}

impl AckRequest<'_> {
    /// Whether this says "I am alive" and acknowledges nothing.
    #[must_use]
    pub const fn is_keep_alive(&self) -> bool {
        self.pull_begin < 0
    }
}

impl Encode for AckRequest<'_> {
    /// # Panics
    /// When a name is over 32 767 bytes.
    fn encode(&self, version: i16, out: &mut BytesMut) {
        put_str(out, self.subject.as_bytes());
        put_str(out, self.group.as_bytes());
        put_str(out, self.consumer_id.as_bytes());
        out.put_i64(self.pull_begin);
        out.put_i64(self.pull_last);
        if version >= VERSION_TAGS {
            out.put_i8(i8::from(self.is_broadcast));
        }
    }
}

impl<'a> Decode<'a> for AckRequest<'a> {
    fn decode(version: i16, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let request = Self {
            subject: reader.str("subject")?,
            group: reader.str("group")?,
            consumer_id: reader.str("consumerId")?,
            pull_begin: reader.i64("pullOffsetBegin")?,
            pull_last: reader.i64("pullOffsetLast")?,
            is_broadcast: version >= VERSION_TAGS && reader.i8("isBroadcast")? == 1,
        };
        reader.end_of(version)?;
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACK: AckRequest<'_> = AckRequest {
        subject: "a.b",
        group: "g",
        consumer_id: "c",
        pull_begin: 3,
        pull_last: 9,
        is_broadcast: true,
    };

    fn encoded(version: i16) -> BytesMut {
        let mut out = BytesMut::new();
        ACK.encode(version, &mut out);
        out
    }

    #[test]
    fn broadcast_byte_exists_from_version_8_on() {
        for version in [i16::MIN, 0, 3, 7] {
            let body = encoded(version);
            assert_eq!(body.len(), encoded(8).len() - 1);
            let expected = AckRequest {
                is_broadcast: false,
                ..ACK
            };
            assert_eq!(
                AckRequest::decode(version, &body),
                Ok(expected),
                "{version}"
            );
        }
        for version in [8, 9, 10, 300] {
            assert_eq!(
                AckRequest::decode(version, &encoded(version)),
                Ok(ACK),
                "{version}"
            );
        }
    }

    #[test]
    fn only_one_means_broadcast() {
        let mut body = encoded(9);
        let last = body.len() - 1;
        for (byte, expected) in [(0, false), (1, true), (2, false), (0xFF, false)] {
            body[last] = byte;
            assert_eq!(
                AckRequest::decode(9, &body).unwrap().is_broadcast,
                expected,
                "{byte}"
            );
        }
    }

    #[test]
    fn newer_versions_may_append_fields() {
        let mut body = encoded(9);
        body.put_i32(77);
        assert_eq!(
            AckRequest::decode(9, &body),
            Err(DecodeError::Trailing { bytes: 4 })
        );
        assert_eq!(AckRequest::decode(10, &body), Ok(ACK));
    }

    #[test]
    fn negative_begin_is_a_sign_of_life() {
        assert!(!ACK.is_keep_alive());
        assert!(
            AckRequest {
                pull_begin: -1,
                pull_last: -1,
                ..ACK
            }
            .is_keep_alive()
        );
    }
}
