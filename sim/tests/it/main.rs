//! Random worlds by seed. `QMQ_SEED` sets the first one and `QMQ_STEPS` how many steps are taken in
//! all (`just sim` takes ten million); a seed alone repeats its world.

mod delay;

use std::env;

use qmq_sim::{Broken, Sabotage, Settings, Summary, World};

/// Steps of one world: long enough for several restarts, short enough to read its story.
const STEPS_PER_WORLD: u64 = 2_000;
/// Steps in a normal test run.
const STEPS_DEFAULT: u64 = 300_000;
/// Worlds in which everything that can happen does.
const WORLDS_FOR_EVERYTHING: u64 = 50;
/// Worlds after which a broken promise must have been noticed.
const WORLDS_TO_NOTICE: u64 = 200;

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn promises_hold_in_random_worlds() {
    let seed = number("QMQ_SEED");
    let steps = if seed.is_some() {
        STEPS_PER_WORLD
    } else {
        STEPS_DEFAULT
    };
    let worlds = number("QMQ_STEPS")
        .unwrap_or(steps)
        .div_ceil(STEPS_PER_WORLD);
    let base = seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    println!("first seed {base}, {worlds} worlds of {STEPS_PER_WORLD} steps");
    let mut total = Summary::default();
    for seed in base..base + worlds {
        match World::new(Settings::small(seed)).run(STEPS_PER_WORLD) {
            Ok(summary) => total += summary,
            Err(broken) => panic!("{broken}; repeat with QMQ_SEED={seed}"),
        }
    }
    println!("{total:?}");
    assert!(
        worlds < WORLDS_FOR_EVERYTHING || total.is_complete(),
        "something never happened"
    );
}

/// What was noticed first, and in which world.
fn noticed(sabotage: Sabotage) -> Option<(u64, Broken)> {
    let settings = |seed, sabotage| Settings {
        sabotage,
        ..Settings::small(seed)
    };
    let run = |settings| World::new(settings).run(STEPS_PER_WORLD);
    (0..WORLDS_TO_NOTICE).find_map(|seed| {
        let broken = run(settings(seed, sabotage)).err()?;
        let honest = run(settings(seed, Sabotage::None));
        assert_eq!(honest.err(), None, "world {seed}");
        Some((seed, broken))
    })
}

#[test]
fn every_sabotage_is_noticed() {
    for sabotage in Sabotage::ALL {
        let noticed = noticed(sabotage);
        println!("{sabotage:?}: {noticed:?}");
        assert!(noticed.is_some(), "{sabotage:?} was not noticed");
    }
}

#[test]
fn the_same_seed_tells_the_same_story() {
    for seed in 0..5 {
        let run = || World::new(Settings::small(seed)).run(STEPS_PER_WORLD);
        assert_eq!(run(), run(), "seed {seed}");
    }
}
