//! SEND_MESSAGE (10), the response: what became of each message.
//!
//! ```text
//! str message id, i32 result, str remark       repeated to the end of the body
//! ```
//!
//! From version 4 on only what was *not* stored is listed. Legacy clients take a message that is
//! not listed for lost, so they get an entry for each, with result 0 for what was stored.

use bytes::{BufMut, BytesMut};
use qmq_model::payload::{STRING_BYTES_MAX, put_str};

use crate::codec::{Decode, Encode, Reader};
use crate::error::DecodeError;
use crate::frame::is_legacy;

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
    /// Producers give up and mark the message as blocked. Our broker answers it to an illegal
    /// subject, which no attempt can mend; Java's never do.
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

    /// The result as a client of `version` understands it. C++ clients have no branch for two of
    /// the numbers, and whoever waits for the message waits for ever: they are told
    /// [`SendResult::Block`] for an unassigned subject and [`SendResult::BrokerBusy`] for a message
    /// that could not be stored.
    #[must_use]
    pub const fn for_version(self, version: i16) -> Self {
        match self {
            Self::SubjectNotAssigned if is_legacy(version) => Self::Block,
            Self::StoreError if is_legacy(version) => Self::BrokerBusy,
            other => other,
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

/// One entry of a response: a message that was not stored, or any message in the legacy dialect.
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

/// Appends the body of a response to a client of `version`. `results` names every message of the
/// request, in its order, with [`SendResult::Success`] for those that were stored: legacy clients
/// get them all, others the failures only. A legacy client reads this list whatever the code in
/// the header is.
///
/// # Panics
/// As [`SendFailure::put`].
pub fn put_results<'a>(
    version: i16,
    results: impl IntoIterator<Item = SendFailure<'a>>,
    out: &mut impl BufMut,
) {
    for entry in results {
        let result = entry.result.for_version(version);
        if is_legacy(version) || result != SendResult::Success {
            SendFailure { result, ..entry }.put(out);
        }
    }
}

/// The body of a response, for servers that have all failures at hand; others use
/// [`SendFailure::put`].
impl Encode for [SendFailure<'_>] {
    fn encode(&self, _version: i16, out: &mut BytesMut) {
        self.iter().for_each(|failure| failure.put(out));
    }
}

/// The response with code 0: the messages that were *not* stored, in the legacy dialect all of
/// them. The whole body has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendResponse<'a>(&'a [u8]);

impl<'a> SendResponse<'a> {
    /// The failures, in the order of the messages; in the legacy dialect the successes as well.
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
    use super::*;

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

    fn results(version: i16) -> BytesMut {
        let codes = 0..8;
        let entries = codes.map(|code| SendFailure {
            message_id: b"id",
            result: SendResult::from_code(code),
            remark: "why",
        });
        let mut out = BytesMut::new();
        put_results(version, entries, &mut out);
        out
    }

    fn listed(version: i16) -> Vec<i32> {
        let out = results(version);
        let response = SendResponse::decode(version, &out).unwrap();
        response
            .failures()
            .map(|entry| entry.result.code())
            .collect()
    }

    #[test]
    fn legacy_clients_get_every_message_in_numbers_they_know() {
        for version in [i16::MIN, 0, 3] {
            assert_eq!(listed(version), [0, 1, 2, 5, 4, 5, 1, 7], "{version}");
        }
    }

    #[test]
    fn others_get_failures_only() {
        for version in [4, 7, 8, 9, i16::MAX] {
            assert_eq!(listed(version), [1, 2, 3, 4, 5, 6, 7], "{version}");
        }
    }
}
