//! Delay server and broker are killed again and again while messages fall due: each comes, none
//! early, and the broker stores none twice.

use std::collections::HashSet;
use std::time::Duration;

use qmq_e2e::{Cluster, Later, LaterPlan, wait};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::{cluster, number, pending, seed};

const SUBJECT: &str = "e2e.later.kill9";
/// `QMQ_LATER` sets another number.
const MESSAGES: u64 = 4_000;
/// Seconds over which they fall due; `QMQ_LATER_SECONDS` sets another number.
const SECONDS: u64 = 8;
/// They fall due from then on, also if not all are sent yet.
const LEAD: Duration = Duration::from_secs(2);
const SENDERS: usize = 256;
/// Time between two kills.
const LIVES_MS: std::ops::Range<u64> = 200..1_500;
/// A server that is killed while it starts lives no longer than this.
const START_MS_MAX: u64 = 150;
const COME_MAX: Duration = Duration::from_secs(120);
/// Enough for a sabotage to do harm.
const KILLS_SABOTAGED: usize = 4;
/// Nothing comes any more of what was sabotaged.
const COME_SABOTAGED_MAX: Duration = Duration::from_secs(5);

#[test]
fn everything_acknowledged_comes_once_and_not_early() {
    let seed = seed();
    let mut cluster = cluster();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let plan = plan(seed);
    let mut later =
        Later::start(runtime.handle(), &cluster.meta_address().unwrap(), &plan).unwrap();
    let mut killer = Killer::new(seed);
    while later.came() < plan.messages * 9 / 10 {
        killer.kill_one(&mut cluster, |_| {});
    }
    later.settle(COME_MAX, &HashSet::new()).unwrap();
    // Also what nobody got an answer for, but a delay server has.
    wait::until("nothing is pending", COME_MAX, || {
        Ok((pending(&mut cluster) == 0).then_some(()))
    })
    .unwrap();
    let probes = later.probes();
    let mut twice = 0;
    // A repeat after an unknown outcome is caught by the broker: it remembers ten minutes.
    wait::until("the broker has no message twice", COME_MAX, || {
        twice = stored(&mut cluster) - probes - later.came();
        Ok((twice == 0).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{twice}: {error:#}"));
    let kills = killer.kills;
    println!("{kills} kills: {}", later.end().check().unwrap());
    assert!(kills > 0, "nothing was killed");
    cluster.stop().unwrap();
}

#[test]
fn losing_what_a_delay_server_wrote_is_noticed() {
    let seed = seed();
    let mut cluster = cluster();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let plan = plan(seed);
    let mut later =
        Later::start(runtime.handle(), &cluster.meta_address().unwrap(), &plan).unwrap();
    let mut killer = Killer::new(seed);
    wait::until("some are acknowledged", COME_MAX, || {
        Ok((later.acknowledged() >= plan.messages / 2).then_some(()))
    })
    .unwrap();
    while killer.kills < KILLS_SABOTAGED {
        killer.kill_one(&mut cluster, |cluster| {
            // As if nothing had ever been synced.
            std::fs::remove_dir_all(&cluster.delay_server().data).unwrap();
        });
    }
    later.settle(COME_SABOTAGED_MAX, &HashSet::new()).unwrap();
    let problems = later.end().check().unwrap_err();
    assert!(problems.contains("never consumed"), "{problems}");
}

fn plan(seed: u64) -> LaterPlan {
    LaterPlan {
        subject: SUBJECT.to_owned(),
        messages: usize::try_from(number("QMQ_LATER", MESSAGES)).unwrap(),
        lead: LEAD,
        over: Duration::from_secs(number("QMQ_LATER_SECONDS", SECONDS)),
        senders: SENDERS,
        seed,
    }
}

struct Killer {
    random: SmallRng,
    kills: usize,
}

impl Killer {
    fn new(seed: u64) -> Self {
        Self {
            random: SmallRng::seed_from_u64(seed),
            kills: 0,
        }
    }

    /// Kills one of the two at a random moment, now and then a second time while it starts, and
    /// starts it again. `harm` is done each time the delay server is down.
    fn kill_one(&mut self, cluster: &mut Cluster, harm: impl Fn(&mut Cluster)) {
        let random = &mut self.random;
        // Not to wait for anything: the moment of death is what is random here.
        std::thread::sleep(Duration::from_millis(random.random_range(LIVES_MS)));
        let is_delay_server = random.random_bool(0.6);
        let server = if is_delay_server {
            &mut cluster.delay_server().server
        } else {
            &mut cluster.broker().server
        };
        server.kill().unwrap();
        self.kills += 1;
        if random.random_ratio(1, 4) {
            server.launch().unwrap();
            std::thread::sleep(Duration::from_millis(random.random_range(0..START_MS_MAX)));
            server.kill().unwrap();
        }
        if is_delay_server {
            harm(cluster);
            cluster.delay_server().server.start().unwrap();
        } else {
            cluster.broker().server.start().unwrap();
        }
    }
}

/// Messages the broker has stored, probes included.
fn stored(cluster: &mut Cluster) -> usize {
    let path = format!("/consumers?subject={SUBJECT}");
    let (status, body) = cluster.broker().server.get("admin", &path).unwrap();
    assert_eq!(status, 200, "{body}");
    let groups: Value = serde_json::from_str(&body).unwrap();
    groups[0]["end"].as_u64().unwrap().try_into().unwrap()
}
