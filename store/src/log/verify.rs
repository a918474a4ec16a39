//! Compares durable bytes with the checksums that were kept of them.

use std::ops::Range;

use crate::error::Error;
use crate::log::commit::CommitRecord;
use crate::log::segment::Segments;
use crate::log::sums::Stretch;

/// Bytes are read in pieces of this size.
const PIECE_BYTES: u64 = 64 << 10;

/// What some bytes should be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim {
    range: Range<u64>,
    crc: u32,
    is_damaged: bool,
}

/// Checks claims in ascending order, as far as it is asked, and remembers which failed.
pub(crate) struct Verifier<'a> {
    segments: &'a Segments,
    claims: Vec<Claim>,
    checked: usize,
    damaged: Vec<Range<u64>>,
    /// What checksum files cover, ascending, without overlaps.
    covered: Vec<Range<u64>>,
}

impl<'a> Verifier<'a> {
    /// `stretches` come from checksum files, sorted by start; `batches` that they do not cover
    /// are checked too.
    pub(crate) fn new(
        segments: &'a Segments,
        stretches: &[Stretch],
        batches: impl Iterator<Item = &'a CommitRecord>,
    ) -> Self {
        let covered = merge(stretches);
        let from_sums = stretches.iter().map(|stretch| {
            let (range, crc, is_damaged) = (stretch.range(), stretch.crc, stretch.is_damaged);
            Claim {
                range,
                crc,
                is_damaged,
            }
        });
        let uncovered = batches.filter(|batch| !contains(&covered, &batch.range()));
        let from_ring = uncovered.map(|batch| Claim {
            range: batch.range(),
            crc: batch.crc,
            is_damaged: false,
        });
        let mut claims: Vec<Claim> = from_sums.chain(from_ring).collect();
        claims.sort_by_key(|claim| claim.range.start);
        Self {
            segments,
            claims,
            checked: 0,
            damaged: Vec::new(),
            covered,
        }
    }

    /// Whether nothing is known against the bytes of `range`. Ranges are asked in ascending order.
    pub(crate) fn is_good(&mut self, range: &Range<u64>) -> Result<bool, Error> {
        self.check_before(range.end)?;
        let overlaps =
            |damaged: &Range<u64>| damaged.start < range.end && range.start < damaged.end;
        // Claims hardly overlap, so those that matter are the last ones.
        let mut near = self
            .damaged
            .iter()
            .rev()
            .take_while(|damaged| damaged.end > range.start.saturating_sub(PIECE_BYTES));
        Ok(!near.any(overlaps))
    }

    /// Checks every claim that begins before `offset`.
    pub(crate) fn check_before(&mut self, offset: u64) -> Result<(), Error> {
        while let Some(claim) = self.claims.get(self.checked)
            && claim.range.start < offset
        {
            if claim.is_damaged || checksum(self.segments, claim.range.clone())? != claim.crc {
                self.damaged.push(claim.range.clone());
            }
            self.checked += 1;
        }
        Ok(())
    }

    /// Ranges that failed so far, by start.
    pub(crate) fn damaged(&self) -> &[Range<u64>] {
        &self.damaged
    }

    /// The parts of `range` that no checksum file covers.
    pub(crate) fn uncovered(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut at = range.start;
        for covered in &self.covered {
            if covered.start > at {
                gaps.push(at..covered.start.min(range.end));
            }
            at = at.max(covered.end);
            if at >= range.end {
                break;
            }
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps.retain(|gap| gap.start < gap.end);
        gaps
    }
}

fn merge(stretches: &[Stretch]) -> Vec<Range<u64>> {
    let mut merged: Vec<Range<u64>> = Vec::new();
    for stretch in stretches {
        match merged.last_mut() {
            Some(last) if stretch.start <= last.end => last.end = last.end.max(stretch.end()),
            _ => merged.push(stretch.range()),
        }
    }
    merged
}

fn contains(covered: &[Range<u64>], range: &Range<u64>) -> bool {
    let after = covered.partition_point(|covered| covered.start <= range.start);
    after > 0 && covered[after - 1].end >= range.end
}

/// CRC-32C of the bytes of a range as they are on disk.
pub(crate) fn checksum(segments: &Segments, range: Range<u64>) -> Result<u32, Error> {
    let mut crc = 0;
    for_each_piece(segments, range, |_, piece| {
        crc = crc32c::crc32c_append(crc, piece)
    })?;
    Ok(crc)
}

/// Reads a range in pieces, in order; what is not on disk reads as zeros.
pub(crate) fn for_each_piece(
    segments: &Segments,
    range: Range<u64>,
    mut visit: impl FnMut(u64, &[u8]),
) -> Result<(), Error> {
    let longest = (range.end - range.start).min(PIECE_BYTES);
    let mut buffer = vec![0; usize::try_from(longest).expect("at most PIECE_BYTES")];
    let mut at = range.start;
    while at < range.end {
        let len = usize::try_from((range.end - at).min(PIECE_BYTES)).expect("at most PIECE_BYTES");
        let piece = &mut buffer[..len];
        segments.read_or_zeros(piece, at)?;
        visit(at, piece);
        at += len as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(start: u64, length: u32) -> Stretch {
        Stretch {
            start,
            length,
            crc: 0,
            is_damaged: false,
        }
    }

    #[test]
    fn merges_neighbours_and_overlaps() {
        let merged = merge(&[
            stretch(0, 10),
            stretch(10, 5),
            stretch(12, 8),
            stretch(30, 1),
        ]);
        assert_eq!(merged, [0..20, 30..31]);
        assert!(contains(&merged, &(3..20)));
        assert!(!contains(&merged, &(3..21)));
        assert!(!contains(&merged, &(20..30)));
    }
}
