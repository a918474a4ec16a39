//! Writes full tables as runs, one for each slot in which something of them is due.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use roaring::RoaringTreemap;

use crate::delay::entry::Key;
use crate::delay::merge::Merged;
use crate::delay::run::DelayRun;
use crate::delay::run::builder::{DelayRunBuilder, Sizes};
use crate::delay::slots::slot_of;
use crate::delay::table::{Row, Table};
use crate::error::Error;
use crate::format::run_name;
use crate::log::segment::Segments;
use crate::run::builder::Place;

/// Records are collected in the order they are due until they are this long.
const WINDOW_BYTES: u64 = 1 << 20;
/// Most bytes of the log that are read at once.
const PIECE_BYTES_MAX: u64 = 256 << 10;
/// Longest stretch between two wanted records that is read with them.
const GAP_BYTES_MAX: u64 = 4 << 10;

/// What to write, and by what.
pub(crate) struct Cut<'a> {
    pub(crate) place: &'a Place,
    /// The write-ahead log.
    pub(crate) log: &'a Segments,
    pub(crate) tables: &'a [Arc<Table>],
    /// What is durably done.
    pub(crate) done: &'a RoaringTreemap,
    /// When, in ms.
    pub(crate) now: i64,
    pub(crate) is_stopped: &'a AtomicBool,
}

impl Cut<'_> {
    /// Numbers of new runs come from `next_number`. What was written is removed when it fails.
    pub(crate) fn run(&self, mut next_number: impl FnMut() -> u64) -> Result<Merged, Error> {
        let (rows, gone) = self.sort();
        let slot = |row: &Row| slot_of(row.key.due, self.now);
        let mut collector = Collector::new(self.log);
        let (mut runs, mut numbers) = (Vec::new(), Vec::new());
        for rows in rows.chunk_by(|a, b| slot(a) == slot(b)) {
            numbers.push(next_number());
            match self.write(numbers[numbers.len() - 1], rows, &mut collector) {
                Ok(run) => runs.push((Arc::new(run), slot(&rows[0]))),
                Err(error) => {
                    self.remove(&numbers);
                    return Err(error);
                }
            }
        }
        Ok(Merged { runs, gone })
    }

    /// Removes runs that will not be live: the disk may be full, and it is tried again.
    fn remove(&self, numbers: &[u64]) {
        for number in numbers {
            let path = self.place.dir.join(run_name(*number));
            if let Err(error) = self.place.fs.remove(&path) {
                // The next start removes what the manifest does not name.
                tracing::warn!(path = %path.display(), %error, "run that is not live stays");
            }
        }
    }

    /// What is not done in the order it is due, and the numbers of the rest.
    fn sort(&self) -> (Vec<Row>, RoaringTreemap) {
        let mut gone = RoaringTreemap::new();
        let mut rows = Vec::with_capacity(self.tables.iter().map(|table| table.len()).sum());
        for row in self.tables.iter().flat_map(|table| table.all()) {
            if self.done.contains(row.key.sequence) {
                gone.insert(row.key.sequence);
            } else {
                rows.push(*row);
            }
        }
        // Stretches that are sorted are merged.
        rows.sort_by_key(|row| row.key);
        (rows, gone)
    }

    fn write(
        &self,
        number: u64,
        rows: &[Row],
        collector: &mut Collector<'_>,
    ) -> Result<DelayRun, Error> {
        let sizes = Sizes {
            messages: rows.len() as u64,
            record_bytes: rows.iter().map(|row| u64::from(row.spot.bytes)).sum(),
        };
        let mut builder = DelayRunBuilder::new(self.place, number, sizes)?;
        self.fill(rows, collector, &mut builder)?;
        builder.finish()
    }

    /// Records are copied as they are: one that is damaged stays damaged, and noticed.
    fn fill(
        &self,
        mut rows: &[Row],
        collector: &mut Collector<'_>,
        builder: &mut DelayRunBuilder,
    ) -> Result<(), Error> {
        let mut ids: Vec<(u64, Key)> = rows.iter().map(|row| (row.id_hash, row.key)).collect();
        while !rows.is_empty() {
            if self.is_stopped.load(Ordering::Relaxed) {
                return Err(Error::Stopped);
            }
            let (window, rest) = rows.split_at(window_len(rows));
            collector.collect(window)?;
            for (row, record) in window.iter().zip(collector.records(window)) {
                builder.add(row.key, row.spot.subject, record)?;
            }
            rows = rest;
        }
        ids.sort_unstable();
        for (hash, key) in ids {
            builder.add_id(hash, key)?;
        }
        Ok(())
    }
}

/// How many rows make a window.
fn window_len(rows: &[Row]) -> usize {
    let mut bytes = 0;
    let within = rows.iter().take_while(|row| {
        let is_within = bytes < WINDOW_BYTES;
        bytes += u64::from(row.spot.bytes);
        is_within
    });
    within.count()
}

/// Reads records in the order in which they stand in the log, and gives them in the one that is
/// asked for. Neighbours are read together, and never more than a window is in memory.
struct Collector<'a> {
    log: &'a Segments,
    /// Offsets in the log of the records of a window, ascending, and where each goes.
    order: Vec<(u64, u32, usize)>,
    /// What was read last.
    piece: Vec<u8>,
    /// The window.
    records: Vec<u8>,
}

impl<'a> Collector<'a> {
    fn new(log: &'a Segments) -> Self {
        Self {
            log,
            order: Vec::new(),
            piece: Vec::new(),
            records: Vec::new(),
        }
    }

    /// Reads the records of a window.
    fn collect(&mut self, window: &[Row]) -> Result<(), Error> {
        self.order.clear();
        let mut at = 0;
        for row in window {
            self.order.push((row.spot.offset, row.spot.bytes, at));
            at += row.spot.bytes as usize;
        }
        self.order.sort_unstable();
        self.records.resize(at, 0);
        let mut order = &self.order[..];
        while let Some((start, ..)) = order.first() {
            let (together, rest) = order.split_at(neighbours(order));
            let end = together.last().map_or(*start, end_of);
            self.piece.resize(len_of(end - start), 0);
            self.log.read_or_zeros(&mut self.piece, *start)?;
            for (offset, bytes, at) in together {
                let (from, len) = (len_of(offset - start), *bytes as usize);
                self.records[*at..*at + len].copy_from_slice(&self.piece[from..from + len]);
            }
            order = rest;
        }
        Ok(())
    }

    /// The records of the window that was read.
    fn records(&self, window: &[Row]) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.records[..];
        window.iter().map(move |row| {
            let (record, after) = rest.split_at(row.spot.bytes as usize);
            rest = after;
            record
        })
    }
}

/// How many records are read together, the first included.
fn neighbours(order: &[(u64, u32, usize)]) -> usize {
    let begin = order[0].0;
    let far = order.windows(2).position(|pair| {
        let (last, next) = (end_of(&pair[0]), pair[1].0);
        next - last > GAP_BYTES_MAX || end_of(&pair[1]) - begin > PIECE_BYTES_MAX
    });
    far.map_or(order.len(), |last| last + 1)
}

fn end_of((offset, bytes, _): &(u64, u32, usize)) -> u64 {
    offset + u64::from(*bytes)
}

fn len_of(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a record or a piece fits into memory")
}
