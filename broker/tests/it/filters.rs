//! Tag filters: who gets what, and that nobody is confirmed what it never saw.

use qmq_model::Message;
use qmq_store::fs::faulty::FaultyFs;

use crate::harness::{Pull, Reply, TestBroker, failures, tagged};

/// Tags of ten messages: none, a, b, ab, abc, and again.
const TAGS: [&[&str]; 5] = [&[], &["a"], &["b"], &["a", "b"], &["a", "b", "c"]];

async fn store_ten(broker: &TestBroker) {
    let message = |(id, tags): (usize, &&[&str])| tagged("a.b", &id.to_string(), tags);
    let messages: Vec<Message> = TAGS
        .iter()
        .cycle()
        .take(10)
        .enumerate()
        .map(message)
        .collect();
    let reply = broker.send(&messages).await;
    assert_eq!((reply.header.code, failures(&reply)), (0, vec![]));
}

fn any<'a>(group: &'a str) -> Pull<'a> {
    Pull {
        tags: &["a", "b"],
        ..Pull::new("a.b", group, "c")
    }
}

fn all<'a>(group: &'a str) -> Pull<'a> {
    Pull {
        all_tags: true,
        ..any(group)
    }
}

async fn serves_filters(broker: &TestBroker) {
    for pull in [any("any"), all("all"), Pull::new("a.b", "everything", "c")] {
        broker.pull(pull).await;
    }
    store_ten(broker).await;
    let matching_any = ["1", "2", "3", "4", "6", "7", "8", "9"];
    let matching_all = ["3", "4", "8", "9"];
    assert_eq!(
        broker.pull(any("any")).await,
        Reply::messages(0, &matching_any)
    );
    assert_eq!(
        broker.pull(all("all")).await,
        Reply::messages(0, &matching_all)
    );
    let everything = broker.pull(Pull::new("a.b", "everything", "c")).await;
    assert_eq!(everything.ids.len(), 10);
}

#[tokio::test]
async fn any_tag_or_all_tags() {
    serves_filters(&TestBroker::start().await).await;
}

#[tokio::test]
async fn messages_on_disk_are_filtered_too() {
    serves_filters(&TestBroker::without_recent().await).await;
}

#[tokio::test]
async fn what_was_not_acked_comes_again_as_filtered() {
    let broker = TestBroker::start().await;
    broker.pull(all("g")).await;
    store_ten(&broker).await;
    assert_eq!(
        broker.pull(all("g")).await,
        Reply::messages(0, &["3", "4", "8", "9"])
    );
    assert_eq!(broker.ack(all("g"), 0, 1).await, 0);
    let broker = broker.restart().await;
    assert_eq!(broker.pull(all("g")).await, Reply::messages(2, &["8", "9"]));
    // Nothing is owed twice, and what does not match is never owed.
    assert_eq!(broker.ack(all("g"), 2, 3).await, 0);
    assert_eq!(broker.pull(all("g")).await, Reply::nothing());
    assert_eq!(
        broker.pull(Pull::new("a.b", "g", "c")).await,
        Reply::nothing()
    );
}

#[tokio::test]
async fn a_consumer_that_changes_its_mind_is_not_given_what_it_no_longer_wants() {
    let broker = TestBroker::start().await;
    broker.pull(any("g")).await;
    store_ten(&broker).await;
    let eight = broker.pull(any("g")).await;
    assert_eq!(eight.ids.len(), 8);
    let only_c = Pull {
        tags: &["c"],
        ..Pull::new("a.b", "g", "c")
    };
    // It holds 1 2 3 4 6 7 8 9 as 0 to 7 and wants 4 and 9: each reply is without a gap.
    assert_eq!(broker.pull(only_c).await, Reply::messages(3, &["4"]));
    let after = Pull { last: 3, ..only_c };
    assert_eq!(broker.pull(after).await, Reply::messages(7, &["9"]));
    // The others are done with, durably.
    let broker = broker.restart().await;
    assert_eq!(broker.ack(only_c, 3, 3).await, 0);
    assert_eq!(broker.ack(only_c, 7, 7).await, 0);
    assert_eq!(
        broker.pull(Pull::new("a.b", "g", "c")).await,
        Reply::nothing()
    );
}

#[tokio::test]
async fn a_waiting_pull_sleeps_through_what_it_does_not_want() {
    let broker = TestBroker::start().await;
    let waiting = broker.connect().await;
    broker.pull(all("g")).await;
    let pull = Pull {
        timeout: 20_000,
        ..all("g")
    };
    let pulled = tokio::spawn(async move { crate::harness::pull_on(&waiting, pull).await });
    for id in ["1", "2", "3"] {
        let reply = broker.send(&[tagged("a.b", id, &["a"])]).await;
        assert_eq!(failures(&reply), []);
    }
    let reply = broker.send(&[tagged("a.b", "4", &["a", "b"])]).await;
    assert_eq!(failures(&reply), []);
    assert_eq!(pulled.await.unwrap(), Reply::messages(0, &["4"]));
}

/// More messages than one look takes, none wanted: the pull gives way to others and is answered.
#[tokio::test]
async fn a_filter_that_wants_nothing_starves_nobody() {
    const MESSAGES: usize = 9_000;
    let broker = TestBroker::over(FaultyFs::new(1), &[]).await;
    broker.pull(any("g")).await;
    let ids: Vec<String> = (0..MESSAGES).map(|id| id.to_string()).collect();
    for chunk in ids.chunks(1_000) {
        let messages: Vec<_> = chunk.iter().map(|id| tagged("a.b", id, &["z"])).collect();
        assert_eq!(failures(&broker.send(&messages).await), []);
    }
    assert_eq!(broker.pull(any("g")).await, Reply::nothing());
    assert_eq!(
        failures(&broker.send(&[tagged("a.b", "last", &["a"])]).await),
        []
    );
    assert_eq!(
        broker.pull_until_some(any("g")).await,
        Reply::messages(0, &["last"])
    );
}

#[tokio::test]
async fn broadcast_replies_have_no_gap() {
    let broker = TestBroker::start().await;
    let pull = Pull {
        broadcast: true,
        ..all("c")
    };
    broker.pull(pull).await;
    store_ten(&broker).await;
    assert_eq!(broker.pull(pull).await, Reply::messages(3, &["3", "4"]));
    let after = Pull { last: 4, ..pull };
    assert_eq!(broker.pull(after).await, Reply::messages(8, &["8", "9"]));
}
