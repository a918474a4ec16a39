//! Compares durable bytes with their checksums while the store is open, a little at a time: what
//! a start does not read must not rot unnoticed.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use qmq_model::UnixMillis;

use crate::error::Error;
use crate::flush;
use crate::format::LogKind;
use crate::log::scan::{Found, scan};
use crate::log::segment::Segments;
use crate::log::sums::{Stretch, stretches_of};
use crate::log::verify::{Verifier, checksum};
use crate::realtime::message_log::{MessageFormat, MessageItem};
use crate::realtime::reader::StoreReader;
use crate::report::{DAMAGES_LISTED_MAX, Damage, DamageKind};

/// Time between the end of a pass over everything and the next one.
const PAUSE: Duration = Duration::from_secs(24 * 3600);
/// Budget that is saved up while nobody calls.
const SAVED_UP_MAX: Duration = Duration::from_secs(1);
/// Damages that are remembered so that none is reported twice.
const KNOWN_MAX: usize = 65_536;

/// What was verified since the store was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// How often everything was read.
    pub passes: u64,
    /// Bytes read and compared.
    pub bytes: u64,
    /// Damage found; each is listed once, at most [`DAMAGES_LISTED_MAX`].
    pub damages: Vec<Damage>,
    /// How many damages there are.
    pub damage_count: u64,
}

/// Goes over both logs again and again.
pub(crate) struct Scrub {
    reader: StoreReader,
    logs: [Arc<Segments>; 2],
    bytes_per_second: u64,
    place: Mutex<Place>,
    report: Mutex<ScrubReport>,
}

/// Where a pass has got to.
#[derive(Default)]
struct Place {
    log: usize,
    /// Everything in front of it was verified.
    offset: u64,
    /// What is left of the segment that was begun.
    segment: Option<Segment>,
    /// When the last step began; `None`: at once.
    stepped_at: Option<UnixMillis>,
    /// When the last pass ended.
    ended_at: Option<UnixMillis>,
    known: HashSet<(LogKind, u64, DamageKind)>,
}

struct Segment {
    base: u64,
    stretches: Vec<Stretch>,
    next: usize,
    is_damaged: bool,
}

impl Scrub {
    pub(crate) fn new(
        reader: StoreReader,
        logs: [Arc<Segments>; 2],
        bytes_per_second: u64,
    ) -> Self {
        Self {
            reader,
            logs,
            bytes_per_second,
            place: Mutex::default(),
            report: Mutex::default(),
        }
    }

    pub(crate) fn report(&self) -> ScrubReport {
        self.report
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether a step is due at `now`.
    pub(crate) fn is_due(&self, now: UnixMillis) -> bool {
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        let rests = |since: Option<UnixMillis>, wait| {
            since.is_some_and(|since| !flush::left(wait, since, now).is_zero())
        };
        let is_resting = rests(place.ended_at, PAUSE) || rests(place.stepped_at, SAVED_UP_MAX / 10);
        self.bytes_per_second > 0 && !is_resting
    }

    /// Verifies as much as the time since the last step allows.
    pub(crate) fn step(&self, now: UnixMillis) -> Result<(), Error> {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = place
            .stepped_at
            .map_or(SAVED_UP_MAX, |at| now.since(at.min(now)));
        let millis = u64::try_from(passed.min(SAVED_UP_MAX).as_millis()).unwrap_or(u64::MAX);
        place.stepped_at = Some(now);
        place.ended_at = None;
        let mut budget = self.bytes_per_second.saturating_mul(millis) / 1000;
        loop {
            let Some(read) = self.advance(&mut place)? else {
                place.ended_at = Some(now);
                return Ok(());
            };
            if read >= budget {
                return Ok(());
            }
            budget -= read;
        }
    }

    /// Verifies everything from the beginning.
    pub(crate) fn run_all(&self) -> Result<(), Error> {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        (place.log, place.offset, place.segment) = (0, 0, None);
        while self.advance(&mut place)?.is_some() {}
        Ok(())
    }

    /// Verifies one more stretch and says how long it is; `None` at the end of the pass.
    fn advance(&self, place: &mut Place) -> Result<Option<u64>, Error> {
        let Some(segments) = self.logs.get(place.log) else {
            (place.log, place.offset) = (0, 0);
            self.update(|report| report.passes += 1);
            return Ok(None);
        };
        let Some(segment) = &mut place.segment else {
            let next = segments
                .bases()
                .into_iter()
                .find(|base| *base >= place.offset);
            let Some(base) = next else {
                (place.log, place.offset) = (place.log + 1, 0);
                return Ok(Some(0));
            };
            place.segment = Some(Segment {
                base,
                stretches: stretches_of(segments, base)?,
                next: 0,
                is_damaged: false,
            });
            return Ok(Some(0));
        };
        let is_there = segments.file(segment.base).is_some();
        if let Some(stretch) = segment.stretches.get(segment.next).filter(|_| is_there) {
            let range = stretch.range();
            let is_good = !stretch.is_damaged && checksum(segments, range.clone())? == stretch.crc;
            segment.next += 1;
            let length = u64::from(stretch.length);
            self.update(|report| report.bytes += length);
            // Expired while it was read: that is no damage.
            if !is_good && segments.file(segment.base).is_some() {
                segment.is_damaged = true;
                self.add(
                    &mut place.known,
                    segments.kind(),
                    range,
                    DamageKind::Checksum,
                    None,
                );
            }
            return Ok(Some(length));
        }
        let Segment {
            base,
            stretches,
            is_damaged,
            ..
        } = place.segment.take().expect("taken above");
        place.offset = base + segments.segment_bytes();
        if is_damaged && is_there && segments.kind() == LogKind::Message {
            self.examine(segments, base, &stretches, &mut place.known)?;
        }
        Ok(Some(0))
    }

    /// Looks at every record of a damaged segment: which can still be read?
    fn examine(
        &self,
        segments: &Segments,
        base: u64,
        stretches: &[Stretch],
        known: &mut HashSet<(LogKind, u64, DamageKind)>,
    ) -> Result<(), Error> {
        let positions = self.reader.positions(LogKind::Message);
        let end = positions.visible.min(positions.durable);
        let range = base..end.min(base + segments.segment_bytes()).max(base);
        // A broken length can claim the records behind it as well: the index knows better.
        let mut left = vec![range];
        while let Some(range) = left.pop() {
            self.examine_range(segments, range, stretches, known, &mut left)?;
        }
        Ok(())
    }

    fn examine_range(
        &self,
        segments: &Segments,
        range: Range<u64>,
        stretches: &[Stretch],
        known: &mut HashSet<(LogKind, u64, DamageKind)>,
        left: &mut Vec<Range<u64>>,
    ) -> Result<(), Error> {
        let mut verifier = Verifier::new(segments, stretches, std::iter::empty());
        let format = MessageFormat::default();
        scan(segments, &format, range, &mut verifier, |found| {
            let (mut range, kind, item) = match found {
                Found::Record {
                    range,
                    item,
                    is_trusted,
                } if !is_trusted && self.indexed_end(&range, &item).is_none() => {
                    (range, DamageKind::Untrusted, None)
                }
                Found::Record { .. } => return,
                Found::Damage { range, item } => (range, DamageKind::Record, item),
                Found::Missing { range } => (range, DamageKind::Missing, None),
            };
            let end = item
                .as_ref()
                .and_then(|item| self.indexed_end(&range, item));
            let item = item.filter(|_| end.is_some());
            if let Some(end) = end.filter(|end| *end < range.end) {
                left.push(end..range.end);
                range.end = end;
            }
            self.reader.quarantine_bytes(&range);
            self.add(known, LogKind::Message, range, kind, item);
        })
    }

    /// Where the record ends by the index, which was made while it was good; `None` when there is
    /// no such record there.
    fn indexed_end(&self, range: &Range<u64>, item: &MessageItem) -> Option<u64> {
        let id = self.reader.subject(&item.subject)?;
        let mut found = Vec::new();
        let wanted = item.sequence..item.sequence.plus(1);
        let looked = self
            .reader
            .locate_blocking(id, wanted, 1, usize::MAX, &mut found);
        looked.ok()?;
        let at = found.first().filter(|at| at.offset.0 == range.start)?;
        Some(at.offset.0 + u64::from(at.bytes))
    }

    fn add(
        &self,
        known: &mut HashSet<(LogKind, u64, DamageKind)>,
        log: LogKind,
        range: Range<u64>,
        kind: DamageKind,
        item: Option<MessageItem>,
    ) {
        if known.len() >= KNOWN_MAX || !known.insert((log, range.start, kind)) {
            return;
        }
        tracing::error!(%log, begin = range.start, end = range.end, ?kind, "damage found");
        let message = item.and_then(|item| {
            let id = self.reader.subject(&item.subject)?;
            Some((self.reader.name(id)?, item.sequence))
        });
        self.update(|report| {
            report.damage_count += 1;
            if report.damages.len() < DAMAGES_LISTED_MAX {
                report.damages.push(Damage {
                    log,
                    range,
                    kind,
                    message,
                });
            }
        });
    }

    fn update(&self, change: impl FnOnce(&mut ScrubReport)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
