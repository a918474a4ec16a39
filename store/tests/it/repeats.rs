//! The duplicate window: a message that is sent again is not stored again. Random loads repeat
//! messages too; here stands what is to be seen case by case.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use qmq_model::payload::{FLAG_DELAY, FLAG_TAGS, put_str};
use qmq_model::{ManualClock, Subject, UnixMillis};
use qmq_store::fs::FileSystem;
use qmq_store::{
    AppendError, FaultyFs, FlushMode, LogKind, NewMessage, Opened, Placed, RealtimeStore,
    StoreConfig, StoreWriter, SyncNeeds,
};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::world::{DUPLICATE_WINDOW, config, root};

const ASYNC: FlushMode = FlushMode::Async {
    interval: Duration::from_secs(3600),
};

struct Case {
    fs: FaultyFs,
    clock: ManualClock,
    config: StoreConfig,
}

impl Case {
    fn new(flush: FlushMode) -> Self {
        Self {
            fs: FaultyFs::new(1),
            clock: ManualClock::at(UnixMillis(1_700_000_000_000)),
            config: config(&mut SmallRng::seed_from_u64(1), flush),
        }
    }

    fn open(&self) -> Opened {
        let (fs, clock) = (Arc::new(self.fs.clone()), Arc::new(self.clock.clone()));
        RealtimeStore::open(fs, &root(), self.config.clone(), clock).unwrap()
    }

    /// The only file of the duplicate window.
    fn file(&self) -> PathBuf {
        let dir = root().join("duplicates");
        let names = self.fs.list(&dir).unwrap();
        dir.join(&names.last().unwrap().name)
    }
}

/// What makes a message.
#[derive(Clone, Copy)]
struct Sent<'a> {
    flag: u8,
    create: i64,
    id: &'a str,
    tag: &'a str,
    body: &'a [u8],
}

const SENT: Sent<'_> = Sent {
    flag: 0,
    create: 1,
    id: "id-1",
    tag: "red",
    body: b"body",
};

fn message(store: &Opened, sent: Sent<'_>) -> NewMessage {
    let mut payload = vec![sent.flag | FLAG_TAGS];
    payload.put_i64(sent.create);
    payload.put_i64(sent.create + 7);
    put_str(&mut payload, b"a.b");
    put_str(&mut payload, sent.id.as_bytes());
    payload.put_u8(1);
    put_str(&mut payload, sent.tag.as_bytes());
    payload.put_i32(i32::try_from(sent.body.len()).unwrap());
    payload.put_slice(sent.body);
    NewMessage {
        subject: Subject::new("a.b").unwrap(),
        crc: crc32fast::hash(&payload),
        fingerprint: store.reader.fingerprint(&payload),
        payload: Bytes::from(payload),
    }
}

fn append(writer: &mut StoreWriter, messages: &[NewMessage]) -> Vec<bool> {
    let mut placed = Vec::new();
    writer.append_messages(messages, &mut placed).unwrap();
    placed
        .iter()
        .map(|placed| matches!(placed, Placed::Repeat { .. }))
        .collect()
}

/// Appends one message and commits; whether it is a repeat.
fn is_repeat(store: &mut Opened, sent: Sent<'_>) -> bool {
    let message = message(store, sent);
    let repeats = append(&mut store.writer, &[message]);
    let needs = SyncNeeds::default();
    store.writer.commit(needs, &mut Vec::new()).unwrap();
    repeats == [true]
}

fn stored(store: &Opened) -> i64 {
    let id = store.reader.subject("a.b");
    id.map_or(0, |id| store.reader.bounds(id).end.0)
}

#[test]
fn a_repeat_in_the_same_batch_is_not_stored() {
    let mut store = Case::new(FlushMode::Sync).open();
    let (one, two) = (
        message(&store, SENT),
        message(&store, Sent { id: "2", ..SENT }),
    );
    let batch = [one.clone(), two, one];
    assert_eq!(append(&mut store.writer, &batch), [false, false, true]);
    store
        .writer
        .commit(SyncNeeds::default(), &mut Vec::new())
        .unwrap();
    assert_eq!(stored(&store), 2);
}

#[test]
fn a_repeat_of_what_is_not_durable_yet_counts_with_the_commit() {
    let mut store = Case::new(FlushMode::Sync).open();
    let one = message(&store, SENT);
    assert_eq!(
        append(&mut store.writer, std::slice::from_ref(&one)),
        [false]
    );
    let mut placed = Vec::new();
    store.writer.append_messages(&[one], &mut placed).unwrap();
    let end = store.reader.positions(LogKind::Message).written;
    assert!(matches!(placed[0], Placed::Repeat { end: of } if of.0 == end));
    assert!(store.reader.positions(LogKind::Message).durable < end);
    store
        .writer
        .commit(SyncNeeds::default(), &mut Vec::new())
        .unwrap();
    assert_eq!(store.reader.positions(LogKind::Message).durable, end);
}

#[test]
fn times_in_the_header_do_not_count_but_everything_else_does() {
    let mut store = Case::new(FlushMode::Sync).open();
    assert!(!is_repeat(&mut store, SENT));
    assert!(is_repeat(&mut store, Sent { create: 99, ..SENT }));
    for other in [
        Sent { id: "id-2", ..SENT },
        Sent {
            tag: "blue",
            ..SENT
        },
        Sent {
            body: b"other",
            ..SENT
        },
        Sent {
            flag: FLAG_DELAY,
            ..SENT
        },
    ] {
        assert!(!is_repeat(&mut store, other));
        assert!(is_repeat(&mut store, other));
    }
}

#[test]
fn without_a_fingerprint_everything_is_stored() {
    let mut store = Case::new(FlushMode::Sync).open();
    let copy = NewMessage {
        subject: Subject::new("%RETRY%a.b%g").unwrap(),
        fingerprint: None,
        ..message(&store, SENT)
    };
    let batch = [copy.clone(), copy];
    assert_eq!(append(&mut store.writer, &batch), [false, false]);
    assert!(!is_repeat(&mut store, SENT), "the copy is another message");
}

#[test]
fn what_is_old_is_stored_again() {
    let case = Case::new(FlushMode::Sync);
    let mut store = case.open();
    assert!(!is_repeat(&mut store, SENT));
    case.clock.advance(DUPLICATE_WINDOW);
    assert!(is_repeat(&mut store, SENT));
    case.clock.advance(Duration::from_millis(1));
    assert!(!is_repeat(&mut store, SENT));
}

#[test]
fn a_window_of_zero_stores_everything() {
    let mut case = Case::new(FlushMode::Sync);
    case.config.duplicate_window = Duration::ZERO;
    let mut store = case.open();
    assert_eq!(message(&store, SENT).fingerprint, None);
    assert!(!is_repeat(&mut store, SENT));
    assert!(!is_repeat(&mut store, SENT));
    drop(store);
    case.fs.kill();
    assert!(!is_repeat(&mut case.open(), SENT));
}

/// Runs `between` between a store with one message and the next opening.
fn after_restart(between: impl FnOnce(&Case, Opened)) -> bool {
    let case = Case::new(FlushMode::Sync);
    let mut store = case.open();
    assert!(!is_repeat(&mut store, SENT));
    between(&case, store);
    is_repeat(&mut case.open(), SENT)
}

#[test]
fn it_survives_a_restart_with_and_without_its_files() {
    assert!(after_restart(|_, store| store.writer.close().unwrap()));
    assert!(after_restart(|case, store| {
        drop(store);
        case.fs.kill();
    }));
    assert!(after_restart(|case, store| {
        drop(store);
        case.fs.power_cut(5);
    }));
    assert!(after_restart(|case, store| {
        store.writer.close().unwrap();
        assert!(case.fs.rot(&case.file(), 50, 1));
    }));
    assert!(after_restart(|case, store| {
        store.writer.close().unwrap();
        case.fs.remove(&case.file()).unwrap();
    }));
}

/// Whether this power cut took the second of two messages; checks what follows from it.
fn is_cut(seed: u64) -> bool {
    let case = Case::new(ASYNC);
    let kept = Sent { id: "kept", ..SENT };
    let mut store = case.open();
    assert!(!is_repeat(&mut store, kept));
    store.writer.checkpoint().unwrap();
    let durable = store.reader.positions(LogKind::Message).durable;
    assert!(!is_repeat(&mut store, SENT));
    drop(store);
    case.fs.power_cut(seed);
    let mut store = case.open();
    let is_cut = store.report.messages.end == durable;
    assert!(is_repeat(&mut store, kept));
    assert_eq!(is_repeat(&mut store, SENT), !is_cut);
    assert_eq!(stored(&store), 2);
    is_cut
}

#[test]
fn an_original_that_the_power_cut_took_is_stored() {
    let cuts = (0..40).filter(|seed| is_cut(*seed)).count();
    assert!(cuts > 0, "no cut took it");
}

#[test]
fn what_a_full_disk_refused_is_stored_later() {
    let case = Case::new(FlushMode::Sync);
    let mut store = case.open();
    let body = [7; 700];
    let big = Sent {
        body: &body,
        ..SENT
    };
    case.fs.limit_space(Some(case.fs.used()));
    let batch: Vec<NewMessage> = (0..40)
        .map(|n| {
            message(
                &store,
                Sent {
                    id: &n.to_string(),
                    ..big
                },
            )
        })
        .collect();
    let mut placed = Vec::new();
    let refused = store.writer.append_messages(&batch, &mut placed);
    assert!(matches!(refused, Err(AppendError::NoSpace)), "{refused:?}");
    case.fs.limit_space(None);
    assert_eq!(append(&mut store.writer, &batch), [false; 40]);
    assert_eq!(append(&mut store.writer, &batch), [true; 40]);
}
