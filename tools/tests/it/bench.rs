//! `bench` against a cluster made for the tests: the report, and that the check notices faults.

use std::process::Output;

use qmq_model::Payload;
use serde_json::Value;

use crate::cluster::FakeCluster;
use crate::{stderr, stdout, tools};

const SHORT: [&str; 4] = ["--warm-up=0", "--duration=0.2", "--size=100", "--json"];

fn bench(cluster: &FakeCluster, what: &str, more: &[&str]) -> Output {
    let connect = format!("--connect={}", cluster.broker);
    tools(&[&["bench", what, &connect], &SHORT[..], more].concat())
}

fn report(output: &Output) -> Value {
    let text = stdout(output);
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{}", stderr(output)))
}

#[test]
fn produce_sends_and_finds_everything_again() {
    let cluster = FakeCluster::start();
    let output = bench(&cluster, "produce", &["--in-flight=8", "--batch=3"]);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_eq!(
        (&report["command"], &report["schema"]),
        (&"produce".into(), &1.into())
    );
    assert_eq!(
        (&report["valid"], &report["checked"]),
        (&true.into(), &true.into())
    );
    assert!(report["messages_per_second"].as_f64() > Some(0.0));
    let verdict = &report["verdicts"][0];
    let held = cluster.held.borrow();
    assert_eq!(verdict["received"], held.messages.len());
    assert_eq!(verdict["acknowledged"], held.messages.len());
    let send = &report["latency_us"]["send"];
    assert!(send["p50"].as_f64() > Some(0.0));
    assert!(send["p9999"].as_f64() >= send["p50"].as_f64());
    // The fake cluster is a part of this test: it is found through its port.
    assert_eq!(report["server"]["pid"], std::process::id());
}

#[test]
fn a_rate_is_kept() {
    let cluster = FakeCluster::start();
    let rate = ["--rate=1000", "--batch=2", "--connections=3", "--no-check"];
    let output = bench(&cluster, "produce", &rate);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    // 0.2 s of 1000 messages per second, however long the answers take.
    assert_eq!(cluster.held.borrow().messages.len(), 200);
    assert_eq!(report["latency_us"]["send"]["count"], 100);
    assert_eq!(report["checked"], false);
}

#[test]
fn consume_drains_a_backlog() {
    let cluster = FakeCluster::start();
    let connect = format!("--connect={}", cluster.broker);
    let options = ["--messages=5000", "--size=100", "--pull=100", "--json"];
    let output = tools(&[&["bench", "consume", &connect], &options[..]].concat());
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert!(report["messages"].as_u64() >= Some(5000));
    assert!(report["latency_us"]["pull"]["count"].as_u64() >= Some(50));
    let held = cluster.held.borrow();
    let last = i64::try_from(held.messages.len()).unwrap() - 1;
    assert_eq!(held.acked, last, "everything is acked at the end");
}

#[test]
fn end_to_end_finds_its_broker_through_the_metaserver() {
    let cluster = FakeCluster::start();
    let server = format!("--metaserver={}", cluster.metaserver);
    let output = tools(&[&["bench", "e2e", &server, "--rate=500"], &SHORT[..]].concat());
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_eq!(report["latency_us"]["delivery"]["count"], 100);
    assert_eq!(report["servers"][0], cluster.broker);
}

#[test]
fn a_fault_in_what_is_received_fails_the_run() {
    for (fault, field) in [
        ("lose", "lost"),
        ("duplicate", "duplicated"),
        ("alter", "altered"),
    ] {
        for what in ["produce", "e2e"] {
            let cluster = FakeCluster::start();
            let sabotage = format!("--sabotage={fault}");
            let output = bench(&cluster, what, &["--rate=500", "--patience=0.5", &sabotage]);
            let report = report(&output);
            assert_eq!(output.status.code(), Some(1), "{what} {fault}: {report}");
            assert_eq!(report["valid"], false);
            assert_eq!(report["messages_per_second"], Value::Null, "{what} {fault}");
            assert_eq!(report["verdicts"][0][field], 1, "{what} {fault}: {report}");
        }
    }
}

#[test]
fn refused_messages_are_told_and_not_counted() {
    let cluster = FakeCluster::start();
    cluster.held.send_modify(|held| held.result = 1);
    let output = bench(&cluster, "produce", &["--rate=500", "--batch=2"]);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1), "nothing was confirmed");
    assert_eq!(report["messages"], 0);
    assert_eq!(report["refused"]["result 1 not today"], 100);
}

#[test]
fn text_is_for_people() {
    let cluster = FakeCluster::start();
    let connect = format!("--connect={}", cluster.broker);
    let output = tools(&[
        "bench",
        "produce",
        &connect,
        "--warm-up=0",
        "--duration=0.1",
        "--rate=100",
    ]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for part in [
        "throughput",
        "p99.99",
        "cores",
        "came once and unchanged (10 received)",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn options_that_do_not_fit_are_refused() {
    let bad: [&[&str]; 9] = [
        &["produce"],
        &["produce", "--connect=127.0.0.1:1", "--metaserver=127.0.0.1"],
        &["produce", "--connect=127.0.0.1:1", "--connections=0"],
        &["produce", "--connect=127.0.0.1:1", "--in-flight=0"],
        &["produce", "--connect=127.0.0.1:1", "--batch=1000000"],
        &["produce", "--connect=127.0.0.1:1", "--rate=0"],
        &["produce", "--connect=127.0.0.1:1", "--subject=a b"],
        &["consume", "--connect=127.0.0.1:1", "--pull=0"],
        &["e2e", "--connect=no such host"],
    ];
    for arguments in bad {
        let output = tools(&[&["bench"], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!stderr(&output).is_empty(), "{arguments:?}");
    }
}

/// Brokers and delay server of the fake cluster are one.
const LATER: [&str; 5] = [
    "--delay=0.3",
    "--size=100",
    "--json",
    "--connections=2",
    "--patience=60",
];

fn delayed(cluster: &FakeCluster, more: &[&str]) -> Output {
    let connect = format!("--connect={}", cluster.broker);
    let server = format!("--delay-server={}", cluster.broker);
    tools(&[&["bench", "delay", &connect, &server], &LATER[..], more].concat())
}

#[test]
fn messages_for_later_come_when_they_are_due() {
    let cluster = FakeCluster::start();
    let output = delayed(&cluster, &["--rate=500", "--duration=0.5", "--warm-up=0"]);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_eq!(report["command"], "delay");
    assert_eq!(report["verdicts"][0]["received"], 250);
    assert_eq!(report["latency_us"]["send"]["count"], 250);
    assert_eq!(report["latency_us"]["lateness"]["count"], 250);
    assert!(report["messages_per_second"].as_f64() > Some(0.0));
}

#[test]
fn a_number_of_messages_is_spread_over_a_time() {
    let cluster = FakeCluster::start();
    let output = delayed(&cluster, &["--messages=1000", "--within=0.4", "--batch=10"]);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_eq!(report["messages"], 1000);
    assert_eq!(report["latency_us"]["lateness"]["count"], 1000);
    let held = cluster.held.borrow();
    let due = |bytes| Payload::split_first(bytes).unwrap().0.second_ms;
    let mut due: Vec<i64> = held.messages.iter().map(|bytes| due(bytes)).collect();
    due.sort_unstable();
    let spread = due.last().unwrap() - due[0];
    assert!(
        (399..=400).contains(&spread),
        "{spread} ms from the first to the last"
    );
}

#[test]
fn a_message_that_comes_early_is_noticed() {
    let cluster = FakeCluster::start();
    cluster.held.send_modify(|held| held.early_ms = 100);
    let output = delayed(&cluster, &["--messages=10"]);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1), "{report}");
    let fault = report["faults"][0].as_str().unwrap();
    assert!(fault.contains("before they were due"), "{fault}");
    assert_eq!(report["messages_per_second"], Value::Null);
}

#[test]
fn delay_servers_are_found_through_the_metaserver() {
    let cluster = FakeCluster::start();
    let server = format!("--metaserver={}", cluster.metaserver);
    let output = tools(&[&["bench", "delay", &server, "--messages=10"], &LATER[..]].concat());
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_eq!(report["servers"][0], cluster.broker.as_str());
    for wrong in [
        &["--messages=10", "--rate=5"][..],
        &["--within=1"],
        &["--messages=0"],
    ] {
        assert_eq!(delayed(&cluster, wrong).status.code(), Some(2), "{wrong:?}");
    }
}
