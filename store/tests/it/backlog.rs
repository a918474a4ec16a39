//! Reading what is no longer in memory: several subjects side by side, whole records, nothing that
//! was not published.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use qmq_model::{ManualClock, MessageSequence, Subject, UnixMillis};
use qmq_store::{
    Background, FaultyFs, FlushMode, Located, LogKind, NewMessage, Opened, ReadError,
    RealtimeStore, StoreConfig, SyncNeeds,
};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

const SUBJECTS: usize = 5;
const SEGMENT: u64 = 1 << 20;

struct Backlog {
    fs: FaultyFs,
    store: Opened,
    rng: SmallRng,
    sent: [Vec<Bytes>; SUBJECTS],
}

impl Backlog {
    fn new(seed: u64) -> Self {
        let fs = FaultyFs::new(seed);
        let config = StoreConfig {
            group_name: "g".into(),
            flush: FlushMode::Sync,
            message_segment_bytes: SEGMENT,
            recent_bytes_max: 0,
            background: Background::Inline,
            ..StoreConfig::default()
        };
        let clock = Arc::new(ManualClock::at(UnixMillis(1_700_000_000_000)));
        let shared = Arc::new(fs.clone());
        let store = RealtimeStore::open(shared, Path::new("/store"), config, clock).unwrap();
        Self {
            fs,
            store,
            rng: SmallRng::seed_from_u64(seed),
            sent: Default::default(),
        }
    }

    /// Sends messages to all subjects in turn. One in 100 is longer than any overlap of blocks.
    fn send(&mut self, count: usize, bytes: Range<usize>) {
        let mut batch = Vec::new();
        for number in 0..count {
            let len = match self.rng.random_range(0..100) {
                0 => 40_000,
                _ => self.rng.random_range(bytes.clone()),
            };
            let mut payload = vec![0; len];
            self.rng.fill_bytes(&mut payload);
            let payload = Bytes::from(payload);
            self.sent[number % SUBJECTS].push(payload.clone());
            batch.push(NewMessage {
                subject: subject(number % SUBJECTS),
                crc: crc32fast::hash(&payload),
                payload,
                fingerprint: None,
            });
            if batch.len() == 50 || number + 1 == count {
                let writer = &mut self.store.writer;
                writer.append_messages(&batch, &mut Vec::new()).unwrap();
                let published = &mut Vec::new();
                writer.commit(SyncNeeds::default(), published).unwrap();
                batch.clear();
            }
        }
    }

    fn locate(&self, number: usize, range: Range<usize>) -> Vec<Located> {
        let reader = &self.store.reader;
        let id = reader.subject(subject(number).as_str()).unwrap();
        let sequence = |at| MessageSequence(i64::try_from(at).unwrap());
        let range = sequence(range.start)..sequence(range.end);
        let mut located = Vec::new();
        reader
            .locate_blocking(id, range, usize::MAX, usize::MAX, &mut located)
            .unwrap();
        located
    }

    /// Reads everything as consumers do that take turns.
    fn check(&mut self, is_cached: bool) {
        let mut next = [0; SUBJECTS];
        while next.iter().zip(&self.sent).any(|(at, all)| *at < all.len()) {
            for (number, next) in next.iter_mut().enumerate() {
                let end = self.sent[number]
                    .len()
                    .min(*next + self.rng.random_range(1..200));
                let located = self.locate(number, *next..end);
                let mut payloads = Vec::new();
                let reader = &self.store.reader;
                if is_cached {
                    let is_all = reader.read_many_cached(&located, &mut payloads);
                    assert!(is_all.unwrap());
                } else {
                    assert!(reader.read_many(&located, &mut payloads).is_none());
                }
                assert!(payloads == self.sent[number][*next..end]);
                *next = end;
            }
        }
    }
}

fn subject(number: usize) -> Subject {
    Subject::new(&format!("backlog.{number}")).unwrap()
}

#[test]
fn subjects_side_by_side_are_read_once() {
    let mut backlog = Backlog::new(1);
    backlog.send(4000, 1..3000);
    let log = backlog.store.reader.positions(LogKind::Message).visible;
    assert!(log > 5 * SEGMENT, "{log}");
    backlog.fs.set_warm(true);
    for is_cached in [true, false] {
        let before = backlog.fs.stats().bytes_read;
        backlog.check(is_cached);
        let read = backlog.fs.stats().bytes_read - before;
        // Not once for each of them; records that no block holds whole are read again.
        assert!(read < 2 * log, "{read} of {log}");
    }
}

#[test]
fn what_is_not_in_memory_is_left_to_who_can_wait() {
    let mut backlog = Backlog::new(2);
    backlog.send(2000, 500..1500);
    let located = backlog.locate(0, 0..400);
    let mut payloads = Vec::new();
    let reader = &backlog.store.reader;
    let is_all = reader.read_many_cached(&located, &mut payloads);
    assert!(!is_all.unwrap() && payloads.is_empty());
    assert!(reader.read_many(&located, &mut payloads).is_none());
    assert!(payloads == backlog.sent[0]);
    // What was read for one subject is in memory for the others, up to the end of the last block.
    let mut others = Vec::new();
    let located = backlog.locate(1, 0..100);
    let is_all = backlog.store.reader.read_many_cached(&located, &mut others);
    assert!(is_all.is_ok() && others.len() > 20, "{}", others.len());
    assert!(others == backlog.sent[1][..others.len()]);
}

#[test]
fn the_end_of_a_growing_log_is_never_old() {
    let mut backlog = Backlog::new(3);
    backlog.fs.set_warm(true);
    // Across the ends of blocks and of segments.
    for round in 0..60 {
        let before = backlog.sent.each_ref().map(Vec::len);
        backlog.send(60, 1..1500);
        for (number, begin) in before.into_iter().enumerate() {
            let begin = begin.saturating_sub(20);
            let all = &backlog.sent[number];
            let located = backlog.locate(number, begin..all.len());
            let mut payloads = Vec::new();
            let read = backlog
                .store
                .reader
                .read_many_cached(&located, &mut payloads);
            assert!(read.unwrap(), "round {round}");
            assert!(payloads == all[begin..], "round {round}, subject {number}");
        }
    }
    assert!(backlog.store.reader.positions(LogKind::Message).visible > 2 * SEGMENT);
}

#[test]
fn damage_in_a_block_costs_its_record_only() {
    let mut backlog = Backlog::new(4);
    backlog.send(1000, 500..1000);
    backlog.fs.set_warm(true);
    let located = backlog.locate(2, 0..100);
    let hit = &located[37];
    let at = hit.offset.0 + u64::from(hit.bytes) - 1;
    let path = Path::new("/store/messagelog/00000000000000000000");
    assert!(backlog.fs.rot(path, at, 0x40));
    let mut payloads = Vec::new();
    let read = backlog
        .store
        .reader
        .read_many_cached(&located, &mut payloads);
    let offset = hit.offset.0;
    assert!(
        matches!(read, Err(ReadError::Corrupt { offset: at, .. }) if at == offset),
        "{read:?}"
    );
    assert!(payloads == backlog.sent[2][..37]);
    // Its neighbours come from the same block, and look-ups pass over it from now on.
    let located = backlog.locate(2, 0..100);
    assert_eq!(located.len(), 99);
    payloads.clear();
    let read = backlog
        .store
        .reader
        .read_many_cached(&located, &mut payloads);
    assert!(read.unwrap());
    let good = [&backlog.sent[2][..37], &backlog.sent[2][38..100]].concat();
    assert!(payloads == good);
}
