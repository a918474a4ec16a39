//! `AddBroker` and `ListBrokers` against a metaserver made for the tests.

use crate::http::FakeHttp;
use crate::{stderr, stdout, tools};

const YES: &str = "{\"status\":0,\"message\":\"\",\"data\":{\"group\":\"g1\"}}\n";
const NO: &str = "{\"status\":-1,\"message\":\"role exists\",\"data\":null}\n";

/// All options of `AddBroker` in one of the two forms.
fn add_broker(metaserver: &str, with_equals: bool) -> Vec<String> {
    let options = [
        ("--metaserver", metaserver),
        ("--token", "a token & more"),
        ("--brokerGroup", "g1"),
        ("--role", "0"),
        ("--hostname", "host-1"),
        ("--ip", "10.0.0.1"),
        ("--servePort", "20881"),
        ("--syncPort", "20882"),
    ];
    let mut arguments = vec!["AddBroker".to_owned()];
    for (flag, value) in options {
        if with_equals {
            arguments.push(format!("{flag}={value}"));
        } else {
            arguments.extend([flag.to_owned(), value.to_owned()]);
        }
    }
    arguments
}

fn run(arguments: &[String]) -> std::process::Output {
    tools(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn add_broker_takes_both_forms_and_sends_the_documented_form() {
    let metaserver = FakeHttp::start("200 OK", YES);
    for with_equals in [true, false] {
        let output = run(&add_broker(&metaserver.authority, with_equals));
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(stdout(&output), YES);
        let asked = metaserver.asked.recv().unwrap();
        assert_eq!(asked.line, "POST /management");
        assert_eq!(asked.token.as_deref(), Some("a token & more"));
        assert_eq!(
            asked.content_type.as_deref(),
            Some("application/x-www-form-urlencoded")
        );
        let expected = [
            ("action", "AddBroker"),
            ("brokerGroup", "g1"),
            ("role", "0"),
            ("hostname", "host-1"),
            ("ip", "10.0.0.1"),
            ("servePort", "20881"),
            ("syncPort", "20882"),
        ];
        let form: Vec<_> = asked
            .form
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(form, expected);
    }
}

#[test]
fn a_no_of_the_server_is_exit_code_1() {
    for no in [NO, "{\"error\":\"exists\"}", "unknown action\n"] {
        let metaserver = FakeHttp::start("200 OK", no);
        let output = run(&add_broker(&metaserver.authority, true));
        assert_eq!(output.status.code(), Some(1), "{no}");
        assert_eq!(stdout(&output), format!("{}\n", no.trim()));
    }
    let metaserver = FakeHttp::start("401 Unauthorized", NO);
    assert_eq!(
        run(&add_broker(&metaserver.authority, true)).status.code(),
        Some(1)
    );
}

#[test]
fn no_usable_answer_is_exit_code_2() {
    let metaserver = FakeHttp::start("502 Bad Gateway", "<html>\nno\n</html>");
    let output = run(&add_broker(&metaserver.authority, true));
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stdout(&output), "");
    assert!(stderr(&output).contains("502"), "{}", stderr(&output));

    let output = run(&add_broker("127.0.0.1:9", true));
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("127.0.0.1:9"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn wrong_usage_is_exit_code_2_and_asks_nobody() {
    let metaserver = FakeHttp::start("200 OK", YES);
    let all = add_broker(&metaserver.authority, true);
    for missing in 1..all.len() {
        let mut arguments = all.clone();
        let gone = arguments.remove(missing);
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(2), "without {gone}");
        let flag = gone.split('=').next().unwrap();
        assert!(stderr(&output).contains(flag), "{}", stderr(&output));
        assert_eq!(stdout(&output), "");
    }
    let server = format!("--metaserver={}", metaserver.authority);
    for bad in [
        &["AddBrokers"][..],
        &["addbroker", &server],
        &["ListBrokers"],
        &["ListBrokers", &server, "--brokergroup=g"],
        &["ListBrokers", "--metaserver=http://127.0.0.1"],
        &["pub", &server],
        &["pub", &server, "--subject=s", "--property=x"],
        &["sub", &server, "--subject=s"],
        &[],
    ] {
        assert_eq!(tools(bad).status.code(), Some(2), "{bad:?}");
    }
    assert!(metaserver.asked.try_recv().is_err(), "nobody was asked");
}

#[test]
fn only_backups_need_no_sync_port() {
    let metaserver = FakeHttp::start("200 OK", YES);
    for (role, code) in [(0, 2), (1, 2), (4, 0), (5, 2), (6, 2), (7, 0)] {
        let mut arguments = add_broker(&metaserver.authority, true);
        arguments.pop();
        arguments[4] = format!("--role={role}");
        assert_eq!(run(&arguments).status.code(), Some(code), "role {role}");
    }
    let forms = [
        metaserver.asked.recv().unwrap().form,
        metaserver.asked.recv().unwrap().form,
    ];
    assert!(forms.iter().flatten().all(|(key, _)| key != "syncPort"));
}

#[test]
fn list_brokers_needs_no_token() {
    let metaserver = FakeHttp::start("200 OK", "{\"status\":0,\n\"data\":[]}");
    let output = tools(&["ListBrokers", "--metaserver", &metaserver.authority]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stdout(&output), "{\"status\":0, \"data\":[]}\n");
    let asked = metaserver.asked.recv().unwrap();
    assert_eq!(asked.token.as_deref(), Some(""));
    let list = ("action".to_owned(), "ListBrokers".to_owned());
    assert_eq!(
        asked.form,
        [list, ("brokerGroup".to_owned(), String::new())]
    );
    let server = format!("--metaserver={}", metaserver.authority);
    tools(&["ListBrokers", &server, "--brokerGroup=订单 1"]);
    assert_eq!(metaserver.asked.recv().unwrap().form[1].1, "订单 1");
}

#[test]
fn help_and_version_are_exit_code_0() {
    for arguments in [
        &["--help"][..],
        &["-h"],
        &["-V"],
        &["--version"],
        &["AddBroker", "--help"],
        &["ListBrokers", "-V"],
        &["version"],
        &["help"],
        &["help", "ResetOffset"],
        &["ResetOffset", "--help"],
        &["completions", "bash"],
        &["pub", "-h"],
        &["sub", "--help"],
    ] {
        let output = tools(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!stdout(&output).is_empty(), "{arguments:?}");
    }
}
