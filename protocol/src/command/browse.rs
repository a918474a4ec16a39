//! BROWSE (1001): looks at messages of a subject without consuming them. Our own: Java brokers answer
//! that they do not know it.
//!
//! ```text
//! str subject
//! i8  place              0 what is stored, 1 what is kept in memory only
//! i8  from               0 a sequence, 1 a time, 2 so many before the newest
//! i64 value              sequence, ms or number of messages
//! i32 count              most messages wanted
//! ```
//!
//! The response:
//!
//! ```text
//! i64 next               where to go on
//! i64 end                behind the newest message
//! each message:
//!   i64 sequence
//!   ..  the message as it was sent, without checksum
//! ```
//!
//! Messages come in the order of their sequences, which need not be without gaps. There may be fewer
//! than wanted: all have been seen when `next` has reached `end`.

use bytes::{BufMut, BytesMut};
use qmq_model::Payload;
use qmq_model::payload::put_str;

use crate::codec::{Decode, Encode, Reader};
use crate::error::DecodeError;

/// Where a broker has messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// In its store.
    Stored,
    /// In memory only: sent with `qmq_retain=0`.
    Memory,
}

/// Which message is the first one wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum From {
    /// With this sequence, or the next one that is kept.
    Sequence(i64),
    /// Taken by the broker at this time or later. Unit: ms since 1970.
    Time(i64),
    /// So many sequences before the end.
    Newest(i64),
}

/// A request for a portion of a subject. The name is unchecked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrowseRequest<'a> {
    /// Plain, retry or dead-letter subject.
    pub subject: &'a str,
    /// Where to look.
    pub place: Place,
    /// Where to begin.
    pub from: From,
    /// Most messages wanted.
    pub count: i32,
}

const STORED: i8 = 0;
const MEMORY: i8 = 1;
const SEQUENCE: i8 = 0;
const TIME: i8 = 1;
const NEWEST: i8 = 2;

impl Encode for BrowseRequest<'_> {
    /// # Panics
    /// When the subject is over 32 767 bytes.
    fn encode(&self, _version: i16, out: &mut BytesMut) {
        put_str(out, self.subject.as_bytes());
        out.put_i8(match self.place {
            Place::Stored => STORED,
            Place::Memory => MEMORY,
        });
        let (kind, value) = match self.from {
            From::Sequence(sequence) => (SEQUENCE, sequence),
            From::Time(millis) => (TIME, millis),
            From::Newest(count) => (NEWEST, count),
        };
        out.put_i8(kind);
        out.put_i64(value);
        out.put_i32(self.count);
    }
}

impl<'a> Decode<'a> for BrowseRequest<'a> {
    fn decode(version: i16, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let subject = reader.str("subject")?;
        let place = match reader.i8("place")? {
            STORED => Place::Stored,
            MEMORY => Place::Memory,
            other => return Err(unknown("place", other.into())),
        };
        let kind = reader.i8("from")?;
        let value = reader.i64("value")?;
        let from = match kind {
            SEQUENCE => From::Sequence(value),
            TIME => From::Time(value),
            NEWEST => From::Newest(value),
            other => return Err(unknown("from", other.into())),
        };
        let count = reader.i32("count")?;
        reader.end_of(version)?;
        Ok(Self {
            subject,
            place,
            from,
            count,
        })
    }
}

const fn unknown(field: &'static str, value: i64) -> DecodeError {
    DecodeError::Unknown { field, value }
}

/// Writes what comes before the messages of a response.
pub fn put_browse_header(next: i64, end: i64, out: &mut BytesMut) {
    out.put_i64(next);
    out.put_i64(end);
}

/// Writes one message of a response: its sequence and its payload.
pub fn put_browsed(sequence: i64, payload: &[u8], out: &mut BytesMut) {
    out.put_i64(sequence);
    out.put_slice(payload);
}

/// A portion of a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrowseResponse<'a> {
    /// Where to go on.
    pub next: i64,
    /// Behind the newest message.
    pub end: i64,
    /// Sequence and message, in order.
    pub messages: Vec<(i64, Payload<'a>)>,
}

impl<'a> Decode<'a> for BrowseResponse<'a> {
    fn decode(_version: i16, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let (next, end) = (reader.i64("next")?, reader.i64("end")?);
        let mut messages = Vec::new();
        while !reader.rest().is_empty() {
            let sequence = reader.i64("sequence")?;
            let index = messages.len();
            let (payload, rest) = Payload::split_first(reader.rest())
                .map_err(|source| DecodeError::Message { index, source })?;
            reader = Reader::new(rest);
            messages.push((sequence, payload));
        }
        Ok(Self {
            next,
            end,
            messages,
        })
    }
}

#[cfg(test)]
mod tests {
    use qmq_model::Message;

    use super::*;

    fn payload(id: &str) -> bytes::Bytes {
        let message = Message {
            subject: "s".into(),
            message_id: id.into(),
            ..Message::default()
        };
        message.to_payload().unwrap()
    }

    #[test]
    fn requests_survive_the_round_trip_and_are_refused_when_cut() {
        for place in [Place::Stored, Place::Memory] {
            for from in [From::Sequence(-1), From::Time(7), From::Newest(i64::MAX)] {
                let request = BrowseRequest {
                    subject: "a.b",
                    place,
                    from,
                    count: 100,
                };
                let mut body = BytesMut::new();
                request.encode(8, &mut body);
                assert_eq!(BrowseRequest::decode(8, &body), Ok(request));
                for end in 0..body.len() {
                    assert!(BrowseRequest::decode(8, &body[..end]).is_err());
                }
                for at in [5, 6] {
                    let mut unknown = body.clone();
                    unknown[at] = 9;
                    assert!(BrowseRequest::decode(8, &unknown).is_err(), "byte {at}");
                }
            }
        }
    }

    #[test]
    fn responses_survive_the_round_trip_and_are_refused_inside_a_message() {
        let (first, second) = (payload("m-1"), payload("m-2"));
        let mut body = BytesMut::new();
        put_browse_header(9, 12, &mut body);
        let mut whole = vec![body.len()];
        for (sequence, payload) in [(5, &first), (8, &second)] {
            put_browsed(sequence, payload, &mut body);
            whole.push(body.len());
        }
        let response = BrowseResponse::decode(8, &body).unwrap();
        assert_eq!((response.next, response.end), (9, 12));
        let read: Vec<_> = response
            .messages
            .iter()
            .map(|(at, p)| (*at, p.bytes))
            .collect();
        assert_eq!(read, [(5, &first[..]), (8, &second[..])]);
        for end in 0..body.len() {
            let read = BrowseResponse::decode(8, &body[..end]);
            assert_eq!(read.is_ok(), whole.contains(&end), "cut at {end}");
        }
    }
}
