//! Random worlds by seed. `QMQ_SEED` repeats one, `QMQ_STEPS` sets how many steps are taken in all
//! (`just sim` takes ten million).

use std::env;

use qmq_sim::{Sabotage, Settings, Summary, World};

/// Steps of one world: long enough for several restarts, short enough to read its story.
const STEPS_PER_WORLD: u64 = 2_000;
/// Steps in a normal test run.
const STEPS_DEFAULT: u64 = 400_000;
/// Worlds after which a broken promise must have been noticed.
const WORLDS_TO_NOTICE: u64 = 200;

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn promises_hold_in_random_worlds() {
    let worlds = number("QMQ_STEPS")
        .unwrap_or(STEPS_DEFAULT)
        .div_ceil(STEPS_PER_WORLD);
    let first = number("QMQ_SEED");
    let base = first.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let worlds = if first.is_some() { 1 } else { worlds };
    println!("first seed {base}, {worlds} worlds of {STEPS_PER_WORLD} steps");
    let mut total = Summary::default();
    for seed in base..base + worlds {
        match World::new(Settings::small(seed)).run(STEPS_PER_WORLD) {
            Ok(summary) => total += summary,
            Err(broken) => panic!("{broken}; repeat with QMQ_SEED={seed}"),
        }
    }
    println!("{total:?}");
    assert!(total.acknowledged > 0 && total.delivered > 0 && total.confirmed > 0);
    if worlds > 10 {
        assert!(total.power_cuts > 0 && total.kills > 0 && total.reopened > 0);
    }
}

fn is_noticed(sabotage: Sabotage) -> bool {
    (0..WORLDS_TO_NOTICE).any(|seed| {
        let settings = Settings {
            sabotage,
            ..Settings::small(seed)
        };
        World::new(settings).run(STEPS_PER_WORLD).is_err()
    })
}

#[test]
fn every_sabotage_is_noticed() {
    for sabotage in Sabotage::ALL {
        assert!(is_noticed(sabotage), "{sabotage:?} was not noticed");
    }
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let run = || World::new(Settings::small(42)).run(STEPS_PER_WORLD);
    assert_eq!(run(), run());
}
