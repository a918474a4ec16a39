//! One log at start: where it ends, what is cut, what is verified.

use std::ops::Range;
use std::sync::Arc;

use uuid::Uuid;

use crate::config::Sabotage;
use crate::error::{Doing, Error};
use crate::log::Log;
use crate::log::commit::{CommitRecord, Ring};
use crate::log::history::History;
use crate::log::recovery::{self, Tail};
use crate::log::segment::Segments;
use crate::log::sums::{LoadedSums, Stretch, Sums};
use crate::log::verify::{Verifier, for_each_piece};
use crate::log::zero_ahead::{RoomAhead, ZeroAhead};
use crate::report::{Cut, Damage, DamageKind, Findings};

/// One log while it is being recovered.
pub(crate) struct Side<'a> {
    pub(crate) segments: Arc<Segments>,
    sums: Sums,
    stretches: Vec<Stretch>,
    history: History<'a>,
    pub(crate) tail: Tail,
    /// Where reading begins; everything in front was verified before, and has checksums.
    pub(crate) from: u64,
    /// First byte that is kept.
    oldest: u64,
    sums_broken: u64,
}

impl<'a> Side<'a> {
    /// Finds the end of the log and makes everything up to there durable. A checkpoint includes
    /// everything in front of `checkpointed`.
    pub(crate) fn open(
        segments: Arc<Segments>,
        (from, oldest): (u64, u64),
        store: Uuid,
        records: &'a [CommitRecord],
        checkpointed: u64,
    ) -> Result<Self, Error> {
        let kind = segments.kind();
        let LoadedSums {
            sums,
            stretches,
            broken,
        } = Sums::load(segments.clone(), store, from)?;
        let history = History::new(kind, records);
        let by_sums = stretches.iter().map(Stretch::end).max().unwrap_or(0);
        let stated = history.durable().max(by_sums).max(checkpointed);
        let tail = recovery::find_tail(&segments, &history, stated)?;
        recovery::rewrite(&segments, tail.durable..tail.kept)?;
        let first_batch = history
            .batches()
            .first()
            .map_or(tail.kept, |batch| batch.start);
        sums.rewrite_from(segments.base_of(first_batch))?;
        segments
            .fs()
            .sync_dir(segments.dir())
            .doing("sync folder", segments.dir())?;
        let sums_broken = broken.iter().map(|(_, count)| count).sum();
        Ok(Self {
            segments,
            sums,
            stretches,
            history,
            tail,
            from,
            oldest,
            sums_broken,
        })
    }

    /// Knows what is wrong with the bytes that are read.
    pub(crate) fn verifier<'s>(&self, segments: &'s Segments) -> Verifier<'s>
    where
        'a: 's,
    {
        let (from, durable) = (self.from, self.tail.durable);
        let first = self
            .stretches
            .partition_point(|stretch| stretch.end() <= from);
        let below = self
            .history
            .batches()
            .iter()
            .copied()
            .filter(|batch| batch.end() <= durable && batch.end() > from)
            // What reaches over the beginning cannot be checked any more; checksums were written
            // before that expired.
            .filter(|batch| batch.start >= self.oldest);
        Verifier::new(segments, &self.stretches[first..], below)
    }

    /// Checks what is left, reports every mismatch, and writes checksums where there are none.
    pub(crate) fn finish(
        &mut self,
        verifier: &mut Verifier<'_>,
        report: &mut impl Findings,
    ) -> Result<(), Error> {
        let (kind, end) = (self.segments.kind(), self.tail.kept);
        verifier.check_before(end)?;
        for range in verifier.damaged() {
            let (range, message) = (range.clone(), None);
            report.add(Damage {
                log: kind,
                range,
                kind: DamageKind::Checksum,
                message,
            });
        }
        for gap in verifier.uncovered(self.from.min(end)..end) {
            for (base, part) in self.segments.split(gap) {
                // A missing file stays missing: no checksum may say that zeros are right there.
                if self.segments.file(base).is_some() {
                    self.cover(part, verifier.damaged())?;
                }
            }
        }
        self.sums.write()?;
        let log = report.log_mut(kind);
        log.durable = self.tail.durable;
        log.end = end;
        log.sums_broken = self.sums_broken;
        Ok(())
    }

    /// Adds checksums of a range; parts that are known to be damaged stay known as such.
    fn cover(&mut self, range: Range<u64>, damaged: &[Range<u64>]) -> Result<(), Error> {
        let mut at = range.start;
        let inside = damaged
            .iter()
            .filter(|bad| bad.start < range.end && range.start < bad.end);
        for bad in inside.chain([&(range.end..range.end)]) {
            self.sums.skip_to(at);
            let bad = bad.start.max(at)..bad.end.min(range.end).max(at);
            let sums = &mut self.sums;
            for_each_piece(&self.segments, at..bad.start, |_, piece| sums.add(piece))?;
            sums.skip_to(bad.start);
            for (_, part) in self.segments.split(bad.clone()) {
                sums.add_damaged(part);
            }
            at = bad.end;
        }
        Ok(())
    }

    /// Reports the segments that are kept but are missing and will not be read.
    pub(crate) fn report_missing(&self, report: &mut impl Findings) -> Vec<Range<u64>> {
        let unread = self.segments.split(self.oldest..self.from);
        let missing = unread.filter(|(base, _)| self.segments.file(*base).is_none());
        let missing: Vec<Range<u64>> = missing.map(|(_, part)| part).collect();
        for range in &missing {
            report.add(Damage {
                log: self.segments.kind(),
                range: range.clone(),
                kind: DamageKind::Missing,
                message: None,
            });
        }
        missing
    }

    /// The log, ready to be appended to.
    pub(crate) fn into_log(self, ahead: RoomAhead, sabotage: Sabotage) -> Result<Log, Error> {
        let end = self.tail.kept;
        let zeros_end = self.segments.end_on_disk()?.max(end);
        let zeros = ZeroAhead::new(self.segments.clone(), zeros_end, ahead)?;
        Log::new(self.segments, zeros, self.sums, end, sabotage)
    }
}

/// Cuts what must go behind the end of each log, and states what is durable now. A crash in
/// between repeats it: the cut records are durable before anything is zeroed.
pub(crate) fn cut(
    sides: [&Side<'_>; 2],
    ring: &mut Ring,
    term: u64,
    report: &mut impl Findings,
) -> Result<(), Error> {
    let durable = sides.map(|side| side.tail.kept);
    let mut planned = Vec::new();
    for side in sides {
        let kind = side.segments.kind();
        let Some(cut) = recovery::plan_cut(&side.segments, &side.history, side.tail.kept)? else {
            continue;
        };
        if !cut.is_repeated {
            recovery::save_aside(&side.segments, &cut, ring.next_serial())?;
            recovery::record_cut(ring, kind, &cut, term, durable)?;
        }
        planned.push((side, cut));
    }
    if !planned.is_empty() {
        ring.sync()?;
    }
    for (side, cut) in planned {
        recovery::zero(&side.segments, cut.range.clone())?;
        let (range, saved_bytes, is_repeated) = (cut.range, cut.saved_bytes, cut.is_repeated);
        let cut = Cut {
            range,
            saved_bytes,
            is_repeated,
        };
        report.log_mut(side.segments.kind()).cut = Some(cut);
    }
    ring.write(CommitRecord::idle(term, durable))?;
    ring.sync()
}
