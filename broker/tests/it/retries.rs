//! Retry subjects, dead consumers, lost acks, dead letters.

use std::time::{Duration, Instant};

use qmq_broker::config::BrokerConfig;
use qmq_daemon::Settings;
use qmq_model::{ManualClock, Message, Subject, UnixMillis};
use qmq_store::fs::faulty::FaultyFs;

use crate::harness::{
    PATIENCE, Pull, Reply, TestBroker, contents, failures, message, pull_frame, pull_on,
};

const START: UnixMillis = UnixMillis(1_700_000_000_000);
/// Longer than a consumer may be silent.
const DEAD: Duration = Duration::from_secs(181);
/// Longer than messages may be left out of acks.
const LOST: Duration = Duration::from_secs(31);
/// Longer than the delay of retries.
const DELAY: Duration = Duration::from_secs(6);

async fn by_hand() -> (TestBroker, ManualClock) {
    let clock = ManualClock::at(START);
    (TestBroker::by_hand(FaultyFs::new(1), &clock).await, clock)
}

fn retry<'a>(consumer: &'a str) -> Pull<'a> {
    Pull::new("%RETRY%a.b%g", "g", consumer)
}

#[tokio::test]
async fn a_retry_that_falls_due_wakes_the_waiting_pull() {
    let delay = ("message.retry.delay.seconds", "1");
    let broker = TestBroker::over(FaultyFs::new(1), &[delay]).await;
    let waiting = broker.connect().await;
    let pull = Pull {
        timeout: 30_000,
        ..retry("c")
    };
    let pulled = tokio::spawn(async move { pull_on(&waiting, pull).await });
    let sent = Instant::now();
    broker.store("%RETRY%a.b%g", &["1"]).await;
    assert_eq!(
        broker.pull(retry("other")).await,
        Reply::nothing(),
        "too early"
    );
    assert_eq!(pulled.await.unwrap(), Reply::messages(0, &["1"]));
    let took = sent.elapsed();
    assert!(took >= Duration::from_millis(900), "{took:?} is too early");
    assert!(took < Duration::from_secs(25), "it was not woken: {took:?}");
}

#[tokio::test]
async fn changed_settings_count_while_the_broker_runs() {
    let pairs = [("message.retry.delay.seconds", "86400")];
    let broker = TestBroker::over(FaultyFs::new(1), &pairs).await;
    broker.store("%RETRY%a.b%g", &["1"]).await;
    assert_eq!(broker.pull(retry("c")).await, Reply::nothing());
    let now = [
        ("meta.server.endpoint", "http://127.0.0.1:1/meta/address"),
        ("message.retry.delay.seconds", "0"),
    ];
    let now = BrokerConfig::from_settings(&Settings::of_pairs("broker", &now)).unwrap();
    let shards = broker.late.get().unwrap();
    shards.set_rules(now.rules).await;
    assert_eq!(broker.pull(retry("c")).await, Reply::messages(0, &["1"]));
}

#[tokio::test]
async fn the_delay_counts_from_the_first_storing_and_survives_a_restart() {
    let broker = TestBroker::over(FaultyFs::new(1), &[]).await;
    broker.store("%RETRY%a.b%g", &["1"]).await;
    assert_eq!(broker.pull(retry("c")).await, Reply::nothing());
    let broker = broker
        .restart_with(&[("message.retry.delay.seconds", "1")])
        .await;
    assert_eq!(
        broker.pull_until_some(retry("c")).await,
        Reply::messages(0, &["1"])
    );
}

#[tokio::test]
async fn messages_of_a_dead_consumer_go_to_others_and_are_counted() {
    let (broker, clock) = by_hand().await;
    let (dead, alive) = (Pull::new("a.b", "g", "dead"), retry("alive"));
    broker.pull(dead).await;
    broker.store("a.b", &["1", "2", "3"]).await;
    assert_eq!(broker.pull(dead).await.ids.len(), 3);
    assert_eq!(broker.ack(dead, 0, 0).await, 0);
    clock.advance(DEAD);
    wait_for_copies(&broker, 2).await;
    assert_eq!(broker.pull(alive).await, Reply::nothing(), "too early");
    clock.advance(DELAY);
    let frame = pull_frame(&broker.client, alive).await;
    let copies = contents(&frame);
    let told: Vec<_> = copies
        .iter()
        .map(|message| (message.message_id.as_str(), message.times()))
        .collect();
    assert_eq!(told, [("2", 2), ("3", 2)]);
    assert!(copies.iter().all(|message| message.subject == "a.b"));
    // The dead one comes back: what was given to others is not its own any more.
    assert_eq!(broker.pull(dead).await, Reply::nothing());
    let broker = TestBroker::by_hand(broker.stop().await, &clock).await;
    assert_eq!(broker.pull(dead).await, Reply::nothing());
}

/// A consumer that held nothing at the last look is handed messages and dies.
#[tokio::test]
async fn a_consumer_that_was_idle_before_is_found_dead_as_soon_as_others() {
    let (broker, clock) = by_hand().await;
    let dead = Pull::new("a.b", "g", "dead");
    broker.pull(dead).await;
    // Longer than it takes to look and find nothing to do.
    clock.advance(DEAD);
    let other = Pull::new("a.b", "other", "c");
    for consumer in [dead, retry("watch"), other] {
        broker.pull(consumer).await;
    }
    broker.store("a.b", &["1"]).await;
    assert_eq!(broker.pull(dead).await.ids.len(), 1);
    clock.advance(DEAD);
    wait_for_copies(&broker, 1).await;
}

/// Waits until so many messages were copied; every look needs a request that wakes the owner.
async fn wait_for_copies(broker: &TestBroker, count: i64) {
    let subject = Subject::new("%RETRY%a.b%g").unwrap();
    let deadline = Instant::now() + 3 * PATIENCE;
    loop {
        let groups = broker.late.get().unwrap().describe(&subject).await;
        // Somebody has to be interested in the retry subject for it to be described.
        broker.pull(retry("watch")).await;
        if groups.iter().any(|group| group.end.0 >= count) {
            return;
        }
        assert!(Instant::now() < deadline, "nothing was copied");
    }
}

#[tokio::test]
async fn a_consumer_that_says_it_is_alive_keeps_its_messages() {
    let (broker, clock) = by_hand().await;
    let slow = Pull::new("a.b", "g", "slow");
    broker.pull(slow).await;
    broker.store("a.b", &["1"]).await;
    broker.pull(slow).await;
    for _ in 0..10 {
        clock.advance(DEAD / 2);
        // A sign of life in the retry subject counts for the subject too.
        assert_eq!(broker.pull(retry("slow")).await, Reply::nothing());
    }
    assert_eq!(broker.pull(slow).await, Reply::messages(0, &["1"]));
}

#[tokio::test]
async fn messages_left_out_of_acks_come_again_as_retries() {
    let (broker, clock) = by_hand().await;
    let pull = Pull::new("a.b", "g", "c");
    broker.pull(pull).await;
    broker.store("a.b", &["1", "2", "3"]).await;
    broker.pull(pull).await;
    assert_eq!(broker.ack(pull, 2, 2).await, 0);
    clock.advance(LOST);
    // It is alive all the time.
    assert_eq!(broker.ack(pull, -1, -1).await, 0);
    wait_for_copies(&broker, 2).await;
    clock.advance(DELAY);
    assert_eq!(
        broker.pull(retry("c")).await,
        Reply::messages(0, &["1", "2"])
    );
}

#[tokio::test]
async fn what_was_tried_too_often_is_a_dead_letter() {
    let (broker, clock) = by_hand().await;
    let subscriber = Pull::new("%DEAD_RETRY%a.b%g", "watch", "w");
    broker.pull(subscriber).await;
    broker.pull(retry("dead")).await;
    let mut tried = message("a.b", "1");
    tried.set_property("qmq_times", "3");
    tried.set_property("qmq_maxRetryNum", "3");
    let retried = Message {
        subject: "%RETRY%a.b%g".to_owned(),
        ..tried
    };
    assert_eq!(failures(&broker.send(&[retried]).await), []);
    clock.advance(DELAY);
    assert_eq!(broker.pull(retry("dead")).await, Reply::messages(0, &["1"]));
    clock.advance(DEAD);
    let deadline = Instant::now() + 3 * PATIENCE;
    let letter = loop {
        assert_eq!(broker.pull(retry("alive")).await, Reply::nothing());
        let letter = broker.pull(subscriber).await;
        if letter.code == 0 {
            break letter;
        }
        assert!(Instant::now() < deadline, "no dead letter came");
    };
    assert_eq!(letter, Reply::messages(0, &["1"]));
}

#[tokio::test]
async fn a_full_disk_keeps_messages_with_the_dead_until_there_is_room() {
    let (broker, clock) = by_hand().await;
    let dead = Pull::new("a.b", "g", "dead");
    broker.pull(dead).await;
    let large = |id| Message {
        properties: vec![("x".to_owned(), "y".repeat(30_000))],
        ..message("a.b", id)
    };
    assert_eq!(failures(&broker.send(&[large("1")]).await), []);
    assert_eq!(broker.pull(dead).await.ids, ["1"]);
    assert_eq!(broker.pull(retry("watch")).await, Reply::nothing());
    broker.fs.limit_space(Some(broker.fs.used() + 2_000));
    // Sends fail: the disk is full. The copy fails as well, and nothing is acked for it.
    assert_eq!(failures(&broker.send(&[large("2")]).await)[0].1, 6);
    for _ in 0..20 {
        clock.advance(DEAD);
        assert_eq!(broker.pull(retry("watch")).await, Reply::nothing());
    }
    broker.fs.limit_space(None);
    clock.advance(DEAD);
    wait_for_copies(&broker, 1).await;
    clock.advance(DELAY);
    assert_eq!(
        broker.pull(retry("alive")).await,
        Reply::messages(0, &["1"])
    );
}

/// Who stays away for long is forgotten, and later met as if for the first time.
#[tokio::test]
async fn who_never_comes_back_is_forgotten() {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let (broker, clock) = by_hand().await;
    let (subject, gone) = (Subject::new("a.b").unwrap(), Pull::new("a.b", "g", "gone"));
    broker.pull(gone).await;
    let members = async |broker: &TestBroker| {
        // Wakes the owner.
        broker.ack(gone, -1, -1).await;
        let groups = broker.late.get().unwrap().describe(&subject).await;
        groups.first().map(|group| group.members.len())
    };
    assert_eq!(members(&broker).await, Some(1));
    let deadline = Instant::now() + 3 * PATIENCE;
    clock.advance(3 * DAY);
    let other = Pull::new("a.b", "other", "c");
    let wait_until = async |wanted: Option<usize>| {
        loop {
            broker.pull(other).await;
            broker.pull(retry("other")).await;
            let groups = broker.late.get().unwrap().describe(&subject).await;
            let group = groups.iter().find(|group| group.group.as_str() == "g");
            if group.map(|group| group.members.len()) == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "{groups:?}");
        }
    };
    wait_until(Some(0)).await;
    clock.advance(31 * DAY);
    wait_until(None).await;
    let broker = TestBroker::by_hand(broker.stop().await, &clock).await;
    let groups = broker.late.get().unwrap().describe(&subject).await;
    assert!(
        groups.iter().all(|group| group.group.as_str() != "g"),
        "{groups:?}"
    );
}
