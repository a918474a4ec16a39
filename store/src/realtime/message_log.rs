//! Record format of the messagelog: all subjects in arrival order, as the Java broker writes them.
//!
//! ```text
//!  0 4 magic   4 1 attribute   5 8 time ms   13 8 sequence   21 2 subject length n   23 n subject
//! 23+n 8 CRC-32 of the payload    31+n 4 payload length    35+n .. payload
//! ```

use bytes::{BufMut, BytesMut};
use qmq_model::names::{NAME_BYTES_MAX, SubjectKind, check_subject};
use qmq_model::payload::FLAG_DELAY;
use qmq_model::{MessageSequence, UnixMillis};

use crate::duplicates::{Fingerprint, FingerprintHasher};
use crate::error::Error;
use crate::format::{ATTRIBUTE_END, ATTRIBUTE_RECORD, Fields, LogKind, MESSAGE_MAGIC};
use crate::log::scan::{Examined, Format, Window};
use crate::tag_mask::{TAGGED_HEAD_BYTES_MAX, TagMask};

/// Bytes of a record beside subject and payload.
pub(crate) const HEADER_BYTES: u64 = 35;
/// Shortest record a broker writes: one byte of subject, and the shortest message there is.
pub(crate) const RECORD_BYTES_MIN: u64 =
    HEADER_BYTES + 1 + qmq_model::payload::PAYLOAD_BYTES_MIN as u64;
/// Bytes up to the subject.
const FIXED_BYTES: usize = 23;
/// Bytes of a payload that surely hold its subject, and mostly its tags.
const PAYLOAD_HEAD_BYTES: usize = 17 + 2 + NAME_BYTES_MAX + 512;
/// Bytes between subject and payload.
const CHECK_BYTES: usize = 12;

/// Bytes of the record for this subject and payload.
pub(crate) fn record_bytes(subject: &str, payload: &[u8]) -> u64 {
    HEADER_BYTES + subject.len() as u64 + payload.len() as u64
}

/// What goes before a payload.
pub(crate) struct Header<'a> {
    pub(crate) time: UnixMillis,
    pub(crate) sequence: MessageSequence,
    pub(crate) subject: &'a str,
    /// CRC-32 of the payload.
    pub(crate) crc: u32,
}

/// Appends a record. The subject has at most 255 bytes and the payload less than 2^31.
pub(crate) fn put_record(out: &mut BytesMut, header: &Header<'_>, payload: &[u8]) {
    let subject = header.subject.as_bytes();
    out.put_u32(MESSAGE_MAGIC);
    out.put_u8(ATTRIBUTE_RECORD);
    out.put_i64(header.time.0);
    out.put_i64(header.sequence.0);
    out.put_u16(u16::try_from(subject.len()).expect("names have at most 255 bytes"));
    out.put_slice(subject);
    out.put_u64(u64::from(header.crc));
    out.put_u32(u32::try_from(payload.len()).expect("a record fits its segment"));
    out.put_slice(payload);
}

/// Appends the filler that ends a segment, `len` bytes in all.
pub(crate) fn put_filler(out: &mut BytesMut, time: UnixMillis, len: u64) {
    out.put_u32(MESSAGE_MAGIC);
    out.put_u8(ATTRIBUTE_END);
    out.put_i64(time.0);
    let zeros = len - LogKind::Message.filler_bytes();
    out.put_bytes(0, usize::try_from(zeros).expect("less than a record"));
}

/// A record as bytes in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordView<'a> {
    pub(crate) sequence: MessageSequence,
    pub(crate) subject: &'a [u8],
    pub(crate) crc: u32,
    pub(crate) payload: &'a [u8],
}

/// Reads exactly one record, checking its structure but not the CRC.
pub(crate) fn view(record: &[u8]) -> Option<RecordView<'_>> {
    let mut fields = Fields(record);
    if fields.u32()? != MESSAGE_MAGIC || fields.u8()? != ATTRIBUTE_RECORD {
        return None;
    }
    fields.i64()?;
    let sequence = MessageSequence(fields.i64()?);
    let subject_len = usize::from(fields.u16()?);
    let subject = fields.bytes(subject_len)?;
    let crc = u32::try_from(fields.u64()?).ok()?;
    let payload_len = usize::try_from(fields.u32()?).ok()?;
    let payload = fields.rest();
    (payload.len() == payload_len).then_some(RecordView {
        sequence,
        subject,
        crc,
        payload,
    })
}

/// Bytes of a record up to the end of its time.
pub(crate) const TIME_END: usize = 13;

/// When a record or filler was appended that begins like this; `None` when none does.
pub(crate) fn time_of(header: &[u8]) -> Option<UnixMillis> {
    let mut fields = Fields(header);
    let is_ours = fields.u32()? == MESSAGE_MAGIC && fields.u8()? <= ATTRIBUTE_END;
    let time = fields.i64()?;
    is_ours.then_some(UnixMillis(time))
}

/// What the header of a record in a log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MessageItem {
    pub(crate) time: UnixMillis,
    pub(crate) sequence: MessageSequence,
    pub(crate) subject: String,
    pub(crate) payload_subject: PayloadSubject,
    pub(crate) tags: TagMask,
    /// If asked for, and the message is not in a retry or dead-letter subject: with whether it
    /// has the delay bit.
    pub(crate) fingerprint: Option<(Fingerprint, bool)>,
}

/// What the payload says about the subject in the header, which has no checksum of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PayloadSubject {
    /// It names the same.
    Same,
    /// It names the real subject behind a retry or dead-letter name.
    Original,
    /// It names another one.
    Other,
}

impl PayloadSubject {
    fn of(payload: &[u8], subject: &str) -> Self {
        let mut fields = Fields(payload);
        // Flag and two times come first.
        let named = fields.array::<17>().and_then(|_| fields.text());
        match named {
            Some(named) if named == subject => Self::Same,
            Some(named) if is_original(named, subject) => Self::Original,
            _ => Self::Other,
        }
    }
}

fn is_original(named: &str, subject: &str) -> bool {
    SubjectKind::real_subject(named) == SubjectKind::real_subject(subject)
}

/// The messagelog, for scans.
#[derive(Debug, Default)]
pub(crate) struct MessageFormat {
    /// Of which messages fingerprints are taken.
    pub(crate) fingerprints: Option<FingerprintsOf>,
}

/// Messages of which fingerprints are taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FingerprintsOf {
    /// Of the store.
    pub(crate) seed: u64,
    /// Appended then or later.
    pub(crate) since: UnixMillis,
}

impl FingerprintsOf {
    fn hasher(&self, item: &MessageItem, flag: u8) -> Option<FingerprintHasher> {
        let is_wanted = item.time >= self.since
            && item.payload_subject == PayloadSubject::Same
            && SubjectKind::of(&item.subject) == SubjectKind::Real;
        is_wanted.then(|| FingerprintHasher::new(self.seed, flag))
    }
}

impl Format for MessageFormat {
    type Item = MessageItem;
    const MAGIC: u32 = MESSAGE_MAGIC;

    fn examine(
        &self,
        window: &mut Window<'_>,
        offset: u64,
        limit: u64,
    ) -> Result<Examined<MessageItem>, Error> {
        let Some(head) = examine_header(window, offset, limit)? else {
            return Ok(Examined::Nothing);
        };
        let (mut item, crc, payload_at, length, flag) = match head {
            Head::Filler => return Ok(Examined::Filler),
            Head::Record {
                item,
                crc,
                payload_at,
                length,
                flag,
            } => (item, crc, payload_at, length, flag),
        };
        let wanted = self.fingerprints.as_ref();
        let mut fingerprint = wanted.and_then(|of| of.hasher(&item, flag));
        let mut hasher = crc32fast::Hasher::new();
        window.pieces(payload_at..offset + length, |piece| {
            hasher.update(piece);
            if let Some(fingerprint) = &mut fingerprint {
                fingerprint.update(piece);
            }
            true
        })?;
        item.fingerprint = fingerprint.map(|done| (done.finish(), flag & FLAG_DELAY != 0));
        Ok(if u64::from(hasher.finalize()) == crc {
            Examined::Record { length, item }
        } else {
            Examined::Broken { length, item }
        })
    }
}

enum Head {
    Filler,
    Record {
        item: MessageItem,
        crc: u64,
        payload_at: u64,
        length: u64,
        /// First byte of the payload.
        flag: u8,
    },
}

fn examine_header(window: &mut Window<'_>, offset: u64, limit: u64) -> Result<Option<Head>, Error> {
    let mut fields = Fields(window.get(offset, FIXED_BYTES, limit)?);
    if fields.u32() != Some(MESSAGE_MAGIC) {
        return Ok(None);
    }
    let attribute = fields.u8();
    let time = fields.i64();
    if attribute == Some(ATTRIBUTE_END) {
        // The shortest filler is its header alone.
        return Ok(time.map(|_| Head::Filler));
    }
    let (Some(ATTRIBUTE_RECORD), Some(time), Some(sequence), Some(subject_len)) =
        (attribute, time, fields.i64(), fields.u16())
    else {
        return Ok(None);
    };
    let rest_at = offset + FIXED_BYTES as u64;
    let subject_len = usize::from(subject_len);
    let mut fields = Fields(window.get(rest_at, subject_len + CHECK_BYTES, limit)?);
    let subject = fields
        .bytes(subject_len)
        .and_then(|bytes| std::str::from_utf8(bytes).ok());
    let (Some(subject), Some(crc), Some(payload_len)) = (subject, fields.u64(), fields.u32())
    else {
        return Ok(None);
    };
    let length = HEADER_BYTES + subject_len as u64 + u64::from(payload_len);
    let is_sane = (0..i64::MAX).contains(&sequence) && payload_len > 0 && offset + length <= limit;
    if !is_sane || check_subject(subject).is_err() {
        return Ok(None);
    }
    let subject = subject.to_owned();
    let payload_at = rest_at + (subject_len + CHECK_BYTES) as u64;
    let payload = window.get(payload_at, PAYLOAD_HEAD_BYTES, offset + length)?;
    let payload_subject = PayloadSubject::of(payload, &subject);
    let flag = payload.first().copied().unwrap_or(0);
    let tags = match TagMask::of_payload(payload) {
        Some(tags) => tags,
        None => {
            let head = window.get(payload_at, TAGGED_HEAD_BYTES_MAX, offset + length)?;
            TagMask::of_payload(head).unwrap_or(TagMask::ANY)
        }
    };
    let item = MessageItem {
        time: UnixMillis(time),
        sequence: MessageSequence(sequence),
        subject,
        payload_subject,
        tags,
        fingerprint: None,
    };
    Ok(Some(Head::Record {
        item,
        crc,
        payload_at,
        length,
        flag,
    }))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::format::tests::unhex;
    use crate::fs::FileSystem;
    use crate::fs::faulty::FaultyFs;
    use crate::log::segment::Segments;

    const EXAMPLE: &str = "a1b2c302 00 0000018bcfe56800 0000000000000000 000d \
        6f726465722e6368616e676564 0000000050880ea0 0000004f \
        00 0000018bcfe56800 0000018bcfe56800 000d 6f726465722e6368616e676564 0004 69642d30 00000025 \
        000e 716d715f63726561746554696d65 000d 31373030303030303030303030 0001 6b 0001 76";

    /// Puts `bytes` at the start of a log with large segments.
    pub(crate) fn log_of(kind: LogKind, bytes: &[u8]) -> Segments {
        let fs: Arc<dyn FileSystem> = Arc::new(FaultyFs::new(1));
        let dir = PathBuf::from("/log");
        fs.create_dir(&dir).unwrap();
        let segments = Segments::open(fs, kind, dir, 1 << 20).unwrap();
        segments.write(bytes, 0, |_, _| {}).unwrap();
        segments
    }

    fn examine(bytes: &[u8]) -> Examined<MessageItem> {
        let segments = log_of(LogKind::Message, bytes);
        let limit = bytes.len() as u64;
        MessageFormat::default()
            .examine(&mut Window::new(&segments), 0, limit)
            .unwrap()
    }

    fn record(sequence: i64, subject: &str, payload: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        let (time, sequence) = (UnixMillis(1_700_000_000_000), MessageSequence(sequence));
        let crc = crc32fast::hash(payload);
        put_record(
            &mut out,
            &Header {
                time,
                sequence,
                subject,
                crc,
            },
            payload,
        );
        out
    }

    #[test]
    fn writes_the_bytes_of_the_java_broker() {
        let example = unhex(EXAMPLE);
        assert_eq!(example.len(), 127);
        assert_eq!(record(0, "order.changed", &example[48..]), example);
    }

    #[test]
    fn fillers_have_13_bytes_and_zeros() {
        let mut out = BytesMut::new();
        put_filler(&mut out, UnixMillis(1_700_000_000_000), 20);
        assert_eq!(out, unhex("a1b2c302 01 0000018bcfe56800 00000000000000"));
        assert_eq!(examine(&out), Examined::Filler);
        assert_eq!(examine(&out[..13]), Examined::Filler);
        assert_eq!(examine(&out[..12]), Examined::Nothing);
    }

    #[test]
    fn empty_subjects_and_payloads_are_no_records() {
        assert_eq!(examine(&record(0, "a", b"")), Examined::Nothing);
        assert_eq!(examine(&record(0, "", b"p")), Examined::Nothing);
        assert_eq!(examine(&record(-1, "a", b"p")), Examined::Nothing);
        assert_eq!(examine(&[0; 100]), Examined::Nothing);
    }

    proptest! {
        #[test]
        fn round_trips(
            sequence in 0..i64::MAX,
            subject in "[a-z.]{3,100}",
            payload in proptest::collection::vec(any::<u8>(), 1..300),
        ) {
            let bytes = record(sequence, &subject, &payload);
            let view = view(&bytes).unwrap();
            prop_assert_eq!(view.sequence.0, sequence);
            prop_assert_eq!(view.subject, subject.as_bytes());
            prop_assert_eq!(view.payload, &payload[..]);
            prop_assert_eq!(view.crc, crc32fast::hash(&payload));
            let payload_subject = PayloadSubject::of(&payload, &subject);
            let sequence = MessageSequence(sequence);
            let tags = TagMask::of_payload(&payload).unwrap_or(TagMask::ANY);
            let time = UnixMillis(1_700_000_000_000);
            let item = MessageItem { time, sequence, subject, payload_subject, tags, fingerprint: None };
            let length = bytes.len() as u64;
            prop_assert_eq!(examine(&bytes), Examined::Record { length, item });
        }

        #[test]
        fn notices_damage_of_the_payload(at in 49..127usize, mask in 1..=255u8) {
            let mut bytes = unhex(EXAMPLE);
            bytes[at] ^= mask;
            let broken = matches!(examine(&bytes), Examined::Broken { length: 127, .. });
            prop_assert!(broken);
        }

        #[test]
        fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 30..200)) {
            bytes[..5].copy_from_slice(&unhex("a1b2c30200"));
            view(&bytes);
            examine(&bytes);
        }
    }

    #[test]
    fn every_truncation_is_no_record() {
        let bytes = unhex(EXAMPLE);
        for len in 0..bytes.len() {
            assert_eq!(examine(&bytes[..len]), Examined::Nothing, "{len}");
            assert_eq!(view(&bytes[..len]), None, "{len}");
        }
    }
}
