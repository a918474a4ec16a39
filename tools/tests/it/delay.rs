//! `delay` and `pub --delay` against servers made for the tests.

use std::process::Output;

use qmq_model::{Message, Payload};
use serde_json::Value;

use crate::cluster::FakeCluster;
use crate::http::FakeHttp;
use crate::{stderr, stdout, tools};

/// A delay server of this group that says this.
fn server(group: &str, said: &str) -> FakeHttp {
    FakeHttp::start("200 OK", format!("{{\"group\":\"{group}\",{said}}}"))
}

fn run(what: &str, servers: &[&FakeHttp], more: &[&str]) -> Output {
    let mut arguments = vec!["delay".to_owned(), what.to_owned()];
    let servers = servers.iter().map(|server| &server.authority);
    arguments.extend(servers.map(|authority| format!("--server={authority}")));
    arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
    tools(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

fn lines(output: &Output) -> Vec<Value> {
    let printed = stdout(output);
    let lines = printed.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().unwrap()
}

const MESSAGE: [&str; 3] = ["--subject=a b&c", "--message-id=id-1", "--token=t"];

#[test]
fn a_message_is_cancelled_wherever_it_is() {
    let servers = [
        server("d1", "\"entries\":[]"),
        server(
            "d2",
            "\"entries\":[{\"due\":1795159757436,\"answer\":\"cancelled\"}]",
        ),
    ];
    let output = run("cancel", &servers.each_ref(), &MESSAGE);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let [line] = &lines(&output)[..] else {
        panic!("{output:?}")
    };
    assert_eq!(
        (&line["group"], &line["answer"]),
        (&"d2".into(), &"cancelled".into())
    );
    assert_eq!(line["due"], 1_795_159_757_436_i64);
    assert!(line["time"].as_str().unwrap().starts_with("2026-11-2"));
    for server in &servers {
        let asked = server.asked.recv().unwrap();
        assert_eq!(asked.line, "POST /delay/cancel");
        assert_eq!(asked.token.as_deref(), Some("t"));
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            asked.form,
            [pair("subject", "a b&c"), pair("messageId", "id-1")]
        );
    }
}

#[test]
fn unknown_is_said_only_when_all_have_answered() {
    let nothing = server("d1", "\"entries\":[]");
    let output = run("cancel", &[&nothing], &MESSAGE);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(lines(&output), [serde_json::json!({ "answer": "unknown" })]);

    let refuses = FakeHttp::start("401 Unauthorized", "{\"error\":\"no such token\"}");
    let output = run("cancel", &[&nothing, &refuses], &MESSAGE);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stdout(&output), "");
    let told = stderr(&output);
    assert!(told.contains("1 of 2 delay servers"), "{told}");
    assert!(told.contains("no such token"), "{told}");

    let is_away = FakeHttp {
        authority: "127.0.0.1:9".to_owned(),
        asked: std::sync::mpsc::channel().1,
    };
    let has_it = server("d3", "\"entries\":[{\"due\":1,\"answer\":\"cancelled\"}]");
    let output = run("cancel", &[&is_away, &has_it], &MESSAGE);
    assert_eq!(output.status.code(), Some(2), "another copy may be there");
    assert_eq!(lines(&output).len(), 1, "what is known is told");
    assert!(
        stderr(&output).contains("127.0.0.1:9"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn what_is_on_its_way_or_there_is_exit_code_1() {
    for answer in ["dispatching", "delivered"] {
        let said = format!("\"entries\":[{{\"due\":1,\"answer\":\"{answer}\"}}]");
        let server = server("d1", &said);
        let output = run("cancel", &[&server], &MESSAGE);
        assert_eq!(output.status.code(), Some(1), "{answer}");
        assert_eq!(lines(&output)[0]["answer"], answer);
    }
}

#[test]
fn a_message_gets_another_time() {
    let said = "\"entries\":[{\"due\":1795159757436,\"answer\":\"rescheduled\"}]";
    let server = server("d1", said);
    let time = ["--at=2026-11-20T07:29:17.436Z"];
    let output = run("reschedule", &[&server], &[&MESSAGE[..], &time].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let asked = server.asked.recv().unwrap();
    assert_eq!(asked.line, "POST /delay/reschedule");
    assert_eq!(
        asked.form[2],
        ("due".to_owned(), "1795159757436".to_owned())
    );
    let delay = ["--delay=1h"];
    run("reschedule", &[&server], &[&MESSAGE[..], &delay].concat());
    let due: i64 = server.asked.recv().unwrap().form[2].1.parse().unwrap();
    assert!(due > 1_700_000_000_000, "{due} is counted from now on");
    for wrong in [&[][..], &["--delay=1h", "--at=+1h"], &["--delay=soon"]] {
        let output = run("reschedule", &[&server], &[&MESSAGE[..], wrong].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
    assert!(server.asked.try_recv().is_err());
}

#[test]
fn a_dry_run_changes_nothing_and_asks_nobody() {
    let server = server("d1", "\"entries\":[{\"answer\":\"cancelled\"}]");
    for (what, more, due) in [
        ("cancel", &["--dry-run"][..], None),
        (
            "reschedule",
            &["--at=1795159757436", "--dryRun"],
            Some("1795159757436"),
        ),
    ] {
        let message = [&["--subject=s", "--messageId=m-1"][..], more].concat();
        let output = run(what, &[&server], &message);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let shown = &lines(&output)[0];
        assert_eq!(shown["path"], format!("/delay/{what}"));
        assert_eq!(shown["servers"], serde_json::json!([server.authority]));
        assert_eq!(shown["parameters"]["messageId"], "m-1");
        assert_eq!(shown["parameters"]["due"].as_str(), due);
    }
    assert!(server.asked.try_recv().is_err(), "nobody was asked");
}

#[test]
fn messages_are_found_counted_and_listed_over_all_servers() {
    let found = server("d1", "\"entries\":[{\"due\":5,\"state\":\"pending\"}]");
    let output = run("find", &[&found], &MESSAGE);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(lines(&output)[0]["state"], "pending");
    let asked = found.asked.recv().unwrap();
    assert_eq!(asked.line, "GET /delay/find?subject=a+b%26c&messageId=id-1");

    let counts = [
        server("d1", "\"pending\":5"),
        server("d2", "\"pending\":37"),
    ];
    let output = run("count", &counts.each_ref(), &["--from=1795159757436"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let expected = serde_json::json!({ "pending": 42, "groups": { "d1": 5, "d2": 37 } });
    assert_eq!(lines(&output), [expected]);
    let asked = counts[0].asked.recv().unwrap();
    assert_eq!(asked.line, "GET /delay/count?from=1795159757436");

    let entry = |due, id| format!("{{\"subject\":\"s\",\"messageId\":\"{id}\",\"due\":{due}}}");
    let lists = [
        server(
            "d1",
            &format!("\"entries\":[{},{}]", entry(1, "a"), entry(4, "d")),
        ),
        server(
            "d2",
            &format!("\"entries\":[{},{}]", entry(2, "b"), entry(3, "c")),
        ),
    ];
    let output = run("list", &lists.each_ref(), &["--subject=s", "--max=3"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let listed = lines(&output);
    let ids: Vec<_> = listed.iter().map(|line| &line["messageId"]).collect();
    assert_eq!(ids, ["a", "b", "c"]);
    let asked = lists[1].asked.recv().unwrap();
    assert_eq!(asked.line, "GET /delay/list?subject=s&max=3");
}

#[test]
fn the_metaserver_tells_which_servers_there_are() {
    let delay_server = server("d1", "\"pending\":7");
    let (_, port) = delay_server.authority.rsplit_once(':').unwrap();
    let broker = |group: &str, role: &str, ip: &str| {
        format!("{{\"group\":\"{group}\",\"role\":\"{role}\",\"ip\":\"{ip}\",\"servePort\":1}}")
    };
    // Only the master of the delay group is asked; nobody is at the other addresses.
    let listed = [
        broker("g1", "MASTER", "127.0.0.2"),
        broker("d1", "DELAY_MASTER", "127.0.0.1"),
        broker("d1", "DELAY_SLAVE", "127.0.0.3"),
    ];
    let list = |brokers: &[String]| {
        let brokers = brokers.join(",");
        FakeHttp::start(
            "200 OK",
            format!("{{\"status\":0,\"message\":\"\",\"data\":[{brokers}]}}"),
        )
    };
    let metaserver = list(&listed);
    let at = format!("--metaserver={}", metaserver.authority);
    let port = format!("--admin-port={port}");
    let output = tools(&["delay", "count", &at, &port, "--token=t"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(lines(&output)[0]["pending"], 7);
    let asked = metaserver.asked.recv().unwrap();
    let list_brokers = ("action".to_owned(), "ListBrokers".to_owned());
    assert_eq!(asked.form.first(), Some(&list_brokers));

    let metaserver = list(&listed[..1]);
    let at = format!("--metaserver={}", metaserver.authority);
    let output = tools(&["delay", "count", &at]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("no delay server"),
        "{}",
        stderr(&output)
    );
    assert_eq!(tools(&["delay", "count"]).status.code(), Some(2));
}

#[test]
fn messages_are_published_for_later() {
    let cluster = FakeCluster::start();
    let at = format!("--metaserver={}", cluster.metaserver);
    let publish = |when: &str| tools(&["pub", &at, "--subject=s", when]);
    for when in ["--delay=30m", "--at=2222-01-01T00:00:00Z", "--at=1795159"] {
        let is_usage = when.ends_with('9');
        let expected = if is_usage { 2 } else { 0 };
        let output = publish(when);
        assert_eq!(output.status.code(), Some(expected), "{}", stderr(&output));
    }
    let held = cluster.held.borrow();
    let read = |bytes| Message::from_payload(&Payload::split_first(bytes).unwrap().0);
    let sent: Vec<Message> = held.messages.iter().map(|bytes| read(bytes)).collect();
    let due = |message: &Message| message.due.unwrap().0;
    assert_eq!(due(&sent[0]) - sent[0].created.0, 30 * 60_000);
    assert_eq!(due(&sent[1]), 7_952_342_400_000);
    assert_eq!(sent.len(), 2);
}
