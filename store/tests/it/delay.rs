//! The store of a delay server: what it does step by step, and under random load with restarts.

use qmq_model::{Subject, UnixMillis};
use qmq_store::{
    AppendError, CancelAnswer, DelayReadError, EntryState, Error, FlushMode, Found, Pending,
    RescheduleAnswer,
};
use rand::Rng;

use crate::delay_world::{DelayWorld, FAR, delayed, payload};
use crate::power_cut::{fail, first_seed};
use crate::world::{Checked, End};

fn world() -> DelayWorld {
    let mut world = DelayWorld::new(1, FlushMode::Sync);
    done(world.open(End::Close));
    world
}

pub(crate) fn done(checked: Checked) {
    checked.map_err(|trouble| trouble.to_string()).unwrap();
}

fn reopen(world: &mut DelayWorld, end: End) -> qmq_store::DelayOpened {
    match end {
        End::Close | End::Kill => world.fs.kill(),
        End::PowerCut => world.cut_power(),
    }
    world.try_open().unwrap()
}

fn subject() -> Subject {
    Subject::new("s").unwrap()
}

/// Accepts and commits messages with these ids and due times.
fn accept(writer: &mut qmq_store::DelayWriter, messages: &[(&str, i64)]) -> Vec<Pending> {
    let new: Vec<_> = messages
        .iter()
        .map(|(id, due)| delayed("s", id, *due, 10))
        .collect();
    let mut placed = Vec::new();
    writer.accept(&new, &mut placed).unwrap();
    writer.commit().unwrap();
    placed
}

fn find(reader: &qmq_store::DelayReader, id: &str) -> Vec<Found> {
    reader.find(&subject(), id.as_bytes()).unwrap()
}

fn load(reader: &qmq_store::DelayReader) -> Vec<u64> {
    let mut loaded = Vec::new();
    let more = reader
        .load(UnixMillis(0), FAR, None, 1000, &mut loaded)
        .unwrap();
    assert!(more.is_none());
    loaded.iter().map(|entry| entry.sequence.0).collect()
}

#[test]
fn messages_come_in_the_order_they_are_due() {
    let mut world = world();
    accept(
        world.writer(),
        &[("a", 30), ("b", 10), ("c", 20), ("d", 10)],
    );
    let reader = world.reader().clone();
    assert_eq!(load(&reader), [2, 4, 3, 1]);
    let mut loaded = Vec::new();
    let window = (UnixMillis(10), UnixMillis(30));
    let cursor = reader
        .load(window.0, window.1, None, 2, &mut loaded)
        .unwrap();
    assert!(cursor.is_some());
    let cursor = reader
        .load(window.0, window.1, cursor, 9, &mut loaded)
        .unwrap();
    assert!(cursor.is_none());
    let sequences: Vec<u64> = loaded.iter().map(|entry| entry.sequence.0).collect();
    assert_eq!(sequences, [2, 4, 3]);
    assert_eq!(reader.count(None, window.0..window.1).unwrap(), 3);
    assert_eq!(
        reader.count(Some(&subject()), UnixMillis(0)..FAR).unwrap(),
        4
    );
    let unknown = Subject::new("unknown").unwrap();
    assert_eq!(reader.count(Some(&unknown), UnixMillis(0)..FAR).unwrap(), 0);
}

#[test]
fn nothing_is_visible_before_its_commit() {
    let mut world = world();
    let mut placed = Vec::new();
    world
        .writer()
        .accept(&[delayed("s", "a", 5, 1)], &mut placed)
        .unwrap();
    assert!(load(world.reader()).is_empty() && find(world.reader(), "a").is_empty());
    world.writer().commit().unwrap();
    assert_eq!(load(world.reader()), [1]);
}

#[test]
fn payloads_come_back_byte_for_byte() {
    let mut world = world();
    let placed = accept(world.writer(), &[("a", 5)]);
    let mut read = Vec::new();
    world.reader().read(&placed, &mut read);
    let message = read.pop().unwrap().unwrap();
    assert_eq!(message.payload, payload("s", "a", 10));
    assert_eq!(
        (message.due, message.sequence),
        (UnixMillis(5), placed[0].sequence)
    );
    assert_eq!(message.crc, delayed("s", "a", 5, 10).crc);
    let other = Pending {
        due: UnixMillis(6),
        ..placed[0]
    };
    world.reader().read(&[other], &mut read);
    assert!(matches!(read.pop(), Some(Err(DelayReadError::Gone { .. }))));
}

#[test]
fn what_can_never_be_stored_is_refused_whole() {
    let mut world = world();
    let large = delayed("s", "b", 5, 5000);
    let mut early = delayed("s", "b", 5, 5);
    early.due = UnixMillis(-1);
    let mut other = delayed("s", "b", 5, 5);
    other.subject = Subject::new("t").unwrap();
    let mut torn = delayed("s", "b", 5, 5);
    torn.payload.truncate(20);
    for bad in [large, early, other, torn] {
        let mut placed = Vec::new();
        let batch = [delayed("new", "a", 5, 1), bad];
        let refused = world.writer().accept(&batch, &mut placed);
        assert!(
            matches!(refused, Err(AppendError::Unstorable { index: 1, .. })),
            "{refused:?}"
        );
        assert!(placed.is_empty());
    }
    world.writer().commit().unwrap();
    assert_eq!(world.reader().stats().pending, 0);
    assert_eq!(world.reader().subject(&Subject::new("new").unwrap()), None);
    assert_eq!(accept(world.writer(), &[("a", 5)])[0].sequence.0, 1);
}

#[test]
fn what_is_begun_is_an_unknown_outcome_after_a_restart() {
    let mut world = world();
    let placed = accept(world.writer(), &[("a", 5), ("b", 6), ("c", 7), ("d", 8)]);
    let mut accepted = Vec::new();
    world
        .writer()
        .begin("g1", &placed[..3], &mut accepted)
        .unwrap();
    assert_eq!(accepted, &placed[..3]);
    world.writer().commit().unwrap();
    world.writer().confirm(&[placed[0].sequence]).unwrap();
    world.writer().refuse(&[placed[1].sequence]).unwrap();
    world.writer().commit().unwrap();
    let opened = reopen(&mut world, End::Kill);
    assert_eq!(opened.begun.len(), 1);
    assert_eq!(
        (opened.begun[0].entry, &*opened.begun[0].group),
        (placed[2], "g1")
    );
    assert_eq!(load(&opened.reader), [2, 4]);
    assert_eq!(find(&opened.reader, "a")[0].state, EntryState::Delivered);
}

#[test]
fn a_confirmation_that_was_not_synced_makes_the_outcome_unknown() {
    let mut world = world();
    let placed = accept(world.writer(), &[("a", 5)]);
    world
        .writer()
        .begin("g1", &placed, &mut Vec::new())
        .unwrap();
    world.writer().commit().unwrap();
    world.writer().confirm(&[placed[0].sequence]).unwrap();
    world.writer().commit().unwrap();
    let mut opened = reopen(&mut world, End::PowerCut);
    let state = find(&opened.reader, "a")[0].state;
    // Whether it survived is up to the disk.
    let is_begun = state == EntryState::Dispatching && opened.begun.len() == 1;
    assert!(is_begun || state == EntryState::Delivered, "{state:?}");
    assert!(load(&opened.reader).is_empty());
    opened.writer.confirm(&[placed[0].sequence]).unwrap();
    opened.writer.close().unwrap();
    let opened = world.try_open().unwrap();
    assert_eq!(find(&opened.reader, "a")[0].state, EntryState::Delivered);
    assert!(opened.begun.is_empty() && opened.report.was_clean);
}

#[test]
fn cancelling_has_an_exact_answer() {
    let mut world = world();
    let placed = accept(world.writer(), &[("a", 5), ("b", 6), ("c", 7)]);
    let reader = world.reader().clone();
    let found = |id| find(&reader, id)[0];
    let writer = world.writer();
    let (a, b, c) = (found("a"), found("b"), found("c"));
    assert_eq!(writer.cancel(&a).unwrap(), CancelAnswer::Cancelled);
    assert_eq!(writer.cancel(&a).unwrap(), CancelAnswer::AlreadyCancelled);
    let mut accepted = Vec::new();
    writer.begin("g1", &placed, &mut accepted).unwrap();
    assert_eq!(accepted, &placed[1..]);
    assert_eq!(writer.cancel(&b).unwrap(), CancelAnswer::Dispatching);
    writer.refuse(&[b.entry.sequence]).unwrap();
    writer.confirm(&[c.entry.sequence]).unwrap();
    assert_eq!(writer.cancel(&b).unwrap(), CancelAnswer::Cancelled);
    assert_eq!(writer.cancel(&c).unwrap(), CancelAnswer::Delivered);
    writer.commit().unwrap();
    let opened = reopen(&mut world, End::PowerCut);
    assert!(load(&opened.reader).is_empty());
    for id in ["a", "b"] {
        assert_eq!(find(&opened.reader, id)[0].state, EntryState::Cancelled);
    }
}

#[test]
fn another_due_time_takes_the_place_of_the_old_one() {
    let mut world = world();
    let placed = accept(world.writer(), &[("a", 5), ("b", 6)]);
    let reader = world.reader().clone();
    let old = find(&reader, "a")[0];
    let answer = world.writer().reschedule(&old, UnixMillis(50)).unwrap();
    let RescheduleAnswer::Rescheduled(new) = answer else {
        panic!("{answer:?}");
    };
    // Whoever looks in between finds the new one.
    let between = find(&reader, "a");
    assert_eq!((between.len(), between[0].entry), (1, new));
    world.writer().commit().unwrap();
    assert_eq!((new.due, new.sequence.0), (UnixMillis(50), 3));
    let again = world.writer().reschedule(&old, UnixMillis(70)).unwrap();
    assert_eq!(again, RescheduleAnswer::Moved);
    assert_eq!(world.writer().cancel(&old).unwrap(), CancelAnswer::Moved);
    let opened = reopen(&mut world, End::PowerCut);
    let found = find(&opened.reader, "a");
    assert_eq!((found.len(), found[0].entry), (1, new));
    assert_eq!(load(&opened.reader), [2, 3]);
    let mut read = Vec::new();
    opened.reader.read(&[new], &mut read);
    assert_eq!(read[0].as_ref().unwrap().payload, payload("s", "a", 10));
    let mut opened = opened;
    opened
        .writer
        .begin("g", &placed[1..], &mut Vec::new())
        .unwrap();
    let begun = find(&opened.reader, "b")[0];
    let answer = opened.writer.reschedule(&begun, UnixMillis(9)).unwrap();
    assert_eq!(
        answer,
        RescheduleAnswer::NotPending(EntryState::Dispatching)
    );
}

#[test]
fn two_messages_with_one_id_are_two_copies() {
    let mut world = world();
    accept(world.writer(), &[("a", 5), ("a", 6)]);
    let other = delayed("t", "a", 7, 1);
    world.writer().accept(&[other], &mut Vec::new()).unwrap();
    world.writer().commit().unwrap();
    let found = find(world.reader(), "a");
    assert_eq!(found.len(), 2);
    world.writer().cancel(&found[0]).unwrap();
    let states: Vec<EntryState> = find(world.reader(), "a")
        .iter()
        .map(|of| of.state)
        .collect();
    assert_eq!(states, [EntryState::Cancelled, EntryState::Pending]);
}

#[test]
fn lists_have_subjects_and_ids() {
    let mut world = world();
    let placed = accept(world.writer(), &[("a", 5), ("b", 6), ("c", 7)]);
    world
        .writer()
        .accept(&[delayed("t", "d", 4, 1)], &mut Vec::new())
        .unwrap();
    world.writer().commit().unwrap();
    world
        .writer()
        .begin("g", &placed[1..2], &mut Vec::new())
        .unwrap();
    let cancelled = find(world.reader(), "c")[0];
    world.writer().cancel(&cancelled).unwrap();
    let mut listed = Vec::new();
    let range = UnixMillis(0)..FAR;
    world
        .reader()
        .list(Some(&subject()), range, None, 9, &mut listed)
        .unwrap();
    let listed: Vec<_> = listed
        .iter()
        .map(|of| (of.message_id.as_ref(), of.state, of.subject.as_str()))
        .collect();
    assert_eq!(
        listed,
        [
            (&b"a"[..], EntryState::Pending, "s"),
            (&b"b"[..], EntryState::Dispatching, "s"),
        ]
    );
}

#[test]
fn the_accept_sequence_survives_an_empty_newest_segment() {
    let mut world = world();
    let placed = accept(world.writer(), &[("a", 5), ("b", 6)]);
    let mut opened = reopen(&mut world, End::Kill);
    // Segments ahead of the log are there, without a record.
    opened.writer.checkpoint().unwrap();
    drop(opened);
    let mut opened = reopen(&mut world, End::PowerCut);
    let next = accept(&mut opened.writer, &[("c", 7)]);
    assert_eq!(next[0].sequence.0, placed[1].sequence.0 + 1);
}

#[test]
fn a_restart_adds_no_copies() {
    let mut world = world();
    accept(world.writer(), &[("a", 5), ("b", 6)]);
    for end in [End::Kill, End::PowerCut, End::Kill] {
        let opened = reopen(&mut world, end);
        assert_eq!(load(&opened.reader), [1, 2]);
        assert_eq!(find(&opened.reader, "a").len(), 1);
    }
}

#[test]
fn without_any_checkpoint_nothing_is_touched() {
    let mut world = world();
    accept(world.writer(), &[("a", 5)]);
    done(world.end(End::Close));
    let mut damaged = 0;
    for number in 1..9 {
        let path = format!("/delay/checkpoint/base.{number:020}");
        damaged += usize::from(world.fs.rot(std::path::Path::new(&path), 30, 1));
    }
    assert!(damaged > 0);
    assert!(matches!(world.try_open(), Err(Error::Corrupt { .. })));
}

#[test]
fn an_older_checkpoint_serves_as_well() {
    let mut world = DelayWorld::new(first_seed(), FlushMode::Sync);
    let seed = first_seed();
    done(world.open(End::Close));
    for _ in 0..4 {
        done(world.load(60));
        done(world.commit());
        world.writer().checkpoint().unwrap();
        done(world.load(20));
        done(world.end(End::Close));
        let newest = (1..200)
            .map(|number| format!("/delay/checkpoint/base.{number:020}"))
            .rfind(|path| world.fs.peek(std::path::Path::new(path)).is_some());
        assert!(world.fs.rot(std::path::Path::new(&newest.unwrap()), 30, 1));
        if let Err(trouble) = world.open(End::Close) {
            fail(seed, &trouble);
        }
    }
}

/// Lives of random length that end in random ways.
pub(crate) fn live(world: &mut DelayWorld, lives: usize, steps: usize) -> Checked {
    world.open(End::Close)?;
    for _ in 0..lives {
        world.load(steps)?;
        world.check()?;
        let end = [End::Close, End::Kill, End::PowerCut][world.rng.random_range(0..3)];
        world.end(end)?;
        world.open(end)?;
    }
    Ok(())
}

#[test]
fn a_model_says_the_same() {
    let seed = first_seed();
    for (seed, flush) in [
        (seed, FlushMode::Sync),
        (seed + 1, FlushMode::Sync),
        (seed + 2, FlushMode::Sync),
    ] {
        println!("QMQ_SEED={seed} {flush:?}");
        let mut world = DelayWorld::new(seed, flush);
        if let Err(trouble) = live(&mut world, 8, 120) {
            fail(seed, &trouble);
        }
    }
}
