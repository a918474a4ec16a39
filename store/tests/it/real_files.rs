//! The store on the files of this machine, with its threads.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use qmq_model::{MessageSequence, Subject, SystemClock};
use qmq_store::{
    Error, FlushMode, LogKind, NewMessage, Opened, RealFs, RealtimeStore, StoreConfig, StoreReader,
    StoreWriter, SyncNeeds,
};

const ASYNC: FlushMode = FlushMode::Async {
    interval: Duration::from_millis(500),
};

fn config(flush: FlushMode) -> StoreConfig {
    StoreConfig {
        group_name: "g".into(),
        flush,
        message_segment_bytes: 1 << 20,
        action_segment_bytes: 64 << 10,
        zero_ahead_bytes: 256 << 10,
        commit_slots: 64,
        // With the threads that write and merge runs while others look things up.
        index_run_bytes: 100 << 10,
        ..StoreConfig::default()
    }
}

fn open(root: &Path, config: StoreConfig) -> Result<Opened, Error> {
    RealtimeStore::open(Arc::new(RealFs), root, config, Arc::new(SystemClock))
}

fn message(number: usize) -> NewMessage {
    let mut payload = format!("message {number} ").into_bytes();
    payload.resize(700, 0x61);
    let payload = Bytes::from(payload);
    let crc = crc32fast::hash(&payload);
    let subject = Subject::new(&format!("subject.{}", number % 3)).unwrap();
    NewMessage {
        subject,
        payload,
        crc,
        fingerprint: None,
    }
}

fn send(store: &mut Opened, numbers: std::ops::Range<usize>) {
    for batch in numbers.collect::<Vec<_>>().chunks(20) {
        let messages: Vec<NewMessage> = batch.iter().map(|number| message(*number)).collect();
        store
            .writer
            .append_messages(&messages, &mut Vec::new())
            .unwrap();
        let mut published = Vec::new();
        store
            .writer
            .commit(SyncNeeds::default(), &mut published)
            .unwrap();
        assert_eq!(published.len(), 3);
    }
}

fn check(store: &Opened, count: usize) {
    for number in 0..count {
        let wanted = message(number);
        let id = store.reader.subject(wanted.subject.as_str()).unwrap();
        let sequence = MessageSequence(i64::try_from(number / 3).unwrap());
        let mut located = Vec::new();
        let wanted_range = sequence..sequence.plus(1);
        let looked = store
            .reader
            .locate_blocking(id, wanted_range, 1, usize::MAX, &mut located);
        looked.unwrap();
        assert_eq!(store.reader.read(&located[0]).unwrap(), wanted.payload);
    }
}

fn survives_reopening(flush: FlushMode) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data/store");
    let mut store = open(&root, config(flush)).unwrap();
    assert!(store.report.is_created);
    send(&mut store, 0..3000);
    store.writer.close().unwrap();

    let mut store = open(&root, config(flush)).unwrap();
    assert!(store.report.was_clean && !store.report.is_created);
    check(&store, 3000);
    send(&mut store, 3000..4000);
    // As if the process died: nothing is closed, and the kernel has everything.
    drop(store);

    let store = open(&root, config(flush)).unwrap();
    assert!(!store.report.was_clean);
    assert_eq!(store.report.damage_count, 0);
    check(&store, 4000);
    let positions = store.reader.positions(LogKind::Message);
    assert_eq!(positions.durable, positions.written);
}

#[test]
fn survives_reopening_in_sync_mode() {
    survives_reopening(FlushMode::Sync);
}

#[test]
fn survives_reopening_in_async_mode() {
    survives_reopening(ASYNC);
}

#[test]
fn halves_can_be_sent_to_threads() {
    fn is_send<T: Send + 'static>() {}
    fn is_shared<T: Clone + Send + Sync + 'static>() {}
    is_send::<StoreWriter>();
    is_send::<Opened>();
    is_shared::<StoreReader>();
}

#[test]
fn a_second_opener_is_told_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path(), config(ASYNC)).unwrap();
    let Err(Error::Locked { owner, .. }) = open(dir.path(), config(ASYNC)) else {
        panic!("opened twice")
    };
    assert_eq!(owner, std::process::id().to_string());
    first.writer.close().unwrap();
    open(dir.path(), config(ASYNC)).unwrap();
}

#[test]
fn a_folder_of_another_group_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path(), config(ASYNC))
        .unwrap()
        .writer
        .close()
        .unwrap();
    let other = StoreConfig {
        group_name: "h".into(),
        ..config(ASYNC)
    };
    let error = open(dir.path(), other).unwrap_err();
    assert!(matches!(error, Error::WrongGroup { .. }), "{error}");
}

#[test]
fn readers_see_only_what_is_committed() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path(), config(ASYNC)).unwrap();
    let reader = store.reader.clone();
    let watcher = std::thread::spawn(move || {
        let mut seen = 0;
        while seen < 600 {
            let Some(id) = reader.subject("subject.0") else {
                continue;
            };
            let bounds = reader.bounds(id);
            assert!(bounds.end.0 >= seen, "the end moves forward");
            let mut located = Vec::new();
            let new = MessageSequence(seen)..bounds.end;
            let looked = reader.locate_blocking(id, new, 1000, usize::MAX, &mut located);
            assert_eq!(looked.unwrap().missing, 0);
            for at in &located {
                let wanted = message(usize::try_from(at.sequence.0).unwrap() * 3).payload;
                assert_eq!(reader.read(at).unwrap(), wanted);
                assert!(reader.read_recent(at).is_none_or(|recent| recent == wanted));
            }
            seen = bounds.end.0;
        }
    });
    send(&mut store, 0..1800);
    watcher.join().unwrap();
    let mut uncommitted = Vec::new();
    store
        .writer
        .append_messages(&[message(0)], &mut uncommitted)
        .unwrap();
    let reader = &store.reader;
    assert_eq!(
        reader
            .bounds(uncommitted[0].appended().unwrap().subject)
            .end
            .0,
        600
    );
    let positions = reader.positions(LogKind::Message);
    assert!(positions.visible < positions.written);
}
