//! Writes a run: records, entries and ids grow side by side in one file, the footer makes it one.

use crate::delay::entry::{DelaySubject, Key};
use crate::delay::run::tree::TreeBuilder;
use crate::delay::run::{DelayRun, ENTRY_BYTES, Entry, Footer, ID_BYTES, KEY_BYTES, id_row};
use crate::error::{Doing, Error};
use crate::format::run_name;
use crate::fs::OpenMode;
use crate::run::block::{BLOCK_BYTES, BlockFile, rows_per_block};
use crate::run::builder::Place;

/// Records are collected until they are this long.
const RECORDS_PER_WRITE: usize = 256 << 10;

/// How much will be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Messages.
    pub(crate) messages: u64,
    /// Bytes of their records.
    pub(crate) record_bytes: u64,
}

/// A run that is being written.
pub(crate) struct DelayRunBuilder {
    place: Place,
    file: BlockFile,
    sizes: Sizes,
    records: Vec<u8>,
    /// Bytes of records that were written.
    written: u64,
    entries: TreeBuilder,
    ids: TreeBuilder,
    /// Where the keys above the entries begin.
    above: u32,
    due: (i64, i64),
    sequences: (u64, u64),
}

impl DelayRunBuilder {
    /// Begins a run of exactly these sizes.
    pub(crate) fn new(place: &Place, number: u64, sizes: Sizes) -> Result<Self, Error> {
        let path = place.dir.join(run_name(number));
        let too_large = || Error::Corrupt {
            path: path.clone(),
            what: "too large for a run",
        };
        let blocks = |count: u64| u32::try_from(count).map_err(|_| too_large());
        let first = sizes.record_bytes.div_ceil(BLOCK_BYTES as u64);
        let entries = sizes.messages.div_ceil(rows_per_block(ENTRY_BYTES));
        let ids = sizes.messages.div_ceil(rows_per_block(ID_BYTES));
        let [first, first_id, above] = [
            blocks(first)?,
            blocks(first + entries)?,
            blocks(first + entries + ids)?,
        ];
        let file = place
            .fs
            .open(&path, OpenMode::Create)
            .doing("create", &path)?;
        file.set_len(0).doing("empty", &path)?;
        let (store, run) = (place.store, number);
        Ok(Self {
            place: place.clone(),
            file: BlockFile {
                file,
                path,
                store,
                run,
            },
            sizes,
            records: Vec::new(),
            written: 0,
            entries: TreeBuilder::new((ENTRY_BYTES, KEY_BYTES), first),
            ids: TreeBuilder::new((ID_BYTES, ID_BYTES), first_id),
            above,
            due: (i64::MAX, i64::MIN),
            sequences: (u64::MAX, 0),
        })
    }

    /// Adds a message; keys rise.
    pub(crate) fn add(
        &mut self,
        key: Key,
        subject: DelaySubject,
        record: &[u8],
    ) -> Result<(), Error> {
        let entry = Entry {
            key,
            offset: self.written + self.records.len() as u64,
            bytes: u32::try_from(record.len()).expect("a record has less than 2^32 bytes"),
            subject,
        };
        self.due = (self.due.0.min(key.due), self.due.1.max(key.due));
        let (low, high) = self.sequences;
        self.sequences = (low.min(key.sequence), high.max(key.sequence));
        self.records.extend_from_slice(record);
        self.entries.push(&entry.encode(), &self.file)?;
        if self.records.len() >= RECORDS_PER_WRITE {
            self.write_records()?;
        }
        Ok(())
    }

    /// Adds the id of a message; rises by hash, then by key.
    pub(crate) fn add_id(&mut self, hash: u64, key: Key) -> Result<(), Error> {
        self.ids.push(&id_row(hash, key), &self.file)
    }

    fn write_records(&mut self) -> Result<(), Error> {
        let written = self.file.file.write_at(&self.records, self.written);
        written.doing("write", &self.file.path)?;
        self.written += self.records.len() as u64;
        self.records.clear();
        Ok(())
    }

    /// Makes it a run, durable with its name.
    pub(crate) fn finish(mut self) -> Result<DelayRun, Error> {
        self.write_records()?;
        let written = Sizes {
            messages: self.entries.rows(),
            record_bytes: self.written,
        };
        assert_eq!(written, self.sizes, "exactly what was announced");
        assert_eq!(self.ids.rows(), written.messages, "one id for each message");
        let above_ids = self.entries.finish(self.above, &self.file)?;
        let end = self.ids.finish(above_ids, &self.file)?;
        let footer = Footer {
            number: self.file.run,
            record_bytes: self.written,
            due: self.due,
            sequences: self.sequences,
            messages: written.messages,
            blocks: [
                self.entries.first(),
                self.above,
                self.ids.first(),
                above_ids,
            ],
        };
        let BlockFile { file, path, .. } = &self.file;
        let at = u64::from(end) * BLOCK_BYTES as u64;
        let footer = footer.encode(self.place.store);
        file.write_at(&footer, at).doing("write", path)?;
        file.sync_data().doing("sync", path)?;
        let Place { fs, dir, store } = &self.place;
        fs.sync_dir(dir).doing("sync folder", dir)?;
        DelayRun::open(fs.as_ref(), dir, *store, self.file.run)
    }

    /// Removes what was written of it.
    pub(crate) fn discard(self) {
        let path = &self.file.path;
        if let Err(error) = self.place.fs.remove(path) {
            // The next start removes what the manifest does not name.
            tracing::warn!(path = %path.display(), %error, "unfinished run stays");
        }
    }
}
