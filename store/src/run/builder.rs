//! Writes a run: entries and directory grow side by side in one file, the footer makes it one.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::error::{Doing, Error};
use crate::format::run_name;
use crate::fs::{File, FileSystem, OpenMode};
use crate::run::block::{BLOCK_BYTES, Region};
use crate::run::{Entry, Footer, ROW_BYTES, Row, Run, blocks_of};

/// Where runs are written.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) fs: Arc<dyn FileSystem>,
    /// Folder of the runs.
    pub(crate) dir: PathBuf,
    pub(crate) store: Uuid,
}

/// A run that is being written.
pub(crate) struct RunBuilder {
    place: Place,
    file: Arc<dyn File>,
    path: PathBuf,
    number: u64,
    range: Range<u64>,
    entries: Region,
    rows: Region,
    sparse: Vec<u8>,
    row: Option<Row>,
}

impl Place {
    /// Writes, syncs and opens a run of at most `entries_max` entries; `fill` adds them. What is
    /// not finished is removed.
    pub(crate) fn build(
        &self,
        number: u64,
        range: Range<u64>,
        entries_max: u64,
        fill: impl FnOnce(&mut RunBuilder) -> Result<(), Error>,
    ) -> Result<Run, Error> {
        let path = self.dir.join(run_name(number));
        let built = RunBuilder::new(self, &path, number, range, entries_max).and_then(|mut run| {
            fill(&mut run)?;
            run.finish()
        });
        if built.is_err()
            && let Err(error) = self.fs.remove(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            // The next start removes what the manifest does not name.
            tracing::warn!(path = %path.display(), %error, "unfinished run stays");
        }
        built
    }
}

impl RunBuilder {
    fn new(
        place: &Place,
        path: &Path,
        number: u64,
        range: Range<u64>,
        entries_max: u64,
    ) -> Result<Self, Error> {
        let file = place
            .fs
            .open(path, OpenMode::Create)
            .doing("create", path)?;
        file.set_len(0).doing("empty", path)?;
        let directory = u32::try_from(blocks_of(entries_max)).map_err(|_| Error::Corrupt {
            path: path.to_owned(),
            what: "too many entries for a run",
        })?;
        Ok(Self {
            place: place.clone(),
            file,
            path: path.to_owned(),
            number,
            range,
            entries: Region::at(0, ROW_BYTES),
            rows: Region::at(directory, ROW_BYTES),
            sparse: Vec::new(),
            row: None,
        })
    }

    /// Adds an entry; subjects rise, and sequences within a subject.
    pub(crate) fn add(&mut self, subject: u32, sequence: i64, entry: &Entry) -> Result<(), Error> {
        match &mut self.row {
            Some(row)
                if row.subject == subject && row.end() == sequence && row.count < u32::MAX =>
            {
                row.count += 1;
                row.time_max = row.time_max.max(entry.time);
            }
            _ => {
                self.close_row()?;
                self.row = Some(Row {
                    subject,
                    count: 1,
                    first: sequence,
                    place: self.entries.count,
                    time_max: entry.time,
                });
            }
        }
        let (store, number) = (self.place.store, self.number);
        self.entries.push(&entry.encode(sequence), store, number);
        self.entries.write_some(&*self.file, &self.path)
    }

    fn close_row(&mut self) -> Result<(), Error> {
        let Some(row) = self.row.take() else {
            return Ok(());
        };
        if self.rows.begins_block() {
            self.sparse.extend_from_slice(&row.subject.to_be_bytes());
            self.sparse.extend_from_slice(&row.first.to_be_bytes());
        }
        let (store, number) = (self.place.store, self.number);
        self.rows.push(&row.encode(), store, number);
        self.rows.write_some(&*self.file, &self.path)
    }

    fn finish(mut self) -> Result<Run, Error> {
        self.close_row()?;
        let directory = self.rows.first;
        for region in [&mut self.entries, &mut self.rows] {
            region.seal(self.place.store, self.number);
            region.write(&*self.file, &self.path)?;
        }
        let footer = Footer {
            number: self.number,
            range: self.range.clone(),
            entries: self.entries.count,
            rows: self.rows.count,
            directory,
            directory_blocks: self.rows.next - directory,
        };
        let mut end = std::mem::take(&mut self.sparse);
        let bytes = footer.encode(self.place.store, &end);
        end.extend_from_slice(&bytes);
        let at = u64::from(self.rows.next) * BLOCK_BYTES as u64;
        self.file.write_at(&end, at).doing("write", &self.path)?;
        self.file.sync_data().doing("sync", &self.path)?;
        let Place { fs, dir, store } = &self.place;
        fs.sync_dir(dir).doing("sync folder", dir)?;
        Run::open(fs.as_ref(), dir, *store, self.number, &self.range)
    }
}
