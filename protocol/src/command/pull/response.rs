//! PULL_MESSAGE (11), the response: messages for a consumer.
//!
//! ```text
//! i64 first sequence     pull sequence of the first message, each next one is one higher;
//!                        broadcast: message sequence
//! i64                    always -1
//! ..  payloads           back to back, no count
//! ```
//!
//! Payloads are as stored ([`qmq_model::payload`]), without the checksum. Below version 8 the tags
//! are cut out while their bit in the flag byte stays set, so readers ignore that bit there.
//! "Nothing to deliver" is [`ResultCode::NoMessage`] without a body.
//!
//! [`ResultCode::NoMessage`]: crate::ResultCode::NoMessage

use bytes::{BufMut, BytesMut};
use qmq_model::payload::{FLAG_DELAY, FLAG_TAGS};
use qmq_model::{Payload, PayloadError, PullSequence};

use crate::codec::{Decode, Reader};
use crate::error::DecodeError;
use crate::frame::VERSION_TAGS;

/// Bytes in front of the payloads.
pub const PULL_HEADER_BYTES: usize = 16;

/// Appends what stands in front of the payloads.
pub fn put_pull_header(first: PullSequence, out: &mut impl BufMut) {
    out.put_i64(first.0);
    out.put_i64(-1);
}

/// Appends one stored payload as a consumer of `version` reads it: unchanged and unread from
/// version 8 on, without its tags below.
///
/// # Errors
/// Below version 8, when `payload` is not one whole message. Nothing is appended then.
pub fn put_payload_for_version(
    version: i16,
    payload: &[u8],
    out: &mut BytesMut,
) -> Result<(), PayloadError> {
    if version >= VERSION_TAGS {
        out.put_slice(payload);
        return Ok(());
    }
    let (message, rest) = Payload::split_first(payload)?;
    if !rest.is_empty() {
        return Err(PayloadError::Truncated);
    }
    let tags = if message.flag & FLAG_TAGS == 0 {
        0
    } else {
        1 + message.tags.len()
    };
    let tail = payload.len() - BODY_LENGTH_BYTES - message.body.len();
    out.put_slice(&payload[..tail - tags]);
    out.put_slice(&payload[tail..]);
    Ok(())
}

const BODY_LENGTH_BYTES: usize = 4;

/// As [`put_payload_for_version`], with the delay bit of the flag byte cleared: a message that
/// was delivered is not delayed any more, and C# consumers fail on the bit.
///
/// # Errors
/// As [`put_payload_for_version`].
pub fn put_payload_without_delay_bit(
    version: i16,
    payload: &[u8],
    out: &mut BytesMut,
) -> Result<(), PayloadError> {
    let start = out.len();
    put_payload_for_version(version, payload, out)?;
    if let Some(flag) = out.get_mut(start + Payload::FLAG_AT) {
        *flag &= !FLAG_DELAY;
    }
    Ok(())
}

/// The messages of a response with code 0. The structure of all of them has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PullResponse<'a> {
    /// Pull sequence of the first message; in broadcast its message sequence.
    pub first: PullSequence,
    version: i16,
    payloads: &'a [u8],
    /// One past the sequence of the last message.
    end: i64,
    count: usize,
}

/// One pulled message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PulledMessage<'a> {
    /// What to acknowledge.
    pub sequence: PullSequence,
    /// The message. Below version 8 it has no tags, whatever its flag says.
    pub payload: Payload<'a>,
}

impl<'a> PullResponse<'a> {
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

    /// The messages in the order of their sequences.
    pub fn messages(&self) -> impl Iterator<Item = PulledMessage<'a>> + use<'a> {
        let Self {
            version,
            payloads: mut rest,
            ..
        } = *self;
        (self.first.0..self.end).map(move |sequence| {
            let split = split_first(version, rest);
            let (payload, tail) = split.expect("the structure was checked by decode");
            rest = tail;
            PulledMessage {
                sequence: PullSequence(sequence),
                payload,
            }
        })
    }
}

impl<'a> Decode<'a> for PullResponse<'a> {
    /// Also refuses sequences beyond the range of their type.
    fn decode(version: i16, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let first = reader.i64("pullLogOffset")?;
        reader.i64("consumerLogOffset")?;
        let payloads = reader.rest();
        let (mut rest, mut count, mut end) = (payloads, 0, first);
        while !rest.is_empty() {
            let split = split_first(version, rest);
            rest = split
                .map_err(|source| DecodeError::Message {
                    index: count,
                    source,
                })?
                .1;
            let overflow = DecodeError::Unknown {
                field: "pullLogOffset",
                value: first,
            };
            end = end.checked_add(1).ok_or(overflow)?;
            count += 1;
        }
        Ok(Self {
            first: PullSequence(first),
            version,
            payloads,
            end,
            count,
        })
    }
}

fn split_first(version: i16, bytes: &[u8]) -> Result<(Payload<'_>, &[u8]), PayloadError> {
    if version >= VERSION_TAGS {
        Payload::split_first(bytes)
    } else {
        split_untagged(bytes)
    }
}

/// Takes a message off the front whose tags were cut out, whether or not its flag says so.
fn split_untagged(bytes: &[u8]) -> Result<(Payload<'_>, &[u8]), PayloadError> {
    let mut reader = Reader::new(bytes);
    let mut read = || -> Result<_, DecodeError> {
        let [flag] = reader.array("flag")?;
        let create_ms = reader.i64("createTime")?;
        let second_ms = reader.i64("second time")?;
        let subject = reader.short_bytes("subject")?;
        let message_id = reader.short_bytes("messageId")?;
        let length = reader.i32("bodyLength")?;
        let field = "bodyLength";
        let len = usize::try_from(length).map_err(|_| DecodeError::Length {
            field,
            length: length.into(),
        })?;
        let body = reader.bytes(field, len)?;
        let rest = reader.rest();
        let bytes = &bytes[..bytes.len() - rest.len()];
        let tags: &[u8] = &[];
        let payload = Payload {
            flag,
            create_ms,
            second_ms,
            subject,
            message_id,
            tag_count: 0,
            tags,
            body,
            bytes,
        };
        Ok((payload, rest))
    };
    read().map_err(|error| match error {
        DecodeError::Length { .. } => PayloadError::NegativeLength,
        _ => PayloadError::Truncated,
    })
}

#[cfg(test)]
mod tests {
    use qmq_model::{Message, UnixMillis};

    use super::*;

    fn payload(tags: &[&str], due: Option<UnixMillis>) -> bytes::Bytes {
        let message = Message {
            subject: "a.b".into(),
            message_id: "id".into(),
            due,
            tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
            properties: vec![("k".into(), "v".into())],
            ..Message::default()
        };
        message.to_payload().unwrap()
    }

    #[test]
    fn payloads_are_unchanged_from_version_8_on() {
        for version in [8, 9, 300] {
            let mut out = BytesMut::new();
            put_payload_for_version(version, b"not looked at", &mut out).unwrap();
            assert_eq!(&out[..], b"not looked at");
        }
    }

    #[test]
    fn below_version_8_tags_are_cut_and_their_bit_stays() {
        for version in [i16::MIN, 0, 3, 7] {
            let mut out = BytesMut::new();
            put_pull_header(PullSequence(40), &mut out);
            put_payload_for_version(version, &payload(&["t1", "t2"], None), &mut out).unwrap();
            put_payload_for_version(version, &payload(&[], None), &mut out).unwrap();
            let untagged = payload(&[], None);
            assert_eq!(out.len(), PULL_HEADER_BYTES + 2 * untagged.len());

            let response = PullResponse::decode(version, &out).unwrap();
            let messages: Vec<_> = response.messages().collect();
            assert_eq!((response.len(), messages.len()), (2, 2));
            assert_eq!(messages[0].payload.flag, FLAG_TAGS);
            assert_eq!(messages[0].payload.tag_count, 0);
            assert_eq!(messages[0].payload.bytes[1..], untagged[1..]);
            assert_eq!(messages[1].payload.bytes, untagged);
            assert_eq!(messages[1].sequence, PullSequence(41));
        }
    }

    #[test]
    fn what_is_no_message_has_no_tags_to_cut() {
        let good = payload(&["t1"], None);
        let long = [&good[..], b"x"].concat();
        for bad in [&good[..good.len() - 1], b"", &long] {
            let mut out = BytesMut::from(&b"before"[..]);
            assert_eq!(
                put_payload_for_version(7, bad, &mut out),
                Err(PayloadError::Truncated)
            );
            assert_eq!(&out[..], b"before");
        }
    }

    #[test]
    fn clears_the_delay_bit_and_nothing_else() {
        let delayed = payload(&["t1"], Some(UnixMillis(99)));
        for version in [7, 8, 9] {
            let mut kept = BytesMut::from(&b"before"[..]);
            let mut cleared = kept.clone();
            put_payload_for_version(version, &delayed, &mut kept).unwrap();
            put_payload_without_delay_bit(version, &delayed, &mut cleared).unwrap();
            assert_eq!(kept[6], FLAG_DELAY | FLAG_TAGS);
            kept[6] = FLAG_TAGS;
            assert_eq!(kept, cleared);
        }
    }

    #[test]
    fn sequences_do_not_overflow() {
        let mut out = BytesMut::new();
        put_pull_header(PullSequence(i64::MAX - 1), &mut out);
        out.put_slice(&payload(&[], None));
        let response = PullResponse::decode(9, &out).unwrap();
        assert_eq!(
            response.messages().last().unwrap().sequence,
            PullSequence(i64::MAX - 1)
        );
        out.put_slice(&payload(&[], None));
        let field = "pullLogOffset";
        let error = DecodeError::Unknown {
            field,
            value: i64::MAX - 1,
        };
        assert_eq!(PullResponse::decode(9, &out), Err(error));
    }

    #[test]
    fn a_response_may_hold_no_messages() {
        let mut out = BytesMut::new();
        put_pull_header(PullSequence(i64::MAX), &mut out);
        let response = PullResponse::decode(9, &out).unwrap();
        assert!(response.is_empty() && response.messages().next().is_none());
    }
}
