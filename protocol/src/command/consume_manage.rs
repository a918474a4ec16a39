//! CONSUME_MANAGE (25): the metaserver resets the progress of a consumer group.
//!
//! ```text
//! str subject
//! str group
//! i32 where from         1 latest, 2 earliest
//! ```
//!
//! The response has no body.

use bytes::{BufMut, BytesMut};
use qmq_model::payload::put_str;

use crate::codec::{Decode, Encode, Reader};
use crate::error::DecodeError;

/// Where a group goes on reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum ConsumeFromWhere {
    /// Behind the newest message: everything before is skipped.
    Latest = 1,
    /// At the oldest message that is kept.
    Earliest = 2,
}

impl ConsumeFromWhere {
    /// The place with this number, if there is one.
    #[must_use]
    pub const fn from_code(code: i32) -> Option<Self> {
        Some(match code {
            1 => Self::Latest,
            2 => Self::Earliest,
            _ => return None,
        })
    }

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> i32 {
        self as i32
    }
}

/// A request to reset one group of one subject. Names are unchecked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumeManageRequest<'a> {
    /// Subject the group reads.
    pub subject: &'a str,
    /// Consumer group.
    pub group: &'a str,
    /// Number of a [`ConsumeFromWhere`], as received. An unknown one changes nothing and is
    /// answered with success.
    pub from_code: i32,
}

impl ConsumeManageRequest<'_> {
    /// Where the group shall go on, if the number is known.
    #[must_use]
    pub const fn from(&self) -> Option<ConsumeFromWhere> {
        ConsumeFromWhere::from_code(self.from_code)
    }
}

impl Encode for ConsumeManageRequest<'_> {
    /// # Panics
    /// When a name is over 32 767 bytes.
    fn encode(&self, _version: i16, out: &mut BytesMut) {
        put_str(out, self.subject.as_bytes());
        put_str(out, self.group.as_bytes());
        out.put_i32(self.from_code);
    }
}

impl<'a> Decode<'a> for ConsumeManageRequest<'a> {
    fn decode(version: i16, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let request = Self {
            subject: reader.str("subject")?,
            group: reader.str("group")?,
            from_code: reader.i32("consumeFromWhere")?,
        };
        reader.end_of(version)?;
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_place_is_kept_for_the_broker() {
        for code in [i32::MIN, -1, 0, 3, i32::MAX] {
            let request = ConsumeManageRequest {
                subject: "a.b",
                group: "g",
                from_code: code,
            };
            let mut body = BytesMut::new();
            request.encode(8, &mut body);
            assert_eq!(ConsumeManageRequest::decode(8, &body), Ok(request));
            assert_eq!(request.from(), None);
        }
        for from in [ConsumeFromWhere::Latest, ConsumeFromWhere::Earliest] {
            assert_eq!(ConsumeFromWhere::from_code(from.code()), Some(from));
        }
    }
}
