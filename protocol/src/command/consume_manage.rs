//! CONSUME_MANAGE (25): the metaserver resets the progress of a consumer group.
//!
//! ```text
//! str subject
//! str group
//! i32 where from         1 latest, 2 earliest, 3 a time
//! i64 time               ms; only with 3
//! ```
//!
//! 3 is our own: the reference knows the first two.
//!
//! The response has no body.

use bytes::{BufMut, BytesMut};
use qmq_model::payload::put_str;

use crate::codec::{Decode, Encode, Reader};
use crate::error::DecodeError;

/// Where a group goes on reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConsumeFromWhere {
    /// Behind the newest message: everything before is skipped.
    Latest,
    /// At the oldest message that is kept.
    Earliest,
    /// At the first message that was stored at this time or later. Unit: ms since 1970.
    Time(i64),
    /// A number without a meaning: it changes nothing and is answered with success.
    Other(i32),
}

const LATEST: i32 = 1;
const EARLIEST: i32 = 2;
const TIME: i32 = 3;

/// A request to reset one group of one subject. Names are unchecked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumeManageRequest<'a> {
    /// Subject the group reads.
    pub subject: &'a str,
    /// Consumer group.
    pub group: &'a str,
    /// Where it shall go on.
    pub from: ConsumeFromWhere,
}

impl Encode for ConsumeManageRequest<'_> {
    /// # Panics
    /// When a name is over 32 767 bytes.
    fn encode(&self, _version: i16, out: &mut BytesMut) {
        put_str(out, self.subject.as_bytes());
        put_str(out, self.group.as_bytes());
        match self.from {
            ConsumeFromWhere::Latest => out.put_i32(LATEST),
            ConsumeFromWhere::Earliest => out.put_i32(EARLIEST),
            ConsumeFromWhere::Time(millis) => {
                out.put_i32(TIME);
                out.put_i64(millis);
            }
            ConsumeFromWhere::Other(code) => out.put_i32(code),
        }
    }
}

impl<'a> Decode<'a> for ConsumeManageRequest<'a> {
    fn decode(version: i16, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let subject = reader.str("subject")?;
        let group = reader.str("group")?;
        let from = match reader.i32("consumeFromWhere")? {
            LATEST => ConsumeFromWhere::Latest,
            EARLIEST => ConsumeFromWhere::Earliest,
            TIME => ConsumeFromWhere::Time(reader.i64("time")?),
            other => ConsumeFromWhere::Other(other),
        };
        reader.end_of(version)?;
        Ok(Self {
            subject,
            group,
            from,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_survives_the_round_trip() {
        let others = [i32::MIN, -1, 0, 4, i32::MAX].map(ConsumeFromWhere::Other);
        let known = [
            ConsumeFromWhere::Latest,
            ConsumeFromWhere::Earliest,
            ConsumeFromWhere::Time(1_700_000_000_000),
        ];
        for from in others.into_iter().chain(known) {
            let request = ConsumeManageRequest {
                subject: "a.b",
                group: "g",
                from,
            };
            let mut body = BytesMut::new();
            request.encode(8, &mut body);
            assert_eq!(ConsumeManageRequest::decode(8, &body), Ok(request));
        }
    }
}
