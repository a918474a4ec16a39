//! The duplicate window: which messages were appended lately, so that a producer that repeats a
//! send gets success and no second copy (pure).
//!
//! Entries stand for appended bytes only, in their order: what is rolled back or cut takes its
//! entries with it. Delayed messages have a share of their own, because a delay server repeats
//! its sends later than a producer does, when thousands of others may have come in between.

pub(crate) mod files;
pub(crate) mod rebuild;

use std::collections::VecDeque;
use std::time::Duration;

use hashbrown::HashTable;
use qmq_model::payload::{FLAG_DELAY, FLAG_TAGS};
use qmq_model::{MessageOffset, UnixMillis};
use twox_hash::XxHash3_128;
use uuid::Uuid;

/// What an entry costs in memory at most: itself, and its place in a table that is half empty.
pub const DUPLICATE_ENTRY_BYTES: usize = size_of::<Entry>() + 12;
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

/// Entries of one kind, oldest first.
#[derive(Debug)]
struct Share {
    entries: VecDeque<Entry>,
    /// Numbers of entries by fingerprint.
    places: HashTable<u32>,
    /// Number of the first entry; they rise by 1, and wrap.
    first: u32,
    entries_max: usize,
}

impl Share {
    fn new(entries_max: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            places: HashTable::new(),
            first: 0,
            entries_max: entries_max.min(u32::MAX as usize),
        }
    }

    fn find(&self, fingerprint: Fingerprint) -> Option<&Entry> {
        let (entries, first) = (&self.entries, self.first);
        let place = self.places.find(hash(fingerprint), |place| {
            entries[at(first, *place)].fingerprint == fingerprint
        })?;
        Some(&entries[at(first, *place)])
    }

    /// Adds an entry behind all others; returns the one that had to go for it.
    fn push(&mut self, entry: Entry) -> Option<Entry> {
        if self.entries_max == 0 {
            return None;
        }
        let is_full = self.entries.len() == self.entries_max;
        let evicted = if is_full { self.pop_front() } else { None };
        if self.entries.len() == self.entries.capacity() {
            // Doubles, but never beyond the bound.
            let more = self.entries.len().max(64);
            self.entries
                .reserve_exact(more.min(self.entries_max - self.entries.len()));
        }
        let count = u32::try_from(self.entries.len()).expect("at most entries_max");
        let place = self.first.wrapping_add(count);
        self.entries.push_back(entry);
        let (entries, first) = (&self.entries, self.first);
        let of = |place: &u32| entries[at(first, *place)].fingerprint;
        // Of equal ones the newest counts.
        self.places
            .entry(
                hash(entry.fingerprint),
                |place| of(place) == entry.fingerprint,
                |place| hash(of(place)),
            )
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

    fn forget(&mut self, fingerprint: Fingerprint, place: u32) {
        let found = self
            .places
            .find_entry(hash(fingerprint), |known| *known == place);
        if let Ok(found) = found {
            found.remove();
        }
    }
}

fn at(first: u32, place: u32) -> usize {
    place.wrapping_sub(first) as usize
}

fn hash(fingerprint: Fingerprint) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "any 64 of its bits are a hash"
    )]
    let low = fingerprint.0 as u64;
    low
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
                entries
                    .range(from..to.max(from))
                    .map(move |entry| (entry, delayed))
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(600);

    fn entry(fingerprint: u128, time: i64, end: u64) -> Entry {
        Entry {
            fingerprint: Fingerprint(fingerprint),
            end: MessageOffset(end),
            time: UnixMillis(time),
        }
    }

    fn with_room(entries: usize) -> Duplicates {
        // A quarter more than asked for goes to delayed messages.
        Duplicates::new(WINDOW, entries * DUPLICATE_ENTRY_BYTES * 4 / 3 + 4)
    }

    fn is_known(duplicates: &Duplicates, fingerprint: u128, now: i64) -> bool {
        duplicates
            .find(Fingerprint(fingerprint), false, UnixMillis(now))
            .is_some()
    }

    #[test]
    fn entries_expire() {
        let mut duplicates = with_room(10);
        duplicates.push(entry(1, 1_000, 10), false);
        assert!(is_known(&duplicates, 1, 601_000));
        assert!(!is_known(&duplicates, 1, 601_001));
        assert!(!is_known(&duplicates, 2, 1_000));
        duplicates.push(entry(2, 700_000, 20), false);
        assert_eq!(duplicates.oldest_end(), Some(20), "the first is gone");
        assert_eq!(duplicates.evicted_young(), 0);
    }

    #[test]
    fn the_oldest_go_for_lack_of_room_and_are_counted_when_young() {
        let mut duplicates = with_room(2);
        for (n, time) in [(1, 0), (2, 29_000), (3, 30_000), (4, 40_000)] {
            duplicates.push(entry(n, time, 10 * u64::try_from(n).unwrap()), false);
        }
        // The first was 30 seconds old when it went, the second 11.
        assert_eq!(duplicates.evicted_young(), 1);
        assert!(!is_known(&duplicates, 2, 40_000));
        assert!(is_known(&duplicates, 3, 40_000));
    }

    #[test]
    fn delayed_messages_have_their_own_share() {
        let mut duplicates = with_room(3);
        duplicates.push(entry(1, 0, 10), true);
        for n in 2..10 {
            duplicates.push(entry(n, 1, 10 * u64::try_from(n).unwrap()), false);
        }
        let found = duplicates.find(Fingerprint(1), true, UnixMillis(5));
        assert_eq!(found.map(|entry| entry.end.0), Some(10));
        assert!(
            duplicates
                .find(Fingerprint(1), false, UnixMillis(5))
                .is_none()
        );
    }

    #[test]
    fn a_window_of_zero_remembers_nothing() {
        let mut duplicates = Duplicates::new(Duration::ZERO, 1 << 20);
        duplicates.push(entry(1, 5, 10), false);
        assert!(duplicates.is_off() && !is_known(&duplicates, 1, 5));
    }

    #[test]
    fn memory_stays_below_the_bound() {
        let bytes_max = 100_000;
        let mut duplicates = Duplicates::new(WINDOW, bytes_max);
        for n in 0..20_000 {
            duplicates.push(entry(u128::from(n) << 7 | 1, 5, n), n % 3 == 0);
        }
        let used = duplicates.shares.iter().map(|share| {
            share.entries.capacity() * size_of::<Entry>() + share.places.allocation_size()
        });
        let used: usize = used.sum();
        assert!(used <= bytes_max, "{used}");
    }

    fn payload(flag: u8, create: i64, second: i64, rest: &[u8]) -> Vec<u8> {
        let mut out = vec![flag];
        out.extend_from_slice(&create.to_be_bytes());
        out.extend_from_slice(&second.to_be_bytes());
        out.extend_from_slice(rest);
        out
    }

    #[test]
    fn times_and_other_flags_do_not_count() {
        let of = |bytes: &[u8]| Fingerprint::of_payload(9, bytes).unwrap();
        let known = of(&payload(0, 1, 2, b"subject id body"));
        assert_eq!(of(&payload(1, 3, 4, b"subject id body")), known);
        assert_ne!(of(&payload(FLAG_TAGS, 1, 2, b"subject id body")), known);
        assert_ne!(of(&payload(0, 1, 2, b"subject id bodY")), known);
        assert_eq!(Fingerprint::of_payload(9, &[0; 16]), None);
        let other = Fingerprint::of_payload(8, &payload(0, 1, 2, b"subject id body"));
        assert_ne!(other, Some(known), "each store has its own");
    }

    #[test]
    fn fingerprints_never_change() {
        // They stand in files.
        let bytes = payload(0, 1, 2, b"subject id body");
        let known = Fingerprint::of_payload(9, &bytes).unwrap();
        assert_eq!(
            known.0,
            XxHash3_128::oneshot_with_seed(9, b"subject id body")
        );
        assert_eq!(seed_of(Uuid::from_u128(5 << 64 | 3)), 6);
        // From the published test vectors of XXH3: the hash of nothing with seed 0.
        let nothing = 0x99aa_06d3_0147_98d8_6001_c324_468d_497f;
        assert_eq!(XxHash3_128::oneshot_with_seed(0, b""), nothing);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(u8),
        Find(u8),
        Cut(u8),
        Wait(u16),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..40u8).prop_map(Step::Push),
            4 => (0..40u8).prop_map(Step::Find),
            1 => (0..5u8).prop_map(Step::Cut),
            1 => (0..60_000u16).prop_map(Step::Wait),
        ];
        proptest::collection::vec(step, 0..300)
    }

    proptest! {
        #[test]
        fn pieces_hash_like_the_whole(
            bytes in proptest::collection::vec(any::<u8>(), 17..400), piece in 1..50usize,
        ) {
            let mut hasher = FingerprintHasher::new(7, bytes[0]);
            bytes.chunks(piece).for_each(|piece| hasher.update(piece));
            prop_assert_eq!(Some(hasher.finish()), Fingerprint::of_payload(7, &bytes));
        }

        #[test]
        fn agrees_with_a_list(steps in steps(), room in 1..30usize) {
            let mut duplicates = with_room(room);
            // Fingerprint, time, end.
            let mut list: Vec<(u8, i64, u64)> = Vec::new();
            let (mut now, mut end) = (0, 0);
            for step in steps {
                match step {
                    Step::Wait(millis) => now += i64::from(millis),
                    // A repeat is not appended.
                    Step::Push(n) if is_known(&duplicates, n.into(), now) => {}
                    Step::Push(n) => {
                        end += 10;
                        duplicates.push(entry(u128::from(n), now, end), false);
                        list.retain(|known| known.1 >= now - 600_000);
                        list.push((n, now, end));
                        if list.len() > room {
                            list.remove(0);
                        }
                    }
                    Step::Cut(count) => {
                        end -= (10 * u64::from(count)).min(end);
                        duplicates.truncate(end);
                        list.retain(|known| known.2 <= end);
                    }
                    Step::Find(n) => {
                        let newest = list.iter().find(|known| known.0 == n);
                        let wanted = newest.filter(|known| known.1 >= now - 600_000);
                        let found = duplicates.find(Fingerprint(n.into()), false, UnixMillis(now));
                        let found = found.map(|found| found.end.0);
                        prop_assert_eq!(found, wanted.map(|known| known.2));
                    }
                }
                prop_assert_eq!(duplicates.count_above(0), list.len());
            }
        }
    }
}
