//! The duplicate window after a restart: from its files, and from the log where there are none.

use std::collections::VecDeque;

use qmq_model::{MessageOffset, UnixMillis};
use uuid::Uuid;

use crate::config::{Sabotage, StoreConfig};
use crate::duplicates::files::{DuplicateFiles, Loaded};
use crate::duplicates::{Duplicates, Entry, seed_of};
use crate::error::Error;
use crate::log::scan::{Found, scan};
use crate::log::segment::Segments;
use crate::log::verify::Verifier;
use crate::realtime::message_log::{FingerprintsOf, MessageFormat, MessageItem};

/// Most bytes of the messagelog that are read again at a start because files are missing. What is
/// in longer gaps is forgotten.
const GAP_BYTES_MAX: u64 = 1 << 30;

/// The window while it is put together.
pub(crate) struct Rebuilding {
    duplicates: Duplicates,
    files: DuplicateFiles,
    loaded: Loaded,
    /// Read from the log, in its order; of too many the newest.
    read: VecDeque<(Entry, bool)>,
    since: UnixMillis,
    seed: u64,
    is_off: bool,
}

impl Rebuilding {
    /// Begins with what files hold.
    pub(crate) fn new(
        (files, loaded): (DuplicateFiles, Loaded),
        store: Uuid,
        config: &StoreConfig,
        now: UnixMillis,
    ) -> Self {
        let duplicates = Duplicates::new(config.duplicate_window, config.duplicate_bytes_max);
        let is_off = duplicates.is_off() || config.sabotage == Sabotage::ForgetDuplicates;
        let since = duplicates.since(now);
        let seed = seed_of(store);
        Self {
            duplicates,
            files,
            loaded,
            read: VecDeque::new(),
            since,
            seed,
            is_off,
        }
    }

    /// Reads what the files leave out up to `start`, with verifiers from `verify`. From there on
    /// the caller reads, and shows what it finds to [`Self::take`].
    pub(crate) fn fill<'a>(
        &mut self,
        segments: &Segments,
        start: u64,
        verify: impl Fn() -> Verifier<'a>,
    ) -> Result<(), Error> {
        if self.loaded.gaps.is_empty() {
            // There is no file: none was written yet, or a power cut took the only one.
            let first = segments.bases().first().copied().unwrap_or(0);
            self.loaded.gaps.push(first..u64::MAX);
        }
        let mut gap_bytes = 0;
        for gap in self.loaded.gaps.clone() {
            let gap = gap.start..gap.end.min(start);
            if gap.is_empty() {
                continue;
            }
            if self.is_off {
                self.files.begin(gap.end);
                continue;
            }
            gap_bytes += gap.end - gap.start;
            if gap_bytes <= GAP_BYTES_MAX {
                let format = self.format();
                scan(segments, &format, gap, &mut verify(), |found| {
                    self.push(&found)
                })?;
            } else {
                let (start, end) = (gap.start, gap.end);
                tracing::warn!(start, end, "duplicates in a long gap are forgotten");
                self.files.begin(end);
            }
        }
        // What was read behind the last file goes into the next one.
        Ok(())
    }

    /// All that is known now, in the order of the log.
    pub(crate) fn finish(mut self) -> (Duplicates, DuplicateFiles) {
        let since = self.since;
        let mut all = std::mem::take(&mut self.loaded.entries);
        all.extend(self.read);
        // Two ascending lists, nearly: cheap to sort.
        all.sort_by_key(|(entry, _)| entry.end);
        let lately = all.into_iter().filter(|(entry, _)| entry.time >= since);
        for (entry, is_delayed) in lately.filter(|_| !self.is_off) {
            self.duplicates.push(entry, is_delayed);
        }
        (self.duplicates, self.files)
    }

    /// Reads messages with what is needed here.
    pub(crate) fn format(&self) -> MessageFormat {
        let (seed, since) = (self.seed, self.since);
        let fingerprints = (!self.is_off).then_some(FingerprintsOf { seed, since });
        MessageFormat { fingerprints }
    }

    /// Takes note of a message, unless a file holds it.
    pub(crate) fn take(&mut self, found: &Found<MessageItem>) {
        let at = found.range().start;
        let covered = &self.loaded.covered;
        let after = covered.partition_point(|range| range.start <= at);
        let is_known = after > 0 && at < covered[after - 1].end;
        if !is_known {
            self.push(found);
        }
    }

    fn push(&mut self, found: &Found<MessageItem>) {
        let Found::Record {
            range,
            item,
            is_trusted: true,
        } = found
        else {
            return;
        };
        if let Some((fingerprint, is_delayed)) = item.fingerprint {
            let entry = Entry {
                fingerprint,
                end: MessageOffset(range.end),
                time: item.time,
            };
            if self.read.len() >= self.duplicates.entries_max() {
                self.read.pop_front();
            }
            self.read.push_back((entry, is_delayed));
        }
    }
}
