//! Commit records: what was written, with its checksum and what was durable before.
//!
//! ```text
//!  0  4 magic     4  2 version   6  1 kind     7  1 log
//!  8  8 term     16  8 serial   24  8 start   32  8 length
//! 40  4 CRC-32C of the bytes    44  4 zero
//! 48  8 durable messagelog      56  8 durable actionlog (delay store: message_log, dispatch_log)
//! 64 16 uuid     80  8 sealed serial          88  4 CRC-32C of 0..88      92 .. zero up to 512
//! ```

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::error::{Doing, Error};
use crate::format::{COMMIT_MAGIC, Fields, LogKind, VERSION};
use crate::fs::{File, FileSystem, OpenMode, write_new};

/// One record: the unit that an interrupted write can tear.
pub(crate) const SLOT_BYTES: usize = 512;
const BODY_BYTES: usize = 88;
/// Slots that appends leave to recovery: two cuts, an idle record, and room for crashes right
/// after them, so that no record is overwritten before what it says stands elsewhere.
pub(crate) const SLOTS_RESERVED: u64 = 16;

/// What a commit record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// These bytes were written.
    Batch(LogKind),
    /// Only the durable positions are news.
    Idle,
    /// These bytes were cut off by a recovery.
    Cut(LogKind),
}

/// One commit record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommitRecord {
    pub(crate) kind: Kind,
    pub(crate) term: u64,
    pub(crate) serial: u64,
    pub(crate) start: u64,
    pub(crate) length: u64,
    /// CRC-32C of the batch.
    pub(crate) crc: u32,
    /// Durable position of each log when this was written, by [`LogKind::index`].
    pub(crate) durable: [u64; 2],
    /// Records up to this serial say nothing any more: what they said is durable elsewhere, and
    /// they may be overwritten.
    pub(crate) sealed: u64,
}

impl CommitRecord {
    /// A record that only states positions. Serial and seal are the ring's.
    pub(crate) fn idle(term: u64, durable: [u64; 2]) -> Self {
        let kind = Kind::Idle;
        Self {
            kind,
            term,
            serial: 0,
            start: 0,
            length: 0,
            crc: 0,
            durable,
            sealed: 0,
        }
    }

    /// A record of some bytes. Serial and seal are the ring's.
    pub(crate) fn of(
        kind: Kind,
        term: u64,
        range: &Range<u64>,
        crc: u32,
        durable: [u64; 2],
    ) -> Self {
        let (start, length) = (range.start, range.end - range.start);
        Self {
            kind,
            start,
            length,
            crc,
            ..Self::idle(term, durable)
        }
    }

    /// First byte behind the batch or cut.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.length
    }

    pub(crate) fn range(&self) -> Range<u64> {
        self.start..self.end()
    }

    pub(crate) fn encode(&self, store: Uuid) -> [u8; SLOT_BYTES] {
        let (kind, log) = match self.kind {
            Kind::Batch(log) => (1, Some(log)),
            Kind::Idle => (2, None),
            Kind::Cut(log) => (3, Some(log)),
        };
        let mut out = Vec::with_capacity(SLOT_BYTES);
        out.extend_from_slice(&COMMIT_MAGIC.to_be_bytes());
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.push(kind);
        out.push(match log {
            None => 0,
            Some(LogKind::Message) => 1,
            Some(LogKind::Action) => 2,
            Some(LogKind::Delayed) => 3,
            Some(LogKind::Dispatch) => 4,
        });
        for field in [self.term, self.serial, self.start, self.length] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        out.extend_from_slice(&self.crc.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        for field in self.durable {
            out.extend_from_slice(&field.to_be_bytes());
        }
        out.extend_from_slice(store.as_bytes());
        out.extend_from_slice(&self.sealed.to_be_bytes());
        crate::format::seal(&mut out);
        let mut slot = [0; SLOT_BYTES];
        slot[..out.len()].copy_from_slice(&out);
        slot
    }

    /// Reads a slot; `None` when it holds no valid record of this store.
    pub(crate) fn decode(slot: &[u8], store: Uuid) -> Option<Self> {
        let body = crate::format::checked(slot.get(..BODY_BYTES + 4)?)?;
        let mut fields = Fields(body);
        if fields.u32()? != COMMIT_MAGIC || fields.u16()? != VERSION {
            return None;
        }
        let kind = fields.u8()?;
        let log = fields.u8()?;
        let [term, serial, start, length] =
            [fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?];
        let crc = fields.u32()?;
        fields.u32()?;
        let durable = [fields.u64()?, fields.u64()?];
        let is_ours = fields.uuid()? == store;
        let sealed = fields.u64()?;
        if !is_ours || start.checked_add(length).is_none() {
            return None;
        }
        let log = match log {
            0 => None,
            1 => Some(LogKind::Message),
            2 => Some(LogKind::Action),
            3 => Some(LogKind::Delayed),
            4 => Some(LogKind::Dispatch),
            _ => return None,
        };
        let kind = match (kind, log) {
            (1, Some(log)) => Kind::Batch(log),
            (2, None) => Kind::Idle,
            (3, Some(log)) => Kind::Cut(log),
            _ => return None,
        };
        Some(Self {
            kind,
            term,
            serial,
            start,
            length,
            crc,
            durable,
            sealed,
        })
    }
}

/// The file of commit records: a ring of slots, each written in turn.
pub(crate) struct Ring {
    file: Arc<dyn File>,
    path: PathBuf,
    store: Uuid,
    slots: u64,
    next_serial: u64,
    /// Records up to this serial may be overwritten.
    sealed: u64,
    /// What new records say is sealed.
    announced: u64,
    /// What the newest record says is sealed.
    carried: u64,
}

impl Ring {
    /// Writes the file of a new store, with one idle record. Its name is not durable yet.
    pub(crate) fn create(
        fs: &dyn FileSystem,
        path: &Path,
        store: Uuid,
        slots: u32,
    ) -> Result<(), Error> {
        let first = CommitRecord {
            serial: 1,
            ..CommitRecord::idle(1, [0; 2])
        };
        let mut bytes = vec![0; slots as usize * SLOT_BYTES];
        bytes[SLOT_BYTES..2 * SLOT_BYTES].copy_from_slice(&first.encode(store));
        write_new(fs, path, &bytes)
    }

    /// Opens the file and returns its valid records, oldest first.
    pub(crate) fn open(
        fs: &dyn FileSystem,
        path: &Path,
        store: Uuid,
        slots: u32,
    ) -> Result<(Self, Vec<CommitRecord>), Error> {
        let no_record = || Error::NoCommitRecord {
            path: path.to_owned(),
        };
        let file = match fs.open(path, OpenMode::Existing) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(no_record()),
            opened => opened.doing("open", path)?,
        };
        let mut bytes = vec![0; slots as usize * SLOT_BYTES];
        let read = file.read_at(&mut bytes, 0).doing("read", path)?;
        let slots = u64::from(slots);
        let decoded =
            bytes[..read]
                .chunks_exact(SLOT_BYTES)
                .zip(0..)
                .filter_map(|(slot, number)| {
                    CommitRecord::decode(slot, store)
                        .filter(|record| record.serial % slots == number)
                });
        let mut records: Vec<CommitRecord> = decoded.collect();
        records.sort_by_key(|record| record.serial);
        let newest = records.last().ok_or_else(no_record)?.serial;
        // Of the slots being overwritten a power cut brings back some and not others: a batch
        // without the cut that made it void. So what was sealed is not looked at.
        let stated = records
            .iter()
            .map(|record| record.sealed)
            .max()
            .unwrap_or(0);
        records.retain(|record| record.serial > stated);
        let sealed = stated.max((newest + SLOTS_RESERVED).saturating_sub(slots));
        let path = path.to_owned();
        let ring = Self {
            file,
            path,
            store,
            slots,
            next_serial: newest + 1,
            sealed,
            announced: sealed,
            carried: sealed,
        };
        Ok((ring, records))
    }

    pub(crate) fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    pub(crate) fn next_serial(&self) -> u64 {
        self.next_serial
    }

    /// Writes `record` under the next serial. Not synced.
    pub(crate) fn write(&mut self, mut record: CommitRecord) -> Result<(), Error> {
        assert!(self.free() > 0, "callers seal the ring before it is full");
        record.serial = self.next_serial;
        record.sealed = record.sealed.max(self.announced);
        let at = record.serial % self.slots * SLOT_BYTES as u64;
        let written = self.file.write_at(&record.encode(self.store), at);
        written.doing_for_good("write", &self.path)?;
        self.next_serial += 1;
        self.carried = record.sealed;
        Ok(())
    }

    pub(crate) fn sync(&mut self) -> Result<(), Error> {
        self.file.sync_data().doing_for_good("sync", &self.path)?;
        self.confirm(self.carried);
        Ok(())
    }

    /// From now on records seal those up to `serial`: everything they cover is durable, its
    /// checksums too.
    pub(crate) fn announce(&mut self, serial: u64) {
        self.announced = self.announced.max(serial);
    }

    /// Whether a seal was announced that no durable record carries yet.
    pub(crate) fn is_sealing(&self) -> bool {
        self.sealed < self.announced
    }

    /// What the newest record seals; to be [`Self::confirm`]ed when it is durable.
    pub(crate) fn carried(&self) -> u64 {
        self.carried
    }

    /// A record is durable that seals those up to `sealed`.
    pub(crate) fn confirm(&mut self, sealed: u64) {
        self.sealed = self.sealed.max(sealed);
    }

    /// How many records can be written before older ones must have been sealed.
    pub(crate) fn free(&self) -> u64 {
        (self.sealed + self.slots + 1).saturating_sub(self.next_serial)
    }

    /// Whether it is time to seal.
    pub(crate) fn is_half_used(&self) -> bool {
        self.free() <= self.slots / 2
    }

    /// Whether much would be free if records up to `serial` were sealed.
    pub(crate) fn is_worth_sealing(&self, serial: u64) -> bool {
        serial >= self.sealed + self.slots / 4
    }

    /// Writes and syncs an idle record that seals all records before it. Everything they cover
    /// must be durable, its checksums too.
    pub(crate) fn seal(&mut self, idle: CommitRecord) -> Result<(), Error> {
        let sealed = self.next_serial - 1;
        self.announce(sealed);
        self.write(idle)?;
        self.sync()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::tests::unhex;
    use crate::fs::faulty::FaultyFs;

    const STORE: Uuid = Uuid::from_u128(7);

    fn batch(serial: u64, start: u64, length: u64) -> CommitRecord {
        let kind = Kind::Batch(LogKind::Message);
        let record = CommitRecord::of(kind, 1, &(start..start + length), 9, [start, 5]);
        CommitRecord { serial, ..record }
    }

    fn cut(serial: u64, start: u64, length: u64) -> CommitRecord {
        CommitRecord {
            kind: Kind::Cut(LogKind::Message),
            ..batch(serial, start, length)
        }
    }

    fn idle(serial: u64) -> CommitRecord {
        CommitRecord {
            serial,
            ..CommitRecord::idle(1, [0; 2])
        }
    }

    #[test]
    fn writes_the_bytes_of_the_format_page() {
        let kind = Kind::Batch(LogKind::Action);
        let record = CommitRecord::of(kind, 1, &(100..150), 0xaabb_ccdd, [7, 100]);
        let slot = CommitRecord {
            serial: 9,
            sealed: 4,
            ..record
        }
        .encode(STORE);
        let expected = unhex(
            "514d5143 0001 01 02 0000000000000001 0000000000000009 0000000000000064 \
             0000000000000032 aabbccdd 00000000 0000000000000007 0000000000000064 \
             00000000000000000000000000000007 0000000000000004 83c5334d",
        );
        assert_eq!(slot[..92], expected);
        assert!(slot[92..].iter().all(|byte| *byte == 0));
    }

    proptest! {
        #[test]
        fn round_trips(
            kind in 0..7, serial: u64, start in 0..u64::MAX / 2, length in 0..u64::MAX / 2,
            crc: u32, durable: [u64; 2], sealed: u64,
        ) {
            let kind = match kind {
                0 => Kind::Batch(LogKind::Message),
                1 => Kind::Batch(LogKind::Action),
                2 => Kind::Cut(LogKind::Message),
                3 => Kind::Cut(LogKind::Action),
                4 => Kind::Batch(LogKind::Delayed),
                5 => Kind::Cut(LogKind::Dispatch),
                _ => Kind::Idle,
            };
            let record = CommitRecord { kind, term: 3, serial, start, length, crc, durable, sealed };
            let slot = record.encode(STORE);
            prop_assert_eq!(CommitRecord::decode(&slot, STORE), Some(record));
            prop_assert_eq!(CommitRecord::decode(&slot, Uuid::from_u128(8)), None);
        }

        #[test]
        fn notices_damage(at in 0..BODY_BYTES + 4, mask in 1..=255u8) {
            let mut slot = batch(3, 5, 7).encode(STORE);
            slot[at] ^= mask;
            prop_assert_eq!(CommitRecord::decode(&slot, STORE), None);
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert_eq!(CommitRecord::decode(&bytes, STORE), None);
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        let slot = batch(3, 5, 7).encode(STORE);
        for len in 0..BODY_BYTES + 4 {
            assert_eq!(CommitRecord::decode(&slot[..len], STORE), None, "{len}");
        }
    }

    #[test]
    fn a_ring_keeps_what_is_not_sealed() {
        let fs = FaultyFs::new(1);
        let path = Path::new("/ring");
        Ring::create(&fs, path, STORE, 64).unwrap();
        let (mut ring, records) = Ring::open(&fs, path, STORE, 64).unwrap();
        assert_eq!(records.len(), 1);
        for _ in 0..104 {
            if ring.is_half_used() {
                ring.seal(idle(0)).unwrap();
            }
            ring.write(batch(0, 5, 7)).unwrap();
        }
        let (free, next) = (ring.free(), ring.next_serial());
        let (ring, records) = Ring::open(&fs, path, STORE, 64).unwrap();
        assert_eq!(records[0].kind, Kind::Idle, "the seal");
        let serials: Vec<u64> = records.iter().map(|record| record.serial).collect();
        assert_eq!(serials, (records[0].serial..next).collect::<Vec<u64>>());
        assert_eq!((ring.free(), ring.next_serial()), (free, next));
    }

    #[test]
    fn sealed_records_that_come_back_say_nothing() {
        let fs = FaultyFs::new(1);
        let path = Path::new("/ring");
        Ring::create(&fs, path, STORE, 64).unwrap();
        let (mut ring, _) = Ring::open(&fs, path, STORE, 64).unwrap();
        ring.write(batch(0, 5, 7)).unwrap();
        ring.write(cut(0, 5, 7)).unwrap();
        ring.seal(idle(0)).unwrap();
        let (_, records) = Ring::open(&fs, path, STORE, 64).unwrap();
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].kind, Kind::Idle);
    }

    #[test]
    fn an_empty_ring_is_an_error() {
        let fs = FaultyFs::new(1);
        let path = Path::new("/ring");
        let opened = Ring::open(&fs, path, STORE, 64);
        assert!(matches!(opened, Err(Error::NoCommitRecord { .. })));
        write_new(&fs, path, &[0; 64 * SLOT_BYTES]).unwrap();
        let opened = Ring::open(&fs, path, STORE, 64);
        assert!(matches!(opened, Err(Error::NoCommitRecord { .. })));
    }
}
