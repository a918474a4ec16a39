//! Walks over the records of a log, past damage: what cannot be a record is quarantined, and the
//! next good one is searched.

use std::ops::Range;

use crate::error::Error;
use crate::log::segment::Segments;
use crate::log::verify::Verifier;

/// Bytes that are read ahead of the records.
const WINDOW_BYTES: usize = 256 << 10;

/// What stands at a position.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Examined<T> {
    /// A record that can be read.
    Record {
        /// Bytes of the whole record.
        length: u64,
        /// What it says.
        item: T,
    },
    /// A record whose header can be read, but whose content does not match its checksum.
    Broken {
        /// Bytes of the whole record, if its header is right.
        length: u64,
        /// What the header says.
        item: T,
    },
    /// The filler at the end of a segment.
    Filler,
    /// Nothing that could be a record.
    Nothing,
}

/// How the records of one log look.
pub(crate) trait Format {
    /// What a record says.
    type Item;
    /// The first bytes of every record and filler.
    const MAGIC: u32;

    /// Says what stands at `offset`; the segment, or the log, ends at `limit`.
    fn examine(
        &self,
        window: &mut Window<'_>,
        offset: u64,
        limit: u64,
    ) -> Result<Examined<Self::Item>, Error>;
}

/// What a scan comes across, in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<T> {
    /// A record that can be read.
    Record {
        /// All of it.
        range: Range<u64>,
        /// What it says.
        item: T,
        /// Whether no checksum speaks against it.
        is_trusted: bool,
    },
    /// Bytes that are no record, or a broken one.
    Damage {
        /// Which bytes.
        range: Range<u64>,
        /// What the header of a broken record says.
        item: Option<T>,
    },
    /// There is no segment file for these bytes.
    Missing {
        /// Which bytes.
        range: Range<u64>,
    },
}

impl<T> Found<T> {
    /// Which bytes.
    pub(crate) fn range(&self) -> &Range<u64> {
        match self {
            Self::Record { range, .. } | Self::Damage { range, .. } | Self::Missing { range } => {
                range
            }
        }
    }
}

/// Visits everything in `range`, which begins at a record and ends behind one.
pub(crate) fn scan<F: Format>(
    segments: &Segments,
    format: &F,
    range: Range<u64>,
    verifier: &mut Verifier<'_>,
    visit: impl FnMut(Found<F::Item>),
) -> Result<(), Error> {
    let enough = range.end;
    scan_to(segments, format, range, enough, verifier, visit).map(|_| ())
}

/// The same, but ends with the record that reaches `enough`. Returns where it ended.
pub(crate) fn scan_to<F: Format>(
    segments: &Segments,
    format: &F,
    range: Range<u64>,
    enough: u64,
    verifier: &mut Verifier<'_>,
    mut visit: impl FnMut(Found<F::Item>),
) -> Result<u64, Error> {
    let end = range.end;
    let mut window = Window::new(segments);
    for (base, part) in segments.split(range) {
        if part.start >= enough {
            return Ok(part.start);
        }
        if segments.file(base).is_none() {
            visit(Found::Missing { range: part });
            continue;
        }
        let ends_segment = part.end == base + segments.segment_bytes();
        let mut walk = Walk {
            format,
            window: &mut window,
            limit: part.end,
            ends_segment,
        };
        let mut at = part.start;
        while at < part.end {
            if at >= enough {
                return Ok(at);
            }
            let (found, next) = walk.step(at, verifier)?;
            if let Some(found) = found {
                visit(found);
            }
            at = next;
        }
    }
    Ok(end)
}

struct Walk<'w, 'a, F> {
    format: &'w F,
    window: &'w mut Window<'a>,
    limit: u64,
    ends_segment: bool,
}

impl<F: Format> Walk<'_, '_, F> {
    /// What stands at `at`, and where to go on.
    #[expect(
        clippy::type_complexity,
        reason = "a name for this pair would say nothing more"
    )]
    fn step(
        &mut self,
        at: u64,
        verifier: &mut Verifier<'_>,
    ) -> Result<(Option<Found<F::Item>>, u64), Error> {
        match self.examine(at)? {
            Examined::Record { length, item } => {
                let range = at..at + length;
                let is_trusted = verifier.is_good(&range)?;
                let next = range.end;
                Ok((
                    Some(Found::Record {
                        range,
                        item,
                        is_trusted,
                    }),
                    next,
                ))
            }
            Examined::Filler if self.is_end(at, verifier)? => Ok((None, self.limit)),
            Examined::Broken { length, item } if self.is_good(at + length)? => {
                let range = at..at + length;
                let next = range.end;
                Ok((
                    Some(Found::Damage {
                        range,
                        item: Some(item),
                    }),
                    next,
                ))
            }
            Examined::Broken { .. } | Examined::Filler | Examined::Nothing => {
                let next = self.search(at + 1)?;
                Ok((
                    Some(Found::Damage {
                        range: at..next,
                        item: None,
                    }),
                    next,
                ))
            }
        }
    }

    fn examine(&mut self, at: u64) -> Result<Examined<F::Item>, Error> {
        let examined = self.format.examine(self.window, at, self.limit)?;
        Ok(match examined {
            Examined::Filler if !self.ends_segment => Examined::Nothing,
            other => other,
        })
    }

    /// Whether a filler is one: a flipped attribute must not hide the rest of a segment.
    fn is_end(&mut self, at: u64, verifier: &mut Verifier<'_>) -> Result<bool, Error> {
        Ok(
            verifier.is_good(&(at..self.limit))?
                || self.window.is_filler_padding(at, self.limit)?,
        )
    }

    /// Whether `at` is the end, or a record or filler stands there.
    fn is_good(&mut self, at: u64) -> Result<bool, Error> {
        if at >= self.limit {
            return Ok(at == self.limit);
        }
        Ok(matches!(
            self.examine(at)?,
            Examined::Record { .. } | Examined::Filler
        ))
    }

    /// The next position with a good record that another good one, a filler or the end follows.
    fn search(&mut self, from: u64) -> Result<u64, Error> {
        let mut at = from;
        while let Some(candidate) = self.window.find(F::MAGIC, at, self.limit)? {
            let is_good = match self.examine(candidate)? {
                Examined::Record { length, .. } => self.is_good(candidate + length)?,
                Examined::Filler => self.window.is_filler_padding(candidate, self.limit)?,
                Examined::Broken { .. } | Examined::Nothing => false,
            };
            if is_good {
                return Ok(candidate);
            }
            at = candidate + 1;
        }
        Ok(self.limit)
    }
}

/// Bytes of a log, read ahead. What is not on disk reads as zeros.
pub(crate) struct Window<'a> {
    segments: &'a Segments,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    pub(crate) fn new(segments: &'a Segments) -> Self {
        Self {
            segments,
            start: 0,
            bytes: Vec::new(),
        }
    }

    /// `len` bytes at `offset`, but none at or behind `limit`.
    pub(crate) fn get(&mut self, offset: u64, len: usize, limit: u64) -> Result<&[u8], Error> {
        let left = usize::try_from(limit.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = len.min(left);
        let end = self.start + self.bytes.len() as u64;
        if offset < self.start || offset + len as u64 > end {
            self.bytes.resize(len.max(WINDOW_BYTES.min(left)), 0);
            self.start = offset;
            self.segments.read_or_zeros(&mut self.bytes, offset)?;
        }
        let from = usize::try_from(offset - self.start).expect("within the window");
        Ok(&self.bytes[from..from + len])
    }

    /// Visits a range that may be larger than memory; stops early when `visit` says so.
    pub(crate) fn pieces(
        &mut self,
        range: Range<u64>,
        mut visit: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), Error> {
        let mut at = range.start;
        while at < range.end {
            let piece = self.get(at, WINDOW_BYTES, range.end)?;
            let len = piece.len() as u64;
            if !visit(piece) {
                break;
            }
            at += len;
        }
        Ok(())
    }

    /// Whether only zeros follow the longest filler header there is.
    fn is_filler_padding(&mut self, at: u64, limit: u64) -> Result<bool, Error> {
        let mut is_zero = true;
        let header = crate::format::LogKind::Message.filler_bytes();
        self.pieces(limit.min(at + header)..limit, |piece| {
            is_zero = piece.iter().all(|byte| *byte == 0);
            is_zero
        })?;
        Ok(is_zero)
    }

    /// The first place in `from..limit` where `magic` stands.
    fn find(&mut self, magic: u32, from: u64, limit: u64) -> Result<Option<u64>, Error> {
        let magic = magic.to_be_bytes();
        let mut at = from;
        loop {
            let piece = self.get(at, WINDOW_BYTES, limit)?;
            if piece.len() < magic.len() {
                return Ok(None);
            }
            if let Some(found) = piece.windows(magic.len()).position(|bytes| bytes == magic) {
                return Ok(Some(at + found as u64));
            }
            at += (piece.len() - magic.len() + 1) as u64;
        }
    }
}
