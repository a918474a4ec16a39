//! Rot in front of the durable end: reported, never cut, and as little as possible is lost.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use qmq_store::fs::{FileSystem, OpenMode};
use qmq_store::{
    Action, Damage, DamageKind, Error, FlushMode, LogKind, NewMessage, Opened, PULL_SEQUENCE_JUMP,
    SubjectId,
};
use rand::Rng;

use crate::groups::{Change, Groups};
use crate::power_cut::{fail, first_seed};
use crate::world::{Controls, End, Trouble, World, read_all, root, segment};

fn for_seeds(count: u64, mut run: impl FnMut(&mut World) -> Result<(), Trouble>) {
    let first = first_seed();
    for seed in first..first + count {
        let mut world = World::new(seed, FlushMode::Sync);
        println!("QMQ_SEED={seed}");
        if let Err(trouble) = run(&mut world) {
            fail(seed, &trouble);
        }
    }
}

/// A store of which everything is stated to be durable, ended in one of three ways.
fn live_and_rest(world: &mut World) -> Result<End, Trouble> {
    world.open(End::Close)?;
    world.load(60)?;
    world.rest()?;
    let end = [End::Close, End::Kill, End::PowerCut][world.rng.random_range(0..3)];
    world.end(end)?;
    Ok(end)
}

fn rot(world: &mut World, log: LogKind, offset: u64) {
    let segment_bytes = match log {
        LogKind::Message => world.config.message_segment_bytes,
        LogKind::Action => world.config.action_segment_bytes,
        LogKind::Delayed | LogKind::Dispatch => panic!("not a log of this store"),
    };
    let (path, at) = segment(log, segment_bytes, offset);
    let mask = world.rng.random_range(1..=255);
    assert!(world.fs.rot(&path, at, mask), "{path:?} has no byte {at}");
}

fn covers(damages: &[Damage], log: LogKind, offset: u64) -> bool {
    damages
        .iter()
        .any(|damage| damage.log == log && damage.range.contains(&offset))
}

/// What the opening and a whole scrub found.
fn damages(opened: &mut Opened) -> Vec<Damage> {
    let mut damages = opened.report.damages.clone();
    damages.extend(opened.writer.scrub_all().unwrap().damages);
    damages
}

fn open(world: &World) -> Opened {
    world
        .try_open()
        .expect("damage in front of the durable end is no reason not to open")
}

#[test]
fn a_flipped_byte_costs_at_most_its_message() {
    for_seeds(150, |world| {
        let end = live_and_rest(world)?;
        world.open(end)?;
        world.end(End::Close)?;
        let hit = world.rng.random_range(0..world.kept().len());
        let range = world.kept()[hit].range();
        let offset = world.rng.random_range(range);
        rot(world, LogKind::Message, offset);
        let mut before = world.report.messages.end;
        for _ in 0..2 {
            let mut opened = open(world);
            assert!(
                covers(&damages(&mut opened), LogKind::Message, offset),
                "not reported"
            );
            assert_eq!(opened.report.messages.cut, None);
            assert!(opened.report.messages.end >= before, "cut");
            before = opened.report.messages.end;
            check_all_but(world, &opened, hit)?;
            opened.writer.close().unwrap();
        }
        Ok(())
    });
}

/// All messages but one are there, and that one is unharmed or missing.
fn check_all_but(world: &World, opened: &Opened, hit: usize) -> Result<(), Trouble> {
    let found = read_all(&opened.reader, world.kept().len())?;
    let found: BTreeSet<_> = found.into_iter().collect();
    for (number, message) in world.kept().iter().enumerate() {
        let place = (
            message.subject.to_owned(),
            message.sequence,
            message.payload.clone(),
        );
        assert!(
            number == hit || found.contains(&place),
            "lost {} too",
            message.sequence
        );
    }
    assert!(found.len() + 1 >= world.kept().len() && found.len() <= world.kept().len());
    Ok(())
}

#[test]
fn sequences_of_lost_messages_are_not_used_again() {
    for_seeds(60, |world| {
        let end = live_and_rest(world)?;
        let last = world.report.messages.end;
        // Everything since the last checkpoint may be hit.
        for _ in 0..10 {
            let (path, at) = segment(LogKind::Message, world.config.message_segment_bytes, last);
            let at = at + world.rng.random_range(0..500);
            let _ = world.fs.rot(&path, at, 0x55);
        }
        let mut opened = match world.try_open() {
            Ok(opened) => opened,
            Err(error) => panic!("after {end:?}: {error}"),
        };
        let fresh = world
            .fresh_messages()
            .iter()
            .map(|m| (m.subject, m.sequence));
        let used: BTreeSet<_> = fresh.collect();
        let subjects: BTreeSet<_> = used.iter().map(|(subject, _)| *subject).collect();
        for subject in subjects {
            let payload = bytes::Bytes::from_static(b"new");
            let crc = crc32fast::hash(&payload);
            let name = qmq_model::Subject::new(subject).unwrap();
            let mut placed = Vec::new();
            let new = [NewMessage {
                subject: name,
                payload,
                crc,
                fingerprint: None,
            }];
            opened.writer.append_messages(&new, &mut placed).unwrap();
            assert!(
                !used.contains(&(subject, placed[0].appended().unwrap().sequence.0)),
                "{subject} {placed:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn damaged_actions_lose_no_message_and_repeat_no_pull_sequence() {
    for_seeds(200, |world| {
        world.commits_before_ticks = true;
        world.controls = Controls::Forward;
        world.open(End::Close)?;
        let begin = world.report.actions.end;
        world.load(80)?;
        world.rest()?;
        let mut model = world.groups().clone();
        world
            .changes()
            .iter()
            .for_each(|(change, _)| model.take(change));
        let offline = world
            .changes()
            .iter()
            .any(|(c, _)| matches!(c, Change::Action(Action::ForeverOffline { .. })));
        let end = world.changes().last().map_or(begin, |(_, end)| *end);
        world.end(End::Kill)?;
        if begin == end {
            return Ok(());
        }
        let offset = world.rng.random_range(begin..end);
        rot(world, LogKind::Action, offset);
        let mut opened = open(world);
        let damages = damages(&mut opened);
        let report = &opened.report;
        assert!(
            covers(&damages, LogKind::Action, offset),
            "not reported: {report:?}"
        );
        assert_eq!((&report.actions.cut, report.actions.end), (&None, end));
        let found = Groups::of(&opened.progress);
        check_nothing_is_confirmed(&model, &found);
        if !offline {
            check_pull_sequences(&model, &found);
        }
        Ok(())
    });
}

/// What nobody confirmed is still to come: ahead of the group, or unacked by someone.
fn check_nothing_is_confirmed(model: &Groups, found: &Groups) {
    for (name, group) in &model.0 {
        let Some(left) = found.0.get(name) else {
            continue;
        };
        let owed = group
            .consumers
            .values()
            .flat_map(|consumer| consumer.unacked.values());
        for message in owed {
            let unacked = left
                .consumers
                .values()
                .flat_map(|consumer| consumer.unacked.values());
            let is_left = *message >= left.next || unacked.into_iter().any(|m| m == message);
            assert!(is_left, "{name:?}: message {message} will never come again");
        }
    }
}

fn check_pull_sequences(model: &Groups, found: &Groups) {
    for (name, group) in model.0.iter().filter(|(_, group)| !group.broadcast) {
        let Some(left) = found.0.get(name) else {
            continue;
        };
        for (id, consumer) in &group.consumers {
            let Some(left) = left.consumers.get(id) else {
                continue;
            };
            assert!(left.next_pull >= consumer.next_pull, "{name:?} {id}");
            assert!(
                left.next_pull >= PULL_SEQUENCE_JUMP,
                "{name:?} {id} was not raised"
            );
        }
    }
}

#[test]
fn a_missing_segment_is_damage() {
    let mut world = World::new(5, FlushMode::Sync);
    world.config.message_segment_bytes = 1500;
    world
        .open(End::Close)
        .and_then(|()| world.load(200))
        .map_err(|t| t.to_string())
        .unwrap();
    world
        .end(End::Close)
        .map_err(|trouble| trouble.to_string())
        .unwrap();
    let (path, _) = segment(LogKind::Message, 1500, 1500);
    world.fs.remove(&path).unwrap();
    let opened = open(&world);
    assert!(covers(&opened.report.damages, LogKind::Message, 1500));
    let found = read_all(&opened.reader, 10_000)
        .map_err(|t| t.to_string())
        .unwrap();
    assert!(found.len() > 50, "the other segments are read");
}

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    for_seeds(40, |world| {
        world.open(End::Close)?;
        world.load(40)?;
        world.end(End::Close)?;
        world.open(End::Close)?;
        world.load(10)?;
        world.end(End::Close)?;
        let dir = root().join("checkpoint");
        let newest = world.fs.list(&dir).unwrap().pop().unwrap().name;
        assert!(world.fs.rot(&dir.join(&newest), 30, 1));
        world.open(End::Close)?;
        assert_eq!(world.report.checkpoints_damaged, [newest]);
        assert!(world.report.pull_sequences_raised);
        Ok(())
    });
}

#[test]
fn lost_checkpoints_are_an_unclean_stop() {
    for_seeds(20, |world| {
        world.controls = Controls::Never;
        world.open(End::Close)?;
        world.load(40)?;
        world.end(End::Close)?;
        let dir = root().join("checkpoint");
        for entry in world.fs.list(&dir).unwrap() {
            world.fs.remove(&dir.join(entry.name)).unwrap();
        }
        world.open(End::Close)?;
        assert!(world.report.pull_sequences_raised);
        Ok(())
    });
}

#[test]
fn what_is_cut_is_saved_aside() {
    let mut seen = 0;
    let first = first_seed();
    for seed in first..first + 20 {
        let flush = FlushMode::Async {
            interval: Duration::from_secs(3600),
        };
        let mut world = World::new(seed, flush);
        world
            .open(End::Close)
            .map_err(|trouble| trouble.to_string())
            .unwrap();
        // A batch without its commit: written, never acknowledged.
        let payload = bytes::Bytes::from(vec![7; 200]);
        let crc = crc32fast::hash(&payload);
        let subject = qmq_model::Subject::new("s").unwrap();
        let new = [NewMessage {
            subject,
            payload,
            crc,
            fingerprint: None,
        }];
        world
            .store()
            .writer
            .append_messages(&new, &mut Vec::new())
            .unwrap();
        let written = world.store().reader.positions(LogKind::Message).written;
        world
            .end(End::Kill)
            .map_err(|trouble| trouble.to_string())
            .unwrap();
        let (path, _) = segment(LogKind::Message, 1 << 20, 0);
        let before = world.fs.peek(&path).unwrap();
        let opened = open(&world);
        let cut = opened
            .report
            .messages
            .cut
            .clone()
            .expect("it was never acknowledged");
        assert_eq!((cut.range.start, cut.saved_bytes), (0, written));
        let dir = root().join("messagelog");
        let names = world.fs.list(&dir).unwrap();
        let saved = names
            .iter()
            .find(|entry| entry.name.starts_with(".cut."))
            .expect("saved");
        let saved = world.fs.peek(&dir.join(&saved.name)).unwrap();
        assert_eq!(saved[..], before[..saved.len()]);
        assert!(world.fs.peek(&path).unwrap().iter().all(|byte| *byte == 0));
        seen += 1;
    }
    assert_eq!(seen, 20);
}

#[test]
fn untrusted_headers_are_told_apart() {
    // A flipped subject has a right CRC: only the checksum of the stretch speaks against it.
    let mut world = World::new(9, FlushMode::Sync);
    world
        .open(End::Close)
        .and_then(|()| world.load(60))
        .map_err(|t| t.to_string())
        .unwrap();
    world
        .end(End::Close)
        .map_err(|trouble| trouble.to_string())
        .unwrap();
    world
        .open(End::Close)
        .map_err(|trouble| trouble.to_string())
        .unwrap();
    world
        .end(End::Close)
        .map_err(|trouble| trouble.to_string())
        .unwrap();
    let hit = world
        .kept()
        .iter()
        .position(|message| message.sequence == 1)
        .unwrap();
    let range = world.kept()[hit].range();
    // The low byte of the sequence: 1 becomes 129.
    let (path, at) = segment(
        LogKind::Message,
        world.config.message_segment_bytes,
        range.start + 20,
    );
    assert!(world.fs.rot(&path, at, 0x80));
    let mut opened = open(&world);
    let kinds: Vec<_> = damages(&mut opened)
        .iter()
        .map(|damage| damage.kind)
        .collect();
    assert!(kinds.contains(&DamageKind::Checksum) && kinds.contains(&DamageKind::Untrusted));
    check_all_but(&world, &opened, hit)
        .map_err(|trouble| trouble.to_string())
        .unwrap();
}

#[test]
fn without_its_segments_a_log_is_all_damage() {
    let mut world = World::new(11, FlushMode::Sync);
    world
        .open(End::Close)
        .and_then(|()| world.load(60))
        .map_err(|t| t.to_string())
        .unwrap();
    world
        .end(End::Close)
        .map_err(|trouble| trouble.to_string())
        .unwrap();
    let dir = root().join("messagelog");
    for entry in world.fs.list(&dir).unwrap() {
        world.fs.remove(&dir.join(entry.name)).unwrap();
    }
    let opened = open(&world);
    let missing = opened
        .report
        .damages
        .iter()
        .filter(|d| d.kind == DamageKind::Missing);
    let missing: u64 = missing
        .map(|damage| damage.range.end - damage.range.start)
        .sum();
    assert_eq!(missing, opened.report.messages.end);
    assert!(missing > 0);
}

/// Paths and lengths of all files of the store.
fn files(world: &World) -> Vec<(PathBuf, u64)> {
    let folders =
        ["", "messagelog", "actionlog", "checkpoint", "consumerlog"].map(|name| root().join(name));
    let paths = folders.iter().flat_map(|dir| {
        let entries = world.fs.list(dir).unwrap().into_iter();
        entries
            .filter(|entry| !entry.is_dir)
            .map(|entry| dir.join(entry.name))
    });
    let sized = paths.map(|path| {
        let len = world.fs.peek(&path).unwrap().len() as u64;
        (path, len)
    });
    sized.filter(|(_, len)| *len > 0).collect()
}

#[test]
fn rot_anywhere_never_stops_the_process() {
    let (mut opened, mut refused) = (0, 0);
    for_seeds(250, |world| {
        world.open(End::Close)?;
        world.load(60)?;
        let end = [End::Close, End::Kill, End::PowerCut][world.rng.random_range(0..3)];
        world.end(end)?;
        let files = files(world);
        for _ in 0..world.rng.random_range(1..30) {
            let (path, len) = &files[world.rng.random_range(0..files.len())];
            let (at, mask) = (
                world.rng.random_range(0..*len),
                world.rng.random_range(1..=255),
            );
            assert!(world.fs.rot(path, at, mask));
        }
        for _ in 0..2 {
            match world.try_open() {
                Ok(mut store) => {
                    opened += 1;
                    read_what_can_be_read(&store);
                    store.writer.checkpoint().unwrap();
                    store.writer.close().unwrap();
                }
                Err(Error::Corrupt { .. } | Error::NoCommitRecord { .. }) => {
                    refused += 1;
                    world.fs.kill();
                }
                Err(error) => panic!("{error}"),
            }
        }
        Ok(())
    });
    assert!(
        opened > 100 && refused > 10,
        "{opened} opened, {refused} refused"
    );
}

fn read_what_can_be_read(store: &Opened) {
    let reader = &store.reader;
    for id in (0..)
        .map(SubjectId)
        .take_while(|id| reader.name(*id).is_some())
    {
        let mut located = Vec::new();
        // An error is an answer here too.
        let _ = reader.locate_blocking(id, reader.bounds(id), usize::MAX, usize::MAX, &mut located);
        for at in &located {
            // An error is an answer too; the CRC says which.
            if let Ok(payload) = reader.read(at) {
                assert!(!payload.is_empty());
            }
        }
    }
}

#[test]
fn damage_is_noticed_long_after_its_commit_record_is_gone() {
    for_seeds(40, |world| {
        world.open(End::Close)?;
        world.load(150)?;
        world.rest()?;
        world.end(End::Kill)?;
        let messages = world.fresh_messages();
        let ranges: Vec<_> = messages.iter().map(|message| message.range()).collect();
        let hit = world.rng.random_range(0..ranges.len());
        // The time: nothing in the record itself speaks against a wrong one.
        let offset = ranges[hit].start + world.rng.random_range(5..13);
        rot(world, LogKind::Message, offset);
        let mut opened = open(world);
        assert!(
            covers(&damages(&mut opened), LogKind::Message, offset),
            "{hit} not reported"
        );
        Ok(())
    });
}

#[test]
fn an_interrupted_cut_keeps_what_it_saved() {
    let first = first_seed();
    for seed in first..first + 8 {
        let calls = (0..400).find(|calls| interrupt_cut(seed, *calls));
        assert!(calls.is_some(), "opening takes more than 400 calls");
    }
}

/// Cuts the power during the `calls`-th call of a recovery that has something to cut off. Says
/// whether recovery was done before.
fn interrupt_cut(seed: u64, calls: u64) -> bool {
    let mut world = World::new(seed, FlushMode::Sync);
    // Few calls: this is about the cut.
    world.config.index_run_bytes = 1 << 20;
    let begin = live_and_close(&mut world).unwrap_or_else(|trouble| panic!("{trouble}"));
    let (path, at) = segment(LogKind::Message, world.config.message_segment_bytes, begin);
    // Something durable behind the end that no commit record knows.
    let room = world.config.message_segment_bytes - at;
    let stray = vec![7; usize::try_from(room.min(1000)).unwrap()];
    let file = world.fs.open(&path, OpenMode::Create).unwrap();
    file.write_at(&stray, at).unwrap();
    file.sync_data().unwrap();
    let dir = root().join("messagelog");
    world.fs.sync_dir(&dir).unwrap();
    world.fs.cut_after(calls);
    drop(world.try_open());
    let is_done = !world.fs.power_is_off();
    world.cut_power();
    drop(open(&world));
    let names = world
        .fs
        .list(&dir)
        .unwrap()
        .into_iter()
        .map(|entry| entry.name);
    let mut saved = names.filter(|name| name.starts_with(".cut."));
    let is_kept = saved.any(|name| world.fs.peek(&dir.join(name)).unwrap() == stray);
    assert!(is_kept, "QMQ_SEED={seed}: interrupted after {calls} calls");
    let left = world.fs.peek(&path).unwrap();
    assert!(
        left[usize::try_from(at).unwrap()..]
            .iter()
            .all(|byte| *byte == 0)
    );
    is_done
}

/// Leaves a closed store; returns the end of its messagelog.
fn live_and_close(world: &mut World) -> Result<u64, Trouble> {
    world.open(End::Close)?;
    world.load(10)?;
    let end = world.store().reader.positions(LogKind::Message).written;
    world.end(End::Close)?;
    Ok(end)
}
