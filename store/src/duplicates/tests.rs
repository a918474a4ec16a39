//! Tests of the duplicate window, against a plain list too.

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
    let bytes_max = 8_000_000;
    let mut duplicates = Duplicates::new(WINDOW, bytes_max);
    for n in 0..600_000_u64 {
        let spread = Fingerprint::of_payload(9, &payload(0, 1, 2, &n.to_be_bytes()));
        duplicates.push(entry(spread.unwrap().0, 5, n), n % 3 == 0);
    }
    let tables = |share: &Share| {
        let bytes = share.places.iter().map(HashTable::allocation_size);
        bytes.sum::<usize>() + TABLES * size_of::<HashTable<u32>>()
    };
    let used = duplicates
        .shares
        .iter()
        .map(|share| share.entries.allocated_bytes() + tables(share));
    let used: usize = used.sum();
    assert!(used <= bytes_max + DUPLICATE_FIXED_BYTES, "{used}");
    assert!(used >= bytes_max / 2, "{used}");
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
