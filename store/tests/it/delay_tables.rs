//! What a delay store keeps of its write-ahead log in memory: full tables stay for a while, leave
//! together and without what is done, and never become more than they may.

use std::path::PathBuf;

use qmq_model::{Clock, UnixMillis};
use qmq_store::{AcceptSequence, Background, DelayStats, FlushMode, Pending};

use crate::delay::done;
use crate::delay_world::{DelayWorld, FAR, delayed};
use crate::world::End;

const HOUR: i64 = 3_600_000;
/// Messages of a full table.
const FULL: usize = 5;

fn world(tables_kept: usize) -> DelayWorld {
    let mut world = DelayWorld::new(1, FlushMode::Sync);
    world.config.run_bytes = 1 << 20;
    world.config.run_messages = FULL;
    world.config.tables_kept = tables_kept;
    done(world.open(End::Close));
    world
}

/// Accepts messages that are due so long from now, a commit and a tick for each.
fn fill(world: &mut DelayWorld, delays: impl Iterator<Item = i64>) -> Vec<Pending> {
    let now = world.clock.now();
    let mut placed = Vec::new();
    for delay in delays {
        let new = delayed("s", "id", now.0 + delay, 30);
        world.writer().accept(&[new], &mut placed).unwrap();
        world.writer().commit().unwrap();
        world.writer().tick(now).unwrap();
    }
    placed
}

/// Delivers messages; a durable checkpoint knows of it, and then there is a tick.
fn deliver(world: &mut DelayWorld, entries: &[Pending]) {
    let writer = world.writer();
    let mut accepted = Vec::new();
    writer.begin("g", entries, &mut accepted).unwrap();
    assert_eq!(accepted, entries);
    writer.commit().unwrap();
    let sequences: Vec<AcceptSequence> = entries.iter().map(|entry| entry.sequence).collect();
    writer.confirm(&sequences).unwrap();
    writer.checkpoint().unwrap();
    tick(world);
}

fn tick(world: &mut DelayWorld) {
    let now = world.clock.now();
    world.writer().tick(now).unwrap();
}

/// Numbers of the files of runs.
fn runs(world: &DelayWorld) -> Vec<u64> {
    let path = |number: u64| PathBuf::from(format!("/delay/runs/run.{number:020}"));
    let is_there = |number: &u64| world.fs.peek(&path(*number)).is_some();
    (0..500).filter(is_there).collect()
}

fn stats(world: &DelayWorld) -> DelayStats {
    world.reader().stats()
}

/// All messages that are not done come in order, and can be read.
fn check(world: &DelayWorld, expected: &[Pending]) {
    let mut expected = expected.to_vec();
    expected.sort_by_key(|entry| (entry.due, entry.sequence));
    let (mut loaded, mut read) = (Vec::new(), Vec::new());
    let reader = world.reader();
    let more = reader.load(UnixMillis(0), FAR, None, 100_000, &mut loaded);
    assert!(more.unwrap().is_none());
    assert_eq!(loaded, expected);
    reader.read(&loaded, &mut read);
    for (wanted, read) in loaded.iter().zip(read) {
        assert_eq!(read.unwrap().sequence, wanted.sequence);
    }
}

fn restart(world: &mut DelayWorld, end: End) {
    match end {
        End::PowerCut => world.cut_power(),
        _ => world.fs.kill(),
    }
    let opened = world.try_open().unwrap();
    assert_eq!(opened.report.damage_count, 0, "{:?}", opened.report);
    world.adopt_store(opened);
}

#[test]
fn what_is_done_in_time_is_never_written_to_a_run() {
    let mut world = world(3);
    let placed = fill(&mut world, (0..16).map(|number| number % 4));
    assert_eq!((stats(&world).in_tables, stats(&world).runs), (16, 0));
    // The second table is done before the first one: it waits for that.
    deliver(&mut world, &placed[FULL..2 * FULL]);
    assert_eq!(stats(&world).in_tables, 16);
    deliver(&mut world, &placed[..FULL]);
    assert_eq!(stats(&world).in_tables, 6);
    check(&world, &placed[2 * FULL..]);
    deliver(&mut world, &placed[2 * FULL..15]);
    assert_eq!((stats(&world).in_tables, stats(&world).pending), (1, 1));
    assert!(runs(&world).is_empty());
    restart(&mut world, End::PowerCut);
    assert_eq!(stats(&world).in_tables, 1, "a start does not read it again");
    check(&world, &placed[15..]);
}

#[test]
fn what_has_to_leave_leaves_without_what_is_done() {
    let mut world = world(1);
    let early = fill(&mut world, (0..9).map(|number| number * 10));
    assert_eq!(stats(&world).runs, 0);
    let (done, left): (Vec<Pending>, Vec<Pending>) =
        early.iter().partition(|entry| entry.sequence.0 % 2 == 0);
    deliver(&mut world, &done);
    let late = fill(&mut world, (0..2).map(|number| number * 10));
    assert_eq!(stats(&world).in_runs, 6, "four of ten are done");
    assert_eq!(stats(&world).in_tables, 1);
    let left = [left, late].concat();
    check(&world, &left);
    restart(&mut world, End::Kill);
    check(&world, &left);
}

#[test]
fn a_cut_gives_each_slot_its_run_at_once() {
    let mut world = world(3);
    // Four tables, each with messages of today, of next week and of next year.
    let delays = [HOUR, 2 * HOUR, 7 * 24 * HOUR, 400 * 24 * HOUR];
    let placed = fill(&mut world, delays.into_iter().cycle().take(21));
    assert_eq!(
        stats(&world).in_runs,
        20,
        "those beyond what is kept left together"
    );
    // Nothing was written only to be merged: the first runs are there, and no other.
    assert_eq!(runs(&world), [0, 1, 2, 3]);
    check(&world, &placed);
    restart(&mut world, End::PowerCut);
    assert_eq!(stats(&world).runs, 4);
    check(&world, &placed);
}

#[test]
fn a_restart_in_the_middle_finds_the_tables_as_they_were() {
    for end in [End::Kill, End::PowerCut] {
        let mut world = world(8);
        let placed = fill(&mut world, (0..43).map(|number| number * 7 % 10 * HOUR));
        assert_eq!((stats(&world).in_tables, stats(&world).runs), (43, 0));
        // From now on less is kept, and leaves in steps of four tables.
        world.config.tables_kept = 1;
        restart(&mut world, end);
        assert_eq!((stats(&world).in_tables, stats(&world).runs), (43, 0));
        check(&world, &placed);
        tick(&mut world);
        assert_eq!(stats(&world).in_runs, 4 * FULL as u64);
        check(&world, &placed);
        restart(&mut world, end);
        assert_eq!(stats(&world).in_runs, 4 * FULL as u64);
        check(&world, &placed);
        tick(&mut world);
        assert_eq!(stats(&world).in_tables, 3);
        check(&world, &placed);
    }
}

#[test]
fn who_appends_waits_when_too_many_tables_do() {
    let mut world = DelayWorld::new(1, FlushMode::Sync);
    world.config.run_messages = FULL;
    world.config.tables_kept = 2;
    world.config.background = Background::Threads;
    done(world.open(End::Close));
    let (mut all, now) = (Vec::new(), world.clock.now());
    for round in 0..200 {
        // A table at a time, each message in a slot of its own: cutting takes longer than filling.
        let days = (0..5).map(|number| 2 + (5 * round + number) % 20);
        let new: Vec<_> = days
            .map(|day| delayed("s", "id", now.0 + day * 24 * HOUR, 30))
            .collect();
        world.writer().accept(&new, &mut all).unwrap();
        world.writer().commit().unwrap();
        tick(&mut world);
        let in_tables = stats(&world).in_tables;
        // Those kept, four that wait, and the one that grows.
        let most = (2 + 4 + 1) * FULL as u64;
        assert!(in_tables <= most, "round {round}: {in_tables} messages");
    }
    check(&world, &all);
    done(world.end(End::Kill));
}

#[test]
fn nothing_that_failed_to_become_a_run_fills_the_disk() {
    let mut world = world(0);
    let delays = |number: i64| number % 5 * 24 * HOUR + 48 * HOUR;
    let placed = fill(&mut world, (0..4).map(delays));
    let used = world.fs.used();
    // Room for what is accepted next, and for some of its runs.
    world.fs.limit_space(Some(used + 30_000));
    let more = fill(&mut world, (4..5).map(delays));
    assert!(runs(&world).is_empty() && stats(&world).runs == 0);
    world.fs.limit_space(None);
    world.clock.advance(std::time::Duration::from_secs(2));
    tick(&mut world);
    assert_eq!(stats(&world).runs, 5);
    check(&world, &[placed, more].concat());
}
