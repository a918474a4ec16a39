//! Record format of the actionlog: pulls, acks and offline marks, as the Java broker writes them.
//!
//! ```text
//!  0 4 magic   4 1 attribute   5 1 type   6 4 payload length   10 .. payload
//! payload: str subject, str group, str consumer, i64 time, then
//!   0 pull: i8 broadcast, i64 first pull, i64 last pull, i64 first message, i64 last message
//!   1 ack:  i64 first pull, i64 last pull          2 forever offline: nothing
//! ```
//!
//! On disk ranges are inclusive, in memory half-open.

use std::ops::Range;

use bytes::{BufMut, BytesMut};
use qmq_model::{ConsumerGroup, ConsumerId, Subject, UnixMillis};

use crate::error::Error;
use crate::format::{ACTION_MAGIC, ATTRIBUTE_END, ATTRIBUTE_RECORD, Fields, LogKind};
use crate::log::scan::{Examined, Format, Window};

const HEADER_BYTES: usize = 10;
/// Longest payload: three strings of the longest length and the numbers of a pull.
const PAYLOAD_BYTES_MAX: usize = 3 * (2 + 32_767) + 8 + 1 + 4 * 8;
const TYPE_PULL: u8 = 0;
const TYPE_ACK: u8 = 1;
const TYPE_FOREVER_OFFLINE: u8 = 2;

/// One consumer of one group of one subject.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConsumerKey {
    /// The subject consumed, possibly a retry subject.
    pub subject: Subject,
    /// The group; in broadcast the consumer's id.
    pub group: ConsumerGroup,
    /// The consumer.
    pub consumer: ConsumerId,
}

/// What a consumer did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It was handed messages, or its group moved on without any.
    Pull {
        /// Who.
        key: ConsumerKey,
        /// When; above 0.
        time: UnixMillis,
        /// Whether pull sequences are message sequences.
        broadcast: bool,
        /// Pull sequences handed out. Empty: `end` is the next one.
        pulls: Range<i64>,
        /// Message sequences handed out, as many. Empty: `end` is the group's next one.
        messages: Range<i64>,
    },
    /// It confirmed exactly these pull sequences.
    Ack {
        /// Who.
        key: ConsumerKey,
        /// When; above 0.
        time: UnixMillis,
        /// Pull sequences confirmed; nothing below is implied.
        pulls: Range<i64>,
    },
    /// It will not come back: its state is forgotten.
    ForeverOffline {
        /// Who.
        key: ConsumerKey,
        /// When; above 0.
        time: UnixMillis,
    },
}

impl Action {
    /// Who did it.
    #[must_use]
    pub fn key(&self) -> &ConsumerKey {
        match self {
            Self::Pull { key, .. } | Self::Ack { key, .. } | Self::ForeverOffline { key, .. } => {
                key
            }
        }
    }

    /// When it was done.
    pub(crate) fn time(&self) -> UnixMillis {
        match self {
            Self::Pull { time, .. }
            | Self::Ack { time, .. }
            | Self::ForeverOffline { time, .. } => *time,
        }
    }

    /// Why this action cannot be stored, if it cannot.
    pub(crate) fn flaw(&self) -> Option<&'static str> {
        if self.time().0 <= 0 {
            return Some("time is not above 0");
        }
        match self {
            Self::Pull {
                pulls, messages, ..
            } => {
                if !is_range(pulls) || !is_range(messages) {
                    Some("range is negative")
                } else if length(pulls) != length(messages) {
                    Some("ranges differ in length")
                } else {
                    None
                }
            }
            Self::Ack { pulls, .. } if !is_range(pulls) => Some("range is negative"),
            Self::Ack { .. } | Self::ForeverOffline { .. } => None,
        }
    }

    /// Bytes of the record.
    pub(crate) fn record_bytes(&self) -> u64 {
        let key = self.key();
        let names = key.subject.as_str().len() + key.group.as_str().len();
        let names = names + key.consumer.as_str().len() + 3 * 2;
        let numbers = match self {
            Self::Pull { .. } => 8 + 1 + 4 * 8,
            Self::Ack { .. } => 8 + 2 * 8,
            Self::ForeverOffline { .. } => 8,
        };
        (HEADER_BYTES + names + numbers) as u64
    }

    /// Appends the record of an action without a [`Self::flaw`].
    pub(crate) fn put_record(&self, out: &mut BytesMut) {
        let (kind, time) = match self {
            Self::Pull { time, .. } => (TYPE_PULL, time),
            Self::Ack { time, .. } => (TYPE_ACK, time),
            Self::ForeverOffline { time, .. } => (TYPE_FOREVER_OFFLINE, time),
        };
        let payload = self.record_bytes() - HEADER_BYTES as u64;
        out.put_u32(ACTION_MAGIC);
        out.put_u8(ATTRIBUTE_RECORD);
        out.put_u8(kind);
        out.put_u32(u32::try_from(payload).expect("names have at most 255 bytes"));
        let key = self.key();
        for name in [
            key.subject.as_str(),
            key.group.as_str(),
            key.consumer.as_str(),
        ] {
            out.put_u16(u16::try_from(name.len()).expect("names have at most 255 bytes"));
            out.put_slice(name.as_bytes());
        }
        out.put_i64(time.0);
        match self {
            Self::Pull {
                broadcast,
                pulls,
                messages,
                ..
            } => {
                out.put_u8(u8::from(*broadcast));
                put_range(out, pulls);
                put_range(out, messages);
            }
            Self::Ack { pulls, .. } => put_range(out, pulls),
            Self::ForeverOffline { .. } => {}
        }
    }

    /// Reads the payload of a record.
    pub(crate) fn decode(kind: u8, payload: &[u8]) -> Option<Self> {
        let mut fields = Fields(payload);
        let subject = Subject::new(fields.text()?).ok()?;
        let group = ConsumerGroup::new(fields.text()?).ok()?;
        let consumer = ConsumerId::new(fields.text()?).ok()?;
        let key = ConsumerKey {
            subject,
            group,
            consumer,
        };
        let time = UnixMillis(fields.i64()?);
        let action = match kind {
            TYPE_PULL => {
                let broadcast = fields.u8()? != 0;
                let pulls = take_range(&mut fields)?;
                let messages = take_range(&mut fields)?;
                Self::Pull {
                    key,
                    time,
                    broadcast,
                    pulls,
                    messages,
                }
            }
            TYPE_ACK => Self::Ack {
                key,
                time,
                pulls: take_range(&mut fields)?,
            },
            TYPE_FOREVER_OFFLINE => Self::ForeverOffline { key, time },
            _ => return None,
        };
        (fields.rest().is_empty() && action.flaw().is_none()).then_some(action)
    }
}

fn length(range: &Range<i64>) -> i64 {
    range.end - range.start
}

fn is_range(range: &Range<i64>) -> bool {
    0 <= range.start && range.start <= range.end
}

fn put_range(out: &mut BytesMut, range: &Range<i64>) {
    out.put_i64(range.start);
    out.put_i64(range.end - 1);
}

fn take_range(fields: &mut Fields<'_>) -> Option<Range<i64>> {
    let (first, last) = (fields.i64()?, fields.i64()?);
    Some(first..last.checked_add(1)?)
}

/// Appends the filler that ends a segment, `len` bytes in all.
pub(crate) fn put_filler(out: &mut BytesMut, len: u64) {
    out.put_u32(ACTION_MAGIC);
    out.put_u8(ATTRIBUTE_END);
    let zeros = len - LogKind::Action.filler_bytes();
    out.put_bytes(0, usize::try_from(zeros).expect("less than a record"));
}

/// The actionlog, for scans.
pub(crate) struct ActionFormat;

impl Format for ActionFormat {
    type Item = Action;
    const MAGIC: u32 = ACTION_MAGIC;

    fn examine(
        &self,
        window: &mut Window<'_>,
        offset: u64,
        limit: u64,
    ) -> Result<Examined<Action>, Error> {
        let mut fields = Fields(window.get(offset, HEADER_BYTES, limit)?);
        if fields.u32() != Some(ACTION_MAGIC) {
            return Ok(Examined::Nothing);
        }
        match fields.u8() {
            Some(ATTRIBUTE_END) => return Ok(Examined::Filler),
            Some(ATTRIBUTE_RECORD) => {}
            _ => return Ok(Examined::Nothing),
        }
        let (Some(kind), Some(payload_len)) = (fields.u8(), fields.u32()) else {
            return Ok(Examined::Nothing);
        };
        let payload_len = usize::try_from(payload_len).unwrap_or(usize::MAX);
        if payload_len > PAYLOAD_BYTES_MAX {
            return Ok(Examined::Nothing);
        }
        let payload = window.get(offset + HEADER_BYTES as u64, payload_len, limit)?;
        let is_whole = payload.len() == payload_len;
        Ok(match Action::decode(kind, payload).filter(|_| is_whole) {
            Some(item) => Examined::Record {
                length: (HEADER_BYTES + payload_len) as u64,
                item,
            },
            None => Examined::Nothing,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::tests::unhex;
    use crate::realtime::message_log::tests::log_of;

    fn key() -> ConsumerKey {
        ConsumerKey {
            subject: Subject::new("order.changed").unwrap(),
            group: ConsumerGroup::new("g1").unwrap(),
            consumer: ConsumerId::new("c1").unwrap(),
        }
    }

    const TIME: UnixMillis = UnixMillis(1_700_000_000_000);

    fn pull(pulls: Range<i64>, messages: Range<i64>) -> Action {
        Action::Pull {
            key: key(),
            time: TIME,
            broadcast: false,
            pulls,
            messages,
        }
    }

    fn encode(action: &Action) -> BytesMut {
        let mut out = BytesMut::new();
        action.put_record(&mut out);
        assert_eq!(out.len() as u64, action.record_bytes());
        out
    }

    fn examine(bytes: &[u8]) -> Examined<Action> {
        let segments = log_of(LogKind::Action, bytes);
        ActionFormat
            .examine(&mut Window::new(&segments), 0, bytes.len() as u64)
            .unwrap()
    }

    #[test]
    fn writes_the_bytes_of_the_java_broker() {
        let names = "000d 6f726465722e6368616e676564 0002 6731 0002 6331 0000018bcfe56800";
        let cases = [
            (
                pull(0..3, 0..3),
                format!(
                    "c3b2a100 00 00 00000040 {names} 00 0000000000000000 0000000000000002 \
                     0000000000000000 0000000000000002"
                ),
            ),
            (
                Action::Ack {
                    key: key(),
                    time: TIME,
                    pulls: 0..3,
                },
                format!("c3b2a100 00 01 0000002f {names} 0000000000000000 0000000000000002"),
            ),
            (
                Action::ForeverOffline {
                    key: key(),
                    time: TIME,
                },
                format!("c3b2a100 00 02 0000001f {names}"),
            ),
        ];
        for (action, hex) in cases {
            let bytes = encode(&action);
            assert_eq!(bytes, unhex(&hex));
            let length = bytes.len() as u64;
            assert_eq!(
                examine(&bytes),
                Examined::Record {
                    length,
                    item: action
                }
            );
        }
    }

    #[test]
    fn empty_pulls_are_first_behind_last() {
        let bytes = encode(&pull(7..7, 9..9));
        let ranges = unhex("0000000000000007 0000000000000006 0000000000000009 0000000000000008");
        assert_eq!(bytes[bytes.len() - 32..], ranges);
    }

    #[test]
    fn fillers_have_5_bytes_and_zeros() {
        let mut out = BytesMut::new();
        put_filler(&mut out, 8);
        assert_eq!(out, unhex("c3b2a100 01 000000"));
        assert_eq!(examine(&out), Examined::Filler);
        assert_eq!(examine(&out[..5]), Examined::Filler);
        assert_eq!(examine(&out[..4]), Examined::Nothing);
    }

    #[test]
    fn flaws_are_named() {
        assert!(pull(0..3, 0..2).flaw().is_some());
        assert!(pull(-1..2, 0..3).flaw().is_some());
        assert!(
            Action::ForeverOffline {
                key: key(),
                time: UnixMillis(0)
            }
            .flaw()
            .is_some()
        );
        assert_eq!(pull(0..0, 4..4).flaw(), None);
    }

    proptest! {
        #[test]
        fn round_trips(
            kind in 0..3u8, first in 0..i64::MAX / 2, message in 0..i64::MAX / 2, count in 0..1000i64,
            broadcast: bool, name in "[a-z@.]{3,60}",
        ) {
            let key = ConsumerKey { consumer: ConsumerId::new(&name).unwrap(), ..key() };
            let (pulls, messages) = (first..first + count, message..message + count);
            let action = match kind {
                0 => Action::Pull { key, time: TIME, broadcast, pulls, messages },
                1 => Action::Ack { key, time: TIME, pulls },
                _ => Action::ForeverOffline { key, time: TIME },
            };
            let bytes = encode(&action);
            let length = bytes.len() as u64;
            prop_assert_eq!(examine(&bytes), Examined::Record { length, item: action });
        }

        #[test]
        fn damage_never_panics(at in 0..74usize, mask in 1..=255u8) {
            let mut bytes = encode(&pull(0..3, 0..3));
            bytes[at] ^= mask;
            examine(&bytes);
        }
    }

    #[test]
    fn every_truncation_is_no_record() {
        let bytes = encode(&pull(0..3, 0..3));
        for len in 0..bytes.len() {
            assert_eq!(examine(&bytes[..len]), Examined::Nothing, "{len}");
        }
    }
}
