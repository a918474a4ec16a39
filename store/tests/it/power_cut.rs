//! Power cuts at random points, also while recovering: nothing acknowledged is lost, nothing is
//! handed out twice.
//!
//! `QMQ_CUTS` sets the number of cuts per flush mode (default 1200), `QMQ_SEED` the first seed.

use std::time::Duration;

use qmq_store::{Background, FlushMode};
use rand::Rng;

use crate::world::{End, Trouble, World};

const CUTS: usize = 1200;
/// Cuts that one store survives before the next one is made.
const CUTS_PER_WORLD: usize = 12;

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().expect("a number"))
}

/// The seed to begin with: the one asked for, or a random one.
pub(crate) fn first_seed() -> u64 {
    number("QMQ_SEED").unwrap_or_else(|| rand::random_range(0..1 << 40))
}

/// How many cuts there are to be.
pub(crate) fn cuts_wanted() -> usize {
    number("QMQ_CUTS").map_or(CUTS, |cuts| usize::try_from(cuts).unwrap())
}

pub(crate) fn fail(seed: u64, trouble: &Trouble) -> ! {
    panic!("QMQ_SEED={seed} shows it: {trouble}");
}

/// One store, `cuts` power cuts. Returns how many there were, cuts of recoveries included.
pub(crate) fn survive(world: &mut World, cuts: usize) -> Result<usize, Trouble> {
    world.with_retention();
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
            // It hit upkeep that is only put off when it fails.
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
fn reopen(world: &mut World, end: End) -> Result<usize, Trouble> {
    let mut cuts = 0;
    while cuts < 4 && world.rng.random_bool(0.4) {
        let calls = world.rng.random_range(0..150);
        world.fs.cut_after(calls);
        let opened = world.try_open();
        if !world.fs.power_is_off() {
            world.fs.calm();
            let opened = opened.map_err(|error| Trouble::Stopped(error.to_string()))?;
            world.check(opened, end)?;
            return Ok(cuts);
        }
        drop(opened);
        world.cut_power();
        cuts += 1;
    }
    world.open(end)?;
    Ok(cuts)
}

fn run(flush: FlushMode) {
    let cuts = cuts_wanted();
    let (mut seed, mut done) = (first_seed(), 0);
    println!("{flush:?}: {cuts} cuts from QMQ_SEED={seed}");
    while done < cuts {
        let mut world = World::new(seed, flush);
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
fn nothing_acknowledged_is_lost_with_helper_threads() {
    let first = first_seed();
    for seed in first..first + 10 {
        for flush in [
            FlushMode::Sync,
            FlushMode::Async {
                interval: Duration::from_millis(500),
            },
        ] {
            let mut world = World::new(seed, flush);
            world.config.background = Background::Threads;
            if let Err(trouble) = survive(&mut world, CUTS_PER_WORLD) {
                fail(seed, &trouble);
            }
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_in_sync_mode() {
    run(FlushMode::Sync);
}

#[test]
fn a_prefix_survives_in_async_mode() {
    run(FlushMode::Async {
        interval: Duration::from_millis(500),
    });
}
