//! The hot pieces one by one: frame split, send decode, append, index, pull of 100, reply encode.

use std::hint::black_box;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use qmq_model::{Message, MessageSequence, PullSequence, Subject, SystemClock};
use qmq_protocol::command::pull::{put_payload_without_delay_bit, put_pull_header};
use qmq_protocol::command::send::{SendRequest, put_message};
use qmq_protocol::frame::BODY_BYTES_MAX;
use qmq_protocol::{CommandCode, Header, split_frame};
use qmq_store::fs::RealFs;
use qmq_store::{
    FlushMode, Located, NewMessage, Opened, RealtimeStore, StoreConfig, StoreReader, StoreWriter,
    SubjectId, SyncNeeds,
};
use tempfile::TempDir;

/// Messages of a piece of work.
const COUNT: usize = 100;
const SUBJECT: &str = "bench.hot";

fn payload(number: usize) -> Bytes {
    let message = Message {
        subject: SUBJECT.to_owned(),
        message_id: format!("{number:012}"),
        properties: vec![("content".to_owned(), "x".repeat(1024))],
        ..Message::default()
    };
    message.to_payload().expect("within the bounds")
}

/// `COUNT` requests with one message each.
fn requests() -> BytesMut {
    let mut out = BytesMut::new();
    for number in 0..COUNT {
        let header = Header::request(CommandCode::SendMessage.code(), 1);
        header.put_frame(&mut out, |out| put_message(&payload(number), out));
    }
    out
}

fn protocol(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("protocol");
    group.throughput(Throughput::Elements(COUNT as u64));
    let stream = requests();
    group.bench_function("frame split", |bencher| {
        bencher.iter_batched_ref(
            || stream.clone(),
            |stream| {
                while let Ok(Some(frame)) = split_frame(stream, BODY_BYTES_MAX) {
                    black_box(frame);
                }
            },
            BatchSize::LargeInput,
        );
    });
    let mut body = BytesMut::new();
    (0..COUNT).for_each(|number| put_message(&payload(number), &mut body));
    let body = body.freeze();
    group.bench_function("send decode", |bencher| {
        bencher.iter(|| {
            let request = SendRequest::decode(body.clone()).expect("made above");
            request
                .messages()
                .filter(|message| message.crc_matches())
                .count()
        });
    });
    let payloads: Vec<_> = (0..COUNT).map(payload).collect();
    let mut reply = BytesMut::with_capacity(COUNT * 2048);
    group.bench_function("reply encode", |bencher| {
        bencher.iter(|| {
            reply.clear();
            put_pull_header(PullSequence(1), &mut reply);
            for payload in &payloads {
                put_payload_without_delay_bit(9, payload, &mut reply).expect("version 9");
            }
            black_box(reply.len())
        });
    });
    group.finish();
}

struct Store {
    writer: StoreWriter,
    reader: StoreReader,
    id: SubjectId,
    _folder: TempDir,
}

impl Store {
    /// A store with `COUNT` messages. It is not synced: what is measured is our own work.
    fn open() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = StoreConfig {
            group_name: "bench".to_owned(),
            flush: FlushMode::Async {
                interval: std::time::Duration::from_millis(500),
            },
            ..StoreConfig::default()
        };
        let root = folder.path().join("store");
        let opened = RealtimeStore::open(Arc::new(RealFs), &root, config, Arc::new(SystemClock));
        let Opened {
            mut writer, reader, ..
        } = opened.expect("an empty store");
        append(&mut writer, &messages());
        let id = reader.subject(SUBJECT).expect("just appended");
        Self {
            writer,
            reader,
            id,
            _folder: folder,
        }
    }
}

fn messages() -> Vec<NewMessage> {
    let message = |number| {
        let payload = payload(number);
        NewMessage {
            subject: Subject::new(SUBJECT).expect("a legal subject"),
            crc: crc32fast::hash(&payload),
            payload,
            // The same messages are appended again and again.
            fingerprint: None,
        }
    };
    (0..COUNT).map(message).collect()
}

fn append(writer: &mut StoreWriter, messages: &[NewMessage]) {
    let (mut placed, mut published) = (Vec::with_capacity(COUNT), Vec::new());
    writer
        .append_messages(messages, &mut placed)
        .expect("room on the disk");
    writer
        .commit(SyncNeeds::default(), &mut published)
        .expect("a working disk");
}

fn store(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store");
    group.throughput(Throughput::Elements(COUNT as u64));
    let mut store = Store::open();
    let mut located = Vec::with_capacity(COUNT);
    let range = MessageSequence(0)..MessageSequence(i64::try_from(COUNT).expect("small"));
    let locate = |store: &Store, located: &mut Vec<Located>| {
        located.clear();
        store
            .reader
            .locate(store.id, range.clone(), COUNT, usize::MAX, located);
    };
    group.bench_function("index", |bencher| {
        bencher.iter(|| {
            locate(&store, &mut located);
            black_box(located.len())
        });
    });
    let mut reply = BytesMut::with_capacity(COUNT * 2048);
    group.bench_function("pull of 100", |bencher| {
        bencher.iter(|| {
            locate(&store, &mut located);
            reply.clear();
            put_pull_header(PullSequence(1), &mut reply);
            for at in &located {
                let payload = store.reader.read_recent(at).expect("a recent message");
                put_payload_without_delay_bit(9, &payload, &mut reply).expect("version 9");
            }
            black_box(reply.len())
        });
    });
    let messages = messages();
    // The last one: it fills the disk with about a kilobyte per message and iteration.
    group.sample_size(20);
    group.bench_function("append", |bencher| {
        bencher.iter(|| append(&mut store.writer, &messages));
    });
    group.finish();
}

criterion_group!(hot_path, protocol, store);
criterion_main!(hot_path);
