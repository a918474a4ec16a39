//! `Brokers`, `Subjects` and `Consumers`: what people see, and what programs get.

use serde_json::{Value, json};

use crate::http::{Asked, FakeHttp};
use crate::{stderr, stdout, tools};

/// A metaserver with two groups and three subjects, and beside it the HTTP side of their brokers.
fn cluster() -> FakeHttp {
    FakeHttp::answering("200 OK", |asked: &Asked| {
        let action = asked.form.first().map(|(_, action)| action.as_str());
        let answer = match action {
            Some("ListBrokers") => json!({ "status": 0, "message": "", "data": [
                { "group": "g2", "role": "MASTER", "hostname": "host-2", "ip": "127.0.0.1",
                  "servePort": 20881, "syncPort": 20882 },
                { "group": "d1", "role": "DELAY_MASTER", "hostname": "host-3", "ip": "127.0.0.9",
                  "servePort": 20801, "syncPort": 20802 },
            ]}),
            Some("ListBrokerGroups") => json!([
                { "groupName": "g2", "master": "127.0.0.1:20881", "slaves": null, "tag": null,
                  "updateTime": 1_795_159_757_000_i64, "brokerState": "R", "kind": "NORMAL", "ext": null },
            ]),
            Some("ListSubjectRoutes") => json!([
                { "subject": "order.paid", "brokerGroups": ["g2", "g1"], "version": 3,
                  "updateTime": 1_795_159_757_000_i64 },
                { "subject": "order.changed", "brokerGroups": ["g2"], "version": 1,
                  "updateTime": 1_795_159_757_000_i64 },
                { "subject": "invoice", "brokerGroups": ["g1"], "version": 1, "updateTime": 1 },
            ]),
            None if asked
                .line
                .starts_with("GET /subject/consumers?subject=order") =>
            {
                json!({ "status": 0, "message": "success", "data": [
                    { "namespace": "newqmq", "prefix": "order.paid", "consumerGroup": "billing",
                      "owner": null, "endPoint": ["qmq://host@@1?room=r1&appCode=shop"] },
                    { "namespace": "newqmq", "prefix": "order.paid", "consumerGroup": "audit",
                      "owner": null, "endPoint": ["qmq://host@@2?room=&appCode="] },
                ]})
            }
            None if asked.line.starts_with("GET /consumers?subject=order") => json!([
                { "group": "billing", "broadcast": false, "next": 90, "end": 100, "lag": 10,
                  "members": [{ "consumerId": "host@@1", "unacked": 4, "nextPull": 7,
                                "lastSeen": 1_795_159_757_000_i64, "waitingPulls": 1 }] },
                { "group": "audit", "broadcast": false, "next": 5, "end": 100, "lag": 95,
                  "members": [] },
            ]),
            _ => json!({ "status": -1, "message": "unknown subject", "data": null }),
        };
        answer.to_string()
    })
}

fn run(cluster: &FakeHttp, arguments: &[&str]) -> (i32, String, String) {
    let server = format!("--metaserver={}", cluster.authority);
    let output = tools(&[arguments, &[&server]].concat());
    let code = output.status.code().unwrap();
    (code, stdout(&output), stderr(&output))
}

fn json_of(cluster: &FakeHttp, arguments: &[&str]) -> Value {
    let (code, text, problem) = run(cluster, &[arguments, &["--json"]].concat());
    assert_eq!(code, 0, "{problem}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn brokers_are_shown_with_their_state() {
    let cluster = cluster();
    let (code, text, problem) = run(&cluster, &["Brokers"]);
    assert_eq!(code, 0, "{problem}");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with("GROUP"), "{text}");
    assert!(
        lines[1].starts_with("d1") && lines[1].contains("never came"),
        "{text}"
    );
    assert!(lines[2].contains("127.0.0.1:20881"), "{text}");
    let rows = json_of(&cluster, &["Brokers"]);
    assert_eq!(rows[1]["state"], "R");
    assert_eq!(rows[1]["since"], 1_795_159_757_000_i64);
}

#[test]
fn subjects_are_chosen_by_name_and_group() {
    let cluster = cluster();
    let names = |arguments: &[&str]| -> Vec<String> {
        let rows = json_of(&cluster, arguments);
        let rows = rows.as_array().unwrap().iter();
        rows.map(|row| row["subject"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        names(&["Subjects"]),
        ["invoice", "order.changed", "order.paid"]
    );
    assert_eq!(
        names(&["Subjects", "--subject=order."]),
        ["order.changed", "order.paid"]
    );
    assert_eq!(
        names(&["Subjects", "--brokerGroup=g1"]),
        ["invoice", "order.paid"]
    );
    let (_, text, _) = run(&cluster, &["Subjects", "--subject=order.paid"]);
    assert!(text.lines().nth(1).unwrap().contains("g2,g1"), "{text}");
}

#[test]
fn consumers_are_shown_with_their_progress() {
    let cluster = cluster();
    let (code, text, problem) = run(&cluster, &["Consumers", "--subject=order.paid"]);
    assert_eq!(code, 0, "{problem}");
    assert!(
        text.contains("host@@1") && text.contains("shop") && text.contains("r1"),
        "{text}"
    );
    // The fake cluster's brokers answer on the port of its metaserver.
    let port = cluster.authority.rsplit_once(':').unwrap().1;
    let lag = [
        "Consumers",
        "--subject=order.paid",
        "--lag",
        "--admin-port",
        port,
    ];
    let (code, text, problem) = run(&cluster, &lag);
    assert_eq!(code, 0, "{problem}");
    assert!(text.contains("LAG") && text.contains("95"), "{text}");
    let all = json_of(&cluster, &lag);
    assert_eq!(all["clients"][0]["clientId"], "host@@1");
    assert_eq!(all["progress"][0]["lag"], 10);
    assert_eq!(all["progress"][1]["lastSeen"], Value::Null);
    let one = json_of(&cluster, &[&lag[..], &["--group=audit"]].concat());
    assert_eq!(one["progress"].as_array().unwrap().len(), 1);
    assert_eq!(one["clients"].as_array().unwrap().len(), 1);
}

#[test]
fn what_cannot_be_shown_is_said() {
    let cluster = cluster();
    let (code, text, problem) = run(&cluster, &["Consumers", "--subject=unknown"]);
    assert_eq!((code, text.as_str()), (1, ""));
    assert!(problem.contains("unknown subject"), "{problem}");
    // Nobody listens there.
    let silent = [
        "Consumers",
        "--subject=order.paid",
        "--lag",
        "--admin-port=9",
    ];
    let (code, text, problem) = run(&cluster, &silent);
    assert_eq!(code, 2);
    assert!(
        text.contains("host@@1") && problem.contains("127.0.0.1:9"),
        "{text}{problem}"
    );
}
