//! The writer without sockets: controls in order with actions, copies, full disks.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use qmq_broker::inbox::{ActionBatch, ActionDone, CopyBatch, CopyRefused, Inbox};
use qmq_broker::metrics::Metrics;
use qmq_broker::waiting::Waiting;
use qmq_broker::writer::Writer;
use qmq_model::{ConsumerGroup, ConsumerId, MessageSequence, Subject, SystemClock, UnixMillis};
use qmq_store::{
    Action, Background, ConsumerKey, Control, Error, FaultyFs, FlushMode, LogKind, NewMessage,
    Opened, Progress, RealtimeStore, StoreConfig, StoreReader,
};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::harness::PATIENCE;

const ASYNC: FlushMode = FlushMode::Async {
    interval: Duration::from_secs(3600),
};

struct Running {
    fs: FaultyFs,
    inbox: Arc<Inbox>,
    reader: StoreReader,
    thread: JoinHandle<Result<(), Error>>,
}

fn open(fs: &FaultyFs, flush: FlushMode) -> Opened {
    let config = StoreConfig {
        group_name: "test".into(),
        flush,
        message_segment_bytes: 1 << 20,
        action_segment_bytes: 1 << 18,
        zero_ahead_bytes: 1 << 14,
        background: Background::Inline,
        ..StoreConfig::default()
    };
    let fs = Arc::new(fs.clone());
    RealtimeStore::open(fs, Path::new("/store"), config, Arc::new(SystemClock)).unwrap()
}

impl Running {
    fn start(flush: FlushMode) -> Self {
        let fs = FaultyFs::new(1);
        let Opened { writer, reader, .. } = open(&fs, flush);
        let inbox = Arc::new(Inbox::default());
        let registry = qmq_daemon::metrics::Metrics::new("broker", "test");
        let writer = Writer::new(
            writer,
            reader.clone(),
            Arc::clone(&inbox),
            Arc::new(Waiting::new(1)),
            Arc::new(Metrics::register(&registry)),
            Arc::new(SystemClock),
        );
        Self {
            fs,
            inbox,
            reader,
            thread: std::thread::spawn(move || writer.run()),
        }
    }

    async fn act(&self, action: Action) {
        let batch = ActionBatch {
            actions: vec![action],
            then: ActionDone::Nothing,
        };
        self.inbox.put_actions(batch).await.unwrap();
    }

    async fn control(&self, control: Control) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        self.inbox.put_control(control, tell).await.unwrap();
        told
    }

    async fn copy(&self, messages: Vec<NewMessage>) -> Result<(), CopyRefused> {
        let (then, told) = oneshot::channel();
        let batch = CopyBatch { messages, then };
        self.inbox.put_copies(batch).await.unwrap();
        timeout(PATIENCE, told).await.unwrap().unwrap()
    }

    /// Takes the power away from the running writer, and opens the store again.
    fn cut(self, flush: FlushMode) -> (Progress, StoreReader) {
        self.fs.cut_after(0);
        self.inbox.close();
        // What it says depends on what it was doing.
        let _ = self.thread.join().unwrap();
        self.fs.power_cut(3);
        let opened = open(&self.fs, flush);
        (opened.progress, opened.reader)
    }
}

fn pull(range: std::ops::Range<i64>) -> Action {
    Action::Pull {
        key: ConsumerKey {
            subject: Subject::new("a.b").unwrap(),
            group: ConsumerGroup::new("g").unwrap(),
            consumer: ConsumerId::new("c").unwrap(),
        },
        time: UnixMillis(1),
        broadcast: false,
        pulls: range.clone(),
        messages: range,
    }
}

fn reset(next: i64) -> Control {
    Control::Reset {
        subject: Subject::new("a.b").unwrap(),
        group: ConsumerGroup::new("g").unwrap(),
        next: MessageSequence(next),
        time: UnixMillis(1),
    }
}

fn copy_of(bytes: usize) -> NewMessage {
    let payload = vec![7; bytes];
    let crc = crc32fast::hash(&payload);
    NewMessage {
        subject: Subject::new("%RETRY%a.b%g").unwrap(),
        payload: payload.into(),
        crc,
        fingerprint: None,
    }
}

#[tokio::test]
async fn a_control_is_durable_and_in_order_with_actions() {
    let running = Running::start(ASYNC);
    running.act(pull(0..10)).await;
    let told = running.control(reset(2)).await;
    timeout(PATIENCE, told).await.unwrap().unwrap();
    let (progress, _) = running.cut(ASYNC);
    // The pull came first: in the other order it would have raised the position again.
    let group = progress.group("a.b", "g").unwrap();
    assert_eq!(group.next.0, 2);
    let consumer = group.consumers.values().next().unwrap();
    assert_eq!(consumer.unacked[0].count, 10);
}

#[tokio::test]
async fn actions_behind_a_control_apply_after_it() {
    let running = Running::start(FlushMode::Sync);
    running.act(pull(0..10)).await;
    let first = running.control(reset(0)).await;
    running.act(pull(10..12)).await;
    let second = running.control(reset(1)).await;
    for told in [first, second] {
        timeout(PATIENCE, told).await.unwrap().unwrap();
    }
    running.inbox.close();
    running.thread.join().unwrap().unwrap();
    let progress = open(&running.fs, FlushMode::Sync).progress;
    let group = progress.group("a.b", "g").unwrap();
    assert_eq!(group.next.0, 1);
    let consumer = group.consumers.values().next().unwrap();
    assert_eq!(consumer.next_pull.0, 12);
}

#[tokio::test]
async fn a_control_that_can_never_be_stored_is_dropped_untold() {
    let running = Running::start(FlushMode::Sync);
    let told = running.control(reset(-1)).await;
    assert!(timeout(PATIENCE, told).await.unwrap().is_err());
    let told = running.control(reset(1)).await;
    timeout(PATIENCE, told).await.unwrap().unwrap();
}

#[tokio::test]
async fn copies_are_durable_before_they_are_confirmed() {
    let running = Running::start(ASYNC);
    assert_eq!(running.copy(vec![copy_of(50), copy_of(60)]).await, Ok(()));
    let positions = running.reader.positions(LogKind::Message);
    assert_eq!(positions.durable, positions.written);
    let (_, reader) = running.cut(ASYNC);
    let id = reader.subject("%RETRY%a.b%g").unwrap();
    assert_eq!(reader.bounds(id).end.0, 2);
}

#[tokio::test]
async fn refused_copies_are_told_why() {
    let running = Running::start(FlushMode::Sync);
    let too_big = running.copy(vec![copy_of(50), copy_of(2 << 20)]).await;
    assert!(matches!(too_big, Err(CopyRefused::Unstorable(_))));
    running.fs.limit_space(Some(running.fs.used()));
    let full = running.copy(vec![copy_of(100_000)]).await;
    assert_eq!(full, Err(CopyRefused::DiskFull));
    running.fs.limit_space(None);
    assert_eq!(running.copy(vec![copy_of(100_000)]).await, Ok(()));
    let id = running.reader.subject("%RETRY%a.b%g").unwrap();
    assert_eq!(running.reader.bounds(id).end.0, 1);
}

#[tokio::test]
async fn a_control_waits_for_room_and_keeps_its_place() {
    let running = Running::start(FlushMode::Sync);
    running.act(pull(0..3)).await;
    let told = running.control(reset(1)).await;
    timeout(PATIENCE, told).await.unwrap().unwrap();
    running.fs.limit_space(Some(running.fs.used()));
    let mut told = running.control(reset(2)).await;
    running.act(pull(3..5)).await;
    // A refused copy shows that the writer has come past the control.
    let full = running.copy(vec![copy_of(100_000)]).await;
    assert_eq!(full, Err(CopyRefused::DiskFull));
    assert!(told.try_recv().is_err());
    running.fs.limit_space(None);
    timeout(PATIENCE, told).await.unwrap().unwrap();
    running.inbox.close();
    running.thread.join().unwrap().unwrap();
    let progress = open(&running.fs, FlushMode::Sync).progress;
    assert_eq!(progress.group("a.b", "g").unwrap().next.0, 5);
}
