//! A queue of entries in chunks: it grows and shrinks without ever moving what is in it. With
//! millions of entries moving them all at once would hold up every sender.

use std::collections::VecDeque;

use super::Entry;

/// Entries of one chunk.
pub(crate) const CHUNK_ENTRIES: usize = 4096;

/// Entries, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Chunked {
    /// All but the last are full; the first `skipped` entries of the first one are gone.
    chunks: VecDeque<Vec<Entry>>,
    skipped: usize,
    len: usize,
}

impl Chunked {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The entry at this place from the front; it has to be there.
    pub(crate) fn get(&self, at: usize) -> &Entry {
        let at = at + self.skipped;
        &self.chunks[at / CHUNK_ENTRIES][at % CHUNK_ENTRIES]
    }

    pub(crate) fn front(&self) -> Option<&Entry> {
        (self.len > 0).then(|| self.get(0))
    }

    pub(crate) fn back(&self) -> Option<&Entry> {
        self.chunks.back().and_then(|chunk| chunk.last())
    }

    pub(crate) fn push_back(&mut self, entry: Entry) {
        self.len += 1;
        if let Some(last) = self.chunks.back_mut()
            && last.len() < CHUNK_ENTRIES
        {
            return last.push(entry);
        }
        let mut chunk = Vec::with_capacity(CHUNK_ENTRIES);
        chunk.push(entry);
        self.chunks.push_back(chunk);
    }

    pub(crate) fn pop_front(&mut self) -> Option<Entry> {
        let entry = *self.front()?;
        self.skipped += 1;
        self.len -= 1;
        if self.skipped == CHUNK_ENTRIES {
            self.chunks.pop_front();
            self.skipped = 0;
        }
        self.forget_if_empty();
        Some(entry)
    }

    pub(crate) fn pop_back(&mut self) -> Option<Entry> {
        if self.len == 0 {
            return None;
        }
        let last = self.chunks.back_mut()?;
        let entry = last.pop()?;
        if last.is_empty() {
            self.chunks.pop_back();
        }
        self.len -= 1;
        self.forget_if_empty();
        Some(entry)
    }

    fn forget_if_empty(&mut self) {
        if self.len == 0 {
            self.chunks.clear();
            self.skipped = 0;
        }
    }

    /// How many entries at the front satisfy `is_before`; all that do stand before all others.
    pub(crate) fn partition_point(&self, is_before: impl Fn(&Entry) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len);
        while low < high {
            let middle = low.midpoint(high);
            if is_before(self.get(middle)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Bytes taken by chunks.
    #[cfg(test)]
    pub(crate) fn allocated_bytes(&self) -> usize {
        self.chunks.len() * CHUNK_ENTRIES * size_of::<Entry>()
    }
}

#[cfg(test)]
mod tests {
    use qmq_model::{MessageOffset, UnixMillis};
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::super::Fingerprint;
    use super::*;

    fn entry(number: u64) -> Entry {
        Entry {
            fingerprint: Fingerprint(u128::from(number)),
            end: MessageOffset(number),
            time: UnixMillis(0),
        }
    }

    #[test]
    fn behaves_as_a_plain_queue() {
        let seed = rand::random::<u64>();
        println!("seed {seed}");
        let mut rng = SmallRng::seed_from_u64(seed);
        let (mut chunked, mut plain) = (Chunked::default(), VecDeque::new());
        for number in 0..60_000 {
            // Long stretches of growing and of shrinking at either end.
            let grows = (number / 7_000) % 2 == 0;
            match rng.random_range(0..10) {
                0..8 if grows => {
                    chunked.push_back(entry(number));
                    plain.push_back(entry(number));
                }
                0..7 => assert_eq!(chunked.pop_front(), plain.pop_front()),
                _ => assert_eq!(chunked.pop_back(), plain.pop_back()),
            }
            assert_eq!(chunked.len(), plain.len());
            assert_eq!(chunked.front(), plain.front());
            assert_eq!(chunked.back(), plain.back());
            if number % 500 == 0 {
                assert!((0..plain.len()).all(|at| *chunked.get(at) == plain[at]));
                let limit = rng.random_range(0..=number + 1);
                let is_before = |entry: &Entry| entry.end.0 < limit;
                assert_eq!(
                    chunked.partition_point(is_before),
                    plain.partition_point(is_before)
                );
                let most = plain.len() * size_of::<Entry>();
                let slack = 2 * CHUNK_ENTRIES * size_of::<Entry>();
                assert!(chunked.allocated_bytes() <= most + slack);
            }
        }
    }
}
