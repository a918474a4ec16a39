//! Look-ups in runs: which one has a sequence, what stands there, what is left out.

use std::sync::Arc;

use qmq_model::{MessageSequence, UnixMillis};

use crate::error::Error;
use crate::realtime::consumer_log::quarantine::Quarantine;
use crate::realtime::consumer_log::{Limits, Located, Skipped, SubjectId};
use crate::run::block::Block;
use crate::run::cache::BlockCache;
use crate::run::{Blocks, Entry, Row, Run};

/// Blocks of entries that are read at once: who reads on wants them next.
const BLOCKS_AHEAD: u32 = 64;

/// Blocks that are in memory, and no others.
pub(super) struct Cold<'a>(pub(super) &'a BlockCache);

/// A block is not in memory, or does not make sense: who loads it will be told which.
pub(super) struct NotInMemory;

impl From<Error> for NotInMemory {
    fn from(_: Error) -> Self {
        Self
    }
}

impl Blocks for Cold<'_> {
    type Miss = NotInMemory;

    fn block(&mut self, run: &Run, number: u32, _until: u32) -> Result<Block, NotInMemory> {
        self.0.get(run.number(), number).ok_or(NotInMemory)
    }
}

/// Blocks that are read when they are not in memory.
pub(super) struct Loading<'a>(pub(super) &'a BlockCache);

impl Blocks for Loading<'_> {
    type Miss = Error;

    fn block(&mut self, run: &Run, number: u32, until: u32) -> Result<Block, Error> {
        if let Some(block) = self.0.get(run.number(), number) {
            return Ok(block);
        }
        let count = until.saturating_sub(number).clamp(1, BLOCKS_AHEAD);
        let blocks = run.read_blocks(number, count)?;
        for (block, number) in blocks.iter().zip(number..) {
            self.0.insert(run.number(), number, block.clone());
        }
        Ok(blocks[0].clone())
    }
}

/// One look-up on its way.
pub(super) struct Visit<'a> {
    pub(super) id: SubjectId,
    limits: Limits,
    quarantine: &'a Quarantine,
    out: &'a mut Vec<Located>,
    count: usize,
    bytes: usize,
    pub(super) skipped: Skipped,
    /// The look-up began in front of everything that is kept: what it finds first is the first.
    pub(super) is_from_start: bool,
    /// Everything below was found to be gone.
    pub(super) first_kept: Option<i64>,
}

impl<'a> Visit<'a> {
    pub(super) fn new(
        id: SubjectId,
        start: i64,
        limits: Limits,
        quarantine: &'a Quarantine,
        out: &'a mut Vec<Located>,
    ) -> Self {
        Self {
            id,
            limits,
            quarantine,
            out,
            count: 0,
            bytes: 0,
            skipped: Skipped {
                next: MessageSequence(start),
                ..Skipped::default()
            },
            is_from_start: false,
            first_kept: None,
        }
    }

    pub(super) fn pass_missing(&mut self, to: i64) {
        let next = &mut self.skipped.next.0;
        if to > *next {
            self.skipped.missing += next.abs_diff(to);
            *next = to;
        }
    }

    /// Takes the next sequence into account; `false`: a limit is reached.
    pub(super) fn take(&mut self, sequence: i64, entry: &Entry) -> bool {
        if std::mem::take(&mut self.is_from_start) {
            self.first_kept = Some(sequence);
        }
        if entry.bytes == 0 || self.quarantine.holds(entry) {
            self.skipped.quarantined += 1;
        } else if self.is_full(entry.bytes) {
            return false;
        } else {
            self.out.push(Located {
                subject: self.id,
                sequence: MessageSequence(sequence),
                offset: entry.offset,
                bytes: entry.bytes,
                time: entry.time,
                tags: entry.tags,
            });
        }
        self.skipped.next = MessageSequence(sequence + 1);
        true
    }

    /// Takes one more message into account, if the limits allow it.
    fn is_full(&mut self, bytes: u32) -> bool {
        let total = self.bytes.saturating_add(bytes as usize);
        let is_first = self.count == 0 && self.limits.count_max > 0;
        let is_full =
            self.count >= self.limits.count_max || (total > self.limits.bytes_max && !is_first);
        if !is_full {
            self.count += 1;
            self.bytes = total;
        }
        is_full
    }
}

/// Goes on with `visit` up to `until`; `false`: a limit is reached. An error comes with the number
/// of the run.
pub(super) fn walk<B: Blocks>(
    runs: &[Arc<Run>],
    oldest: u64,
    until: i64,
    visit: &mut Visit<'_>,
    blocks: &mut B,
) -> Result<bool, (u64, B::Miss)> {
    let id = visit.id.0;
    let begin = first_run(runs, id, visit.skipped.next.0, blocks)?;
    for run in &runs[begin..] {
        if visit.skipped.next.0 >= until {
            return Ok(true);
        }
        let failed = |miss| (run.number(), miss);
        let mut next = run
            .row_at(id, visit.skipped.next.0, blocks)
            .map_err(failed)?;
        while let Some((number, row)) = next {
            if row.first >= until {
                visit.pass_missing(until);
                return Ok(true);
            }
            let end = row.end().min(until);
            visit.pass_missing(row.first);
            if run.range().start < oldest {
                let kept = first_kept(run, &row, visit.skipped.next.0, oldest, blocks);
                let kept = kept.map_err(failed)?;
                visit.pass_missing(kept.min(end));
            }
            let wanted = visit.skipped.next.0..end;
            let see = |sequence, entry: &_| visit.take(sequence, entry);
            if !run.each_entry(&row, wanted, blocks, see).map_err(failed)? {
                return Ok(false);
            }
            next = run.row_of(number + 1, id, blocks).map_err(failed)?;
        }
    }
    visit.pass_missing(until);
    Ok(true)
}

/// The newest run in which the subject begins at or before `sequence`: no other has it, and none
/// before this one has anything behind it.
fn first_run<B: Blocks>(
    runs: &[Arc<Run>],
    id: u32,
    sequence: i64,
    blocks: &mut B,
) -> Result<usize, (u64, B::Miss)> {
    for (number, run) in runs.iter().enumerate().rev() {
        let row = run.row_before(id, sequence, blocks);
        if row.map_err(|miss| (run.number(), miss))?.is_some() {
            return Ok(number);
        }
    }
    Ok(0)
}

/// The first sequence of `row` from `begin` on that is not in front of `oldest`.
fn first_kept<B: Blocks>(
    run: &Run,
    row: &Row,
    begin: i64,
    oldest: u64,
    blocks: &mut B,
) -> Result<i64, B::Miss> {
    if run.entry(row, begin, blocks)?.offset.0 >= oldest {
        return Ok(begin);
    }
    bisect(begin + 1, row.end(), |sequence| {
        Ok(run.entry(row, sequence, blocks)?.offset.0 >= oldest)
    })
}

/// The first of `low..high` for which `is_behind` holds; `high` when there is none.
fn bisect<E>(
    mut low: i64,
    mut high: i64,
    mut is_behind: impl FnMut(i64) -> Result<bool, E>,
) -> Result<i64, E> {
    while low < high {
        let middle = low.midpoint(high);
        if is_behind(middle)? {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Ok(low)
}

/// The first message from `first` on, in runs, that was appended at `time` or later. Within a row
/// times are taken to rise.
pub(super) fn first_since<B: Blocks>(
    runs: &[Arc<Run>],
    oldest: u64,
    id: SubjectId,
    first: i64,
    time: UnixMillis,
    blocks: &mut B,
) -> Result<Option<i64>, (u64, B::Miss)> {
    for run in runs {
        let failed = |miss| (run.number(), miss);
        let mut next = run.row_at(id.0, first, blocks).map_err(failed)?;
        while let Some((number, row)) = next {
            if row.time_max >= time {
                let kept = first_kept(run, &row, first.max(row.first), oldest, blocks);
                let kept = kept.map_err(failed)?;
                let found = bisect(kept, row.end(), |sequence| {
                    Ok(run.entry(&row, sequence, blocks)?.time >= time)
                });
                let found = found.map_err(failed)?;
                if found < row.end() {
                    return Ok(Some(found));
                }
            }
            next = run.row_of(number + 1, id.0, blocks).map_err(failed)?;
        }
    }
    Ok(None)
}
