//! What is stored, what is refused, and what the producer is told.

use std::time::Duration;

use qmq_daemon::member::Serving as _;
use qmq_model::UnixMillis;

use crate::harness::{Cluster, START, after, body_of, failures, of, subject, untold};

const DAY: i64 = 86_400;

#[tokio::test]
async fn what_is_acknowledged_is_there_after_a_restart() {
    let cluster = Cluster::start().await;
    cluster
        .store(&[after(60, "1"), after(3600, "2"), of("c.d", DAY, "3")])
        .await;
    assert_eq!(cluster.pending().await, 3);
    let cluster = cluster.restart().await;
    assert_eq!(cluster.pending().await, 3);
    assert_eq!(cluster.states("2").await, ["pending"]);
    cluster.delay.stop().await;
}

#[tokio::test]
async fn nothing_of_an_undecodable_request_is_stored() {
    let cluster = Cluster::start().await;
    let body = body_of(&[after(60, "1"), after(60, "2")]);
    for cut in [1, 20, body.len() / 2 + 5] {
        let reply = cluster.delay.raw_send(&body[..body.len() - cut]).await;
        assert_eq!(reply.header.code, 51);
    }
    let mut body = body_of(&[after(60, "1")]);
    let mut nameless = after(60, "x").to_payload().unwrap().to_vec();
    let at = nameless.windows(3).position(|w| w == [0, 1, b'x']).unwrap();
    nameless.splice(at..at + 3, [0, 0]);
    qmq_protocol::command::send::put_message(&nameless, &mut body);
    let reply = cluster.delay.raw_send(&body).await;
    assert_eq!(reply.header.code, 51, "an empty message id");
    assert_eq!(cluster.pending().await, 0);
    cluster.delay.stop().await;
}

#[tokio::test]
async fn what_cannot_be_taken_is_refused_with_a_reason_and_the_rest_stored() {
    let cluster = Cluster::with(&[("message.bytes.max", "2048"), ("delay.max.days", "10")]).await;
    let mut large = after(60, "large");
    large.set_property("k", "x".repeat(2048));
    let messages = [
        after(10 * DAY, "last"),
        after(10 * DAY + 1, "far"),
        large,
        after(60, "good"),
    ];
    let reply = cluster.send(&messages).await;
    let refused = failures(&reply);
    let results: Vec<_> = refused.iter().map(|(id, code, _)| (&**id, *code)).collect();
    assert_eq!(results, [("far", 5), ("large", 6)]);
    assert!(refused[0].2.contains("delay.max.days"), "{refused:?}");
    assert!(refused[1].2.contains("message.bytes.max"), "{refused:?}");
    assert_eq!(cluster.pending().await, 2);
    assert_eq!(cluster.metric("qmq_messages_too_far_total"), 1);
    cluster.delay.stop().await;
}

#[tokio::test]
async fn a_message_that_does_not_tell_its_time_is_due_in_ten_seconds() {
    let cluster = Cluster::start().await;
    let mut misspelt = untold("a.b", "misspelt");
    let due = (START.0 + 20_000).to_string();
    misspelt.set_property("qmq_scheduleRecevieTime", due);
    cluster.store(&[untold("a.b", "untold"), misspelt]).await;
    let all = UnixMillis(0)..UnixMillis(i64::MAX);
    let listed = cluster.control().list(None, all, 10).await.unwrap();
    let listed: Vec<_> = listed
        .iter()
        .map(|listed| (&listed.message_id[..], listed.entry.due.0 - START.0))
        .collect();
    assert_eq!(
        listed,
        [(&b"untold"[..], 10_000), (&b"misspelt"[..], 20_000)]
    );
    assert_eq!(cluster.metric("qmq_messages_due_untold_total"), 1);
    assert_eq!(cluster.metric("qmq_messages_due_from_property_total"), 1);
    cluster.delay.stop().await;
}

#[tokio::test]
async fn a_server_that_is_leaving_takes_nothing() {
    let cluster = Cluster::start().await;
    cluster.delay.serving.refuse_sends();
    let reply = cluster.send(&[after(60, "1")]).await;
    let refused = failures(&reply);
    assert_eq!((refused.len(), refused[0].1), (1, 4));
    assert_eq!(cluster.pending().await, 0);
    cluster.delay.stop().await;
}

#[tokio::test]
async fn a_full_disk_refuses_sends_until_there_is_room() {
    let cluster = Cluster::start().await;
    cluster.store(&[after(60, "before")]).await;
    cluster.fs.limit_space(Some(cluster.fs.used()));
    let mut big = after(60, "big");
    for part in 0..40 {
        big.set_property(&format!("k{part}"), "x".repeat(30_000));
    }
    let reply = cluster.send(&[big.clone()]).await;
    let refused = failures(&reply);
    assert_eq!((refused.len(), refused[0].1), (1, 6), "{refused:?}");
    cluster.fs.limit_space(None);
    big.properties.truncate(10);
    cluster.store(&[big]).await;
    assert_eq!(cluster.pending().await, 2);
    cluster.delay.stop().await;
}

#[tokio::test]
async fn acknowledged_messages_survive_a_power_cut() {
    let cluster = Cluster::start().await;
    for id in ["1", "2", "3"] {
        cluster.store(&[after(3600, id)]).await;
    }
    cluster.fs.power_cut(3);
    let cluster = cluster.revive().await;
    assert_eq!(cluster.pending().await, 3);
    cluster.after(3600);
    cluster.broker.took(&["1", "2", "3"]).await;
    cluster.delay.stop().await;
}

#[tokio::test]
async fn acks_without_the_slave_that_was_asked_for_are_counted() {
    let cluster = Cluster::with(&[("wait.slave.wrote", "true")]).await;
    cluster.store(&[after(60, "1"), after(60, "2")]).await;
    assert_eq!(cluster.metric("qmq_unreplicated_acks_total"), 2);
    let range = UnixMillis(0)..START.plus(Duration::from_secs(61));
    let count = cluster.control().count(Some(subject("a.b")), range).await;
    assert_eq!(count.unwrap(), 2);
    cluster.delay.stop().await;
}
