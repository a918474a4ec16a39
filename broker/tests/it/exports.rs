//! The files under `store.root/config/`, from a broker that serves.

use std::path::Path;
use std::time::Duration;

use qmq_broker::export::Exporter;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::harness::{Pull, Reply, TestBroker};

fn exporter(broker: &TestBroker, folder: &Path) -> Exporter {
    let shards = broker.late.get().unwrap().clone();
    Exporter::new(folder.to_owned(), shards, broker.reader.clone())
}

fn read(folder: &Path, name: &str) -> Value {
    let text = std::fs::read_to_string(folder.join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// A broker with a group that has one of two messages.
async fn with_a_group() -> TestBroker {
    let broker = TestBroker::start().await;
    let pull = Pull::new("a.b", "g", "c");
    assert_eq!(broker.pull(pull).await, Reply::nothing());
    broker.store("a.b", &["1", "2"]).await;
    let one = Pull { count: 1, ..pull };
    assert_eq!(broker.pull(one).await, Reply::messages(0, &["1"]));
    broker
}

#[tokio::test]
async fn subjects_groups_and_offsets_are_written_with_the_file_before() {
    let broker = with_a_group().await;
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("config");
    let mut exporter = exporter(&broker, &folder);
    exporter.export().await.unwrap();
    let first = json!({ "offsetTable": { "a.b@g": { "0": 1 } } });
    assert_eq!(read(&folder, "consumerOffset.json"), first);
    let topics = json!({ "topicConfigTable": { "a.b": { "topicName": "a.b" } } });
    assert_eq!(read(&folder, "topics.json"), topics);
    let groups = read(&folder, "subscriptionGroup.json");
    assert_eq!(groups["subscriptionGroupTable"]["g"]["consumeEnable"], true);

    let pull = Pull::new("a.b", "g", "c");
    let last = Pull { last: 0, ..pull };
    assert_eq!(broker.pull(last).await, Reply::messages(1, &["2"]));
    exporter.export().await.unwrap();
    let second = json!({ "offsetTable": { "a.b@g": { "0": 2 } } });
    assert_eq!(read(&folder, "consumerOffset.json"), second);
    assert_eq!(read(&folder, "consumerOffset.json.bak"), first);
    // What did not change was not written again.
    assert!(!folder.join("topics.json.bak").try_exists().unwrap());
}

#[tokio::test]
async fn what_somebody_writes_there_has_no_effect() {
    let broker = with_a_group().await;
    let folder = tempfile::tempdir().unwrap();
    let wrong = r#"{"offsetTable":{"a.b@g":{"0":0}}}"#;
    std::fs::write(folder.path().join("consumerOffset.json"), wrong).unwrap();
    let broker = broker.restart().await;
    exporter(&broker, folder.path()).export().await.unwrap();
    let right = json!({ "offsetTable": { "a.b@g": { "0": 1 } } });
    assert_eq!(read(folder.path(), "consumerOffset.json"), right);
    let pull = Pull::new("a.b", "g", "other");
    assert_eq!(broker.pull(pull).await, Reply::messages(0, &["2"]));
}

#[tokio::test]
async fn the_end_of_the_broker_is_the_last_time_they_are_written() {
    let broker = with_a_group().await;
    let folder = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    stop.cancel();
    let day = Duration::from_secs(86_400);
    exporter(&broker, folder.path()).run(day, stop).await;
    let written = read(folder.path(), "consumerOffset.json");
    assert_eq!(written["offsetTable"]["a.b@g"]["0"], 1);
}
