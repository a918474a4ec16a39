//! Every file name, magic number and version, and checked reads of big-endian fields.

use std::fmt;

use uuid::Uuid;

/// Name of the file that says who a store belongs to.
pub(crate) const STORE_ID: &str = "store.id";
/// Name of the file that is locked while a store is open.
pub(crate) const LOCK: &str = "lock";
/// Name of the file that is there while a store is open.
pub(crate) const ABORT: &str = "abort";
/// Name of the ring of commit records.
pub(crate) const COMMIT: &str = ".commit";
/// Name of the epoch table.
pub(crate) const EPOCHS: &str = ".epochs";
/// Folder of the controllog.
pub(crate) const CONTROLS: &str = "controllog";
/// Folder of the entries of the duplicate window.
pub(crate) const DUPLICATES: &str = "duplicates";
/// Folder of the checkpoints.
pub(crate) const CHECKPOINTS: &str = "checkpoint";
/// Folder of the index runs.
pub(crate) const CONSUMER_LOG: &str = "consumerlog";
/// Folder of the runs of a delay store.
pub(crate) const DELAY_RUNS: &str = "runs";
/// Name of the file that names the live runs.
pub(crate) const MANIFEST: &str = "manifest";
/// Suffix of files that are not complete yet.
pub(crate) const TMP_SUFFIX: &str = ".tmp";

/// First bytes of a message record, version 3.
pub(crate) const MESSAGE_MAGIC: u32 = 0xA1B2_C302;
/// First bytes of an action record, version 1.
pub(crate) const ACTION_MAGIC: u32 = 0xC3B2_A100;
/// First bytes of a commit record: `QMQC`.
pub(crate) const COMMIT_MAGIC: u32 = 0x514D_5143;
/// First bytes of the epoch table: `QMQE`.
pub(crate) const EPOCHS_MAGIC: u32 = 0x514D_5145;
/// First bytes of a checkpoint: `QMQK`.
pub(crate) const CHECKPOINT_MAGIC: u32 = 0x514D_514B;
/// First bytes of a file of checksums: `QMQS`.
pub(crate) const SUMS_MAGIC: u32 = 0x514D_5153;
/// First bytes of a control entry: `QMQR`.
pub(crate) const CONTROL_MAGIC: u32 = 0x514D_5152;
/// First bytes of a file of the duplicate window: `QMQD`.
pub(crate) const DUPLICATES_MAGIC: u32 = 0x514D_5144;
/// First bytes of a run's footer: `QMQI`.
pub(crate) const RUN_MAGIC: u32 = 0x514D_5149;
/// First bytes of the manifest of runs: `QMQM`.
pub(crate) const MANIFEST_MAGIC: u32 = 0x514D_514D;
/// First bytes of a delayed message: `QMQT`.
pub(crate) const DELAYED_MAGIC: u32 = 0x514D_5154;
/// First bytes of a record of the dispatch log: `QMQP`.
pub(crate) const DISPATCH_MAGIC: u32 = 0x514D_5150;
/// First bytes of a checkpoint of a delay store: `QMQB`.
pub(crate) const BOOK_MAGIC: u32 = 0x514D_5142;
/// First bytes of the footer of a run of delayed messages: `QMQU`.
pub(crate) const DELAY_RUN_MAGIC: u32 = 0x514D_5155;
/// First bytes of the manifest of runs of delayed messages: `QMQN`.
pub(crate) const DELAY_MANIFEST_MAGIC: u32 = 0x514D_514E;
/// Version of all formats of our own, checkpoints excepted.
pub(crate) const VERSION: u16 = 1;
/// Version of checkpoints; version 1 lacks the position of the controllog.
pub(crate) const CHECKPOINT_VERSION: u16 = 2;

/// Attribute byte of a record that holds something.
pub(crate) const ATTRIBUTE_RECORD: u8 = 0;
/// Attribute byte of the filler that ends a segment.
pub(crate) const ATTRIBUTE_END: u8 = 1;

const SUMS_SUFFIX: &str = ".sums";
const CUT_PREFIX: &str = ".cut.";
const RUN_PREFIX: &str = "run.";
const CHECKPOINT_PREFIX: &str = "base.";

/// One of the logs of a store. Each store has two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogKind {
    /// All messages in arrival order.
    Message,
    /// Pulls, acks and offline marks.
    Action,
    /// Of a delay store: all delayed messages in arrival order.
    Delayed,
    /// Of a delay store: what was begun, delivered, cancelled.
    Dispatch,
}

impl LogKind {
    /// Both logs of a realtime store, in the order in which commit records state their positions.
    pub const ALL: [Self; 2] = [Self::Message, Self::Action];
    /// Both logs of a delay store, in that order.
    pub const DELAY: [Self; 2] = [Self::Delayed, Self::Dispatch];

    /// Name of the folder.
    #[must_use]
    pub const fn folder(self) -> &'static str {
        match self {
            Self::Message => "messagelog",
            Self::Action => "actionlog",
            Self::Delayed => "message_log",
            Self::Dispatch => "dispatch_log",
        }
    }

    /// Bytes of the filler's header, and so the least room a record must leave unless it leaves
    /// none.
    pub(crate) const fn filler_bytes(self) -> u64 {
        match self {
            Self::Message => 13,
            Self::Action | Self::Delayed | Self::Dispatch => 5,
        }
    }

    /// Place in arrays that hold something for each log.
    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Message | Self::Delayed => 0,
            Self::Action | Self::Dispatch => 1,
        }
    }
}

impl fmt::Display for LogKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.folder())
    }
}

/// Name of the segment that begins at `base`.
pub(crate) fn segment_name(base: u64) -> String {
    format!("{base:020}")
}

/// The base in a segment's name.
pub(crate) fn segment_base(name: &str) -> Option<u64> {
    digits20(name)
}

/// Name of the checksums of the segment that begins at `base`.
pub(crate) fn sums_name(base: u64) -> String {
    format!(".{base:020}{SUMS_SUFFIX}")
}

/// Name of the file that keeps what was cut off at `offset`.
pub(crate) fn cut_name(offset: u64, serial: u64) -> String {
    format!("{CUT_PREFIX}{offset:020}.{serial:020}")
}

/// The serial in the name of a file made by [`cut_name`].
pub(crate) fn cut_serial(name: &str) -> Option<u64> {
    let (_, serial) = name.strip_prefix(CUT_PREFIX)?.split_once('.')?;
    digits20(serial)
}

/// Name of a checkpoint.
pub(crate) fn checkpoint_name(number: u64) -> String {
    format!("{CHECKPOINT_PREFIX}{number:020}")
}

/// The number in a checkpoint's name.
pub(crate) fn checkpoint_number(name: &str) -> Option<u64> {
    digits20(name.strip_prefix(CHECKPOINT_PREFIX)?)
}

/// Name of a run.
pub(crate) fn run_name(number: u64) -> String {
    format!("{RUN_PREFIX}{number:020}")
}

fn digits20(text: &str) -> Option<u64> {
    let is_number = text.len() == 20 && text.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| text.parse().ok())?
}

/// Reads big-endian fields off the front of `0`; `None` means that the bytes end before.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    /// What has not been read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    pub(crate) fn uuid(&mut self) -> Option<Uuid> {
        self.array().map(Uuid::from_bytes)
    }

    /// The bytes behind a 16-bit length, which is never negative.
    pub(crate) fn string(&mut self) -> Option<&'a [u8]> {
        let len = i16::from_be_bytes(self.array()?);
        self.bytes(usize::try_from(len).ok()?)
    }

    /// A string with its 16-bit length, which is never negative.
    pub(crate) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.string()?).ok()
    }
}

/// Splits off the CRC-32C at the end of `bytes`; `None` when it does not match what precedes it.
pub(crate) fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    (crc32c::crc32c(body) == u32::from_be_bytes(*crc)).then_some(body)
}

/// Appends the CRC-32C of everything in `bytes`.
pub(crate) fn seal(bytes: &mut Vec<u8>) {
    let crc = crc32c::crc32c(bytes);
    bytes.extend_from_slice(&crc.to_be_bytes());
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The bytes behind hex digits; blanks are for the reader.
    pub(crate) fn unhex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
        digits.chunks(2).map(|pair| byte(pair).unwrap()).collect()
    }

    #[test]
    fn names_round_trip() {
        assert_eq!(segment_name(127), "00000000000000000127");
        assert_eq!(segment_base(&segment_name(u64::MAX)), Some(u64::MAX));
        assert_eq!(checkpoint_number(&checkpoint_name(7)), Some(7));
        assert_eq!(cut_serial(&cut_name(5, 9)), Some(9));
        assert_eq!(sums_name(0), ".00000000000000000000.sums");
    }

    #[test]
    fn foreign_names_are_no_segments() {
        for name in [
            "",
            "127",
            "0000000000000000012x",
            "+0000000000000000127",
            ".offset",
        ] {
            assert_eq!(segment_base(name), None, "{name}");
        }
        assert_eq!(segment_base("99999999999999999999"), None, "beyond 64 bits");
    }

    #[test]
    fn texts_need_their_length() {
        assert_eq!(Fields(&[0, 1, b'a']).text(), Some("a"));
        assert_eq!(Fields(&[0, 2, b'a']).text(), None);
        assert_eq!(Fields(&[0xff, 0xff, b'a']).text(), None);
        assert_eq!(Fields(&[0, 1, 0xff]).text(), None);
    }
}
