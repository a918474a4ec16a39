//! The writer without sockets: controls in order with actions, copies, full disks, who does the work.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use qmq_broker::desk::Desk;
use qmq_broker::inbox::{ActionBatch, ActionDone, CopyBatch, CopyRefused};
use qmq_broker::metrics::Metrics;
use qmq_broker::waiting::Waiting;
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

/// A desk whose thread is not started yet.
struct Waits {
    fs: FaultyFs,
    desk: Arc<Desk>,
    reader: StoreReader,
}

struct Running {
    fs: FaultyFs,
    desk: Arc<Desk>,
    reader: StoreReader,
    thread: JoinHandle<Result<(), Error>>,
}

fn open(fs: &FaultyFs, flush: FlushMode) -> Opened {
    open_with(fs, flush, Background::Inline)
}

fn open_with(fs: &FaultyFs, flush: FlushMode, background: Background) -> Opened {
    let config = StoreConfig {
        group_name: "test".into(),
        flush,
        message_segment_bytes: 1 << 20,
        action_segment_bytes: 1 << 18,
        zero_ahead_bytes: 1 << 14,
        background,
        ..StoreConfig::default()
    };
    let fs = Arc::new(fs.clone());
    RealtimeStore::open(fs, Path::new("/store"), config, Arc::new(SystemClock)).unwrap()
}

impl Waits {
    fn new(flush: FlushMode, background: Background) -> Self {
        let fs = FaultyFs::new(1);
        let Opened { writer, reader, .. } = open_with(&fs, flush, background);
        let registry = qmq_daemon::metrics::Metrics::new("broker", "test");
        let desk = Desk::start(
            writer,
            reader.clone(),
            Arc::new(Waiting::new(1)),
            Arc::new(Metrics::register(&registry)),
            Arc::new(SystemClock),
        );
        Self { fs, desk, reader }
    }

    fn run(self) -> Running {
        let works_off = Arc::clone(&self.desk);
        Running {
            fs: self.fs,
            desk: self.desk,
            reader: self.reader,
            thread: std::thread::spawn(move || works_off.run()),
        }
    }

    fn written(&self) -> u64 {
        self.reader.positions(LogKind::Action).written
    }
}

impl Running {
    fn start(flush: FlushMode) -> Self {
        Waits::new(flush, Background::Inline).run()
    }

    async fn act(&self, action: Action) {
        act(&self.desk, action).await;
    }

    async fn control(&self, control: Control) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        self.desk.put_control(control, tell).await.unwrap();
        told
    }

    async fn copy(&self, messages: Vec<NewMessage>) -> Result<(), CopyRefused> {
        let (then, told) = oneshot::channel();
        let batch = CopyBatch { messages, then };
        self.desk.put_copies(batch).await.unwrap();
        timeout(PATIENCE, told).await.unwrap().unwrap()
    }

    /// Takes the power away from the running writer, and opens the store again.
    fn cut(self, flush: FlushMode) -> (Progress, StoreReader) {
        self.fs.cut_after(0);
        self.desk.close();
        // What it says depends on what it was doing.
        let _ = self.thread.join().unwrap();
        self.fs.power_cut(3);
        let opened = open(&self.fs, flush);
        (opened.progress, opened.reader)
    }
}

async fn act(desk: &Desk, action: Action) {
    let batch = ActionBatch {
        actions: vec![action],
        then: ActionDone::Nothing,
    };
    desk.put_actions(batch).await.unwrap();
}

/// Waits for what another task or thread does.
async fn until(what: impl Fn() -> bool) {
    let waits = async {
        while !what() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, waits).await.expect("it never happens");
}

fn pull(range: std::ops::Range<i64>) -> Action {
    pull_of("c", range)
}

fn pull_of(consumer: &str, range: std::ops::Range<i64>) -> Action {
    Action::Pull {
        key: ConsumerKey {
            subject: Subject::new("a.b").unwrap(),
            group: ConsumerGroup::new("g").unwrap(),
            consumer: ConsumerId::new(consumer).unwrap(),
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
    running.desk.close();
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
    running.desk.close();
    running.thread.join().unwrap().unwrap();
    let progress = open(&running.fs, FlushMode::Sync).progress;
    assert_eq!(progress.group("a.b", "g").unwrap().next.0, 5);
}

#[tokio::test]
async fn a_little_work_does_not_wait_for_the_thread() {
    for flush in [ASYNC, FlushMode::Sync] {
        let waits = Waits::new(flush, Background::Inline);
        let before = waits.written();
        act(&waits.desk, pull(0..10)).await;
        until(|| waits.written() > before).await;
        // What has to be durable is for the thread, and so is what comes after it.
        let (tell, told) = oneshot::channel();
        let batch = ActionBatch {
            actions: vec![pull(10..11)],
            then: ActionDone::TellDurable(tell),
        };
        waits.desk.put_actions(batch).await.unwrap();
        let written = waits.written();
        act(&waits.desk, pull(11..12)).await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(waits.written(), written, "done by the task");
        let running = waits.run();
        timeout(PATIENCE, told).await.unwrap().unwrap();
        running.desk.close();
        running.thread.join().unwrap().unwrap();
        let progress = open(&running.fs, flush).progress;
        let group = progress.group("a.b", "g").unwrap();
        assert_eq!(group.consumers.values().next().unwrap().next_pull.0, 12);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn whoever_works_it_off_actions_keep_their_order() {
    const PULLS: i64 = 3_000;
    let running = Running::start(ASYNC);
    let puts = |consumer: &'static str| {
        let desk = Arc::clone(&running.desk);
        tokio::spawn(async move {
            for n in 0..PULLS {
                if n % 100 == 7 {
                    let (tell, _) = oneshot::channel();
                    let batch = ActionBatch {
                        actions: vec![pull_of(consumer, n..n + 1)],
                        then: ActionDone::TellDurable(tell),
                    };
                    desk.put_actions(batch).await.unwrap();
                } else {
                    act(&desk, pull_of(consumer, n..n + 1)).await;
                }
            }
        })
    };
    for put in ["c1", "c2", "c3"].map(puts) {
        timeout(PATIENCE, put).await.unwrap().unwrap();
    }
    running.desk.close();
    running.thread.join().unwrap().unwrap();
    let progress = open(&running.fs, ASYNC).progress;
    let group = progress.group("a.b", "g").unwrap();
    assert_eq!(group.consumers.len(), 3);
    for consumer in group.consumers.values() {
        // A gap or a number that came too late would be a run of its own.
        let unacked: Vec<_> = consumer.unacked.iter().map(|run| run.count).collect();
        assert_eq!(unacked, [PULLS]);
    }
}

#[tokio::test]
async fn what_fails_in_the_task_ends_the_thread() {
    let waits = Waits::new(ASYNC, Background::Inline);
    waits.fs.fail_after(0);
    act(&waits.desk, pull(0..10)).await;
    let refuses = async {
        let more = || ActionBatch {
            actions: vec![pull(10..11)],
            then: ActionDone::Nothing,
        };
        while waits.desk.put_actions(more()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, refuses).await.expect("nothing failed");
    assert!(waits.run().thread.join().unwrap().is_err());
}

#[tokio::test]
async fn what_comes_during_a_sync_shares_the_next_commit() {
    const LARGE: usize = 300_000;
    let waits = Waits::new(FlushMode::Sync, Background::Threads);
    // Each is more than a piece: the first is committed while the others wait.
    let mut told = Vec::new();
    for _ in 0..5 {
        let (then, done) = oneshot::channel();
        let messages = vec![copy_of(LARGE)];
        let batch = CopyBatch { messages, then };
        waits.desk.put_copies(batch).await.unwrap();
        told.push(done);
    }
    waits.fs.hold_syncs();
    let reader = waits.reader.clone();
    let running = waits.run();
    let all = 5 * LARGE as u64;
    until(|| reader.positions(LogKind::Message).written > all * 4 / 5).await;
    assert_eq!(reader.positions(LogKind::Message).visible, 0);
    assert!(
        told.iter_mut().all(|told| told.try_recv().is_err()),
        "not durable"
    );
    let before = running.fs.stats().syncs;
    running.fs.release_syncs();
    for told in told {
        timeout(PATIENCE, told).await.unwrap().unwrap().unwrap();
    }
    let syncs = running.fs.stats().syncs - before;
    running.desk.close();
    running.thread.join().unwrap().unwrap();
    // Two commits, each of the messagelog and the commit records; one for each would be ten. After
    // them there may be a record that says that nothing goes on.
    assert!((4..=6).contains(&syncs), "{syncs} syncs");
}
