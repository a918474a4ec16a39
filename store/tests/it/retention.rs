//! Old segments go, nothing else does, and a start after that misses nothing.

use std::time::Duration;

use qmq_model::{Clock, MessageOffset, MessageSequence, UnixMillis};
use qmq_store::fs::FileSystem;
use qmq_store::{Dropped, Kept, LogKind, Opened, ReadError, Retention};

use crate::restart::{SUBJECTS, check_range, end, fill, open, world};
use crate::world::{End, World, root};

const HOUR: Duration = Duration::from_secs(3600);

fn retaining(seed: u64) -> World {
    let mut world = world(seed);
    world.config.checkpoint_retain = 2;
    world.config.retention = Some(Retention {
        messages: HOUR,
        actions: HOUR,
        check_interval: Duration::from_secs(600),
    });
    world
}

fn segments(world: &World, log: LogKind) -> usize {
    let names = world.fs.list(&root().join(log.folder())).unwrap();
    names
        .iter()
        .filter(|entry| !entry.name.starts_with('.'))
        .count()
}

fn tick(world: &World, store: &mut Opened) {
    store.writer.tick(world.clock.now()).unwrap();
}

/// Sequences of every subject that are kept.
fn kept(store: &Opened) -> std::ops::Range<i64> {
    let id = store.reader.subject("subject.0").unwrap();
    let bounds = store.reader.bounds(id);
    let mut found = Vec::new();
    let all = MessageSequence(0)..bounds.end;
    store
        .reader
        .locate_blocking(id, all, usize::MAX, usize::MAX, &mut found)
        .unwrap();
    let first = found.first().map_or(bounds.end, |at| at.sequence);
    // The look-up has found out where the subject begins.
    assert_eq!(store.reader.bounds(id).start, first);
    first.0..bounds.end.0
}

#[test]
fn old_segments_go_and_a_start_misses_nothing() {
    for how in [End::Close, End::Kill, End::PowerCut] {
        let world = retaining(1);
        let (mut store, _) = open(&world);
        fill(&world, &mut store, 0..1000);
        let (before, used) = (segments(&world, LogKind::Message), world.fs.used());
        world.clock.advance(HOUR);
        fill(&world, &mut store, 1000..1100);
        for _ in 0..3 {
            world.clock.advance(Duration::from_secs(601));
            tick(&world, &mut store);
        }
        let kept_now = kept(&store);
        assert!(kept_now.start > 100, "{kept_now:?}");
        assert!(
            kept_now.start <= 200,
            "what is young was dropped: {kept_now:?}"
        );
        assert!(segments(&world, LogKind::Message) < before);
        assert!(world.fs.used() < used / 2, "room does not come back");
        check_range(&store, kept_now.clone());
        end(&world, store, how);

        let (store, _) = open(&world);
        assert_eq!(store.report.damage_count, 0, "{:?}", store.report.damages);
        assert!(store.report.messages.begin > 0);
        assert_eq!(kept(&store), kept_now);
        check_range(&store, kept_now);
    }
}

#[test]
fn what_is_pinned_young_or_last_stays() {
    let world = retaining(2);
    let (mut store, _) = open(&world);
    fill(&world, &mut store, 0..1000);
    let nothing = Dropped::default();
    assert_eq!(
        store.writer.drop_expired(world.clock.now()).unwrap(),
        nothing
    );
    let later = world.clock.now().plus(10 * HOUR);
    store.writer.keep_from(MessageOffset(0));
    assert_eq!(store.writer.drop_expired(later).unwrap(), nothing);
    store.writer.keep_from(MessageOffset(40_000));
    assert_eq!(
        store.writer.drop_expired(later).unwrap().message_segments,
        2
    );
    store.writer.keep_from(MessageOffset(u64::MAX));
    store.writer.drop_expired(later).unwrap();
    // The end of the log is made a run, so that all but the last segment can go.
    tick(&world, &mut store);
    for _ in 0..2 {
        store.writer.checkpoint().unwrap();
    }
    store.writer.drop_expired(later).unwrap();
    let end = store.reader.positions(LogKind::Message).durable;
    let last = end - end % world.config.message_segment_bytes;
    let first = kept(&store).start;
    let id = store.reader.subject("subject.0").unwrap();
    let mut found = Vec::new();
    let range = MessageSequence(first)..MessageSequence(first + 1);
    store
        .reader
        .locate_blocking(id, range, 1, usize::MAX, &mut found)
        .unwrap();
    assert!(
        found[0].offset.0 >= last && found[0].offset.0 < last + 4000,
        "{found:?} {last}"
    );
    // A clock that was wrong for a while drops nothing.
    let early = UnixMillis(0);
    assert_eq!(store.writer.drop_expired(early).unwrap(), nothing);
}

#[test]
fn without_the_switch_nothing_goes() {
    let mut world = retaining(3);
    world.config.retention = None;
    let (mut store, _) = open(&world);
    fill(&world, &mut store, 0..1000);
    world.clock.advance(1000 * HOUR);
    tick(&world, &mut store);
    let now = world.clock.now();
    assert_eq!(store.writer.drop_expired(now).unwrap(), Dropped::default());
    assert_eq!(kept(&store), 0..200);
}

#[test]
fn what_is_kept_may_change_while_the_store_is_open() {
    let mut world = retaining(3);
    let kept_at_first = Kept {
        retention: world.config.retention.take(),
        checkpoints: 4,
    };
    let (mut store, _) = open(&world);
    fill(&world, &mut store, 0..1000);
    world.clock.advance(2 * HOUR);
    let rounds = |store: &mut Opened| {
        for _ in 0..8 {
            world.clock.advance(Duration::from_secs(601));
            tick(&world, store);
        }
    };
    rounds(&mut store);
    assert_eq!(kept(&store), 0..200);
    let checkpoints = || {
        let names = world.fs.list(&root().join("checkpoint")).unwrap();
        names
            .iter()
            .filter(|entry| !entry.name.starts_with('.'))
            .count()
    };
    assert!(checkpoints() <= 2, "{}", checkpoints());

    let keeping = store.writer.keeping();
    keeping.set(kept_at_first);
    assert_eq!(keeping.get(), kept_at_first);
    rounds(&mut store);
    let kept_now = kept(&store);
    assert!(kept_now.start > 100, "{kept_now:?}");
    for number in 1000..1004 {
        fill(&world, &mut store, number..number + 1);
        store.writer.checkpoint().unwrap();
    }
    assert_eq!(checkpoints(), 4);
    end(&world, store, End::Kill);
    let (store, _) = open(&world);
    assert_eq!(kept(&store).start, kept_now.start);
}

#[test]
fn who_found_a_message_before_it_went_is_told_so() {
    let world = retaining(4);
    let (mut store, _) = open(&world);
    fill(&world, &mut store, 0..1000);
    let id = store.reader.subject("subject.3").unwrap();
    let mut found = Vec::new();
    let range = MessageSequence(0)..MessageSequence(1);
    store
        .reader
        .locate_blocking(id, range.clone(), 1, usize::MAX, &mut found)
        .unwrap();
    let later = world.clock.now().plus(10 * HOUR);
    assert!(store.writer.drop_expired(later).unwrap().message_segments > 0);
    assert!(matches!(
        store.reader.read(&found[0]),
        Err(ReadError::Gone { .. })
    ));
    let mut again = Vec::new();
    let looked = store
        .reader
        .locate_blocking(id, range, 1, usize::MAX, &mut again)
        .unwrap();
    assert_eq!(
        (again.len(), looked.missing, looked.next),
        (0, 1, MessageSequence(1))
    );
}

#[test]
fn a_power_cut_at_any_call_of_dropping_is_survived() {
    let mut calls = 0;
    loop {
        let world = retaining(5);
        let (mut store, _) = open(&world);
        fill(&world, &mut store, 0..500);
        let later = world.clock.now().plus(10 * HOUR);
        world.fs.cut_after(calls);
        let dropped = store.writer.drop_expired(later);
        let is_off = world.fs.power_is_off();
        assert_eq!(is_off, dropped.is_err());
        drop(store);
        world.fs.power_cut(calls);
        let (store, _) = open(&world);
        assert_eq!(store.report.damage_count, 0, "{:?}", store.report.damages);
        let kept = kept(&store);
        assert_eq!(kept.end, i64::try_from(500 / SUBJECTS).unwrap());
        check_range(&store, kept);
        if !is_off {
            break;
        }
        calls += 1;
    }
    assert!(calls > 10, "dropping takes {calls} calls");
}
