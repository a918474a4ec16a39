//! Runs of a delay store: they are written, merged and cleared away; damage in one of them costs
//! what it hit, and nothing else.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use qmq_model::{Clock, Subject, UnixMillis};
use qmq_store::{
    DelayReadError, DelayReader, DelayStore, DelayWriter, EntryState, FlushMode, Pending,
};

use rand::Rng;

use crate::delay::{done, live};
use crate::delay_world::{DelayWorld, FAR, delayed};
use crate::power_cut::{fail, first_seed};
use crate::world::End;

const HOUR: i64 = 3_600_000;

fn world() -> DelayWorld {
    let mut world = DelayWorld::new(1, FlushMode::Sync);
    done(world.open(End::Close));
    world
}

/// Accepts so many messages, due one after the other in steps of `step`, in small batches with
/// ticks between them.
fn fill(world: &mut DelayWorld, count: u64, step: i64) -> Vec<Pending> {
    let now = world.clock.now();
    let mut placed = Vec::new();
    for number in 0..count {
        let due = now.0 + i64::try_from(number).unwrap() * step;
        let new = delayed("s", &format!("id-{number}"), due, 30);
        world.writer().accept(&[new], &mut placed).unwrap();
        if number % 5 == 0 {
            world.writer().commit().unwrap();
            world.writer().tick(now).unwrap();
        }
    }
    world.writer().commit().unwrap();
    world.writer().tick(now).unwrap();
    placed
}

fn deliver(writer: &mut DelayWriter, entries: &[Pending]) {
    let mut accepted = Vec::new();
    writer.begin("g", entries, &mut accepted).unwrap();
    assert_eq!(accepted, entries);
    writer.commit().unwrap();
    let sequences: Vec<_> = entries.iter().map(|entry| entry.sequence).collect();
    writer.confirm(&sequences).unwrap();
    writer.commit().unwrap();
}

/// Lets minutes pass, with a checkpoint each.
fn settle(world: &mut DelayWorld, minutes: usize) {
    for _ in 0..minutes {
        world.clock.advance(Duration::from_secs(61));
        let now = world.clock.now();
        world.writer().checkpoint().unwrap();
        world.writer().tick(now).unwrap();
    }
}

fn load(reader: &DelayReader) -> Vec<Pending> {
    let mut loaded = Vec::new();
    let more = reader
        .load(UnixMillis(0), FAR, None, 100_000, &mut loaded)
        .unwrap();
    assert!(more.is_none());
    loaded
}

fn runs(world: &DelayWorld) -> Vec<(u64, PathBuf)> {
    let path = |number: u64| PathBuf::from(format!("/delay/runs/run.{number:020}"));
    let numbered = (0..2000).map(|number| (number, path(number)));
    numbered
        .filter(|(_, path)| world.fs.peek(path).is_some())
        .collect()
}

#[test]
fn runs_hold_what_leaves_memory() {
    let mut world = world();
    let placed = fill(&mut world, 300, 10 * HOUR);
    let stats = world.reader().stats();
    assert!(stats.runs > 1 && stats.in_runs > 250, "{stats:?}");
    assert_eq!(stats.in_runs + stats.in_tables, 300);
    assert_eq!(load(world.reader()), placed);
    let subject = Subject::new("s").unwrap();
    let reader = world.reader();
    for number in [0, 5, 150, 299] {
        let found = reader
            .find(&subject, format!("id-{number}").as_bytes())
            .unwrap();
        assert_eq!((found.len(), found[0].entry), (1, placed[number]));
    }
    assert_eq!(
        reader.count(Some(&subject), UnixMillis(0)..FAR).unwrap(),
        300
    );
    let range = placed[10].due..placed[20].due;
    assert_eq!(reader.count(None, range).unwrap(), 10);
}

#[test]
fn runs_are_merged_by_due_time_and_stay_few() {
    let mut world = world();
    let placed = fill(&mut world, 1500, HOUR / 4);
    let highest = runs(&world).last().unwrap().0;
    let live = runs(&world).len();
    assert!(highest > 60, "{highest}: hardly anything was merged");
    // A few for each of 15 days and 24 hours.
    assert!(live < 150, "{live} runs");
    assert_eq!(load(world.reader()), placed);
    done(world.end(End::Kill));
    let opened = world.try_open().unwrap();
    assert_eq!(load(&opened.reader), placed);
    assert_eq!(opened.report.runs, live as u64);
}

#[test]
fn what_is_delivered_is_cleared_away() {
    let mut world = world();
    let mut placed = fill(&mut world, 600, HOUR / 10);
    let used = world.fs.used();
    let (early, late) = placed.split_at(580);
    deliver(world.writer(), early);
    settle(&mut world, 6);
    let stats = world.reader().stats();
    assert!(stats.in_runs < 60, "{stats:?}");
    assert_eq!(stats.pending, 20);
    assert_eq!(load(world.reader()), late);
    assert!(world.fs.used() < used / 2, "{} of {used}", world.fs.used());
    let subject = Subject::new("s").unwrap();
    assert!(world.reader().find(&subject, b"id-3").unwrap().is_empty());
    // Whoever still has a key of it can do no harm.
    let mut accepted = Vec::new();
    world
        .writer()
        .begin("g", &early[..3], &mut accepted)
        .unwrap();
    assert!(accepted.is_empty());
    placed.drain(..580);
    for end in [End::Kill, End::PowerCut] {
        done(world.end(end));
        let opened = world.try_open().unwrap();
        assert_eq!(load(&opened.reader), placed);
        drop(opened);
        world = reopened(world);
    }
}

fn reopened(mut world: DelayWorld) -> DelayWorld {
    world.fs.kill();
    let opened = world.try_open().unwrap();
    world.adopt_store(opened);
    world
}

#[test]
fn a_run_stays_until_all_of_it_is_done() {
    let mut world = world();
    let placed = fill(&mut world, 40, 1);
    deliver(world.writer(), &placed[1..]);
    // The days go by, and nobody delivers the first one.
    for _ in 0..50 {
        world.clock.advance(Duration::from_secs(10 * 24 * 3600));
        settle(&mut world, 1);
    }
    assert_eq!(load(world.reader()), &placed[..1]);
    let mut read = Vec::new();
    world.reader().read(&placed[..1], &mut read);
    assert!(read[0].is_ok());
}

#[test]
fn what_is_overdue_past_the_limit_is_dropped_and_counted() {
    let mut world = DelayWorld::new(1, FlushMode::Sync);
    world.config.drop_overdue_after = Some(Duration::from_secs(3600));
    done(world.open(End::Close));
    let placed = fill(&mut world, 40, 1000);
    let mut begun = Vec::new();
    world.writer().begin("g", &placed[..1], &mut begun).unwrap();
    world.writer().commit().unwrap();
    world.clock.advance(Duration::from_secs(3500));
    settle(&mut world, 1);
    assert_eq!(world.reader().stats().expired, 0);
    world.clock.advance(Duration::from_secs(3600));
    settle(&mut world, 1);
    // What is being sent stays.
    let stats = world.reader().stats();
    assert_eq!((stats.expired, stats.pending), (39, 1));
    assert!(load(world.reader()).is_empty());
    let subject = Subject::new("s").unwrap();
    let found = world.reader().find(&subject, b"id-39").unwrap();
    assert!(found.iter().all(|found| found.state == EntryState::Expired));
    done(world.commit());
    done(world.end(End::Kill));
    let opened = world.try_open().unwrap();
    assert_eq!(opened.reader.stats().expired, 39);
    assert_eq!(opened.begun.len(), 1);
}

#[test]
fn a_damaged_record_is_an_error_and_stays_pending() {
    let mut world = world();
    let placed = fill(&mut world, 100, HOUR);
    let (_, path) = runs(&world).swap_remove(0);
    assert!(world.fs.rot(&path, 60, 1));
    let mut read = Vec::new();
    world.reader().read(&placed, &mut read);
    let broken: Vec<usize> = (0..)
        .zip(&read)
        .filter(|(_, read)| read.is_err())
        .map(|(at, _)| at)
        .collect();
    assert_eq!(broken.len(), 1);
    assert!(matches!(
        read[broken[0]],
        Err(DelayReadError::Corrupt { .. })
    ));
    // Merged or not, it is still there and still an error.
    fill(&mut world, 300, HOUR);
    settle(&mut world, 2);
    let mut read = Vec::new();
    world
        .reader()
        .read(&placed[broken[0]..=broken[0]], &mut read);
    assert!(matches!(read[0], Err(DelayReadError::Corrupt { .. })));
    assert!(load(world.reader()).contains(&placed[broken[0]]));
}

#[test]
fn a_run_that_cannot_be_opened_is_kept_and_reported() {
    let mut world = world();
    let placed = fill(&mut world, 100, HOUR);
    let live = runs(&world);
    done(world.end(End::Close));
    let (_, path) = &live[0];
    let len = world.fs.peek(path).unwrap().len() as u64;
    assert!(world.fs.rot(path, len - 30, 1));
    let mut opened = world.try_open().unwrap();
    assert_eq!(opened.report.runs_damaged.len(), 1);
    let readable = load(&opened.reader);
    assert!(!readable.is_empty() && readable.len() < 100);
    opened.writer.checkpoint().unwrap();
    opened.writer.close().unwrap();
    // Somebody repairs it.
    assert!(world.fs.rot(path, len - 30, 1));
    let opened = world.try_open().unwrap();
    assert!(opened.report.runs_damaged.is_empty());
    assert_eq!(load(&opened.reader), placed);
}

#[test]
fn counts_are_exact_with_and_without_finished_messages() {
    let mut world = world();
    let placed = fill(&mut world, 400, HOUR);
    let subject = Subject::new("s").unwrap();
    let range = placed[40].due..placed[390].due;
    let count =
        |world: &DelayWorld, of: Option<&Subject>| world.reader().count(of, range.clone()).unwrap();
    assert_eq!(
        (count(&world, None), count(&world, Some(&subject))),
        (350, 350)
    );
    deliver(world.writer(), &placed[100..130]);
    assert_eq!(
        (count(&world, None), count(&world, Some(&subject))),
        (320, 320)
    );
    settle(&mut world, 3);
    assert_eq!(
        (count(&world, None), count(&world, Some(&subject))),
        (320, 320)
    );
}

#[test]
fn an_import_is_a_store_like_any_other() {
    let mut world = DelayWorld::new(1, FlushMode::Sync);
    let now = world.clock.now().0;
    let message = |number: i64| delayed("s", &format!("id-{number}"), now + number * HOUR, 20);
    let import = |world: &DelayWorld, numbers: &[i64]| {
        let fs = Arc::new(world.fs.clone());
        let clock = Arc::new(world.clock.clone());
        let root = Path::new("/delay");
        let messages = numbers.iter().copied().map(message);
        DelayStore::import(fs, root, world.config.clone(), clock, messages)
    };
    let numbers: Vec<i64> = (0..1000).collect();
    assert_eq!(import(&world, &numbers).unwrap(), 1000);
    let opened = world.try_open().unwrap();
    assert_eq!(
        (opened.report.pending, load(&opened.reader).len()),
        (1000, 1000)
    );
    world.adopt_store(opened);
    let subject = Subject::new("s").unwrap();
    let found = world.reader().find(&subject, b"id-777").unwrap();
    assert_eq!(found[0].entry.due.0, now + 777 * HOUR);
    let next = fill(&mut world, 30, HOUR);
    assert_eq!(next[0].sequence.0, 1001);
    let all = load(world.reader());
    deliver(world.writer(), &all[..900]);
    settle(&mut world, 5);
    assert_eq!(load(world.reader()), &all[900..]);
    assert!(world.reader().stats().in_runs < 400);
    done(world.end(End::PowerCut));
    assert_eq!(load(&world.try_open().unwrap().reader), &all[900..]);
    assert!(import(&world, &[1]).is_err(), "it is not new");
    let other = DelayWorld::new(2, FlushMode::Sync);
    assert!(import(&other, &[2, 1]).is_err(), "they are not in order");
}

#[test]
fn a_start_reads_no_more_for_more_messages() {
    let bytes_read_by_a_start = |count: i64| {
        let world = DelayWorld::new(1, FlushMode::Sync);
        let now = world.clock.now().0;
        // All within some slots, so that there are as many runs.
        let message = |at: i64| delayed("s", &format!("id-{at}"), now + at * 9_000 / count, 20);
        let (fs, clock) = (Arc::new(world.fs.clone()), Arc::new(world.clock.clone()));
        let (root, config) = (Path::new("/delay"), world.config.clone());
        DelayStore::import(fs, root, config, clock, (0..count).map(message)).unwrap();
        let before = world.fs.stats().bytes_read;
        let opened = world.try_open().unwrap();
        assert_eq!(opened.report.pending, u64::try_from(count).unwrap());
        world.fs.stats().bytes_read - before
    };
    let (few, many) = (bytes_read_by_a_start(300), bytes_read_by_a_start(30_000));
    assert!(many < few + 4096, "{few} bytes for few, {many} for many");
}

#[test]
fn messages_are_read_in_any_order() {
    let mut world = world();
    let placed = fill(&mut world, 200, HOUR / 3);
    let mut wanted = placed.clone();
    wanted.extend(placed.iter().rev().step_by(3));
    wanted.extend(placed.iter().step_by(20));
    wanted.extend(&placed[190..]);
    let mut read = Vec::new();
    world.reader().read(&wanted, &mut read);
    assert_eq!(read.len(), wanted.len());
    for (wanted, read) in wanted.iter().zip(read) {
        assert_eq!(read.unwrap().sequence, wanted.sequence);
    }
}

#[test]
fn much_that_happens_brings_a_checkpoint_sooner() {
    let mut world = world();
    world.config.run_bytes = 2000;
    let checkpoints = |world: &DelayWorld| {
        let path = |number: u64| PathBuf::from(format!("/delay/checkpoint/base.{number:020}"));
        (1..100).rfind(|number| world.fs.peek(&path(*number)).is_some())
    };
    let before = checkpoints(&world);
    fill(&mut world, 200, HOUR);
    assert_eq!(checkpoints(&world), before, "no time went by");
    world.clock.advance(Duration::from_millis(1500));
    let now = world.clock.now();
    world.writer().tick(now).unwrap();
    assert!(checkpoints(&world) > before);
}

/// One byte in the segments of a log that is not a zero, of those in front of `end`.
fn rot(world: &mut DelayWorld, folder: &str, segment_bytes: u64, end: u64) -> bool {
    let at = world.rng.random_range(0..end);
    let base = at - at % segment_bytes;
    let path = PathBuf::from(format!("/delay/{folder}/{base:020}"));
    world
        .fs
        .rot(&path, at - base, 1 << world.rng.random_range(0..8))
}

#[test]
fn damage_in_the_logs_is_reported_and_costs_what_it_hit() {
    let first = first_seed();
    for seed in first..first + 40 {
        let mut world = DelayWorld::new(seed, FlushMode::Sync);
        world.config.run_bytes = 1 << 20;
        done(world.open(End::Close));
        let placed = fill(&mut world, 60, HOUR);
        let mut begun = Vec::new();
        world
            .writer()
            .begin("g", &placed[..20], &mut begun)
            .unwrap();
        world.writer().commit().unwrap();
        // Stated to be durable: else a damaged end counts as torn.
        world.clock.advance(Duration::from_millis(200));
        let now = world.clock.now();
        world.writer().tick(now).unwrap();
        done(world.end(End::Kill));
        // Sixty records of some ninety bytes, and one of the dispatch log.
        let (messages, dispatches) = (4096, 2048);
        let is_hit = if seed % 2 == 0 {
            rot(&mut world, "message_log", messages, 5000)
        } else {
            rot(&mut world, "dispatch_log", dispatches, 300)
        };
        assert!(is_hit, "QMQ_SEED={seed}");
        let mut opened = world.try_open().unwrap();
        let report = &opened.report;
        assert!(report.damage_count > 0, "QMQ_SEED={seed}: {report:?}");
        let left = load(&opened.reader).len() + opened.begun.len();
        if seed % 2 == 0 {
            // One record; a broken length may hide where the next one begins, not the one behind.
            // None when it was between the records, at the end of a segment.
            assert!((57..=60).contains(&left), "QMQ_SEED={seed}: {left} left");
            assert!(left == 60 || report.sequences_raised > 0, "QMQ_SEED={seed}");
        } else {
            // What is not known to be begun is pending: sent again rather than lost.
            assert_eq!(left, 60, "QMQ_SEED={seed}");
        }
        let new = delayed("s", "new", 5, 1);
        let mut again = Vec::new();
        opened.writer.accept(&[new], &mut again).unwrap();
        assert!(again[0].sequence > placed[59].sequence);
        opened.writer.close().unwrap();
    }
}

#[test]
fn without_its_manifest_a_store_is_not_opened() {
    let mut world = world();
    fill(&mut world, 100, HOUR);
    done(world.end(End::Close));
    assert!(world.fs.rot(Path::new("/delay/runs/manifest"), 30, 1));
    assert!(world.try_open().is_err());
    assert!(world.fs.rot(Path::new("/delay/runs/manifest"), 30, 1));
    assert!(world.try_open().is_ok());
}

#[test]
fn the_model_agrees_while_runs_come_and_go() {
    let first = first_seed();
    for seed in first..first + 3 {
        println!("QMQ_SEED={seed}");
        let mut world = DelayWorld::new(seed, FlushMode::Sync);
        world.config.run_bytes = 400;
        if let Err(trouble) = live(&mut world, 10, 150) {
            fail(seed, &trouble);
        }
        let highest = runs(&world).last().map_or(0, |(number, _)| *number);
        assert!(highest > 50, "{highest}: hardly any run came");
    }
}
