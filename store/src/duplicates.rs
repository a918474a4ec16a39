//! The duplicate window: which messages were appended lately, so that a producer that repeats a
//! send gets success and no second copy (pure).
//!
//! Entries stand for appended bytes only, in their order: what is rolled back or cut takes its
//! entries with it. Delayed messages have a share of their own, because a delay server repeats
//! its sends later than a producer does, when thousands of others may have come in between.

mod chunked;
pub(crate) mod files;
pub(crate) mod rebuild;

use std::time::Duration;

use chunked::Chunked;
use hashbrown::HashTable;
use qmq_model::payload::{FLAG_DELAY, FLAG_TAGS};
use qmq_model::{MessageOffset, UnixMillis};
use twox_hash::XxHash3_128;
use uuid::Uuid;

/// What an entry costs in memory at most: itself, and its place in a table that is half empty.
pub const DUPLICATE_ENTRY_BYTES: usize = size_of::<Entry>() + 20;
/// What the window costs beside that at most: chunks that are not full, and small tables.
pub const DUPLICATE_FIXED_BYTES: usize = 1 << 20;
/// Entries that go younger than this for lack of room are counted: a repeat may slip through.
pub const DUPLICATE_YOUNG: Duration = Duration::from_secs(30);
/// One part in this many of the room belongs to delayed messages.
const DELAYED_PART: usize = 4;
/// Flag and times, which a repeat may change.
const UNHASHED_BYTES: usize = 17;

/// Tells messages apart: a hash of subject, message id, tags and body, never of the times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub u128);

/// Takes the fingerprint of a payload, in one piece or in several.
pub(crate) struct FingerprintHasher {
    hasher: XxHash3_128,
    unhashed: usize,
}

/// What makes the fingerprints of a store its own.
pub(crate) fn seed_of(store: Uuid) -> u64 {
    let (high, low) = store.as_u64_pair();
    high ^ low
}

/// Without tags nothing says that there are none but the flag.
fn seed_for(seed: u64, flag: u8) -> u64 {
    seed ^ u64::from(flag & FLAG_TAGS)
}

impl Fingerprint {
    /// That of a payload; `None` when it is too short to be one.
    pub(crate) fn of_payload(seed: u64, payload: &[u8]) -> Option<Self> {
        let hashed = payload.get(UNHASHED_BYTES..)?;
        let seed = seed_for(seed, payload[0]);
        Some(Self(XxHash3_128::oneshot_with_seed(seed, hashed)))
    }
}

impl FingerprintHasher {
    /// For a payload that begins with this flag byte.
    pub(crate) fn new(seed: u64, flag: u8) -> Self {
        Self {
            hasher: XxHash3_128::with_seed(seed_for(seed, flag)),
            unhashed: UNHASHED_BYTES,
        }
    }

    pub(crate) fn update(&mut self, piece: &[u8]) {
        let skip = self.unhashed.min(piece.len());
        self.unhashed -= skip;
        self.hasher.write(&piece[skip..]);
    }

    pub(crate) fn finish(&self) -> Fingerprint {
        Fingerprint(self.hasher.finish_128())
    }
}

/// Whether a payload belongs to the share of delayed messages.
pub(crate) fn is_delayed(payload: &[u8]) -> bool {
    payload.first().is_some_and(|flag| flag & FLAG_DELAY != 0)
}

/// One appended message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) fingerprint: Fingerprint,
    /// End of its record.
    pub(crate) end: MessageOffset,
    /// When it was appended.
    pub(crate) time: UnixMillis,
}

/// Tables of one share, by hash: a table that grows moves all of it, and senders wait meanwhile.
const TABLES: usize = 256;

/// Where an entry is. With a part of the fingerprint a table grows, and rules out what it does not
/// hold, without a look at entries, which are anywhere in memory.
#[derive(Clone, Copy, Debug)]
struct Place {
    tag: u32,
    number: u32,
}

impl Place {
    fn hash(&self) -> u64 {
        hash(self.tag)
    }
}

/// Entries of one kind, oldest first.
#[derive(Debug)]
struct Share {
    entries: Chunked,
    /// Where entries are, by fingerprint.
    places: Vec<HashTable<Place>>,
    /// Number of the first entry; they rise by 1, and wrap.
    first: u32,
    entries_max: usize,
}

impl Share {
    fn new(entries_max: usize) -> Self {
        Self {
            entries: Chunked::default(),
            places: (0..TABLES).map(|_| HashTable::new()).collect(),
            first: 0,
            entries_max: entries_max.min(u32::MAX as usize),
        }
    }

    /// Brings the part of a table that [`Self::find`] and [`Self::push`] will look at closer. Memory
    /// is slow, but not when it is asked for many things before the first is needed.
    fn approach(&self, fingerprint: Fingerprint) {
        let found = self.places[table(fingerprint)].find(hash(tag(fingerprint)), |_| false);
        std::hint::black_box(found);
    }

    fn find(&self, fingerprint: Fingerprint) -> Option<&Entry> {
        let (entries, first, tag) = (&self.entries, self.first, tag(fingerprint));
        let is_it = |place: &Place| {
            place.tag == tag && entries.get(at(first, place.number)).fingerprint == fingerprint
        };
        let place = self.places[table(fingerprint)].find(hash(tag), is_it)?;
        Some(entries.get(at(first, place.number)))
    }

    /// Adds an entry behind all others; returns the one that had to go for it.
    fn push(&mut self, entry: Entry) -> Option<Entry> {
        if self.entries_max == 0 {
            return None;
        }
        let is_full = self.entries.len() == self.entries_max;
        let evicted = if is_full { self.pop_front() } else { None };
        let count = u32::try_from(self.entries.len()).expect("at most entries_max");
        let tag = tag(entry.fingerprint);
        let place = Place {
            tag,
            number: self.first.wrapping_add(count),
        };
        self.entries.push_back(entry);
        let (entries, first) = (&self.entries, self.first);
        let is_it = |place: &Place| {
            place.tag == tag
                && entries.get(at(first, place.number)).fingerprint == entry.fingerprint
        };
        // Of equal ones the newest counts.
        self.places[table(entry.fingerprint)]
            .entry(hash(tag), is_it, Place::hash)
            .and_modify(|known| *known = place)
            .or_insert(place);
        evicted
    }

    fn pop_front(&mut self) -> Option<Entry> {
        let entry = self.entries.front().copied()?;
        self.forget(entry.fingerprint, self.first);
        self.first = self.first.wrapping_add(1);
        self.entries.pop_front()
    }

    fn pop_back(&mut self) -> Option<Entry> {
        let entry = self.entries.back().copied()?;
        let last = u32::try_from(self.entries.len() - 1).expect("at most entries_max");
        self.forget(entry.fingerprint, self.first.wrapping_add(last));
        self.entries.pop_back()
    }

    fn forget(&mut self, fingerprint: Fingerprint, number: u32) {
        let is_it = |known: &Place| known.number == number;
        let found = self.places[table(fingerprint)].find_entry(hash(tag(fingerprint)), is_it);
        if let Ok(found) = found {
            found.remove();
        }
    }
}

fn at(first: u32, place: u32) -> usize {
    place.wrapping_sub(first) as usize
}

/// Which table: by bits that [`tag`] does not use.
fn table(fingerprint: Fingerprint) -> usize {
    usize::try_from(fingerprint.0 >> 64 & (TABLES as u128 - 1)).expect("below the number of tables")
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "any 32 of its bits tell most of them apart"
)]
fn tag(fingerprint: Fingerprint) -> u32 {
    fingerprint.0 as u32
}

/// Tables look at the lowest and at the highest bits.
fn hash(tag: u32) -> u64 {
    u64::from(tag) << 32 | u64::from(tag)
}

/// All entries of a store.
#[derive(Debug)]
pub(crate) struct Duplicates {
    window: Duration,
    /// Messages without and with the delay bit.
    shares: [Share; 2],
    evicted_young: u64,
}

impl Duplicates {
    /// Remembers for `window` (zero: nothing), with `bytes_max` bytes of memory at most.
    pub(crate) fn new(window: Duration, bytes_max: usize) -> Self {
        let all = if window.is_zero() {
            0
        } else {
            bytes_max / DUPLICATE_ENTRY_BYTES
        };
        let delayed = all / DELAYED_PART;
        Self {
            window,
            shares: [Share::new(all - delayed), Share::new(delayed)],
            evicted_young: 0,
        }
    }

    pub(crate) fn is_off(&self) -> bool {
        self.window.is_zero()
    }

    /// What fingerprints are made with in this store; `None` when nothing is remembered.
    pub(crate) fn seed(&self, store: Uuid) -> Option<u64> {
        (!self.is_off()).then(|| seed_of(store))
    }

    /// Entries before this have expired.
    pub(crate) fn since(&self, now: UnixMillis) -> UnixMillis {
        let window = i64::try_from(self.window.as_millis()).unwrap_or(i64::MAX);
        UnixMillis(now.0.saturating_sub(window))
    }

    /// To be called for some messages before [`Self::find`] is called for the first of them.
    pub(crate) fn approach(&self, fingerprint: Fingerprint, is_delayed: bool) {
        self.shares[usize::from(is_delayed)].approach(fingerprint);
    }

    /// The entry of a message that was appended lately.
    pub(crate) fn find(
        &self,
        fingerprint: Fingerprint,
        is_delayed: bool,
        now: UnixMillis,
    ) -> Option<Entry> {
        let found = self.shares[usize::from(is_delayed)].find(fingerprint)?;
        (found.time >= self.since(now)).then_some(*found)
    }

    /// Remembers a message that was appended at the end.
    pub(crate) fn push(&mut self, entry: Entry, is_delayed: bool) {
        let since = self.since(entry.time);
        let share = &mut self.shares[usize::from(is_delayed)];
        while share
            .entries
            .front()
            .is_some_and(|first| first.time < since)
        {
            share.pop_front();
        }
        if let Some(evicted) = share.push(entry) {
            let age = entry.time.0.saturating_sub(evicted.time.0);
            if u128::from(age.unsigned_abs()) < DUPLICATE_YOUNG.as_millis() {
                self.evicted_young += 1;
            }
        }
    }

    /// Forgets what stands above `end`: it was rolled back.
    pub(crate) fn truncate(&mut self, end: u64) {
        for share in &mut self.shares {
            while share.entries.back().is_some_and(|last| last.end.0 > end) {
                share.pop_back();
            }
        }
    }

    /// Most entries there can be.
    pub(crate) fn entries_max(&self) -> usize {
        self.shares.iter().map(|share| share.entries_max).sum()
    }

    /// How many entries went younger than [`DUPLICATE_YOUNG`] for lack of room.
    pub(crate) fn evicted_young(&self) -> u64 {
        self.evicted_young
    }

    /// Entries whose records end in `above + 1..=upto`, each with whether it is delayed.
    pub(crate) fn between(&self, above: u64, upto: u64) -> impl Iterator<Item = (&Entry, bool)> {
        self.shares
            .iter()
            .zip([false, true])
            .flat_map(move |(share, delayed)| {
                let entries = &share.entries;
                let from = entries.partition_point(|entry| entry.end.0 <= above);
                let to = entries.partition_point(|entry| entry.end.0 <= upto);
                (from..to.max(from)).map(move |at| (entries.get(at), delayed))
            })
    }

    /// How many those are.
    pub(crate) fn count_above(&self, above: u64) -> usize {
        let behind = |share: &Share| {
            let entries = &share.entries;
            entries.len() - entries.partition_point(|entry| entry.end.0 <= above)
        };
        self.shares.iter().map(behind).sum()
    }

    /// End of the oldest record that is remembered.
    pub(crate) fn oldest_end(&self) -> Option<u64> {
        let firsts = self.shares.iter().filter_map(|share| share.entries.front());
        firsts.map(|entry| entry.end.0).min()
    }
}

#[cfg(test)]
mod tests;
