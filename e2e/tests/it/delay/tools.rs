//! A message for later from the shell: sent, looked for, moved, cancelled, received.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Result;
use qmq_e2e::{Cluster, programs, wait};
use serde_json::Value;

use super::{cluster, pending, tools_delay};

const SUBJECT: &str = "e2e.later.tools";
const COME_MAX: Duration = Duration::from_secs(120);

#[test]
fn a_message_is_found_moved_and_cancelled() {
    let mut cluster = cluster();
    publish(&cluster, &["--delay=1h", "--body=later"]).unwrap();
    // Three years: refused with a reason, never shortened.
    let too_far = publish(&cluster, &["--delay=1095d"]).unwrap_err();
    assert!(too_far.to_string().contains("Blocked"), "{too_far}");
    let listed = lines(&tools_delay(&mut cluster, "list", &[]).unwrap());
    let [one] = &listed[..] else {
        panic!("{listed:?}")
    };
    assert_eq!(
        (&one["subject"], &one["group"]),
        (&SUBJECT.into(), &"d1".into())
    );
    let id = format!("--message-id={}", one["messageId"].as_str().unwrap());
    let subject = format!("--subject={SUBJECT}");
    let message = [subject.as_str(), id.as_str()];
    let ask = |cluster: &mut Cluster, what: &str, more: &[&str]| {
        tools_delay(cluster, what, &[&message[..], more].concat())
    };
    let found = lines(&ask(&mut cluster, "find", &[]).unwrap());
    assert_eq!(
        (&found[0]["state"], &found[0]["due"]),
        (&"pending".into(), &one["due"])
    );

    let moved = lines(&ask(&mut cluster, "reschedule", &["--delay=2h"]).unwrap());
    assert_eq!(moved[0]["answer"], "rescheduled");
    let later = lines(&tools_delay(&mut cluster, "list", &["--from=+90m"]).unwrap());
    assert_eq!(later.len(), 1, "{later:?}");
    assert_eq!(pending(&mut cluster), 1, "there is one of it");

    // Also over a restart.
    cluster.delay_server().server.kill().unwrap();
    cluster.delay_server().server.start().unwrap();
    let cancelled = lines(&ask(&mut cluster, "cancel", &[]).unwrap());
    assert!(
        cancelled.iter().any(|line| line["answer"] == "cancelled"),
        "{cancelled:?}"
    );
    cluster.delay_server().server.kill().unwrap();
    cluster.delay_server().server.start().unwrap();
    let again = lines(&ask(&mut cluster, "cancel", &[]).unwrap());
    assert!(
        again
            .iter()
            .all(|line| line["answer"] == "already cancelled"),
        "{again:?}"
    );
    assert_eq!(pending(&mut cluster), 0);
    let unknown = tools_delay(&mut cluster, "cancel", &[&subject, "--message-id=nobody"]);
    assert!(unknown.unwrap_err().to_string().contains("unknown"));
    cluster.stop().unwrap();
}

#[test]
fn a_message_that_is_moved_to_now_arrives() {
    let mut cluster = cluster();
    let mut subscriber = subscriber(&cluster);
    // A group gets what is sent from its first pull on.
    wait::until("the group is there", COME_MAX, || {
        let path = format!("/consumers?subject={SUBJECT}");
        let (_, groups) = cluster.broker().server.get("admin", &path)?;
        Ok(groups.contains("\"me\"").then_some(()))
    })
    .unwrap();
    publish(&cluster, &["--delay=1h", "--body=soon"]).unwrap();
    let listed = lines(&tools_delay(&mut cluster, "list", &[]).unwrap());
    let id = format!("--message-id={}", listed[0]["messageId"].as_str().unwrap());
    let subject = format!("--subject={SUBJECT}");
    tools_delay(&mut cluster, "reschedule", &[&subject, &id, "--delay=0s"]).unwrap();
    let ended = wait::until("the subscriber has it", COME_MAX, || {
        Ok(subscriber.try_wait()?)
    });
    assert!(ended.unwrap().success());
    let output = subscriber.wait_with_output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(lines(&printed)[0]["properties"]["body"], "soon");
    cluster.stop().unwrap();
}

#[test]
fn the_bench_finds_nothing_early_lost_or_twice() {
    let mut cluster = cluster();
    let metaserver = format!("--metaserver={}", cluster.http_authority().unwrap());
    let small = ["--size=100", "--patience=120", "--json"];
    let burst = ["--messages=2000", "--within=0.5", "--delay=3"];
    let steady = ["--rate=500", "--duration=2", "--warm-up=0", "--delay=1"];
    for plan in [&burst[..], &steady] {
        let bench = ["bench", "delay", &metaserver];
        let said = cluster.tools(&[&bench[..], &small, plan].concat()).unwrap();
        let report: Value = serde_json::from_str(&said).unwrap();
        let lateness = &report["latency_us"]["lateness"];
        println!(
            "{plan:?}: p50 {} p99 {} us late",
            lateness["p50"], lateness["p99"]
        );
        assert_eq!(report["valid"], true, "{report}");
        assert!(report["verdicts"][0]["received"].as_u64() >= Some(1000));
    }
    cluster.stop().unwrap();
}

fn publish(cluster: &Cluster, more: &[&str]) -> Result<String> {
    let metaserver = format!("--metaserver={}", cluster.http_authority().unwrap());
    let subject = format!("--subject={SUBJECT}");
    let arguments = ["pub", &metaserver, &subject];
    cluster.tools(&[&arguments[..], more].concat())
}

fn subscriber(cluster: &Cluster) -> std::process::Child {
    let metaserver = format!("--metaserver={}", cluster.http_authority().unwrap());
    let subject = format!("--subject={SUBJECT}");
    Command::new(programs::path("qmq-tools").unwrap())
        .args([
            "sub",
            &metaserver,
            &subject,
            "--group=me",
            "--count=1",
            "--timeout=300",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn lines(printed: &str) -> Vec<Value> {
    let lines = printed.lines().map(serde_json::from_str);
    lines.collect::<Result<_, serde_json::Error>>().unwrap()
}
