//! Every management command against a metaserver made for the tests: what it sends, as which user,
//! and what it prints.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::http::{Asked, FakeHttp};
use crate::{stderr, stdout, tools};

const YES: &str = "{\"status\":0,\"message\":\"\",\"data\":\"success\"}";

/// A command as documented, without metaserver and token; and the form it sends.
type Documented = (
    &'static [&'static str],
    &'static [(&'static str, &'static str)],
);

/// Commands that change something.
const CHANGES: &[Documented] = &[
    (
        &[
            "AddBroker",
            "--brokerGroup=g1",
            "--role=4",
            "--hostname=h",
            "--ip=10.0.0.1",
            "--servePort=1",
        ],
        &[
            ("action", "AddBroker"),
            ("brokerGroup", "g1"),
            ("role", "4"),
            ("hostname", "h"),
            ("ip", "10.0.0.1"),
            ("servePort", "1"),
        ],
    ),
    (
        &[
            "ReplaceBroker",
            "--brokerGroup=g1",
            "--role=0",
            "--hostname=h",
            "--ip=10.0.0.1",
            "--servePort=1",
            "--syncPort=2",
        ],
        &[
            ("action", "ReplaceBroker"),
            ("brokerGroup", "g1"),
            ("role", "0"),
            ("hostname", "h"),
            ("ip", "10.0.0.1"),
            ("servePort", "1"),
            ("syncPort", "2"),
        ],
    ),
    (
        &["SwapBrokers", "--brokerGroup=g1"],
        &[("action", "SwapBrokers"), ("brokerGroup", "g1")],
    ),
    (
        &["AddNewSubject", "--subject=订单", "--tag=t"],
        &[
            ("action", "AddNewSubject"),
            ("subject", "订单"),
            ("tag", "t"),
        ],
    ),
    (
        &["AddSubjectBrokerGroup", "--brokerGroup=g1", "--subject=s"],
        &[
            ("action", "AddSubjectBrokerGroup"),
            ("brokerGroup", "g1"),
            ("subject", "s"),
        ],
    ),
    (
        &[
            "RemoveSubjectBrokerGroup",
            "--brokerGroup=g1",
            "--subject=*",
        ],
        &[
            ("action", "RemoveSubjectBrokerGroup"),
            ("brokerGroup", "g1"),
            ("subject", "*"),
        ],
    ),
    (
        &[
            "ExtendSubjectRoute",
            "--relatedSubject=*",
            "--relatedBrokerGroup=g1",
            "--newBrokerGroup=g2",
        ],
        &[
            ("action", "ExtendSubjectRoute"),
            ("relatedSubject", "*"),
            ("relatedBrokerGroup", "g1"),
            ("newBrokerGroup", "g2"),
        ],
    ),
    (
        &["MarkReadonly", "--brokerGroup=g1"],
        &[
            ("action", "MarkReadonlyBrokerGroup"),
            ("brokerGroup", "g1"),
            ("subject", "*"),
        ],
    ),
    (
        &["UnMarkReadonly", "--brokerGroup=g1", "--subject=s"],
        &[
            ("action", "UnMarkReadonlyBrokerGroup"),
            ("brokerGroup", "g1"),
            ("subject", "s"),
        ],
    ),
    (
        &["ResetOffset", "--subject=s", "--group=g", "--action=2"],
        &[
            ("action", "ResetOffset"),
            ("subject", "s"),
            ("group", "g"),
            ("code", "2"),
        ],
    ),
    (
        &[
            "AddDb",
            "--host=h",
            "--port=3306",
            "--username=u",
            "--password=p w",
        ],
        &[
            ("action", "AddDb"),
            ("type", "mmm"),
            ("host", "h"),
            ("port", "3306"),
            ("username", "u"),
            ("password", "p w"),
            ("room", "default"),
        ],
    ),
];

/// Commands that only look.
const LOOKS: &[Documented] = &[
    (
        &["ListBrokers"],
        &[("action", "ListBrokers"), ("brokerGroup", "")],
    ),
    (&["ListBrokerGroups"], &[("action", "ListBrokerGroups")]),
    (&["ListSubjectRoutes"], &[("action", "ListSubjectRoutes")]),
    (
        &["ListReadonly", "--limit=10", "--after=g1"],
        &[("action", "ListReadonly"), ("limit", "10"), ("after", "g1")],
    ),
    (&["ListDbs"], &[("action", "ListDbs")]),
];

fn fields(asked: &Asked) -> Vec<(&str, &str)> {
    let fields = asked.form.iter();
    fields
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

fn with<'a>(arguments: &[&'a str], more: &[&'a str]) -> Output {
    tools(&[arguments, more].concat())
}

#[test]
fn each_command_sends_its_action() {
    let metaserver = FakeHttp::start("200 OK", YES);
    let server = format!("--metaserver={}", metaserver.authority);
    for (arguments, form) in CHANGES.iter().chain(LOOKS) {
        let output = with(arguments, &[&server, "--token=t"]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(stdout(&output), format!("{YES}\n"));
        let asked = metaserver.asked.recv().unwrap();
        assert_eq!(asked.line, "POST /management");
        assert_eq!(asked.token.as_deref(), Some("t"), "{arguments:?}");
        assert_eq!(fields(&asked), *form, "{arguments:?}");
    }
}

#[test]
fn a_dry_run_shows_what_would_be_asked_and_asks_nobody() {
    let metaserver = FakeHttp::start("200 OK", YES);
    let server = format!("--metaserver={}", metaserver.authority);
    for (arguments, form) in CHANGES {
        let output = with(arguments, &[&server, "--token=hidden", "--dry-run"]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let text = stdout(&output);
        assert!(!text.contains("hidden") && !text.contains("p w"), "{text}");
        let shown: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(shown["dryRun"], true);
        assert_eq!(shown["action"], form[0].1);
        let parameters = shown["parameters"].as_object().unwrap();
        assert_eq!(parameters.len(), form.len() - 1, "{text}");
    }
    assert!(metaserver.asked.try_recv().is_err(), "nobody was asked");
}

#[test]
fn each_needs_what_is_documented() {
    let metaserver = FakeHttp::start("200 OK", YES);
    let server = format!("--metaserver={}", metaserver.authority);
    for (arguments, _) in CHANGES {
        assert_eq!(
            with(arguments, &[&server]).status.code(),
            Some(2),
            "{arguments:?}: no token"
        );
        assert_eq!(
            with(arguments, &["--token=t"]).status.code(),
            Some(2),
            "{arguments:?}: no server"
        );
        for missing in 1..arguments.len() {
            let mut fewer = arguments.to_vec();
            let gone = fewer.remove(missing);
            // These have defaults.
            if ["MarkReadonly", "UnMarkReadonly"].contains(&fewer[0])
                && gone.starts_with("--subject")
            {
                continue;
            }
            let output = with(&fewer, &[&server, "--token=t"]);
            assert_eq!(
                output.status.code(),
                Some(2),
                "{arguments:?} without {gone}"
            );
        }
    }
    for wrong in [
        &["ResetOffset", "--subject=s", "--group=g", "--action=4"][..],
        &["ResetOffset", "--subject=s", "--group=g", "--action="],
        &["ResetOffset", "--subject=s", "--group=g", "--action=3"],
        &[
            "ResetOffset",
            "--subject=s",
            "--group=g",
            "--action=1",
            "--time=+1s",
        ],
        &[
            "AddDb",
            "--host=h",
            "--port=x",
            "--username=u",
            "--password=p",
        ],
        &["Add"],
        &["pub"],
    ] {
        assert_eq!(
            with(wrong, &[&server, "--token=t"]).status.code(),
            Some(2),
            "{wrong:?}"
        );
    }
    assert!(metaserver.asked.try_recv().is_err(), "nobody was asked");
}

#[test]
fn names_have_variants() {
    let metaserver = FakeHttp::start("200 OK", YES);
    let server = format!("--meta-server={}", metaserver.authority);
    for (variant, form) in [
        (
            &["mark-readonly", "--broker-group", "g1"][..],
            &[
                ("action", "MarkReadonlyBrokerGroup"),
                ("brokerGroup", "g1"),
                ("subject", "*"),
            ][..],
        ),
        (
            &[
                "UnMarkReadonlyBrokerGroup",
                "--broker-group=g1",
                "--subject",
                "s",
            ],
            &[
                ("action", "UnMarkReadonlyBrokerGroup"),
                ("brokerGroup", "g1"),
                ("subject", "s"),
            ],
        ),
        (
            &[
                "reset-offset",
                "--subject=s",
                "--consumerGroup=g",
                "--code=latest",
            ],
            &[
                ("action", "ResetOffset"),
                ("subject", "s"),
                ("group", "g"),
                ("code", "1"),
            ],
        ),
        (
            &[
                "extend-subject-route",
                "--related-subject=s",
                "--related-broker-group=a",
                "--new-broker-group=b",
            ],
            &[
                ("action", "ExtendSubjectRoute"),
                ("relatedSubject", "s"),
                ("relatedBrokerGroup", "a"),
                ("newBrokerGroup", "b"),
            ],
        ),
    ] {
        let output = with(variant, &[&server, "--token", "t"]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(fields(&metaserver.asked.recv().unwrap()), form);
    }
}

#[test]
fn the_environment_names_metaserver_and_token() {
    let metaserver = FakeHttp::start("200 OK", YES);
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_qmq-tools"))
            .args(arguments)
            .env("QMQ_META", &metaserver.authority)
            .env("QMQ_TOKEN", "from the environment")
            .output()
            .unwrap()
    };
    let output = run(&["SwapBrokers", "--brokerGroup=g1"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let asked = metaserver.asked.recv().unwrap();
    assert_eq!(asked.token.as_deref(), Some("from the environment"));
    let output = run(&["SwapBrokers", "--brokerGroup=g1", "--token=given"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(
        metaserver.asked.recv().unwrap().token.as_deref(),
        Some("given")
    );
    let help = stdout(&run(&["SwapBrokers", "--help"]));
    assert!(
        help.contains("QMQ_TOKEN") && !help.contains("from the environment"),
        "{help}"
    );
}

#[test]
fn a_password_may_come_from_standard_input() {
    let metaserver = FakeHttp::start("200 OK", YES);
    let mut program = Command::new(env!("CARGO_BIN_EXE_qmq-tools"))
        .args([
            "AddDb",
            "--host=h",
            "--port=1",
            "--username=u",
            "--password-stdin",
            "--update",
        ])
        .args([
            "--token=t",
            &format!("--metaserver={}", metaserver.authority),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    program
        .stdin
        .take()
        .unwrap()
        .write_all(b"a secret\n")
        .unwrap();
    assert!(program.wait().unwrap().success());
    let asked = metaserver.asked.recv().unwrap();
    let fields = fields(&asked);
    assert!(fields.contains(&("password", "a secret")), "{fields:?}");
    assert!(fields.contains(&("update", "true")), "{fields:?}");
}

#[test]
fn json_has_one_style() {
    for (answer, code, expected) in [
        (
            "[{\"groupName\":\"g\"}]",
            0,
            r#"{"data":[{"groupName":"g"}],"message":"","status":0}"#,
        ),
        (
            "{\"error\":\"no\",\"data\":null}",
            1,
            r#"{"data":null,"message":"no","status":-1}"#,
        ),
        (
            "no such action",
            1,
            r#"{"data":null,"message":"no such action","status":-1}"#,
        ),
    ] {
        let metaserver = FakeHttp::start("200 OK", answer);
        let server = format!("--metaserver={}", metaserver.authority);
        let output = tools(&["ListBrokerGroups", &server, "--json"]);
        assert_eq!(output.status.code(), Some(code), "{answer}");
        assert_eq!(stdout(&output).trim(), expected);
    }
}

#[test]
fn consumers_are_switched_with_the_token() {
    let metaserver = FakeHttp::start("200 OK", "{\"status\":0,\"message\":\"OFF\",\"data\":null}");
    let server = format!("--metaserver={}", metaserver.authority);
    let switch = [
        "OnOffline",
        &server,
        "--token=t",
        "--subject=s",
        "--group=g",
        "--clientId=*",
    ];
    for (more, operation, state) in [
        (&["--state=off"][..], "update", "1"),
        (&["--state=on"], "update", "0"),
        (&[], "query", "0"),
    ] {
        let output = with(&switch, more);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let asked = metaserver.asked.recv().unwrap();
        assert_eq!(asked.line, "POST /onoffline");
        assert_eq!(asked.token.as_deref(), Some("t"));
        let expected = [
            ("operation", operation),
            ("clientId", "*"),
            ("subject", "s"),
            ("consumerGroup", "g"),
            ("state", state),
        ];
        assert_eq!(fields(&asked), expected);
    }
    let output = with(&switch, &["--state=off", "--dry-run"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(metaserver.asked.try_recv().is_err(), "nobody was asked");
}

#[test]
fn an_action_may_take_longer_than_two_seconds() {
    // Nobody ever sends: this is how long the metaserver talks to brokers.
    let (_talks, brokers) = std::sync::mpsc::channel::<()>();
    let metaserver = FakeHttp::answering("200 OK", move |_| {
        let _ = brokers.recv_timeout(Duration::from_millis(2200));
        YES.to_owned()
    });
    let server = format!("--metaserver={}", metaserver.authority);
    let reset = [
        "ResetOffset",
        "--subject=s",
        "--group=g",
        "--action=1",
        "--token=t",
    ];
    let output = with(&reset, &[&server]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stderr(&output), "", "progress is for terminals only");
}
