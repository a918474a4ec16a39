//! A delay store under power cuts at random points, also while recovering, on a full disk, with
//! calls that fail; and promises that are broken on purpose, which these tests must notice.
//!
//! `QMQ_CUTS` sets the number of cuts (default 1200), `QMQ_SEED` the first seed.

use std::time::Duration;

use qmq_store::{Background, DelaySabotage, FlushMode};
use rand::Rng;

use crate::delay::live;
use crate::delay_world::DelayWorld;
use crate::power_cut::{cuts_wanted, fail, first_seed};
use crate::world::{Checked, End, Trouble};

/// Cuts that one store survives before the next one is made.
const CUTS_PER_WORLD: usize = 12;
/// Stores that are tried to catch a broken promise; almost every one of them does.
const WORLDS: u64 = 20;

/// One store, `cuts` power cuts. Returns how many there were, cuts of recoveries included.
fn survive(world: &mut DelayWorld, cuts: usize) -> Result<usize, Trouble> {
    world.open(End::Close)?;
    let mut done = 0;
    while done < cuts {
        let calls = world.rng.random_range(0..250);
        if world.rng.random_bool(0.8) {
            world.fs.cut_after(calls);
        }
        let steps = world.rng.random_range(1..60);
        let end = match world.load(steps) {
            Err(Trouble::Stopped(_)) if world.fs.power_is_off() => End::PowerCut,
            Err(trouble) => return Err(trouble),
            Ok(()) if world.fs.power_is_off() => End::PowerCut,
            Ok(()) => {
                world.fs.calm();
                [End::PowerCut, End::PowerCut, End::Kill, End::Close][world.rng.random_range(0..4)]
            }
        };
        world.end(end)?;
        done += usize::from(end == End::PowerCut);
        done += reopen(world, end)?;
    }
    Ok(done)
}

/// Opens the store again, with up to four power cuts on the way.
fn reopen(world: &mut DelayWorld, mut end: End) -> Result<usize, Trouble> {
    let mut cuts = 0;
    while cuts < 4 && world.rng.random_bool(0.4) {
        let calls = world.rng.random_range(0..150);
        world.fs.cut_after(calls);
        let opened = world.try_open();
        if !world.fs.power_is_off() {
            world.fs.calm();
            let opened = opened.map_err(|error| Trouble::Stopped(error.to_string()))?;
            world.check_opened(opened, end)?;
            return Ok(cuts);
        }
        drop(opened);
        world.cut_power();
        end = End::PowerCut;
        cuts += 1;
    }
    world.open(end)?;
    Ok(cuts)
}

#[test]
fn power_cuts_lose_nothing_that_was_promised() {
    let (mut seed, mut done, cuts) = (first_seed(), 0, cuts_wanted());
    println!("{cuts} cuts from QMQ_SEED={seed}");
    while done < cuts {
        let mut world = DelayWorld::new(seed, FlushMode::Sync);
        match survive(&mut world, CUTS_PER_WORLD) {
            Ok(more) => done += more,
            Err(trouble) => fail(seed, &trouble),
        }
        seed += 1;
    }
}

/// With helper threads the order of calls varies, so a seed may not show it again; the promises
/// are the same.
#[test]
fn power_cuts_lose_nothing_with_helper_threads() {
    let first = first_seed();
    for seed in first..first + 10 {
        let mut world = DelayWorld::new(seed, FlushMode::Sync);
        world.config.background = Background::Threads;
        if let Err(trouble) = survive(&mut world, CUTS_PER_WORLD) {
            fail(seed, &trouble);
        }
    }
}

/// Fills the disk now and then; what is refused leaves no trace, and nothing else is lost.
fn fill_disk(world: &mut DelayWorld) -> Checked {
    world.open(End::Close)?;
    for _ in 0..6 {
        world.load(20)?;
        let room = world.rng.random_range(0..20_000);
        world.fs.limit_space(Some(world.fs.used() + room));
        world.load_refused(40)?;
        world.fs.limit_space(None);
        world.load(10)?;
        world.check()?;
    }
    world.end(End::PowerCut)?;
    world.open(End::PowerCut)
}

#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    let first = first_seed();
    for seed in first..first + 20 {
        let mut world = DelayWorld::new(seed, FlushMode::Sync);
        if let Err(trouble) = fill_disk(&mut world) {
            fail(seed, &trouble);
        }
    }
}

#[test]
fn a_failed_call_ends_the_writing_and_loses_nothing() {
    let first = first_seed();
    for seed in first..first + 60 {
        let mut world = DelayWorld::new(seed, FlushMode::Sync);
        let mut run = || -> Checked {
            world.open(End::Close)?;
            world.load(20)?;
            world.fs.fail_after(world.rng.random_range(0..120));
            let loaded = world.load(40);
            world.fs.calm();
            if let Err(trouble @ Trouble::Broken(_)) = loaded {
                return Err(trouble);
            }
            let end = [End::PowerCut, End::Kill][world.rng.random_range(0..2)];
            // A call that failed may have done all or nothing, which is what a cut leaves too.
            world.forget_what_the_commit_said();
            world.end(end)?;
            world.open(End::PowerCut)
        };
        if let Err(trouble) = run() {
            fail(seed, &trouble);
        }
    }
}

/// Runs stores that break a promise until one of them is caught.
fn is_noticed(sabotage: DelaySabotage, run: impl Fn(&mut DelayWorld) -> Checked) {
    let first = first_seed();
    for seed in first..first + WORLDS {
        let mut world = DelayWorld::sabotaged(seed, sabotage);
        match run(&mut world) {
            Ok(()) => {}
            Err(Trouble::Broken(what)) => {
                println!("{sabotage:?}: seed {seed}: {what}");
                return;
            }
            Err(Trouble::Stopped(why)) => panic!("seed {seed}: {why}"),
        }
    }
    panic!("{sabotage:?} from seed {first} on went unnoticed");
}

#[test]
fn broken_promises_of_a_delay_store_are_noticed() {
    for sabotage in [DelaySabotage::SkipSync, DelaySabotage::ClaimUnsynced] {
        is_noticed(sabotage, |world| survive(world, 12).map(|_| ()));
    }
    for sabotage in [
        DelaySabotage::BeginNotDurable,
        DelaySabotage::ForgetConfirmation,
        DelaySabotage::ForgetCancel,
    ] {
        is_noticed(sabotage, |world| live(world, 6, 80));
    }
}

#[test]
fn flushing_later_loses_only_the_end() {
    let flush = FlushMode::Async {
        interval: Duration::from_millis(500),
    };
    let first = first_seed();
    for seed in first..first + 20 {
        let mut world = DelayWorld::new(seed, flush);
        if let Err(trouble) = survive(&mut world, CUTS_PER_WORLD) {
            fail(seed, &trouble);
        }
    }
}
