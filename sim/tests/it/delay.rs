//! Random worlds of a delay server. `QMQ_SEED` and `QMQ_STEPS` as for those of a broker (`just
//! sim-delay` takes ten million steps).

use std::thread;

use qmq_sim::{Broken, DelaySabotage, DelaySettings, DelaySummary, DelayWorld};

use super::number;

/// Steps of one world: long enough for several restarts, short enough to read its story.
const STEPS_PER_WORLD: u64 = 2_000;
/// Steps in a normal test run.
const STEPS_DEFAULT: u64 = 120_000;
/// Worlds in which everything that can happen does.
const WORLDS_FOR_EVERYTHING: u64 = 50;
/// Worlds after which a broken promise must have been noticed.
const WORLDS_TO_NOTICE: u64 = 200;
/// Cancellations that race with the dispatch, in a normal test run.
const RACES: u64 = 10_000;

fn first_seed() -> u64 {
    number("QMQ_SEED").unwrap_or_else(|| u64::from(rand::random::<u32>()))
}

/// Names the world in which something panicked.
struct World(u64);

impl Drop for World {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("repeat with QMQ_SEED={}", self.0);
        }
    }
}

fn run(settings: DelaySettings) -> DelaySummary {
    let _world = World(settings.seed);
    match DelayWorld::new(settings).run(STEPS_PER_WORLD) {
        Ok(summary) => summary,
        Err(broken) => panic!("{broken}"),
    }
}

#[test]
fn delayed_messages_are_delivered_in_random_worlds() {
    let steps = number("QMQ_STEPS").unwrap_or(match number("QMQ_SEED") {
        Some(_) => STEPS_PER_WORLD,
        None => STEPS_DEFAULT,
    });
    let (base, worlds) = (first_seed(), steps.div_ceil(STEPS_PER_WORLD));
    println!("first seed {base}, {worlds} worlds of {STEPS_PER_WORLD} steps");
    let mut total = DelaySummary::default();
    for seed in base..base + worlds {
        total += run(DelaySettings::small(seed));
    }
    println!("none lost, none early; {total:?}");
    assert!(
        worlds < WORLDS_FOR_EVERYTHING || total.is_complete(),
        "something never happened"
    );
}

#[test]
fn answers_to_cancellations_are_true() {
    let base = first_seed();
    println!("first seed {base}");
    let mut total = DelaySummary::default();
    let mut worlds = 0;
    while total.cancel_answers() < RACES {
        total += run(DelaySettings {
            cancels_per_message: 1,
            ..DelaySettings::small(base + worlds)
        });
        worlds += 1;
    }
    println!(
        "{} cancellations, {} restarts in {worlds} worlds, every answer true; {total:?}",
        total.cancel_answers(),
        total.restarts()
    );
    assert!(total.restarts() > 0);
    assert!(total.cancelled > 0 && total.dispatching > 0 && total.too_late > 0);
}

/// What was noticed first, and in which world.
fn noticed(sabotage: DelaySabotage) -> Option<(u64, Broken)> {
    (0..WORLDS_TO_NOTICE).find_map(|seed| {
        let broken = DelaySettings {
            sabotage,
            ..DelaySettings::small(seed)
        };
        let broken = DelayWorld::new(broken).run(STEPS_PER_WORLD).err()?;
        run(DelaySettings::small(seed));
        Some((seed, broken))
    })
}

#[test]
fn every_sabotage_of_a_delay_server_is_noticed() {
    for sabotage in DelaySabotage::ALL {
        let noticed = noticed(sabotage);
        println!("{sabotage:?}: {noticed:?}");
        assert!(noticed.is_some(), "{sabotage:?} was not noticed");
    }
}

#[test]
fn the_same_seed_tells_the_same_story_of_a_delay_server() {
    for seed in 0..5 {
        let run = || DelayWorld::new(DelaySettings::small(seed)).run(STEPS_PER_WORLD);
        assert_eq!(run(), run(), "seed {seed}");
    }
}
