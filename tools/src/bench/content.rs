//! Messages that say themselves whether they arrived unchanged.
//!
//! ```text
//! message id   "qb-" run (8 hex) "-" lane (4 hex) "-" number (10 hex)
//! subject      the one of number modulo subjects
//! property t   due time (16 hex), check (8 hex)
//! property c0  the next SIZE bytes of a fixed text, from a place that number and lane choose;
//! property c1  and so on, up to 32 000 bytes each
//! ```
//!
//! The check is a CRC-32 of create time, message id and due time, so every byte that can be wrong
//! is compared with what it must be. Flag bits belong to the servers and are not compared.

use std::sync::Arc;

use bytes::BufMut;
use qmq_model::payload::{FLAG_DELAY, put_str};
use qmq_model::{Payload, UnixMillis};
use qmq_protocol::command::send::CRC_BYTES;

use crate::bench::timeline::{Nanos, Timeline};

/// Largest content: with its header it fits a request.
pub(crate) const SIZE_MAX: usize = 15 * 1024 * 1024;
/// Most senders: the lane has four digits in the message id.
pub(crate) const LANES_MAX: usize = 1 << 16;
/// Most messages of a lane: a bit for each is kept.
pub(crate) const NUMBERS_MAX: u64 = 1 << 31;
/// Longest property value that is written.
const PART_BYTES_MAX: usize = 32_000;
/// Places in the text at which a content may begin. It stays in the processor's cache.
const PLACES: usize = 32 * 1024;
/// Place of the create time in a payload: behind the flag.
const CREATE_AT: usize = 1;
const TIME_DIGITS: usize = 16;
const CHECK_DIGITS: usize = 8;
const ID_BYTES: usize = 3 + 8 + 1 + 4 + 1 + 10;

/// When a message is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// A broker hands it out as soon as it has it; it should have been sent then.
    Now(Nanos),
    /// A delay server keeps it until then: a whole millisecond of the wall clock.
    Later(Nanos),
}

/// What a message of this run says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Which sender sent it.
    pub(crate) lane: usize,
    /// Its number there.
    pub(crate) number: u64,
    /// When it was due.
    pub(crate) due: Nanos,
}

/// Why a message does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Its id is none of this run.
    Foreign,
    /// It is not as it was sent.
    Altered,
}

/// Makes and recognises the messages of one run.
#[derive(Debug)]
pub(crate) struct Content {
    subjects: Vec<String>,
    /// Per subject: a payload up to the first content byte.
    heads: Vec<Head>,
    id_prefix: String,
    parts: Vec<Part>,
    /// Bytes of all parts with what stands in front of them.
    parts_bytes: usize,
    text: Vec<u8>,
    timeline: Timeline,
}

/// A property with a piece of the content.
#[derive(Debug)]
struct Part {
    /// What stands in front of the piece: name and length.
    head: Vec<u8>,
    bytes: usize,
}

#[derive(Debug)]
struct Head {
    bytes: Vec<u8>,
    id_at: usize,
    stamp_at: usize,
}

impl Content {
    /// For messages with `size` bytes of content to `subjects`.
    pub(crate) fn new(
        run: u32,
        subjects: Vec<String>,
        size: usize,
        timeline: Timeline,
    ) -> Arc<Self> {
        let id_prefix = format!("qb-{run:08x}-");
        let parts = parts(size);
        let parts_bytes = parts.iter().map(|part| part.head.len() + part.bytes).sum();
        let heads = subjects
            .iter()
            .map(|subject| Head::new(subject, parts_bytes))
            .collect();
        Arc::new(Self {
            subjects,
            heads,
            id_prefix,
            parts,
            parts_bytes,
            text: text(PLACES + size),
            timeline,
        })
    }

    /// The subjects, in the order in which messages take turns.
    pub(crate) fn subjects(&self) -> &[String] {
        &self.subjects
    }

    /// Bytes of one message in a request, for the first subject.
    pub(crate) fn sent_bytes(&self) -> usize {
        CRC_BYTES + self.heads[0].bytes.len() + self.parts_bytes
    }

    /// Appends a message as it stands in a request: checksum, then payload.
    pub(crate) fn put(&self, lane: usize, number: u64, due: Due, out: &mut Vec<u8>) {
        let (flag, due) = match due {
            Due::Now(due) => (0, due),
            Due::Later(due) => (FLAG_DELAY, due),
        };
        let head = &self.heads[self.subject_of(number)];
        let start = out.len();
        out.put_i64(0);
        let payload = out.len();
        out.extend_from_slice(&head.bytes);
        out[payload + Payload::FLAG_AT] = flag;
        let create_ms = self.timeline.unix_ms(due).to_be_bytes();
        out[payload + CREATE_AT..][..8].copy_from_slice(&create_ms);
        out[payload + CREATE_AT + 8..][..8].copy_from_slice(&create_ms);
        let id = &mut out[payload + head.id_at..][..ID_BYTES];
        id[..12].copy_from_slice(self.id_prefix.as_bytes());
        put_hex(lane as u64, &mut id[12..16]);
        id[16] = b'-';
        put_hex(number, &mut id[17..]);
        let stamp = payload + head.stamp_at;
        put_hex(due, &mut out[stamp..stamp + TIME_DIGITS]);
        let check = check_of(&out[payload..], head.id_at, stamp - payload);
        put_hex(
            check.into(),
            &mut out[stamp + TIME_DIGITS..][..CHECK_DIGITS],
        );
        let mut place = place_of(lane, number);
        for part in &self.parts {
            out.extend_from_slice(&part.head);
            out.extend_from_slice(&self.text[place..place + part.bytes]);
            place += part.bytes;
        }
        let crc = i64::from(crc32fast::hash(&out[payload..]));
        out[start..payload].copy_from_slice(&crc.to_be_bytes());
    }

    /// Whether `id` is the message id of this number, in any lane.
    pub(crate) fn is_id_of(id: &[u8], number: u64) -> bool {
        id.len() == ID_BYTES && hex(&id[17..]) == Some(number)
    }

    /// Checks a message that was pulled from subject number `subject`.
    ///
    /// # Errors
    /// When it is not one of this run, or not as it was sent.
    pub(crate) fn check(&self, subject: usize, payload: &Payload<'_>) -> Result<Seen, Fault> {
        let id = payload.message_id;
        if id.len() != ID_BYTES || !id.starts_with(self.id_prefix.as_bytes()) {
            return Err(Fault::Foreign);
        }
        self.read(subject, payload).ok_or(Fault::Altered)
    }

    fn read(&self, subject: usize, payload: &Payload<'_>) -> Option<Seen> {
        let id = payload.message_id;
        let lane = usize::try_from(hex(&id[12..16])?).ok()?;
        let number = hex(&id[17..])?;
        let head = &self.heads[subject];
        let bytes = payload.bytes;
        let is_whole = number < NUMBERS_MAX
            && id[16] == b'-'
            && self.subject_of(number) == subject
            && payload.subject == self.subjects[subject].as_bytes()
            && payload.tag_count == 0
            && bytes.len() == head.bytes.len() + self.parts_bytes
            && bytes[head.id_at + ID_BYTES..head.stamp_at]
                == head.bytes[head.id_at + ID_BYTES..head.stamp_at];
        if !is_whole || !self.text_is(lane, number, &bytes[head.bytes.len()..]) {
            return None;
        }
        let stamp = &bytes[head.stamp_at..head.bytes.len()];
        let due = hex(&stamp[..TIME_DIGITS])?;
        let check = hex(&stamp[TIME_DIGITS..])?;
        let expected = check_of(bytes, head.id_at, head.stamp_at);
        (check == u64::from(expected)).then_some(Seen { lane, number, due })
    }

    fn text_is(&self, lane: usize, number: u64, mut rest: &[u8]) -> bool {
        let mut place = place_of(lane, number);
        for part in &self.parts {
            let Some(tail) = rest.strip_prefix(&part.head[..]) else {
                return false;
            };
            let text = &self.text[place..place + part.bytes];
            let Some(tail) = tail.strip_prefix(text) else {
                return false;
            };
            place += part.bytes;
            rest = tail;
        }
        rest.is_empty()
    }

    fn subject_of(&self, number: u64) -> usize {
        let subjects = self.subjects.len() as u64;
        usize::try_from(number % subjects).expect("smaller than the number of subjects")
    }
}

impl Head {
    fn new(subject: &str, parts_bytes: usize) -> Self {
        let mut bytes = Vec::new();
        bytes.put_u8(0);
        bytes.put_i64(UnixMillis::default().0);
        bytes.put_i64(UnixMillis::default().0);
        put_str(&mut bytes, subject.as_bytes());
        let id_at = bytes.len() + 2;
        put_str(&mut bytes, &[b'0'; ID_BYTES]);
        let stamp_head = 2 + 1 + 2;
        let body = stamp_head + TIME_DIGITS + CHECK_DIGITS + parts_bytes;
        bytes.put_i32(i32::try_from(body).expect("sizes are bounded"));
        put_str(&mut bytes, b"t");
        put_str(&mut bytes, &[b'0'; TIME_DIGITS + CHECK_DIGITS]);
        let stamp_at = bytes.len() - TIME_DIGITS - CHECK_DIGITS;
        Self {
            bytes,
            id_at,
            stamp_at,
        }
    }
}

/// The parts of a content of `size` bytes; an empty one has one empty part.
fn parts(size: usize) -> Vec<Part> {
    let count = size.div_ceil(PART_BYTES_MAX).max(1);
    let part = |number: usize| {
        let bytes = (size - number * PART_BYTES_MAX).min(PART_BYTES_MAX);
        let mut head = Vec::new();
        put_str(&mut head, format!("c{number}").as_bytes());
        head.put_i16(i16::try_from(bytes).expect("parts are bounded"));
        Part { head, bytes }
    };
    (0..count).map(part).collect()
}

/// Where in the text the content of a message begins.
fn place_of(lane: usize, number: u64) -> usize {
    // Two odd factors, so that neighbours differ and lanes do not march in step.
    let mixed = (number.wrapping_mul(7_919)).wrapping_add((lane as u64).wrapping_mul(104_729));
    usize::try_from(mixed % PLACES as u64).expect("smaller than the number of places")
}

fn check_of(payload: &[u8], id_at: usize, stamp_at: usize) -> u32 {
    let mut check = crc32fast::Hasher::new();
    check.update(&payload[CREATE_AT..CREATE_AT + 16]);
    check.update(&payload[id_at..id_at + ID_BYTES]);
    check.update(&payload[stamp_at..stamp_at + TIME_DIGITS]);
    check.finalize()
}

/// `bytes` letters and digits without a short period.
fn text(bytes: usize) -> Vec<u8> {
    const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/";
    // Marsaglia's xorshift: the same text in every run, hard to compress.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        LETTERS[usize::try_from(state >> 58).expect("six bits")]
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

fn put_hex(mut value: u64, out: &mut [u8]) {
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789abcdef"[usize::try_from(value & 15).expect("four bits")];
        value >>= 4;
    }
}

fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value: u64, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use qmq_protocol::command::send::SendRequest;

    use super::*;

    fn content(size: usize) -> Arc<Content> {
        let subjects = vec!["bench.0".to_owned(), "bench.subject.1".to_owned()];
        Content::new(0xAB, subjects, size, Timeline::start())
    }

    fn request(content: &Content, numbers: std::ops::Range<u64>) -> SendRequest {
        let mut body = Vec::new();
        numbers.for_each(|number| content.put(3, number, Due::Now(1_000 + number), &mut body));
        SendRequest::decode(Bytes::from(body)).unwrap()
    }

    #[test]
    fn messages_are_as_any_client_sends_them_and_recognised() {
        for size in [0, 1, 1024, 31_999, 32_000, 32_001, 400_000] {
            let content = content(size);
            let request = request(&content, 10..14);
            for (message, number) in request.messages().zip(10..) {
                assert!(message.crc_matches());
                assert!(message.payload.properties_are_readable());
                let subject = usize::try_from(number % 2).unwrap();
                let due = 1_000 + number;
                let seen = Seen {
                    lane: 3,
                    number,
                    due,
                };
                assert_eq!(content.check(subject, &message.payload), Ok(seen));
                let other = content.check(1 - subject, &message.payload);
                assert_eq!(other, Err(Fault::Altered), "the other subject");
            }
        }
    }

    #[test]
    fn a_message_for_later_says_when_in_its_header() {
        let content = content(10);
        let mut body = Vec::new();
        let due = 5_000_000_000;
        content.put(0, 0, Due::Later(due), &mut body);
        let request = SendRequest::decode(Bytes::from(body)).unwrap();
        let payload = request.messages().next().unwrap().payload;
        assert!(payload.is_delayed());
        assert_eq!(payload.second_ms, content.timeline.unix_ms(due));
        assert_eq!(content.check(0, &payload).map(|seen| seen.due), Ok(due));
    }

    #[test]
    fn every_byte_but_the_flag_is_compared() {
        let content = content(100);
        let request = request(&content, 4..5);
        let good = request.messages().next().unwrap().payload_bytes();
        for at in 1..good.len() {
            let mut bad = good.to_vec();
            bad[at] ^= 1;
            if let Ok((payload, [])) = Payload::split_first(&bad) {
                assert!(content.check(0, &payload).is_err(), "byte {at}");
            }
        }
    }

    #[test]
    fn messages_of_another_run_are_foreign() {
        let other = Content::new(0xAC, vec!["bench.0".to_owned()], 10, Timeline::start());
        let request = request(&content(10), 0..1);
        let message = request.messages().next().unwrap();
        assert_eq!(other.check(0, &message.payload), Err(Fault::Foreign));
    }

    #[test]
    fn the_size_of_a_request_is_known_before() {
        for size in [0, 1024, 32_000] {
            let content = content(size);
            let mut out = Vec::new();
            content.put(0, 0, Due::Now(0), &mut out);
            assert_eq!(out.len(), content.sent_bytes(), "{size}");
        }
    }

    #[test]
    fn neighbours_have_different_contents() {
        let content = content(64);
        let request = request(&content, 0..4);
        let bodies: std::collections::BTreeSet<_> = request
            .messages()
            .map(|message| message.payload.property(b"c0").unwrap().to_vec())
            .collect();
        assert_eq!(bodies.len(), 4);
    }
}
