//! What a batch costs: one sync of the log and one of the commit records, however many subjects.

use bytes::Bytes;
use qmq_model::Subject;
use qmq_store::{FlushMode, NewMessage, SyncNeeds};

use crate::world::World;

/// A sync of the messagelog and one of the file of commit records, in parallel.
const SYNCS_OF_A_BATCH: u64 = 2;

fn message(number: usize) -> NewMessage {
    let payload = Bytes::from(vec![b'x'; 100]);
    NewMessage {
        subject: Subject::new(&format!("subject.{number}")).unwrap(),
        crc: crc32fast::hash(&payload),
        payload,
        fingerprint: None,
    }
}

#[test]
fn a_batch_of_many_subjects_is_one_sync() {
    let mut world = World::new(1, FlushMode::Sync);
    // Neither a new segment nor more zeros ahead in the middle.
    world.config.message_segment_bytes = 1 << 20;
    world.config.zero_ahead_bytes = 1 << 20;
    let mut store = world.try_open().unwrap();
    let mut syncs_of = |messages: &[NewMessage]| {
        let before = world.fs.stats().syncs;
        let writer = &mut store.writer;
        writer.append_messages(messages, &mut Vec::new()).unwrap();
        writer
            .commit(SyncNeeds::default(), &mut Vec::new())
            .unwrap();
        world.fs.stats().syncs - before
    };
    let warm_up: Vec<_> = (0..1).map(message).collect();
    syncs_of(&warm_up);
    let many: Vec<_> = (1..=500).map(message).collect();
    assert_eq!(syncs_of(&many), SYNCS_OF_A_BATCH);
    assert_eq!(syncs_of(&[message(501)]), SYNCS_OF_A_BATCH);
}
