//! What a start reads: the end of the logs and the checkpoint, whatever the store holds. And what
//! it does when parts of the index are gone.

use std::time::Duration;

use bytes::Bytes;
use qmq_model::{Clock, MessageSequence, Subject};
use qmq_store::fs::FileSystem;
use qmq_store::{FlushMode, LogKind, NewMessage, Opened, ReadError, SyncNeeds};

use crate::world::{End, World, root};

pub(crate) const SUBJECTS: usize = 5;
const RUN_BYTES: u64 = 4096;
/// At most 8 runs behind the checkpoint, and one that is not full. Bytes behind the stated durable
/// position are read four times: for their commit records, checksums, records, and to be rewritten.
const TAIL_BYTES: u64 = 4 * 9 * RUN_BYTES;
/// What a start may read beside the end of the logs: ring, zeros ahead, footers, small files.
const SMALL_CHANGE: u64 = 100_000;

fn message(number: usize) -> NewMessage {
    let mut payload = number.to_string().into_bytes();
    payload.resize(200, b'x');
    let crc = crc32fast::hash(&payload);
    NewMessage {
        subject: Subject::new(&format!("subject.{}", number % SUBJECTS)).unwrap(),
        payload: Bytes::from(payload),
        crc,
        fingerprint: None,
    }
}

pub(crate) fn world(seed: u64) -> World {
    let mut world = World::new(seed, FlushMode::Sync);
    world.config.message_segment_bytes = 16_384;
    world.config.action_segment_bytes = 4096;
    world.config.zero_ahead_bytes = 1000;
    world.config.index_run_bytes = RUN_BYTES;
    world.config.scrub_bytes_per_second = 0;
    world
}

/// Stores messages as time goes by: 1 KiB a second.
pub(crate) fn fill(world: &World, store: &mut Opened, numbers: std::ops::Range<usize>) {
    for batch in numbers.collect::<Vec<_>>().chunks(SUBJECTS) {
        let messages: Vec<NewMessage> = batch.iter().map(|number| message(*number)).collect();
        let writer = &mut store.writer;
        writer.append_messages(&messages, &mut Vec::new()).unwrap();
        writer
            .commit(SyncNeeds::default(), &mut Vec::new())
            .unwrap();
        world.clock.advance(Duration::from_secs(1));
        writer.tick(world.clock.now()).unwrap();
    }
}

pub(crate) fn end(world: &World, store: Opened, end: End) {
    match end {
        End::Close => store.writer.close().unwrap(),
        End::Kill => {
            drop(store);
            world.fs.kill();
        }
        End::PowerCut => {
            drop(store);
            world.fs.power_cut(7);
        }
    }
}

/// Opens the store and says how many bytes that read.
pub(crate) fn open(world: &World) -> (Opened, u64) {
    let before = world.fs.stats().bytes_read;
    let opened = world.try_open().unwrap();
    (opened, world.fs.stats().bytes_read - before)
}

/// Exactly these sequences of every subject are there, unharmed.
pub(crate) fn check_range(store: &Opened, kept: std::ops::Range<i64>) {
    for subject in 0..SUBJECTS {
        let id = store.reader.subject(&format!("subject.{subject}")).unwrap();
        let end = store.reader.bounds(id).end;
        assert_eq!(end.0, kept.end);
        let mut found = Vec::new();
        let all = MessageSequence(0)..end;
        let looked = store
            .reader
            .locate_blocking(id, all, usize::MAX, usize::MAX, &mut found);
        assert_eq!(looked.unwrap().next, end);
        // A segment begins somewhere among the messages of one second.
        let first = found.first().map_or(end, |at| at.sequence).0;
        assert!(
            (kept.start - 1..=kept.start + 1).contains(&first),
            "{first} {kept:?}"
        );
        for (at, sequence) in found.iter().zip(first..) {
            assert_eq!(at.sequence.0, sequence);
            let number = usize::try_from(sequence).unwrap() * SUBJECTS + subject;
            assert_eq!(store.reader.read(at).unwrap(), message(number).payload);
        }
        assert_eq!(found.len(), usize::try_from(end.0 - first).unwrap());
    }
}

fn check(store: &Opened, count: usize) {
    let count = i64::try_from(count / SUBJECTS).unwrap();
    check_range(store, 0..count);
}

#[test]
fn a_start_reads_the_tail_only() {
    for how in [End::Close, End::Kill, End::PowerCut] {
        for messages in [500, 5000] {
            let world = world(1);
            let (mut store, _) = open(&world);
            fill(&world, &mut store, 0..messages);
            let bytes = store.reader.positions(LogKind::Message).durable;
            end(&world, store, how);
            let (store, read) = open(&world);
            println!("{messages} messages, {bytes} bytes, {how:?}: {read} bytes read");
            assert!(
                read < TAIL_BYTES + SMALL_CHANGE,
                "{how:?}: {read} of {bytes}"
            );
            check(&store, messages);
            end(&world, store, End::Kill);

            // The same start without an index shows that the bytes are counted.
            world
                .fs
                .remove(&root().join("consumerlog/manifest"))
                .unwrap();
            let (store, read) = open(&world);
            assert!(read > bytes, "{read} of {bytes} read");
            assert_eq!(store.report.index_damaged, ["manifest"]);
            check(&store, messages);
        }
    }
}

#[test]
fn a_lost_or_damaged_run_is_read_again_and_no_other() {
    for is_lost in [true, false] {
        let world = world(2);
        let (mut store, _) = open(&world);
        fill(&world, &mut store, 0..2000);
        end(&world, store, End::Close);
        let dir = root().join("consumerlog");
        let names = world.fs.list(&dir).unwrap();
        let runs = names.iter().filter(|entry| entry.name.starts_with("run."));
        let newest = runs.map(|entry| entry.name.clone()).max().unwrap();
        let path = dir.join(&newest);
        if is_lost {
            world.fs.remove(&path).unwrap();
        } else {
            let footer = world.fs.peek(&path).unwrap().len() as u64 - 40;
            assert!(world.fs.rot(&path, footer, 1));
        }
        for attempt in 0..2 {
            let (store, read) = open(&world);
            check(&store, 2000);
            if attempt == 0 {
                assert_eq!(store.report.index_damaged.join(" "), newest);
            } else {
                assert_eq!(store.report.index_damaged, [""; 0]);
                assert!(read < TAIL_BYTES + SMALL_CHANGE, "{read}");
            }
            end(&world, store, End::Kill);
        }
    }
}

#[test]
fn a_damaged_block_is_noticed_when_it_is_needed_and_rebuilt() {
    let world = world(3);
    let (mut store, _) = open(&world);
    fill(&world, &mut store, 0..2000);
    end(&world, store, End::Close);
    let dir = root().join("consumerlog");
    for entry in world.fs.list(&dir).unwrap() {
        if entry.name.starts_with("run.") {
            assert!(world.fs.rot(&dir.join(entry.name), 100, 1));
        }
    }
    let (mut store, _) = open(&world);
    let id = store.reader.subject("subject.0").unwrap();
    let mut failures = 0;
    loop {
        let all = MessageSequence(0)..MessageSequence(400);
        match store
            .reader
            .locate_blocking(id, all, 400, usize::MAX, &mut Vec::new())
        {
            Ok(_) => break,
            Err(ReadError::Index(_)) => failures += 1,
            Err(error) => panic!("{error}"),
        }
        assert!(failures < 50, "never rebuilt");
        world.clock.advance(Duration::from_secs(2));
        store.writer.tick(world.clock.now()).unwrap();
    }
    assert!(failures > 0, "no block was damaged");
    check(&store, 2000);
}

#[test]
fn the_index_of_a_long_tail_is_not_kept_in_memory() {
    let world = world(4);
    let (mut store, _) = open(&world);
    fill(&world, &mut store, 0..1000);
    let id = store.reader.subject("subject.1").unwrap();
    let first = MessageSequence(0)..MessageSequence(1);
    let mut found = Vec::new();
    let cold = store
        .reader
        .locate(id, first.clone(), 1, usize::MAX, &mut found);
    assert_eq!(
        (cold.cold, cold.next),
        (Some(MessageSequence(0)), MessageSequence(0))
    );
    assert_eq!(found, []);
    store.reader.load_index(id, MessageSequence(0)).unwrap();
    let warm = store.reader.locate(id, first, 1, usize::MAX, &mut found);
    assert_eq!(
        (warm.cold, warm.next, found.len()),
        (None, MessageSequence(1), 1)
    );
    // What came since is in memory.
    let new: Vec<NewMessage> = (1000..1005).map(message).collect();
    let writer = &mut store.writer;
    writer.append_messages(&new, &mut Vec::new()).unwrap();
    writer
        .commit(SyncNeeds::default(), &mut Vec::new())
        .unwrap();
    let last = MessageSequence(200)..MessageSequence(201);
    let warm = store.reader.locate(id, last, 1, usize::MAX, &mut found);
    assert_eq!((warm.cold, found.len()), (None, 2));
}

#[test]
fn finds_by_time_in_runs_and_tail() {
    let world = world(5);
    let (mut store, _) = open(&world);
    let begin = world.clock.now();
    fill(&world, &mut store, 0..1000);
    let id = store.reader.subject("subject.2").unwrap();
    for second in [0, 1, 57, 100, 198, 199, 200, 300] {
        let time = begin.plus(Duration::from_secs(second));
        let wanted = MessageSequence(i64::try_from(second.min(200)).unwrap());
        assert_eq!(
            store.reader.sequence_at(id, time).unwrap(),
            wanted,
            "{second} s"
        );
    }
}

#[test]
fn a_power_cut_at_any_call_of_writing_and_merging_runs_is_survived() {
    // Each time 20 more make a run; one of four has runs merged.
    let calls = [300, 320, 340, 360].map(|filled| {
        let mut calls = 0;
        while cut_power_of_a_run(filled, calls) {
            calls += 1;
        }
        calls
    });
    println!("calls of writing a run, and of merging some: {calls:?}");
    let (least, most) = (calls.iter().min().unwrap(), calls.iter().max().unwrap());
    assert!(*least > 10 && *most > least + 8, "{calls:?}");
}

/// Cuts the power at this call of making a run behind `filled` messages. Says whether it came to
/// that.
fn cut_power_of_a_run(filled: usize, calls: u64) -> bool {
    let world = world(6);
    let (mut store, _) = open(&world);
    fill(&world, &mut store, 0..filled);
    let end = filled + 20;
    let new: Vec<NewMessage> = (filled..end).map(message).collect();
    let writer = &mut store.writer;
    writer.append_messages(&new, &mut Vec::new()).unwrap();
    writer
        .commit(SyncNeeds::default(), &mut Vec::new())
        .unwrap();
    writer.checkpoint().unwrap();
    world.fs.cut_after(calls);
    world.clock.advance(Duration::from_secs(1));
    // What fails here is only put off.
    let _ = writer.tick(world.clock.now());
    let is_off = world.fs.power_is_off();
    drop(store);
    world.fs.power_cut(calls);
    let (store, _) = open(&world);
    assert_eq!(store.report.index_damaged, [""; 0], "after {calls} calls");
    check(&store, end);
    is_off
}
