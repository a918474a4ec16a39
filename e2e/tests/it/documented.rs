//! Every command of QMQ's install and operations pages, typed into a shell as it stands there, does
//! what the page says. What is in angle brackets on the page is filled in.

use std::process::{Command, Output};

use qmq_e2e::{ports, programs, repository};
use serde_json::Value;

use crate::scripts::{Home, TOKEN};

/// A shell in a home folder with a running metaserver.
struct Shell {
    home: Home,
    metaserver: String,
}

impl Shell {
    fn open() -> Self {
        let home = Home::new();
        let mut shell = Self {
            home,
            metaserver: String::new(),
        };
        shell.does("metaserver.sh start", &[]);
        let file = shell.home.path().join("pid/metaserver.ports");
        let address = ports::read(&file, "http").unwrap().unwrap();
        shell.metaserver = address.to_string();
        shell
    }

    /// Types a line, with `<name>` replaced by its value.
    fn types(&self, line: &str, values: &[(&str, &str)]) -> Output {
        let known = [
            ("metaserver address", self.metaserver.as_str()),
            ("token", TOKEN),
        ];
        let mut typed = line.to_owned();
        for (name, value) in known.iter().chain(values) {
            typed = typed.replace(&format!("<{name}>"), value);
        }
        assert!(!typed.contains('<'), "everything has a value: {typed}");
        let bin = repository::root().join("bin");
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        Command::new("bash")
            .args(["-c", &typed])
            .current_dir("/")
            .env("PATH", path)
            .env("QMQ_HOME", self.home.path())
            .env("QMQ_BIN_DIR", programs::folder().unwrap())
            .env_remove("QMQ_CONF")
            .env_remove("QMQ_META")
            .env_remove("QMQ_TOKEN")
            .output()
            .unwrap()
    }

    /// Types a line that has to work; what it prints.
    fn does(&self, line: &str, values: &[(&str, &str)]) -> String {
        let output = self.types(line, values);
        let (text, problem) = (&output.stdout, String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(text).into_owned();
        assert_eq!(output.status.code(), Some(0), "{line}: {text}{problem}");
        text
    }

    /// The brokers of a group by role: (role, host, address).
    fn brokers(&self, group: &str) -> Vec<(String, String, String)> {
        let line = "tools.sh Brokers --metaserver=<metaserver address> --json --brokerGroup=<g>";
        let rows: Value = serde_json::from_str(&self.does(line, &[("g", group)])).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let rows = rows.as_array().unwrap().iter();
        rows.map(|row| {
            (
                text(&row["role"]),
                text(&row["hostname"]),
                text(&row["address"]),
            )
        })
        .collect()
    }

    /// What is marked as readonly: (subject, group).
    fn readonly(&self) -> Vec<(String, String)> {
        let line = "tools.sh ListReadonly --metaserver=<metaserver address> --token=<token> --json";
        let answer: Value = serde_json::from_str(&self.does(line, &[])).unwrap();
        let marks = answer["data"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        marks
            .map(|mark| (text(&mark["subject"]), text(&mark["brokerGroup"])))
            .collect()
    }

    /// The bodies of the messages a consumer group gets; `count` of them must come, or with 0 none
    /// within a moment.
    fn received(&self, count: usize) -> Vec<String> {
        let line = "tools.sh sub --metaserver=<metaserver address> --subject=order.changed \
                    --group=billing --client-id=one <end>";
        let end = match count {
            0 => "--timeout=2".to_owned(),
            count => format!("--count={count} --timeout=60"),
        };
        let printed = self.does(line, &[("end", &end)]);
        let body = |line: &str| {
            let message: Value = serde_json::from_str(line).unwrap();
            message["properties"]["body"].as_str().unwrap().to_owned()
        };
        printed.lines().map(body).collect()
    }

    fn sends(&self, body: &str) {
        let line =
            "tools.sh pub --metaserver=<metaserver address> --subject=order.changed --body=<b>";
        self.does(line, &[("b", body)]);
    }
}

/// Gives the names on the install page their values.
fn broker<'a>(group: &'a str, host: &'a str, port: &'a str) -> [(&'a str, &'a str); 5] {
    [
        ("groupName", group),
        ("hostname", host),
        ("ip", "127.0.0.1"),
        ("server port", port),
        ("sync port", "20882"),
    ]
}

/// A metaserver and the master of group `g1`, which has a slave that is not started.
fn with_broker() -> (Shell, String) {
    let shell = Shell::open();
    let port = ports::free().unwrap().to_string();
    let broker_port = port.parse().unwrap();
    shell
        .home
        .configure(&shell.metaserver, "broker.properties", broker_port);
    shell.does(
        "tools.sh AddBroker --metaserver=<metaserver address> --token=<token> --brokerGroup=<groupName> --role=0 --hostname=<hostname> --ip=<ip> --servePort=<server port> --syncPort=<sync port>",
        &broker("g1", "script-host", &port),
    );
    shell.does(
        "tools.sh AddBroker --metaserver=<metaserver address> --token=<token> --brokerGroup=<groupName> --role=1 --hostname=<hostname> --ip=<ip> --servePort=<server port> --syncPort=<sync port>",
        &broker("g1", "slave-host", "20881"),
    );
    shell.does("broker.sh start", &[]);
    (shell, port)
}

#[test]
fn install() {
    let (shell, port) = with_broker();
    let address = format!("127.0.0.1:{port}");
    let row = |role: &str, host: &str, address: &str| {
        (role.to_owned(), host.to_owned(), address.to_owned())
    };
    assert_eq!(
        shell.brokers("g1"),
        [
            row("MASTER", "script-host", &address),
            row("SLAVE", "slave-host", "127.0.0.1:20881")
        ]
    );

    let delay_port = ports::free().unwrap().to_string();
    let settings = "delay.properties";
    shell
        .home
        .configure(&shell.metaserver, settings, delay_port.parse().unwrap());
    shell.does(
        "tools.sh AddBroker --metaserver=<metaserver address> --token=<token> --brokerGroup=<groupName> --role=5 --hostname=<hostname> --ip=<ip> --servePort=<server port> --syncPort=<sync port>",
        &broker("d1", "script-host", &delay_port),
    );
    shell.does(
        "tools.sh AddBroker --metaserver=<metaserver address> --token=<token> --brokerGroup=<groupName> --role=6 --hostname=<hostname> --ip=<ip> --servePort=<server port> --syncPort=<sync port>",
        &broker("d1", "slave-host", "20801"),
    );
    shell.does("delay.sh start", &[]);

    // The page gives a backup no port for slaves.
    shell.does(
        "tools.sh AddBroker --metaserver=<metaserver address> --token=<token> --brokerGroup=<groupName> --role=4 --hostname=<hostname> --ip=<ip> --servePort=<server port>  ",
        &broker("g1", "backup-host", "20881")[..4],
    );
    assert_eq!(shell.brokers("g1").len(), 3);

    // It all works together: a message for later arrives.
    assert!(shell.received(0).is_empty());
    let line = "tools.sh pub --metaserver=<metaserver address> --subject=order.changed --body=later --delay=1s";
    shell.does(line, &[]);
    assert_eq!(shell.received(1), ["later"]);

    shell.does("delay.sh stop", &[]);
    shell.does("broker.sh stop", &[]);
    shell.does("metaserver.sh stop", &[]);
}

#[test]
fn operations() {
    let (shell, _) = with_broker();
    let group = [("groupName", "g1")];
    shell.does(
        "tools.sh MarkReadonly --metaserver=<metaserver address> --token=<token> --brokerGroup=<groupName>",
        &group,
    );
    assert_eq!(shell.readonly(), [("*".to_owned(), "g1".to_owned())]);
    shell.does(
        "tools.sh UnMarkReadonly --metaserver=<metaserver address> --token=<token> --brokerGroup=<groupName>",
        &group,
    );
    assert!(shell.readonly().is_empty());

    // A group gets what is sent from its first pull on.
    assert!(shell.received(0).is_empty());
    shell.sends("one");
    shell.sends("two");
    assert_eq!(shell.received(2), ["one", "two"]);
    let reset = "tools.sh ResetOffset --metaserver=<metaserver address> --token=<token> --subject=<subject> --group=<consumer group> --action=<1或者2， LATEST=1, EARLIEST=2>";
    let to = |place| {
        [
            ("subject", "order.changed"),
            ("consumer group", "billing"),
            ("1或者2， LATEST=1, EARLIEST=2", place),
        ]
    };
    shell.does(reset, &to("2"));
    assert_eq!(shell.received(2), ["one", "two"], "again from the oldest");
    shell.does(reset, &to("2"));
    shell.does(reset, &to("1"));
    shell.sends("three");
    assert_eq!(shell.received(1), ["three"], "nothing from before");
}

/// The two commands with which master and slave change places; with the Java metaserver the first
/// one collides with a unique key.
#[test]
fn a_swap_by_hand() {
    let (shell, port) = with_broker();
    let group = [("broker group name", "g1")];
    shell.does(
        "tools.sh MarkReadonly --metaserver=<metaserver address> --token=<token> --brokerGroup=<broker group name>",
        &group,
    );
    shell.does("broker.sh stop", &[]);
    let slave = [
        ("broker group name", "g1"),
        ("0, 0是master", "0"),
        ("原slave的机器名", "slave-host"),
        ("原slave的ip", "127.0.0.1"),
        ("原slave的servePort", "20881"),
        ("原slave的syncPort", "20882"),
    ];
    shell.does(
        "tools.sh ReplaceBroker --metaserver=<metaserver address> --token=<token> --brokerGroup=<broker group name> --role=<0, 0是master> --hostname=<原slave的机器名> --ip=<原slave的ip> --servePort=<原slave的servePort> --syncPort=<原slave的syncPort>",
        &slave,
    );
    let master = [
        ("broker group name", "g1"),
        ("1, 1是slave", "1"),
        ("原master的机器名", "script-host"),
        ("原master的ip", "127.0.0.1"),
        ("原master的servePort", port.as_str()),
        ("原master的syncPort", "20882"),
    ];
    shell.does(
        "tools.sh ReplaceBroker --metaserver=<metaserver address> --token=<token> --brokerGroup=<broker group name> --role=<1, 1是slave> --hostname=<原master的机器名> --ip=<原master的ip> --servePort=<原master的servePort> --syncPort=<原master的syncPort>",
        &master,
    );
    let hosts = |shell: &Shell| -> Vec<String> {
        let brokers = shell.brokers("g1").into_iter();
        brokers
            .map(|(role, host, _)| format!("{role} {host}"))
            .collect()
    };
    assert_eq!(hosts(&shell), ["MASTER slave-host", "SLAVE script-host"]);
    // In one step, and back.
    shell.does(
        "tools.sh SwapBrokers --metaserver=<metaserver address> --token=<token> --brokerGroup=<broker group name>",
        &group,
    );
    assert_eq!(hosts(&shell), ["MASTER script-host", "SLAVE slave-host"]);
    shell.does("broker.sh start", &[]);
}
