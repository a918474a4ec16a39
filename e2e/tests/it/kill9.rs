//! The broker is killed again and again under load, at random moments and also while it starts:
//! every acknowledged message is consumed, with its content. The consumer crashes now and then, too.

use std::time::Duration;

use qmq_e2e::ledger::Problem;
use qmq_e2e::{Cluster, Ledger, Load, Plan, Sabotage};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// How often the broker is killed; `QMQ_KILLS` sets another number.
const KILLS: usize = 50;
/// Enough for a sabotage to do harm.
const KILLS_SABOTAGED: usize = 5;
/// The run of an earlier failure: `QMQ_SEED` sets the printed number again.
const SEED_VARIABLE: &str = "QMQ_SEED";
const SENDERS: usize = 16;
const ACKNOWLEDGED_BETWEEN_KILLS_MAX: usize = 1_500;
/// A broker that is killed while it starts lives no longer than this.
const START_MS_MAX: u64 = 150;
const CONSUME_MAX: Duration = Duration::from_secs(120);
/// Nothing comes any more of what was sabotaged.
const CONSUME_SABOTAGED_MAX: Duration = Duration::from_secs(5);

#[test]
fn nothing_acknowledged_is_lost() {
    let kills = std::env::var("QMQ_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let ledger = run(kills, Sabotage::Nothing);
    let summary = ledger.check().unwrap_or_else(|problems| {
        let problems: Vec<String> = problems.iter().map(Problem::to_string).collect();
        panic!("{}", problems.join("; "));
    });
    println!("{kills} kills: {summary:?}");
    assert!(
        summary.acknowledged >= kills,
        "hardly anything was sent: {summary:?}"
    );
}

#[test]
fn dropping_one_message_in_a_thousand_is_noticed() {
    assert_lost(&run(KILLS_SABOTAGED, Sabotage::DropOneInThousand));
}

#[test]
fn acknowledging_before_the_write_is_noticed() {
    assert_lost(&run(KILLS_SABOTAGED, Sabotage::AcknowledgeBeforeReply));
}

#[test]
fn forgetting_what_a_consumer_held_is_noticed() {
    assert_lost(&run(KILLS_SABOTAGED, Sabotage::ForgetUnacked));
}

fn assert_lost(ledger: &Ledger) {
    let problems = ledger.check().expect_err("the sabotage must be noticed");
    assert!(
        problems
            .iter()
            .any(|problem| matches!(problem, Problem::Lost(_))),
        "{problems:?}"
    );
}

/// One run: load, kills, and the account of it.
fn run(kills: usize, sabotage: Sabotage) -> Ledger {
    let seed = std::env::var(SEED_VARIABLE)
        .map_or_else(|_| rand::rng().random(), |text| text.parse().unwrap());
    println!("{sabotage:?}: {SEED_VARIABLE}={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let mut cluster = Cluster::with_broker().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let meta = cluster.meta_address().unwrap();
    let plan = Plan {
        subject: "e2e.kill9".to_owned(),
        senders: SENDERS,
        seed,
        sabotage,
    };
    let mut load = Load::start(runtime.handle(), &meta, plan).unwrap();
    for _ in 0..kills {
        load.await_acknowledged(random.random_range(1..=ACKNOWLEDGED_BETWEEN_KILLS_MAX))
            .unwrap();
        if sabotage == Sabotage::ForgetUnacked || random.random_ratio(1, 4) {
            load.crash_receiver().unwrap();
        }
        let broker = &mut cluster.broker().server;
        broker.kill().unwrap();
        if random.random_ratio(1, 4) {
            broker.launch().unwrap();
            // Not to wait for anything: the moment of death is what is random here.
            std::thread::sleep(Duration::from_millis(random.random_range(0..START_MS_MAX)));
            broker.kill().unwrap();
        }
        broker.start().unwrap();
    }
    load.await_acknowledged(1).unwrap();
    let wait = if sabotage == Sabotage::Nothing {
        CONSUME_MAX
    } else {
        CONSUME_SABOTAGED_MAX
    };
    let ledger = load.finish(wait).unwrap();
    cluster.stop().unwrap();
    ledger
}
