//! Single calls that fail, syncs that lie afterwards, full disks, interrupted creation.

use std::path::Path;
use std::time::Duration;

use qmq_store::fs::faulty::SyncFailure;
use qmq_store::fs::{FileSystem, OpenMode};
use qmq_store::{Error, FaultyFs, FlushMode, SyncNeeds};
use rand::Rng;

use crate::power_cut::{fail, first_seed};
use crate::world::{End, Trouble, World, root};

const ASYNC: FlushMode = FlushMode::Async {
    interval: Duration::from_millis(500),
};

/// Runs `run` with many seeds in both flush modes.
fn for_seeds(count: u64, run: impl Fn(&mut World) -> Result<(), Trouble>) {
    let first = first_seed();
    for seed in first..first + count {
        for flush in [FlushMode::Sync, ASYNC] {
            let mut world = World::new(seed, flush);
            if let Err(trouble) = run(&mut world) {
                fail(seed, &trouble);
            }
        }
    }
}

/// Loads until a fault strikes; the process is started again after it.
fn load_until_fault(world: &mut World) -> Result<(), Trouble> {
    match world.load(40) {
        Err(Trouble::Stopped(_)) | Ok(()) => {}
        broken => return broken,
    }
    world.fs.calm();
    Ok(())
}

#[test]
fn any_call_may_fail() {
    for_seeds(100, |world| {
        world.open(End::Close)?;
        for _ in 0..3 {
            let calls = world.rng.random_range(0..200);
            world.fs.fail_after(calls);
            load_until_fault(world)?;
            world.end(End::Kill)?;
            world.open(End::Kill)?;
        }
        world.end(End::PowerCut)?;
        world.open(End::PowerCut)
    });
}

#[test]
fn any_call_of_an_opening_may_fail() {
    for_seeds(60, |world| {
        world.open(End::Close)?;
        world.load(30)?;
        world.end(End::Kill)?;
        let mut calls = world.rng.random_range(0..4);
        loop {
            world.fs.fail_after(calls);
            let opened = world.try_open();
            world.fs.calm();
            match opened {
                Ok(opened) => {
                    // Each failed attempt may have raised the pull sequences.
                    world.check(opened, End::Kill)?;
                    break;
                }
                Err(_) => {
                    world.fs.kill();
                    world.raised_again();
                }
            }
            calls += 3;
        }
        world.load(10)
    });
}

#[test]
fn a_failed_sync_poisons_and_loses_nothing_acknowledged() {
    for_seeds(100, |world| {
        world.open(End::Close)?;
        let failure = if world.rng.random() {
            SyncFailure::DropDirty
        } else {
            SyncFailure::KeepDirty
        };
        let syncs = world.rng.random_range(0..40);
        world.fs.fail_sync_after(syncs, failure);
        let loaded = world.load(60);
        if matches!(loaded, Err(Trouble::Broken(_))) {
            return loaded;
        }
        world.fs.calm();
        if loaded.is_err() {
            let again = world
                .store()
                .writer
                .commit(SyncNeeds::default(), &mut Vec::new());
            assert!(matches!(again, Err(Error::Poisoned)), "{again:?}");
        }
        let end = [End::Kill, End::PowerCut][world.rng.random_range(0..2)];
        world.end(end)?;
        if loaded.is_err() {
            // A failed sync is as good as a power cut.
            world.expect_only_durable();
        }
        // What can be read after a failed sync need not be on disk: it must be by now.
        world.reopen_after_end()?;
        world.end(End::PowerCut)?;
        world.reopen_after_end()
    });
}

/// Loads a store until its disk is full, and then once more.
pub(crate) fn fill_disk(world: &mut World) -> Result<(), Trouble> {
    world.open(End::Close)?;
    world.load(20)?;
    world.is_full = true;
    let room = world.rng.random_range(0..3000);
    world.fs.limit_space(Some(world.fs.used() + room));
    world.load(150)?;
    assert!(world.refused > 0, "there was room for everything");
    Ok(())
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    for_seeds(60, |world| {
        fill_disk(world)?;
        if world.rng.random() {
            world.end(End::PowerCut)?;
            world.fs.limit_space(None);
            world.reopen_after_end()?;
        }
        world.fs.limit_space(None);
        world.is_full = false;
        world.load(60)?;
        world.end(End::Close)?;
        world.reopen_after_end()
    });
}

#[test]
fn opening_on_a_full_disk_says_so() {
    for_seeds(10, |world| {
        world.open(End::Close)?;
        world.load(20)?;
        world.end(End::Kill)?;
        world.fs.limit_space(Some(0));
        let opened = world.try_open();
        assert!(matches!(opened, Err(Error::NoSpace { .. })), "{opened:?}");
        world.fs.kill();
        world.raised_again();
        world.fs.limit_space(None);
        world.open(End::Kill)
    });
}

#[test]
fn creation_can_be_interrupted_anywhere() {
    let first = first_seed();
    for seed in first..first + 150 {
        let mut world = World::new(seed, FlushMode::Sync);
        for _ in 0..3 {
            let calls = world.rng.random_range(0..45);
            world.fs.cut_after(calls);
            let opened = world.try_open();
            let is_cut = world.fs.power_is_off();
            drop(opened);
            let cut = world.rng.random();
            world.fs.power_cut(cut);
            assert!(
                is_cut || calls > 20,
                "creation took fewer than {calls} calls"
            );
        }
        let opened = world
            .try_open()
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(opened.report.damage_count, 0);
    }
}

#[test]
fn a_store_in_use_is_refused() {
    let mut world = World::new(1, FlushMode::Sync);
    world
        .open(End::Close)
        .map_err(|trouble| trouble.to_string())
        .unwrap();
    let Err(Error::Locked { owner, .. }) = world.try_open() else {
        panic!("not refused")
    };
    assert_eq!(owner, std::process::id().to_string());
}

#[test]
fn foreign_folders_are_refused_and_untouched() {
    for name in [
        "notes.txt",
        "messagelog/00000000000000000000",
        "checkpoint/message-checkpoint.1",
    ] {
        let world = World::new(1, FlushMode::Sync);
        let path = root().join(name);
        world.fs.create_dir(path.parent().unwrap()).unwrap();
        world
            .fs
            .open(&path, OpenMode::Create)
            .unwrap()
            .write_at(b"x", 0)
            .unwrap();
        let opened = world.try_open();
        assert!(
            matches!(opened, Err(Error::NotAStore { .. })),
            "{name}: {opened:?}"
        );
        assert_eq!(world.fs.peek(&path).unwrap(), b"x");
    }
}

#[test]
fn another_group_or_size_is_refused() {
    let mut world = World::new(1, FlushMode::Sync);
    drop(world.try_open().unwrap());
    world.config.group_name = "other".into();
    assert!(matches!(world.try_open(), Err(Error::WrongGroup { .. })));
    world.config.group_name = "g".into();
    world.config.message_segment_bytes += 1;
    assert!(matches!(world.try_open(), Err(Error::WrongSize { .. })));
}

/// Makes a store with something in it and closes it.
fn closed_store() -> World {
    let mut world = World::new(3, FlushMode::Sync);
    let lived = world.open(End::Close).and_then(|()| world.load(60));
    lived
        .and_then(|()| world.end(End::Close))
        .map_err(|trouble| trouble.to_string())
        .unwrap();
    world
}

fn overwrite(fs: &FaultyFs, path: &Path, bytes: &[u8]) {
    let file = fs.open(path, OpenMode::Existing).unwrap();
    file.set_len(0).unwrap();
    file.write_at(bytes, 0).unwrap();
}

#[test]
fn without_any_commit_record_nothing_is_touched() {
    let world = closed_store();
    let segment = root().join("messagelog/00000000000000000000");
    let before = world.fs.peek(&segment);
    overwrite(&world.fs, &root().join(".commit"), &[0; 64 * 512]);
    assert!(matches!(
        world.try_open(),
        Err(Error::NoCommitRecord { .. })
    ));
    world.fs.remove(&root().join(".commit")).unwrap();
    assert!(matches!(
        world.try_open(),
        Err(Error::NoCommitRecord { .. })
    ));
    assert_eq!(world.fs.peek(&segment), before);
}

#[test]
fn damaged_small_files_are_named() {
    for name in ["store.id", ".epochs"] {
        let world = closed_store();
        assert!(world.fs.rot(&root().join(name), 20, 1));
        let Err(Error::Corrupt { path, .. }) = world.try_open() else {
            panic!("{name}")
        };
        assert_eq!(path, root().join(name));
    }
}
