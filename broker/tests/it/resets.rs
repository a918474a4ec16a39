//! Groups that are moved, and what is told about them.

use qmq_protocol::command::consume_manage::ConsumeFromWhere;

use crate::harness::{Pull, Reply, TestBroker};

async fn with_history() -> TestBroker {
    let broker = TestBroker::start().await;
    broker.store("a.b", &["1", "2", "3"]).await;
    assert_eq!(
        broker.pull(Pull::new("a.b", "g", "c")).await,
        Reply::nothing()
    );
    broker
}

#[tokio::test]
async fn to_the_oldest_message_and_it_stays_so_after_a_restart() {
    let broker = with_history().await;
    assert_eq!(
        broker.reset("a.b", "g", ConsumeFromWhere::Earliest).await,
        0
    );
    let broker = broker.restart().await;
    let pull = Pull::new("a.b", "g", "c");
    assert_eq!(
        broker.pull(pull).await,
        Reply::messages(0, &["1", "2", "3"])
    );
    assert_eq!(broker.ack(pull, 0, 2).await, 0);
    assert_eq!(
        broker.reset("a.b", "g", ConsumeFromWhere::Earliest).await,
        0
    );
    assert_eq!(
        broker.pull(Pull { last: 2, ..pull }).await,
        Reply::messages(3, &["1", "2", "3"])
    );
}

#[tokio::test]
async fn to_the_newest_message() {
    let broker = with_history().await;
    broker.store("a.b", &["4", "5"]).await;
    assert_eq!(broker.reset("a.b", "g", ConsumeFromWhere::Latest).await, 0);
    let pull = Pull::new("a.b", "g", "c");
    assert_eq!(broker.pull(pull).await, Reply::nothing());
    broker.store("a.b", &["6"]).await;
    let broker = broker.restart().await;
    assert_eq!(broker.pull(pull).await, Reply::messages(0, &["6"]));
}

#[tokio::test]
async fn to_a_time() {
    let broker = with_history().await;
    let past = ConsumeFromWhere::Time(0);
    assert_eq!(broker.reset("a.b", "g", past).await, 0);
    let pull = Pull::new("a.b", "g", "c");
    assert_eq!(
        broker.pull(pull).await,
        Reply::messages(0, &["1", "2", "3"])
    );
    let future = ConsumeFromWhere::Time(i64::MAX);
    assert_eq!(broker.reset("a.b", "g", future).await, 0);
    broker.store("a.b", &["4"]).await;
    assert_eq!(
        broker.pull(Pull { last: 2, ..pull }).await,
        Reply::messages(3, &["4"])
    );
}

#[tokio::test]
async fn a_waiting_pull_gets_what_a_reset_brings() {
    let broker = with_history().await;
    let waiting = broker.connect().await;
    let pull = Pull {
        timeout: 20_000,
        ..Pull::new("a.b", "g", "c")
    };
    let pulled = tokio::spawn(async move { crate::harness::pull_on(&waiting, pull).await });
    assert_eq!(
        broker.reset("a.b", "g", ConsumeFromWhere::Earliest).await,
        0
    );
    assert_eq!(pulled.await.unwrap(), Reply::messages(0, &["1", "2", "3"]));
}

#[tokio::test]
async fn what_cannot_be_moved_changes_nothing() {
    let broker = with_history().await;
    let earliest = ConsumeFromWhere::Earliest;
    assert_eq!(broker.reset("", "g", earliest).await, 53);
    assert_eq!(broker.reset("a.b", "", earliest).await, 53);
    assert_eq!(broker.reset("unknown", "g", earliest).await, 0);
    assert_eq!(
        broker.reset("a.b", "g", ConsumeFromWhere::Other(0)).await,
        0
    );
    assert_eq!(
        broker.pull(Pull::new("a.b", "g", "c")).await,
        Reply::nothing()
    );
    // A group that never came gets what it is sent to.
    assert_eq!(broker.reset("a.b", "new", earliest).await, 0);
    let pull = Pull::new("a.b", "new", "c");
    assert_eq!(
        broker.pull(pull).await,
        Reply::messages(0, &["1", "2", "3"])
    );
}

#[tokio::test]
async fn groups_and_members_are_told_over_http() {
    let broker = with_history().await;
    let pull = Pull::new("a.b", "g", "c");
    broker.store("a.b", &["4", "5"]).await;
    assert_eq!(
        broker.pull(Pull { count: 1, ..pull }).await,
        Reply::messages(0, &["4"])
    );
    let stop = tokio_util::sync::CancellationToken::new();
    let router = qmq_broker::http::router(broker.late.clone());
    let any = "127.0.0.1:0".parse().unwrap();
    let http = qmq_daemon::http::HttpServer::start(any, router, stop)
        .await
        .unwrap();
    let url = |query: &str| format!("http://{}/consumers?{query}", http.address());
    let get = async |query: &str| reqwest::get(url(query)).await.unwrap();
    let text = get("subject=a.b").await.text().await.unwrap();
    let told: serde_json::Value = serde_json::from_str(&text).unwrap();
    let group = &told[0];
    assert_eq!(
        (&group["group"], &group["next"], &group["lag"]),
        (&"g".into(), &4.into(), &1.into())
    );
    let member = &group["members"][0];
    assert_eq!(
        (&member["consumerId"], &member["unacked"]),
        (&"c".into(), &1.into())
    );
    let none = get("subject=a.b&group=other").await.text().await.unwrap();
    assert_eq!(none, "[]");
    assert_eq!(get("subject=a/b").await.status(), 400);
}
