//! Messages for later, with servers that are killed while they fall due, and with operators who
//! cancel them at that moment.

mod cancel;
mod kill9;
mod tools;

use qmq_e2e::Cluster;
use qmq_e2e::cluster::TOKEN;
use serde_json::Value;

/// The run of an earlier failure: `QMQ_SEED` sets the printed number again.
const SEED_VARIABLE: &str = "QMQ_SEED";

fn cluster() -> Cluster {
    let mut cluster = Cluster::with_broker().unwrap();
    cluster.add_delay_server("d1", &[]).unwrap();
    cluster
}

fn seed() -> u64 {
    let seed =
        std::env::var(SEED_VARIABLE).map_or_else(|_| rand::random(), |text| text.parse().unwrap());
    println!("{SEED_VARIABLE}={seed}");
    seed
}

/// What a variable of the environment says, to make a run longer.
fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).map_or(usual, |text| text.parse().unwrap())
}

/// Messages that wait in the delay server, as the tools tell.
fn pending(cluster: &mut Cluster) -> u64 {
    let said = tools_delay(cluster, "count", &[]).unwrap();
    let said: Value = serde_json::from_str(&said).unwrap();
    said["pending"].as_u64().unwrap()
}

/// Runs `delay WHAT` of the tools against the delay server; what it printed.
fn tools_delay(cluster: &mut Cluster, what: &str, more: &[&str]) -> anyhow::Result<String> {
    let address = cluster.delay_server().server.address("admin")?;
    let server = format!("--server={address}");
    let token = format!("--token={TOKEN}");
    let arguments = ["delay", what, &server, &token];
    cluster.tools(&[&arguments[..], more].concat())
}
