//! SEND_MESSAGE (10): messages for a broker, and which of them it did not take.
//!
//! ```text
//! request    i64 crc, payload              repeated to the end of the body
//! response   str message id, i32 result, str remark      failures only, repeated to the end
//! ```
//!
//! The payload is laid out in [`qmq_model::payload`]; `crc` is its CRC-32 (zlib polynomial) with
//! the upper half zero. Neither layout depends on the version. Nothing is allocated per message:
//! everything here is a view of the frame.

use bytes::{BufMut, Bytes, BytesMut};
use qmq_model::payload::{PAYLOAD_BYTES_MIN, STRING_BYTES_MAX, put_str};
use qmq_model::{Payload, PayloadError};

use crate::codec::{Decode, Encode, Reader};
use crate::error::DecodeError;

/// Bytes of the checksum in front of a payload.
pub const CRC_BYTES: usize = 8;
/// Shortest message of a request. With the largest body it bounds their number, which nothing else
/// does: they are views of the frame and cost no memory of their own.
pub const SENT_MESSAGE_BYTES_MIN: usize = CRC_BYTES + PAYLOAD_BYTES_MIN;

/// Appends one message as a client sends it: checksum, then payload.
pub fn put_message(payload: &[u8], out: &mut impl BufMut) {
    out.put_i64(crc32fast::hash(payload).into());
    out.put_slice(payload);
}

/// The messages of one request. The structure of all of them has been checked; names, properties
/// and checksums have not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendRequest {
    body: Bytes,
    count: usize,
}

impl SendRequest {
    /// Walks over the whole body once, so that nothing is stored of a request whose end is broken.
    /// An empty body is a request without messages.
    ///
    /// # Errors
    /// When a message is cut off, has a negative length, or stray bytes follow the last one.
    pub fn decode(body: Bytes) -> Result<Self, DecodeError> {
        let mut count = 0;
        for message in Self::split(&body) {
            message?;
            count += 1;
        }
        Ok(Self { body, count })
    }

    /// The messages of an unchecked body, up to the first broken one.
    #[must_use]
    pub fn split(body: &Bytes) -> SplitMessages<'_> {
        SplitMessages {
            body,
            rest: body,
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
            split: Self::split(&self.body),
            left: self.count,
        }
    }
}

/// One message of a request, borrowed from its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentMessage<'a> {
    /// The checksum as declared, all 64 bits of it.
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

    /// The payload as a slice that shares the frame and keeps all of it alive.
    #[must_use]
    pub fn payload_bytes(&self) -> Bytes {
        self.body.slice_ref(self.payload.bytes)
    }
}

/// Iterates over an unchecked body; ends after the first error.
#[derive(Clone, Debug)]
pub struct SplitMessages<'a> {
    body: &'a Bytes,
    rest: &'a [u8],
    index: usize,
}

impl<'a> SplitMessages<'a> {
    fn split_first(&mut self) -> Result<SentMessage<'a>, PayloadError> {
        let rest = std::mem::take(&mut self.rest);
        let (crc, rest) = rest.split_first_chunk().ok_or(PayloadError::Truncated)?;
        let (payload, rest) = Payload::split_first(rest)?;
        self.rest = rest;
        Ok(SentMessage {
            declared_crc: i64::from_be_bytes(*crc),
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
        Some(
            self.split_first()
                .map_err(|source| DecodeError::Message { index, source }),
        )
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

/// What became of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SendResult {
    /// Stored. Never listed in a response: what is not listed succeeded.
    Success,
    /// Producers give up at once. No server is known to answer this.
    BrokerBusy,
    /// Stored before. Counts as success.
    MessageDuplicate,
    /// This broker does not take the subject. Producers try again.
    SubjectNotAssigned,
    /// Not online yet, or waiting for slaves. Producers choose another group and try again.
    BrokerReadOnly,
    /// Producers give up and mark the message as blocked. No server is known to answer this.
    Block,
    /// The message cannot be stored. Producers try again.
    StoreError,
    /// A number we have no name for. Producers try again.
    Other(i32),
}

impl SendResult {
    /// The result with this number.
    #[must_use]
    pub const fn from_code(code: i32) -> Self {
        match code {
            0 => Self::Success,
            1 => Self::BrokerBusy,
            2 => Self::MessageDuplicate,
            3 => Self::SubjectNotAssigned,
            4 => Self::BrokerReadOnly,
            5 => Self::Block,
            6 => Self::StoreError,
            other => Self::Other(other),
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> i32 {
        match self {
            Self::Success => 0,
            Self::BrokerBusy => 1,
            Self::MessageDuplicate => 2,
            Self::SubjectNotAssigned => 3,
            Self::BrokerReadOnly => 4,
            Self::Block => 5,
            Self::StoreError => 6,
            Self::Other(code) => code,
        }
    }
}

/// One message that was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendFailure<'a> {
    /// The id as it was sent. Bytes, not text: a message must be listed under its own id even when
    /// that id is the reason for the refusal.
    pub message_id: &'a [u8],
    /// Why.
    pub result: SendResult,
    /// For people; clients look at the number only.
    pub remark: &'a str,
}

impl SendFailure<'_> {
    /// Appends this entry of a response. A remark is cut to 32 767 bytes.
    ///
    /// # Panics
    /// When the message id is over 32 767 bytes, which none that was received is.
    pub fn put(&self, out: &mut impl BufMut) {
        put_str(out, self.message_id);
        out.put_i32(self.result.code());
        let end = self.remark.floor_char_boundary(STRING_BYTES_MAX);
        put_str(out, &self.remark.as_bytes()[..end]);
    }
}

/// The body of a response, for servers that have all failures at hand; others use
/// [`SendFailure::put`].
impl Encode for [SendFailure<'_>] {
    fn encode(&self, _version: i16, out: &mut BytesMut) {
        self.iter().for_each(|failure| failure.put(out));
    }
}

/// The response with code 0: the messages that were *not* stored. The whole body has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendResponse<'a>(&'a [u8]);

impl<'a> SendResponse<'a> {
    /// The failures, in the order of the messages.
    pub fn failures(&self) -> impl Iterator<Item = SendFailure<'a>> + use<'a> {
        let mut reader = Reader::new(self.0);
        std::iter::from_fn(move || {
            let more = !reader.rest().is_empty();
            more.then(|| read_failure(&mut reader).expect("the body was checked by decode"))
        })
    }
}

impl<'a> Decode<'a> for SendResponse<'a> {
    fn decode(_version: i16, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        while !reader.rest().is_empty() {
            read_failure(&mut reader)?;
        }
        Ok(Self(body))
    }
}

fn read_failure<'a>(reader: &mut Reader<'a>) -> Result<SendFailure<'a>, DecodeError> {
    Ok(SendFailure {
        message_id: reader.short_bytes("messageId")?,
        result: SendResult::from_code(reader.i32("result")?),
        remark: reader.str("remark")?,
    })
}

#[cfg(test)]
mod tests {
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
    fn a_long_remark_is_cut_between_characters() {
        let remark = "订".repeat(11_000);
        let failure = SendFailure {
            message_id: b"id",
            result: SendResult::StoreError,
            remark: &remark,
        };
        let mut out = BytesMut::new();
        [failure].encode(9, &mut out);
        let response = SendResponse::decode(9, &out).unwrap();
        let read = response.failures().next().unwrap();
        assert_eq!(read.remark.len(), 32_766);
        assert_eq!(read.message_id, b"id");
    }

    #[test]
    fn result_numbers_lead_back() {
        for code in -1..9 {
            assert_eq!(SendResult::from_code(code).code(), code);
        }
    }
}
