//! `pub` and `sub` against a cluster made for the tests.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use qmq_model::{Message, Payload};
use qmq_protocol::command::pull::TagMatch;
use serde_json::Value;

use crate::cluster::{FakeCluster, SeenPull};
use crate::{stderr, stdout, tools};

fn messages(cluster: &FakeCluster) -> Vec<Message> {
    let held = cluster.held.borrow();
    let read = |bytes| Message::from_payload(&Payload::split_first(bytes).unwrap().0);
    held.messages.iter().map(|bytes| read(bytes)).collect()
}

#[test]
fn what_is_published_is_printed_by_sub_and_acked() {
    let cluster = FakeCluster::start();
    let server = format!("--metaserver={}", cluster.metaserver);
    let output = tools(&[
        "pub",
        &server,
        "--subject=order.changed",
        "--count=30",
        "--body=hello, 订单",
        "--property",
        "colour=red",
        "--tag=vip",
        "--size=20000",
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stdout(&output).starts_with("30 of 30 messages confirmed in "),
        "{output:?}"
    );
    let sent = messages(&cluster);
    let numbers: Vec<_> = sent
        .iter()
        .filter_map(|message| message.property("number"))
        .collect();
    let expected: Vec<_> = (0..30).map(|number| number.to_string()).collect();
    assert_eq!(numbers, expected, "one broker gets them in order");
    for message in &sent {
        assert_eq!(message.property("body"), Some("hello, 订单"));
        assert_eq!(message.property("colour"), Some("red"));
        assert!(message.tags.contains("vip"));
        let filler = message
            .properties
            .iter()
            .filter(|(key, _)| key.starts_with("filler"));
        assert_eq!(filler.map(|(_, value)| value.len()).sum::<usize>(), 20_000);
    }

    let sub = [
        "sub",
        &server,
        "--subject=order.changed",
        "--group=g",
        "--client-id=c-1",
    ];
    let output = tools(&[&sub[..], &["--count=30", "--timeout=120"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stderr(&output).starts_with("30 messages received in "),
        "{}",
        stderr(&output)
    );
    let printed: Vec<Value> = stdout(&output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let ids: Vec<_> = printed
        .iter()
        .map(|line| line["messageId"].as_str().unwrap())
        .collect();
    assert_eq!(
        ids,
        sent.iter()
            .map(|message| &*message.message_id)
            .collect::<Vec<_>>()
    );
    assert_eq!(printed[0]["properties"]["body"], "hello, 订单");
    assert_eq!(printed[0]["tags"][0], "vip");
    let held = cluster.held.borrow();
    assert_eq!(held.acked, 29, "everything printed is confirmed at the end");
    assert!(held.client_ids.iter().all(|id| id == "c-1"));
}

#[test]
fn sub_asks_for_tags_and_broadcasts() {
    let cluster = FakeCluster::start();
    let server = format!("--metaserver={}", cluster.metaserver);
    let output = tools(&[
        "pub",
        &server,
        "--subject=s",
        "--count=2",
        "--tag=a",
        "--tag=b",
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(messages(&cluster)[0].tags.len(), 2);
    let sub = ["sub", &server, "--subject=s", "--count=1", "--timeout=60"];
    let both = vec!["a".to_owned(), "b".to_owned()];
    let cases = [
        (
            &["--group=g", "--tags=a,b"][..],
            ("g", false, TagMatch::Any),
        ),
        (
            &["--broadcast", "--client-id=c-1", "--tags=a,b", "--tags-all"],
            ("c-1", true, TagMatch::All),
        ),
    ];
    for (arguments, (group, is_broadcast, tag_match)) in cases {
        cluster.held.send_modify(|held| held.pulls.clear());
        let output = tools(&[&sub[..], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let line: Value = serde_json::from_str(stdout(&output).trim()).unwrap();
        assert_eq!(line["times"], 1);
        let wanted = SeenPull {
            group: group.to_owned(),
            is_broadcast,
            tags: Some((tag_match, both.clone())),
        };
        assert_eq!(cluster.held.borrow().pulls[0], wanted);
    }
    for wrong in [
        &[][..],
        &["--group=g", "--broadcast"],
        &["--group=g", "--tags-all"],
    ] {
        let output = tools(&[&sub[..], wrong].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn missing_messages_are_exit_code_1() {
    let cluster = FakeCluster::start();
    let server = format!("--metaserver={}", cluster.metaserver);
    let sub = ["sub", &server, "--subject=s", "--group=g", "--timeout=1"];
    let output = tools(&[&sub[..], &["--count=1"]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stdout(&output), "");
    assert!(stderr(&output).starts_with("0 messages received in "));
    assert_eq!(
        tools(&sub).status.code(),
        Some(0),
        "without a count a time limit is no failure"
    );
}

#[test]
fn refused_messages_are_exit_code_1() {
    let cluster = FakeCluster::start();
    // Busy: producers give up at once.
    cluster.held.send_modify(|held| held.result = 1);
    let server = format!("--metaserver={}", cluster.metaserver);
    let output = tools(&["pub", &server, "--subject=s", "--count=15"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).starts_with("0 of 15 messages confirmed"));
    let told = stderr(&output);
    assert_eq!(
        told.lines()
            .filter(|line| line.contains("not today"))
            .count(),
        10,
        "{told}"
    );
}

#[test]
fn a_bad_subject_is_exit_code_2() {
    let cluster = FakeCluster::start();
    let server = format!("--metaserver={}", cluster.metaserver);
    let output = tools(&["pub", &server, "--subject=a b"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("subject"), "{}", stderr(&output));
    let output = tools(&["sub", &server, "--subject=a b", "--group=g"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(messages(&cluster).is_empty());
}

#[test]
fn an_interrupted_sub_confirms_what_it_printed() {
    let cluster = FakeCluster::start();
    let server = format!("--metaserver={}", cluster.metaserver);
    let output = tools(&["pub", &server, "--subject=s", "--count=3"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let mut sub = Command::new(env!("CARGO_BIN_EXE_qmq-tools"))
        .args(["sub", &server, "--subject=s", "--group=g"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(sub.stdout.take().unwrap()).lines();
    assert_eq!(lines.take(3).map(Result::unwrap).count(), 3);
    // The shell's own `kill`: not every machine has a program of that name.
    let kill = format!("kill -TERM {}", sub.id());
    let killed = Command::new("sh").args(["-c", &kill]).status().unwrap();
    assert!(killed.success());
    assert_eq!(sub.wait().unwrap().code(), Some(0));
    assert_eq!(cluster.held.borrow().acked, 2);
}
