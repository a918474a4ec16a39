//! Reads many messages at once: neighbours on disk are read together.

use std::sync::Arc;

use bytes::Bytes;

use crate::delay::entry::{DelayedMessage, Key, Pending};
use crate::delay::reader::{DelayReadError, DelayReader, decode};
use crate::delay::run::DelayRun;
use crate::delay::run::walk::{Entries, Records};
use crate::delay::table::Spot;
use crate::error::Error;
use crate::run::cache::BlockCache;

/// Most bytes of the write-ahead log that are read at once.
const PIECE_BYTES_MAX: u64 = 256 << 10;
/// Longest stretch between two wanted records that is read with them.
const GAP_BYTES_MAX: u64 = 4 << 10;
/// How many entries are looked at for the next wanted one before it is searched.
const STEPS_MAX: usize = 8;

impl DelayReader {
    /// Reads messages with their payloads and checks them: one result for each of `wanted`, in
    /// that order. Fastest when they are in the order they are due.
    pub fn read(&self, wanted: &[Pending], out: &mut Vec<Result<DelayedMessage, DelayReadError>>) {
        let (spots, runs) = {
            let state = self.shared.read();
            let spots = wanted.iter().map(|pending| state.spot(pending.key()));
            (spots.collect::<Vec<Option<Spot>>>(), state.runs.clone())
        };
        let mut pieces = Pieces::new(self, &spots);
        let mut walks: Vec<Walk<'_>> = runs
            .iter()
            .map(|(run, _)| Walk::new(run, &self.shared.cache))
            .collect();
        for (at, pending) in wanted.iter().enumerate() {
            let key = pending.key();
            let record = match spots[at] {
                Some(spot) => pieces.read(at, spot),
                None => walks.iter_mut().find_map(|walk| walk.read(key)),
            };
            let message = record.and_then(|record| decode(&record, key));
            // It has moved, or is damaged, or cannot be read: the slow way says which.
            out.push(message.map_or_else(|| self.read_one(pending), Ok));
        }
    }
}

/// Stretches of the write-ahead log that hold several wanted records.
struct Pieces<'a> {
    reader: &'a DelayReader,
    spots: &'a [Option<Spot>],
    begin: u64,
    bytes: Bytes,
}

impl<'a> Pieces<'a> {
    fn new(reader: &'a DelayReader, spots: &'a [Option<Spot>]) -> Self {
        Self {
            reader,
            spots,
            begin: 0,
            bytes: Bytes::new(),
        }
    }

    /// The record of the wanted message with this number.
    fn read(&mut self, at: usize, spot: Spot) -> Option<Bytes> {
        let end = spot.offset + u64::from(spot.bytes);
        let known = self.begin..self.begin + self.bytes.len() as u64;
        if spot.offset < known.start || end > known.end {
            self.fill(at, spot)?;
        }
        let from = usize::try_from(spot.offset - self.begin).ok()?;
        Some(self.bytes.slice(from..from + spot.bytes as usize))
    }

    /// Reads the record with those behind it that are wanted next.
    fn fill(&mut self, at: usize, spot: Spot) -> Option<()> {
        let segments = &self.reader.shared.segments;
        let base = segments.base_of(spot.offset);
        let mut end = spot.offset + u64::from(spot.bytes);
        for next in self.spots[at + 1..].iter().flatten() {
            let next_end = next.offset + u64::from(next.bytes);
            let is_near = next.offset >= end
                && next.offset - end <= GAP_BYTES_MAX
                && next_end - spot.offset <= PIECE_BYTES_MAX
                && segments.base_of(next.offset) == base;
            if !is_near {
                break;
            }
            end = next_end;
        }
        let mut bytes = vec![0; usize::try_from(end - spot.offset).ok()?];
        segments.read_exact(&mut bytes, spot.offset)?.ok()?;
        self.begin = spot.offset;
        self.bytes = Bytes::from(bytes);
        Some(())
    }
}

/// A run in which messages are looked for, one behind the other.
struct Walk<'a> {
    run: &'a Arc<DelayRun>,
    cache: &'a BlockCache,
    /// Behind the message that was found last.
    entries: Option<Entries>,
    records: Records,
}

impl<'a> Walk<'a> {
    fn new(run: &'a Arc<DelayRun>, cache: &'a BlockCache) -> Self {
        Self {
            run,
            cache,
            entries: None,
            records: Records::new(run),
        }
    }

    /// The record of a message, if the run holds it and it can be read.
    fn read(&mut self, key: Key) -> Option<Bytes> {
        if !self.run.may_hold(key) {
            return None;
        }
        self.try_read(key).ok().flatten()
    }

    fn try_read(&mut self, key: Key) -> Result<Option<Bytes>, Error> {
        if let Some(entries) = &mut self.entries {
            for _ in 0..STEPS_MAX {
                let Some(entry) = entries.next()? else {
                    break;
                };
                if entry.key == key {
                    let record = self.records.read(&entry)?;
                    return Ok(Some(Bytes::copy_from_slice(record)));
                }
                if entry.key > key {
                    break;
                }
            }
        }
        self.entries = None;
        let rank = self.run.rank(key, self.cache)?;
        let mut entries = Entries::new(self.run, rank);
        let Some(entry) = entries.next()?.filter(|entry| entry.key == key) else {
            return Ok(None);
        };
        self.entries = Some(entries);
        let record = self.records.read(&entry)?;
        Ok(Some(Bytes::copy_from_slice(record)))
    }
}
