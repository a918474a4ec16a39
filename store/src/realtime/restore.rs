//! The index of one stretch of the messagelog, read again because its run cannot be used.

use std::ops::Range;

use crate::error::Error;
use crate::log::scan::{Found, scan_to};
use crate::log::segment::Segments;
use crate::log::sums::stretches_of;
use crate::log::verify::Verifier;
use crate::realtime::consumer_log::tail::Tail;
use crate::realtime::consumer_log::{ConsumerLog, Located, SubjectId};
use crate::realtime::message_log::{MessageFormat, MessageItem, PayloadSubject};

/// Reads from the start of `range`, where a record begins, until at least `bytes` are read or the
/// segment ends, and puts what it finds into `tail`. Returns where it ended.
///
/// The stretch lies in front of a checkpoint, so every subject in it has its number.
pub(crate) fn read_stretch(
    log: &ConsumerLog,
    segments: &Segments,
    range: Range<u64>,
    bytes: u64,
    tail: &Tail,
) -> Result<u64, Error> {
    let base = segments.base_of(range.start);
    let end = range.end.min(base + segments.segment_bytes());
    let stretches = stretches_of(segments, base)?;
    let mut verifier = Verifier::new(segments, &stretches, std::iter::empty());
    let (at, enough) = (range.start, range.start + bytes);
    let known = |item: &MessageItem| {
        let id = log.subject(&item.subject)?;
        let is_new = item.sequence.0 >= tail.bounds(id).end;
        is_new.then_some(id)
    };
    // A header that nothing vouches for must be the next one of its subject.
    let is_next = |id: SubjectId, item: &MessageItem| {
        let next = tail.bounds(id).end;
        let is_same = item.payload_subject == PayloadSubject::Same;
        is_same && next > 0 && item.sequence.0 == next
    };
    scan_to(
        segments,
        &MessageFormat::default(),
        at..end,
        enough,
        &mut verifier,
        |found| match found {
            Found::Record {
                range,
                item,
                is_trusted,
            } => {
                if let Some(id) = known(&item).filter(|id| is_trusted || is_next(*id, &item)) {
                    tail.push(&Located::of(id, &range, &item));
                }
            }
            Found::Damage {
                range,
                item: Some(item),
            } => {
                if let Some(id) = known(&item).filter(|id| is_next(*id, &item)) {
                    tail.push_quarantined(
                        id,
                        item.sequence.0,
                        qmq_model::MessageOffset(range.start),
                    );
                }
            }
            Found::Damage { item: None, .. } | Found::Missing { .. } => {}
        },
    )
}
