//! Random append, commit, roll, close, crash of the process and reopening against a plain model.

use std::time::Duration;

use qmq_model::UnixMillis;
use qmq_store::{FlushMode, SyncNeeds};
use rand::Rng;

use crate::power_cut::{fail, first_seed};
use crate::world::{End, Trouble, World};

const ASYNC: FlushMode = FlushMode::Async {
    interval: Duration::from_millis(500),
};

/// Several lives of one store; nothing committed may ever be missing.
pub(crate) fn live(world: &mut World, lives: usize, steps: usize) -> Result<(), Trouble> {
    world.with_retention();
    let mut end = End::Close;
    for _ in 0..lives {
        world.open(end)?;
        world.load(steps)?;
        end = if world.rng.random_bool(0.5) {
            End::Kill
        } else {
            End::Close
        };
        world.end(end)?;
    }
    world.open(end)?;
    world.end(End::Close)
}

fn run(flush: FlushMode) {
    let first = first_seed();
    for seed in first..first + 30 {
        let mut world = World::new(seed, flush);
        if let Err(trouble) = live(&mut world, 8, 60) {
            fail(seed, &trouble);
        }
    }
}

#[test]
fn nothing_is_nothing() {
    let mut world = World::new(1, FlushMode::Sync);
    world
        .open(End::Close)
        .map_err(|trouble| trouble.to_string())
        .unwrap();
    let writer = world.writer();
    writer.append_messages(&[], &mut Vec::new()).unwrap();
    writer.append_actions(&[]).unwrap();
    let mut published = Vec::new();
    writer
        .commit(
            SyncNeeds {
                messages: true,
                actions: true,
            },
            &mut published,
        )
        .unwrap();
    assert_eq!(published, []);
    assert_eq!(writer.tick(UnixMillis(i64::MAX)).unwrap(), None);
}

#[test]
fn agrees_with_the_model_in_sync_mode() {
    run(FlushMode::Sync);
}

#[test]
fn agrees_with_the_model_in_async_mode() {
    run(ASYNC);
}
