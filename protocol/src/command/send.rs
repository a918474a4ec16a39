//! SEND_MESSAGE (10), the request: messages for a broker.
//!
//! ```text
//! i64 crc, payload       repeated to the end of the body; legacy clients send no crc
//! ```
//!
//! The payload is laid out in [`qmq_model::payload`]; `crc` is its CRC-32 (zlib polynomial) with
//! the upper half zero. Only the legacy dialect (version below 4) differs; it has no tags either.
//! Nothing is allocated per message: everything here is a view of the frame.
//!
//! The response is [`SendResponse`].

mod response;

use std::ops::Range;

use bytes::{BufMut, Bytes};
use qmq_model::payload::{FLAG_TAGS, PAYLOAD_BYTES_MIN};
use qmq_model::{Payload, PayloadError};

use crate::error::DecodeError;
use crate::frame::{VERSION, is_legacy};

pub use response::{SendFailure, SendResponse, SendResult, put_results};

/// Bytes of the checksum in front of a payload.
pub const CRC_BYTES: usize = 8;
/// Shortest message of a request, but for the legacy dialect, which leaves out the checksum. With
/// the largest body it bounds their number, which nothing else does: they are views of the frame
/// and cost no memory of their own.
pub const SENT_MESSAGE_BYTES_MIN: usize = CRC_BYTES + PAYLOAD_BYTES_MIN;

/// Appends one message as a client sends it: checksum, then payload.
pub fn put_message(payload: &[u8], out: &mut impl BufMut) {
    out.put_i64(crc32fast::hash(payload).into());
    out.put_slice(payload);
}

/// Appends one message as a client of `version` sends it: as [`put_message`], for legacy clients
/// without the checksum. The payload must have no tags then: their dialect has no place for them.
pub fn put_message_for_version(version: i16, payload: &[u8], out: &mut impl BufMut) {
    if is_legacy(version) {
        out.put_slice(payload);
    } else {
        put_message(payload, out);
    }
}

/// The messages of one request. The structure of all of them has been checked; names, properties
/// and checksums have not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendRequest {
    version: i16,
    body: Bytes,
    count: usize,
}

impl SendRequest {
    /// As [`Self::decode_version`], for every version but the legacy ones.
    ///
    /// # Errors
    /// As [`Self::decode_version`].
    pub fn decode(body: Bytes) -> Result<Self, DecodeError> {
        Self::decode_version(VERSION, body)
    }

    /// Walks over the whole body once, so that nothing is stored of a request whose end is broken.
    /// An empty body is a request without messages.
    ///
    /// # Errors
    /// When a message is cut off, has a negative length, or stray bytes follow the last one; in the
    /// legacy dialect also when a message claims to have tags.
    pub fn decode_version(version: i16, body: Bytes) -> Result<Self, DecodeError> {
        let mut count = 0;
        for message in Self::split_version(version, &body) {
            message?;
            count += 1;
        }
        Ok(Self {
            version,
            body,
            count,
        })
    }

    /// As [`Self::split_version`], for every version but the legacy ones.
    #[must_use]
    pub fn split(body: &Bytes) -> SplitMessages<'_> {
        Self::split_version(VERSION, body)
    }

    /// The messages of an unchecked body, up to the first broken one.
    #[must_use]
    pub fn split_version(version: i16, body: &Bytes) -> SplitMessages<'_> {
        Self::split_within(version, body, 0..body.len())
    }

    /// As [`Self::split_version`], for a body that is part of a longer buffer.
    ///
    /// # Panics
    /// When `body` is not within `buffer`.
    #[must_use]
    pub fn split_within(version: i16, buffer: &Bytes, body: Range<usize>) -> SplitMessages<'_> {
        SplitMessages {
            version,
            body: buffer,
            rest: &buffer[body],
            index: 0,
        }
    }

    /// Number of messages.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are no messages.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The messages in wire order.
    #[must_use]
    pub fn messages(&self) -> SentMessages<'_> {
        SentMessages {
            split: Self::split_version(self.version, &self.body),
            left: self.count,
        }
    }
}

/// One message of a request, borrowed from its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentMessage<'a> {
    /// The checksum as declared, all 64 bits of it. Legacy clients declare none: theirs is made
    /// from the payload.
    pub declared_crc: i64,
    /// The message.
    pub payload: Payload<'a>,
    body: &'a Bytes,
}

impl SentMessage<'_> {
    /// Whether the declared checksum is that of the payload. A set upper half never is.
    #[must_use]
    pub fn crc_matches(&self) -> bool {
        u32::try_from(self.declared_crc) == Ok(self.payload.crc())
    }

    /// Where the payload is in the buffer the message was split from.
    #[must_use]
    pub fn place(&self) -> Range<usize> {
        let start = self.payload.bytes.as_ptr().addr() - self.body.as_ptr().addr();
        start..start + self.payload.bytes.len()
    }

    /// The payload as a slice that shares the frame and keeps all of it alive.
    #[must_use]
    pub fn payload_bytes(&self) -> Bytes {
        self.body.slice_ref(self.payload.bytes)
    }
}

/// Iterates over an unchecked body; ends after the first error.
#[derive(Clone, Debug)]
pub struct SplitMessages<'a> {
    version: i16,
    body: &'a Bytes,
    rest: &'a [u8],
    index: usize,
}

impl<'a> SplitMessages<'a> {
    fn split_first(&mut self, index: usize) -> Result<SentMessage<'a>, DecodeError> {
        let broken = |source| DecodeError::Message { index, source };
        let rest = std::mem::take(&mut self.rest);
        let (declared, rest) = if is_legacy(self.version) {
            // Without tags in its layout a message that claims some cannot be followed.
            if let Some(&flag) = rest.first().filter(|flag| **flag & FLAG_TAGS != 0) {
                return Err(DecodeError::Unknown {
                    field: "flag",
                    value: flag.into(),
                });
            }
            (None, rest)
        } else {
            let (crc, rest) = rest
                .split_first_chunk()
                .ok_or(broken(PayloadError::Truncated))?;
            (Some(i64::from_be_bytes(*crc)), rest)
        };
        let (payload, rest) = Payload::split_first(rest).map_err(broken)?;
        self.rest = rest;
        Ok(SentMessage {
            declared_crc: declared.unwrap_or_else(|| payload.crc().into()),
            payload,
            body: self.body,
        })
    }
}

impl<'a> Iterator for SplitMessages<'a> {
    type Item = Result<SentMessage<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let index = self.index;
        self.index += 1;
        Some(self.split_first(index))
    }
}

impl std::iter::FusedIterator for SplitMessages<'_> {}

/// Iterates over a checked body.
#[derive(Clone, Debug)]
pub struct SentMessages<'a> {
    split: SplitMessages<'a>,
    left: usize,
}

impl<'a> Iterator for SentMessages<'a> {
    type Item = SentMessage<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let message = self
            .split
            .next()?
            .expect("the structure was checked by decode");
        self.left -= 1;
        Some(message)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for SentMessages<'_> {}
impl std::iter::FusedIterator for SentMessages<'_> {}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use qmq_model::Message;

    use super::*;

    fn payload(id: &str) -> Bytes {
        let message = Message {
            subject: "a".into(),
            message_id: id.into(),
            ..Message::default()
        };
        message.to_payload().unwrap()
    }

    fn body(ids: &[&str]) -> BytesMut {
        let mut out = BytesMut::new();
        ids.iter()
            .for_each(|id| put_message(&payload(id), &mut out));
        out
    }

    #[test]
    fn empty_body_is_no_messages() {
        let request = SendRequest::decode(Bytes::new()).unwrap();
        assert!(request.is_empty());
        assert_eq!(request.messages().count(), 0);
    }

    #[test]
    fn messages_share_the_frame() {
        let body = body(&["one", "two"]).freeze();
        let request = SendRequest::decode(body.clone()).unwrap();
        assert_eq!((request.len(), request.messages().len()), (2, 2));
        for (message, id) in request.messages().zip(["one", "two"]) {
            assert!(message.crc_matches());
            let bytes = message.payload_bytes();
            assert_eq!(bytes, payload(id));
            assert!(body.as_ptr_range().contains(&bytes.as_ptr()));
        }
    }

    #[test]
    fn a_broken_end_fails_the_whole_request() {
        let mut body = body(&["one"]);
        body.put_u8(0);
        let error = DecodeError::Message {
            index: 1,
            source: PayloadError::Truncated,
        };
        let body = body.freeze();
        assert_eq!(SendRequest::decode(body.clone()), Err(error.clone()));
        let mut split = SendRequest::split(&body);
        assert!(split.next().unwrap().is_ok());
        assert_eq!(split.next(), Some(Err(error)));
        assert_eq!(split.next(), None);
    }

    #[test]
    fn any_wrong_bit_of_the_checksum_is_seen() {
        let good = body(&["one"]);
        for bit in 0..CRC_BYTES * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let request = SendRequest::decode(bad.freeze()).unwrap();
            assert!(!request.messages().next().unwrap().crc_matches(), "{bit}");
        }
    }

    #[test]
    fn legacy_messages_have_no_checksum_of_their_own() {
        let mut body = BytesMut::new();
        put_message_for_version(3, &payload("one"), &mut body);
        put_message_for_version(3, &payload("two"), &mut body);
        let body = body.freeze();
        for version in [i16::MIN, -5, 0, 3] {
            let request = SendRequest::decode_version(version, body.clone()).unwrap();
            assert_eq!(request.len(), 2);
            for (message, id) in request.messages().zip(["one", "two"]) {
                assert!(message.crc_matches());
                assert_eq!(message.payload_bytes(), payload(id));
            }
        }
        for version in [4, 7, 9] {
            assert!(SendRequest::decode_version(version, body.clone()).is_err());
        }
        let cut = body.slice(..body.len() - 1);
        let source = PayloadError::Truncated;
        let error = DecodeError::Message { index: 1, source };
        assert_eq!(SendRequest::decode_version(3, cut), Err(error));
    }

    #[test]
    fn a_legacy_message_with_tags_is_refused() {
        let mut body = BytesMut::from(&payload("one")[..]);
        for flag in [FLAG_TAGS, 0xFF] {
            body[0] = flag;
            let error = DecodeError::Unknown {
                field: "flag",
                value: flag.into(),
            };
            let body = body.clone().freeze();
            assert_eq!(SendRequest::decode_version(3, body), Err(error));
        }
    }
}
