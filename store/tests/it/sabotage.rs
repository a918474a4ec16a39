//! Each broken promise must be noticed by the test that is there for it.

use std::time::Duration;

use qmq_store::{FlushMode, Sabotage};

use crate::faults::fill_disk;
use crate::model::live;
use crate::power_cut::{first_seed, survive};
use crate::world::{Trouble, World};

/// Stores that are tried; almost every one of them notices.
const WORLDS: u64 = 20;
const ASYNC: FlushMode = FlushMode::Async {
    interval: Duration::from_millis(500),
};

/// Runs stores that break a promise until one of them is caught.
fn is_noticed(
    sabotage: Sabotage,
    flush: FlushMode,
    run: impl Fn(&mut World) -> Result<(), Trouble>,
) {
    let first = first_seed();
    for seed in first..first + WORLDS {
        let mut world = World::new(seed, flush);
        world.config.sabotage = sabotage;
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
fn a_skipped_sync_is_noticed() {
    is_noticed(Sabotage::SkipSync, FlushMode::Sync, |world| {
        survive(world, 12).map(|_| ())
    });
}

#[test]
fn a_control_that_is_not_synced_is_noticed() {
    is_noticed(Sabotage::SkipControlSync, FlushMode::Sync, |world| {
        survive(world, 12).map(|_| ())
    });
}

#[test]
fn a_sync_that_counts_for_what_came_later_is_noticed() {
    is_noticed(Sabotage::ClaimUnsynced, FlushMode::Sync, |world| {
        survive(world, 12).map(|_| ())
    });
}

#[test]
fn a_repeat_that_a_restart_forgot_is_noticed() {
    is_noticed(Sabotage::ForgetDuplicates, FlushMode::Sync, |world| {
        live(world, 4, 40)
    });
}

#[test]
fn a_rolled_back_message_that_counts_as_stored_is_noticed() {
    is_noticed(Sabotage::KeepRolledBack, FlushMode::Sync, |world| {
        fill_disk(world)
    });
}

#[test]
fn one_dropped_message_in_a_thousand_is_noticed() {
    is_noticed(Sabotage::DropMessage(1000), FlushMode::Sync, |world| {
        live(world, 2, 800)
    });
}

#[test]
fn an_answer_before_the_write_is_noticed() {
    is_noticed(Sabotage::AnswerBeforeWrite, ASYNC, |world| {
        live(world, 4, 40)
    });
    is_noticed(Sabotage::AnswerBeforeWrite, FlushMode::Sync, |world| {
        survive(world, 12).map(|_| ())
    });
}

#[test]
fn a_forgotten_unacked_range_is_noticed() {
    is_noticed(Sabotage::ForgetUnacked, FlushMode::Sync, |world| {
        live(world, 4, 40)
    });
}

#[test]
fn the_same_runs_find_nothing_without_sabotage() {
    let seed = first_seed();
    let mut world = World::new(seed, FlushMode::Sync);
    survive(&mut world, 12)
        .map_err(|trouble| format!("seed {seed}: {trouble}"))
        .unwrap();
    let mut world = World::new(seed, ASYNC);
    live(&mut world, 2, 800)
        .map_err(|trouble| format!("seed {seed}: {trouble}"))
        .unwrap();
}
