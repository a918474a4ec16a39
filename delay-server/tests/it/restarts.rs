//! What a restart finds: overdue messages, and such of which the outcome is unknown.

use crate::fake::{FakeBroker, Mode};
use crate::harness::{Cluster, after};

/// As after a crash: what is under way is not waited for.
const AT_ONCE: (&str, &str) = ("shutdown.drain.seconds", "0");

#[tokio::test]
async fn everything_overdue_is_delivered_however_old() {
    let cluster = Cluster::start().await;
    cluster.meta.names(&[]);
    let ages = [1, 60, 3_600, 86_400, 30 * 86_400];
    for age in ages {
        cluster.store(&[after(age, &age.to_string())]).await;
    }
    cluster.after(31 * 86_400);
    let cluster = cluster.restart().await;
    cluster.meta.names(&[("g", &cluster.broker)]);
    let ids = ages.map(|age| age.to_string());
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    cluster.broker.took(&ids).await;
    cluster.wait_for_pending(0).await;
    cluster.delay.stop().await;
}

#[tokio::test]
async fn what_may_have_arrived_goes_to_the_same_group_after_a_restart() {
    let cluster = Cluster::with(&[AT_ONCE]).await;
    cluster.broker.set(Mode::Silent);
    cluster.store(&[after(1, "1")]).await;
    cluster.after(1);
    cluster.broker.wait_for(|seen| seen.came("1") >= 1).await;
    let other = FakeBroker::start().await;
    cluster
        .meta
        .names(&[("g", &cluster.broker), ("other", &other)]);
    let cluster = cluster.restart().await;
    let came = cluster.broker.state.borrow().came("1");
    cluster.broker.wait_for(|seen| seen.came("1") > came).await;
    assert_eq!(cluster.states("1").await, ["dispatching"]);
    cluster.broker.set(Mode::Take);
    cluster.wait_for_state("1", "delivered").await;
    assert_eq!(other.state.borrow().requests.len(), 0);
    cluster.delay.stop().await;
}

#[tokio::test]
async fn what_was_delivered_does_not_come_again() {
    let cluster = Cluster::start().await;
    cluster.store(&[after(1, "1"), after(3_600, "2")]).await;
    cluster.after(1);
    cluster.broker.took(&["1"]).await;
    cluster.wait_for_pending(1).await;
    let cluster = cluster.restart().await;
    cluster.after(3_600);
    cluster.broker.took(&["1", "2"]).await;
    cluster.wait_for_pending(0).await;
    assert_eq!(cluster.broker.state.borrow().came("1"), 1);
    cluster.delay.stop().await;
}
