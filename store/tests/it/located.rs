//! What the index says of a message beside its place, before and after a restart.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use qmq_model::payload::{FLAG_TAGS, put_str};
use qmq_model::{Clock, ManualClock, Subject, UnixMillis};
use qmq_store::{
    FaultyFs, FlushMode, Located, NewMessage, Opened, RealtimeStore, StoreReader, SyncNeeds,
    TagMask,
};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::world::{config, root};

fn message(id_bytes: usize, tags: &[&str]) -> NewMessage {
    let mut payload = vec![if tags.is_empty() { 0 } else { FLAG_TAGS }];
    payload.put_bytes(0, 16);
    put_str(&mut payload, b"order.paid");
    put_str(&mut payload, &vec![b'x'; id_bytes]);
    if !tags.is_empty() {
        payload.put_u8(u8::try_from(tags.len()).unwrap());
        tags.iter()
            .for_each(|tag| put_str(&mut payload, tag.as_bytes()));
    }
    payload.put_i32(0);
    let crc = crc32fast::hash(&payload);
    NewMessage {
        subject: Subject::new("order.paid").unwrap(),
        payload: Bytes::from(payload),
        crc,
        fingerprint: None,
    }
}

fn all(reader: &StoreReader) -> Vec<Located> {
    let id = reader.subject("order.paid").unwrap();
    let mut located = Vec::new();
    reader.locate(id, reader.bounds(id), usize::MAX, usize::MAX, &mut located);
    located
}

#[test]
fn time_and_tags_are_kept_over_a_restart() {
    let fs = FaultyFs::new(1);
    let clock = ManualClock::at(UnixMillis(1_700_000_000_000));
    let config = config(&mut SmallRng::seed_from_u64(1), FlushMode::Sync);
    let open = || -> Opened {
        let (fs, clock) = (Arc::new(fs.clone()), Arc::new(clock.clone()));
        RealtimeStore::open(fs, &root(), config.clone(), clock).unwrap()
    };
    let mut store = open();
    // Ids so long that the tags stand behind the bytes that are mostly looked at.
    let sent: [(usize, &[&str]); 4] = [
        (4, &[]),
        (4, &["red"]),
        (900, &["red", "green"]),
        (700, &[]),
    ];
    let mut wanted = Vec::new();
    for (id_bytes, tags) in sent {
        let messages = [message(id_bytes, tags)];
        store
            .writer
            .append_messages(&messages, &mut Vec::new())
            .unwrap();
        store
            .writer
            .commit(SyncNeeds::default(), &mut Vec::new())
            .unwrap();
        let mask = TagMask::of_tags(tags.iter().map(|tag| tag.as_bytes()));
        wanted.push((clock.now(), mask));
        clock.advance(Duration::from_millis(7));
    }
    let live = all(&store.reader);
    let seen: Vec<_> = live.iter().map(|at| (at.time, at.tags)).collect();
    assert_eq!(seen, wanted);
    drop(store);
    fs.kill();
    assert_eq!(all(&open().reader), live);
}
