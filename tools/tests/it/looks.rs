//! `list`, one broker without a metaserver, and the kinds of care `pub` and `sub` can take.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use qmq_model::{Message, Payload};
use serde_json::Value;

use crate::cluster::FakeCluster;
use crate::{stderr, stdout, tools};

fn published(cluster: &FakeCluster, arguments: &[&str]) -> Vec<Message> {
    let server = format!("--metaserver={}", cluster.metaserver);
    let output = tools(&[&["pub", &server, "--subject=s"], arguments].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let held = cluster.held.borrow();
    let read = |bytes| Message::from_payload(&Payload::split_first(bytes).unwrap().0);
    held.messages.iter().map(|bytes| read(bytes)).collect()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn numbers(text: &str) -> Vec<String> {
    let lines = lines(text).into_iter();
    lines
        .map(|line| line["properties"]["number"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn list_shows_messages_and_consumes_nothing() {
    let cluster = FakeCluster::start();
    published(&cluster, &["--count=5"]);
    let server = format!("--metaserver={}", cluster.metaserver);
    let list = |arguments: &[&str]| {
        let output = tools(&[&["list", &server, "--subject=s"], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output)
    };
    assert_eq!(numbers(&list(&[])), ["0", "1", "2", "3", "4"]);
    assert_eq!(numbers(&list(&["-n", "2"])), ["3", "4"]);
    assert_eq!(numbers(&list(&["--from=earliest", "-n", "2"])), ["0", "1"]);
    assert_eq!(numbers(&list(&["--from=3"])), ["3", "4"]);
    assert_eq!(numbers(&list(&["--from", "-1h", "--max=1"])), ["0"]);
    assert_eq!(list(&["--from=2026-11-20T15:29:17Z", "-n", "0"]), "");
    let first = &lines(&list(&["--brokerGroup=g1", "--from=1"]))[0];
    assert_eq!(
        (&first["group"], &first["sequence"]),
        (&"g1".into(), &1.into())
    );
    let held = cluster.held.borrow();
    assert_eq!((held.pulled, held.pulls.len()), (0, 0));
    drop(held);
    for wrong in [&["--from=x"][..], &["--brokerGroup=g2"], &["--timeout=1"]] {
        let output = tools(&[&["list", &server, "--subject=s"], wrong].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn list_follows_what_comes() {
    let cluster = FakeCluster::start();
    published(&cluster, &["--count=2"]);
    let server = format!("--metaserver={}", cluster.metaserver);
    let mut list = Command::new(env!("CARGO_BIN_EXE_qmq-tools"))
        .args(["list", &server, "--subject=s", "--follow", "-n", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut shown = BufReader::new(list.stdout.take().unwrap()).lines();
    let mut next = || numbers(&shown.next().unwrap().unwrap()).remove(0);
    assert_eq!(next(), "1");
    published(&cluster, &["--count=1"]);
    assert_eq!(next(), "0");
    // The shell's own `kill`: not every machine has a program of that name.
    let kill = format!("kill -TERM {}", list.id());
    assert!(
        Command::new("sh")
            .args(["-c", &kill])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(list.wait().unwrap().code(), Some(0));
}

#[test]
fn one_broker_needs_no_metaserver() {
    let cluster = FakeCluster::start();
    let broker = format!("--connect={}", cluster.broker);
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_qmq-tools"))
            .args(arguments)
            // Nobody is there; the option wins.
            .env("QMQ_META", "127.0.0.1:9")
            .output()
            .unwrap()
    };
    let output = run(&["pub", &broker, "--subject=s", "--count=3"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let output = run(&["list", &broker, "--subject=s"]);
    assert_eq!(
        numbers(&stdout(&output)),
        ["0", "1", "2"],
        "{}",
        stderr(&output)
    );
    let sub = [
        "sub",
        &broker,
        "--subject=s",
        "--group=g",
        "--count=3",
        "--timeout=120",
    ];
    let output = run(&sub);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(numbers(&stdout(&output)), ["0", "1", "2"]);
    for command in ["pub", "sub", "list"] {
        let output = tools(&[command, "--subject=s"]);
        assert_eq!(output.status.code(), Some(2), "{command} without a server");
    }
}

#[test]
fn pub_says_how_a_message_is_kept() {
    let cluster = FakeCluster::start();
    let sent = published(&cluster, &["--qos=0"]);
    assert!(sent[0].low_reliability);
    let sent = published(&cluster, &["--qos=2", "--retain=0"]);
    assert!(!sent[1].low_reliability);
    assert_eq!(sent[1].property("qmq_retain"), Some("0"));
    assert_eq!(sent[0].property("qmq_retain"), None);
    let server = format!("--metaserver={}", cluster.metaserver);
    for wrong in ["--qos=3", "--retain=2", "--qos=x"] {
        let output = tools(&["pub", &server, "--subject=s", wrong]);
        assert_eq!(output.status.code(), Some(2), "{wrong}");
    }
}

#[test]
fn a_dry_run_of_pub_sends_nothing() {
    let cluster = FakeCluster::start();
    let server = format!("--metaserver={}", cluster.metaserver);
    let output = tools(&[
        "pub",
        &server,
        "--subject=s",
        "--count=2",
        "--body=b",
        "--dry-run",
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(numbers(&stdout(&output)), ["0", "1"]);
    assert!(cluster.held.borrow().messages.is_empty());
    let output = tools(&["pub", &server, "--subject=s", "--count=2", "--json"]);
    let said = &lines(&stdout(&output))[0];
    assert_eq!(
        (&said["confirmed"], &said["messages"]),
        (&2.into(), &2.into())
    );
}

#[test]
fn with_qos_2_nothing_is_printed_twice() {
    let cluster = FakeCluster::start();
    published(&cluster, &["--count=3"]);
    let folder = tempfile::tempdir().unwrap();
    let file = format!("--consumed={}", folder.path().join("ids").display());
    let server = format!("--metaserver={}", cluster.metaserver);
    let sub = ["sub", &server, "--subject=s", "--group=g", "--qos=2", &file];
    let output = tools(&[&sub[..], &["--count=2", "--timeout=120"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(numbers(&stdout(&output)), ["0", "1"]);
    // The broker forgets everything, and hands out all three again.
    cluster
        .held
        .send_modify(|held| (held.pulled, held.acked) = (0, -1));
    let output = tools(&[&sub[..], &["--count=1", "--timeout=120"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(numbers(&stdout(&output)), ["2"]);
}

#[test]
fn sub_and_list_see_what_is_in_memory_only() {
    let cluster = FakeCluster::start();
    published(&cluster, &["--count=2", "--tag=red"]);
    // As a broker would, it has one of them in memory in place of the store.
    cluster.held.send_modify(|held| {
        let message = held.messages.remove(1);
        held.memory.push(message);
    });
    let server = format!("--metaserver={}", cluster.metaserver);
    let output = tools(&["list", &server, "--subject=s"]);
    let shown = lines(&stdout(&output));
    assert_eq!(shown.len(), 2, "{}", stderr(&output));
    assert_eq!(
        (&shown[0]["memory"], &shown[1]["memory"]),
        (&Value::Null, &true.into())
    );
    let sub = [
        "sub",
        &server,
        "--subject=s",
        "--group=g",
        "--tags=red",
        "--timeout=120",
    ];
    let output = tools(&[&sub[..], &["--count=2"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let mut seen = numbers(&stdout(&output));
    seen.sort();
    assert_eq!(seen, ["0", "1"]);
    // Another one sees it too, unless it does not want to.
    let other = ["sub", &server, "--subject=s", "--group=h", "--count=1"];
    let output = tools(&[&other[..], &["--timeout=120"]].concat());
    assert_eq!(numbers(&stdout(&output)), ["1"]);
    let output = tools(&[&other[..], &["--timeout=1", "--no-memory"]].concat());
    assert_eq!(output.status.code(), Some(1));
}
