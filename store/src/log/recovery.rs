//! The tail of a log at start: what is kept, what is written again, what is saved aside and cut.

use std::io;
use std::ops::Range;

use crate::error::{Doing, Error};
use crate::format::{LogKind, cut_name, cut_serial};
use crate::fs::OpenMode;
use crate::log::commit::{CommitRecord, Kind, Ring};
use crate::log::history::History;
use crate::log::segment::Segments;
use crate::log::verify::{checksum, for_each_piece};

/// How many files with cut bytes are kept per log.
const CUT_FILES_RETAIN: usize = 16;

/// Where a log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail {
    /// The highest position that is stated to be durable: nothing below is ever cut.
    pub(crate) durable: u64,
    /// End of what is kept: all bytes between match their commit records.
    pub(crate) kept: u64,
}

/// What has to go behind the end of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedCut {
    /// Zeroed: up to the end of the last segment file.
    pub(crate) range: Range<u64>,
    /// How many bytes at its start are saved: the rest is zeros already.
    pub(crate) saved_bytes: u64,
    /// A crash interrupted this cut after its record was durable, and so after its bytes were
    /// saved.
    pub(crate) is_repeated: bool,
}

/// Follows the commit records from `durable` on, as far as the bytes match them.
pub(crate) fn find_tail(
    segments: &Segments,
    history: &History<'_>,
    durable: u64,
) -> Result<Tail, Error> {
    let mut kept = durable;
    while let Some(batch) = history.continuation(kept) {
        if checksum(segments, batch.range())? != batch.crc {
            break;
        }
        kept = batch.end();
    }
    Ok(Tail { durable, kept })
}

/// Writes the bytes of `range` once more and syncs them: they may have been readable only because
/// they were in the page cache, even behind a failed sync.
pub(crate) fn rewrite(segments: &Segments, range: Range<u64>) -> Result<(), Error> {
    let mut written = Ok(());
    for_each_piece(segments, range.clone(), |at, piece| {
        if written.is_ok() {
            written = segments.write(piece, at, |_, _| {});
        }
    })?;
    written?;
    sync_range(segments, range)
}

/// Zeroes and syncs.
pub(crate) fn zero(segments: &Segments, range: Range<u64>) -> Result<(), Error> {
    segments.write_zeros(range.clone(), |_, _| {})?;
    sync_range(segments, range)
}

fn sync_range(segments: &Segments, range: Range<u64>) -> Result<(), Error> {
    for (base, _) in segments.split(range) {
        if let Some(file) = segments.file(base) {
            file.sync_data().doing("sync", &segments.path_of(base))?;
        }
    }
    Ok(())
}

/// Whether anything behind `kept` must go.
pub(crate) fn plan_cut(
    segments: &Segments,
    history: &History<'_>,
    kept: u64,
) -> Result<Option<PlannedCut>, Error> {
    let end = segments.end_on_disk()?.max(kept);
    let mut used = kept;
    for_each_piece(segments, kept..end, |at, piece| {
        if let Some(last) = piece.iter().rposition(|byte| *byte != 0) {
            used = at + last as u64 + 1;
        }
    })?;
    let open_cut = history.open_cut().filter(|cut| cut.start == kept);
    if used == kept && open_cut.is_none() && !history.reaches_beyond(kept) {
        return Ok(None);
    }
    let is_repeated = open_cut.is_some();
    Ok(Some(PlannedCut {
        range: kept..end,
        saved_bytes: used - kept,
        is_repeated,
    }))
}

/// Saves the bytes of a cut in a file of their own, durably, and forgets the oldest such files.
pub(crate) fn save_aside(segments: &Segments, cut: &PlannedCut, serial: u64) -> Result<(), Error> {
    if cut.saved_bytes == 0 {
        return Ok(());
    }
    let (fs, dir) = (segments.fs(), segments.dir());
    let path = dir.join(cut_name(cut.range.start, serial));
    let file = fs.open(&path, OpenMode::Create).doing("create", &path)?;
    file.set_len(0).doing("empty", &path)?;
    let mut written: io::Result<()> = Ok(());
    let begin = cut.range.start;
    for_each_piece(segments, begin..begin + cut.saved_bytes, |at, piece| {
        if written.is_ok() {
            written = file.write_at(piece, at - begin);
        }
    })?;
    written.doing("write", &path)?;
    file.sync_data().doing("sync", &path)?;
    fs.sync_dir(dir).doing("sync folder", dir)?;
    forget_oldest(segments)
}

fn forget_oldest(segments: &Segments) -> Result<(), Error> {
    let (fs, dir) = (segments.fs(), segments.dir());
    let entries = fs.list(dir).doing("list", dir)?;
    let saved = entries
        .into_iter()
        .filter_map(|entry| Some((cut_serial(&entry.name)?, entry.name)));
    let mut saved: Vec<(u64, String)> = saved.collect();
    saved.sort();
    let surplus = saved.len().saturating_sub(CUT_FILES_RETAIN);
    for (_, name) in saved.drain(..surplus) {
        let path = dir.join(name);
        fs.remove(&path).doing("remove", &path)?;
    }
    Ok(())
}

/// Writes the commit record of a cut. Not synced.
pub(crate) fn record_cut(
    ring: &mut Ring,
    kind: LogKind,
    cut: &PlannedCut,
    term: u64,
    durable: [u64; 2],
) -> Result<(), Error> {
    ring.write(CommitRecord::of(
        Kind::Cut(kind),
        term,
        &cut.range,
        0,
        durable,
    ))
}
