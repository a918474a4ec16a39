//! Two metaservers on one database behind one address: either may be killed during traffic.

use std::time::Duration;

use qmq_e2e::{Balancer, Cluster, Load, Order, Plan, Sabotage, Server, wait};

const GROUP: &str = "g1";
/// Heartbeats of a broker that looks for another metaserver come within this.
const HEARD_MAX: Duration = Duration::from_secs(60);
const CONSUME_MAX: Duration = Duration::from_secs(120);

fn load(runtime: &tokio::runtime::Runtime, meta: &str, subject: &str) -> Load {
    let plan = Plan {
        subject: subject.to_owned(),
        senders: 2,
        seed: 7,
        sabotage: Sabotage::Nothing,
    };
    Load::start(runtime.handle(), meta, plan).unwrap()
}

/// How many heartbeats this metaserver has had from the broker.
fn heartbeats(metaserver: &Server) -> anyhow::Result<u64> {
    let (_, metrics) = metaserver.get("http", "/metrics")?;
    let mut lines = metrics.lines().filter(|line| {
        line.starts_with("brokerRegisterCount")
            && line.contains(&format!("groupName=\"{GROUP}\""))
            && line.contains("requestType=\"1\"")
    });
    let count = lines.next().and_then(|line| line.rsplit(' ').next());
    Ok(count.map_or(Ok(0), str::parse)?)
}

fn await_heartbeat(metaserver: &Server) {
    let before = heartbeats(metaserver).unwrap();
    wait::until("the broker reports to this metaserver", HEARD_MAX, || {
        Ok((heartbeats(metaserver)? > before).then_some(()))
    })
    .unwrap();
}

#[test]
fn either_may_be_killed_and_clients_go_on() {
    let mut cluster = Cluster::start().unwrap();
    let mut second = cluster.another_metaserver().unwrap();
    second.start().unwrap();
    let http = |server: &Server| server.address("http").unwrap();
    let both = vec![http(&cluster.metaserver), http(&second)];
    let balancer = Balancer::start(Order::InTurn, both).unwrap();
    let meta = format!("http://{}/meta/address", balancer.address());
    let endpoint = [("meta.server.endpoint", meta.as_str())];
    cluster.add_broker(GROUP, &endpoint).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let old = load(&runtime, &meta, "two.metaservers");
    old.await_acknowledged(200).unwrap();

    cluster.metaserver.kill().unwrap();
    old.await_acknowledged(200).unwrap();
    // Subjects, producers and consumers that nobody has asked for yet.
    let new = load(&runtime, &meta, "two.metaservers.new");
    new.await_acknowledged(200).unwrap();
    await_heartbeat(&second);
    old.await_acknowledged(200).unwrap();

    for load in [old, new] {
        let ledger = load.finish(CONSUME_MAX).unwrap();
        let summary = ledger.check().unwrap_or_else(|problems| {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            panic!("{}", problems.join("; "));
        });
        assert!(summary.acknowledged >= 200, "{summary:?}");
    }
    // Whatever happened to its neighbour, this one never took the broker for dead.
    let (_, metrics) = second.get("http", "/metrics").unwrap();
    let is_lost = metrics
        .lines()
        .any(|line| line.starts_with("brokerDisconnectedCount") && line.contains(GROUP));
    assert!(!is_lost, "{metrics}");
    cluster.broker().server.stop().unwrap();
    second.stop().unwrap();
}
