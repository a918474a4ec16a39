//! What the logs say behind a checkpoint, read at start.

use std::ops::Range;

use qmq_model::Subject;

use crate::delay::checkpoint::DelayCheckpoint;
use crate::delay::dispatch_log::DispatchFormat;
use crate::delay::entry::Key;
use crate::delay::message_log::{DelayedFormat, DelayedItem, RECORD_BYTES_MIN};
use crate::delay::report::DelayReport;
use crate::delay::run::Runs;
use crate::delay::shared::{State, Subjects};
use crate::delay::table::{Row, Spot, Table};
use crate::delay::uncut::Full;
use crate::error::Error;
use crate::format::LogKind;
use crate::log::scan::{Found, scan};
use crate::log::segment::Segments;
use crate::log::verify::Verifier;
use crate::report::{Damage, DamageKind, Findings};

/// The state while the logs are read.
pub(crate) struct Rebuild {
    pub(crate) state: State,
    /// The book includes the write-ahead log in front of this.
    included: u64,
    /// Messages in front of this are in runs.
    covered: u64,
    /// When a table is full.
    full: Full,
    /// Bytes that hold nothing readable.
    lost_bytes: u64,
}

impl Rebuild {
    /// Begins with a checkpoint, if there is one.
    pub(crate) fn new(
        checkpoint: Option<DelayCheckpoint>,
        covered: u64,
        runs: Runs,
        full: Full,
    ) -> Self {
        let included = checkpoint.as_ref().map_or(0, |found| found.positions[0]);
        let (subjects, mut book) = match checkpoint {
            Some(found) => (found.subjects, found.book),
            None => (Vec::new(), crate::delay::book::Book::new()),
        };
        for (run, _) in runs.iter() {
            book.next = book.next.max(run.sequences().end() + 1);
        }
        Self {
            state: State {
                book,
                subjects: Subjects::new(subjects),
                table: Table::at(covered),
                frozen: Vec::new(),
                runs,
                moves: 0,
            },
            included,
            covered,
            full,
            lost_bytes: 0,
        }
    }

    /// Reads the write-ahead log.
    pub(crate) fn messages(
        &mut self,
        segments: &Segments,
        range: Range<u64>,
        verifier: &mut Verifier<'_>,
        report: &mut DelayReport,
    ) -> Result<(), Error> {
        scan(segments, &DelayedFormat, range, verifier, |found| {
            let kind = match &found {
                // Its own checksum vouches for it.
                Found::Record { range, item, .. } => {
                    self.message(range, item);
                    report.messages.records += 1;
                    return;
                }
                Found::Damage { .. } => DamageKind::Record,
                Found::Missing { .. } => DamageKind::Missing,
            };
            let range = found.range().clone();
            self.lost_bytes += range.end - range.start;
            report.add(Damage {
                log: LogKind::Delayed,
                range,
                kind,
                message: None,
            });
        })
    }

    fn message(&mut self, range: &Range<u64>, item: &DelayedItem) {
        let Ok(name) = Subject::new(&item.subject) else {
            return;
        };
        let subject = self.state.subjects.intern(&name);
        if range.start >= self.included {
            self.state.book.accept(item.key, item.replaces);
        }
        if range.start >= self.covered {
            let bytes = u32::try_from(range.end - range.start);
            let spot = Spot {
                offset: range.start,
                bytes: bytes.expect("a record has less than 2^32 bytes"),
                subject,
            };
            if self.full.is_reached(&self.state.table, range.start) {
                // All of it is durable and has checksums when the start is done.
                let full = self.state.table.completed(range.start);
                self.state.freeze(full);
            }
            self.state.table.insert(Row {
                key: item.key,
                spot,
                id_hash: item.id_hash,
            });
        }
    }

    /// Reads the dispatch log.
    pub(crate) fn dispatches(
        &mut self,
        segments: &Segments,
        range: Range<u64>,
        verifier: &mut Verifier<'_>,
        report: &mut DelayReport,
    ) -> Result<(), Error> {
        let book = &mut self.state.book;
        scan(segments, &DispatchFormat, range, verifier, |found| {
            let (range, kind) = match found {
                Found::Record { item, .. } => {
                    book.apply(item.verb, &item.group, &item.keys);
                    report.dispatch.records += 1;
                    return;
                }
                Found::Damage { range, .. } => (range, DamageKind::Record),
                Found::Missing { range } => (range, DamageKind::Missing),
            };
            report.add(Damage {
                log: LogKind::Dispatch,
                range,
                kind,
                message: None,
            });
        })
    }

    /// Makes sure that no number is given twice: as many as may have stood in damaged bytes are
    /// skipped.
    pub(crate) fn raise_sequences(&mut self, report: &mut DelayReport) {
        if self.lost_bytes > 0 {
            let by = self.lost_bytes / RECORD_BYTES_MIN as u64 + 1;
            self.state.book.next += by;
            report.sequences_raised = by;
        }
    }
}

/// What is begun, by number.
pub(crate) fn begun_keys(state: &State) -> Vec<Key> {
    let begun = state.book.begun.iter();
    let mut keys: Vec<Key> = begun
        .map(|(sequence, at)| Key {
            due: at.due,
            sequence: *sequence,
        })
        .collect();
    keys.sort_unstable();
    keys
}
