//! An installation as `bin/install.sh` makes it, and what else describes one: units of systemd,
//! containers, counterparts of the scripts.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use qmq_e2e::{ports, programs, repository, server, wait};
use tempfile::TempDir;

const TOKEN: &str = "two-masters";
const HOST: &str = "sample-host";
const SAMPLE: &str = "conf/2m-noslave";
/// For one message to reach each of two groups that are drawn by lot.
const BOTH_MAX: Duration = Duration::from_secs(120);

/// An installation. Dropping it stops what its scripts started.
struct Installed {
    folder: TempDir,
}

impl Installed {
    fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("qmq installed ")
            .tempdir()
            .unwrap();
        let output = Command::new(repository::root().join("bin/install.sh"))
            .arg(folder.path())
            .current_dir("/")
            .env("QMQ_BIN_DIR", programs::folder().unwrap())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Runs a script of the installation as the server `instance`; returns what it printed.
    fn script(&self, instance: &str, name: &str, arguments: &[&str]) -> Result<String, String> {
        let output = Command::new(self.path().join("bin").join(name))
            .args(arguments)
            .current_dir("/")
            .env("QMQ_NAME", instance)
            .env("QMQ_TOKEN", TOKEN)
            .env_remove("QMQ_HOME")
            .env_remove("QMQ_BIN_DIR")
            .env_remove("QMQ_CONF")
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(printed);
        }
        Err(printed + &String::from_utf8_lossy(&output.stderr))
    }

    fn port(&self, instance: &str, key: &str) -> std::net::SocketAddr {
        let file = self.path().join(format!("pid/{instance}.ports"));
        ports::read(&file, key).unwrap().unwrap()
    }

    /// `-c` with a file of the sample, and settings over it.
    fn start(&self, instance: &str, script: &str, settings: &[String]) -> Result<String, String> {
        let file = self
            .path()
            .join(SAMPLE)
            .join(format!("{instance}.properties"));
        let file = file.display().to_string();
        let mut arguments = vec!["start", "-c", &file];
        for setting in settings {
            arguments.extend(["--set", setting]);
        }
        self.script(instance, script, &arguments)
    }

    /// Enters a server and starts it, as the README of the sample says, on free ports.
    fn add(&self, metaserver: &str, instance: &str, script: &str, role: u8) {
        let port = ports::free().unwrap();
        let settings = [
            format!("meta.server.endpoint=http://{metaserver}/meta/address"),
            format!("broker.port={port}"),
            "sync.port=0".to_owned(),
            "admin.port=0".to_owned(),
            format!("qmq.host={HOST}"),
            "qmq.ip=127.0.0.1".to_owned(),
        ];
        let add = [
            "AddBroker",
            &format!("--metaserver={metaserver}"),
            &format!("--brokerGroup={instance}"),
            &format!("--role={role}"),
            &format!("--hostname={HOST}"),
            "--ip=127.0.0.1",
            &format!("--servePort={port}"),
            "--syncPort=20882",
        ];
        self.script(instance, "tools.sh", &add).unwrap();
        self.start(instance, script, &settings).unwrap();
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        for (instance, script) in [
            ("delay-a", "delay.sh"),
            ("broker-b", "broker.sh"),
            ("broker-a", "broker.sh"),
            ("metaserver", "metaserver.sh"),
        ] {
            // Some may never have been started.
            let _ = self.script(instance, script, &["stop"]);
        }
    }
}

/// The sample with two masters, from an installation, under its scripts.
#[test]
fn two_masters_without_slaves_share_a_subject() {
    let installed = Installed::new();
    let tokens = installed
        .path()
        .join(SAMPLE)
        .join("valid-api-tokens.properties");
    std::fs::write(tokens, format!("{TOKEN} = test\n")).unwrap();
    let free = [
        "meta.server.discover.port=0",
        "meta.server.port=0",
        "qmq.ip=127.0.0.1",
    ];
    let free = free.map(str::to_owned);
    installed
        .start("metaserver", "metaserver.sh", &free)
        .unwrap();
    let metaserver = installed.port("metaserver", "http").to_string();
    installed.add(&metaserver, "broker-a", "broker.sh", 0);
    installed.add(&metaserver, "broker-b", "broker.sh", 0);
    installed.add(&metaserver, "delay-a", "delay.sh", 5);

    let to = format!("--metaserver={metaserver}");
    let later = [
        "pub",
        &to,
        "--subject=two.masters",
        "--body=x",
        "--delay=1s",
    ];
    installed.script("tools", "tools.sh", &later).unwrap();
    let both = wait::until("both brokers have messages", BOTH_MAX, || {
        let now = ["pub", &to, "--subject=two.masters", "--body=x", "--count=5"];
        installed
            .script("tools", "tools.sh", &now)
            .map_err(anyhow::Error::msg)?;
        let has_messages = |instance| {
            let (_, text) = server::get(installed.port(instance, "admin"), "/metrics").unwrap();
            !text.contains("\nqmq_messages_stored_total 0\n")
        };
        Ok((has_messages("broker-a") && has_messages("broker-b")).then_some(()))
    });
    both.unwrap();

    // Each has a name of its own: one stops, the other goes on.
    installed
        .script("broker-b", "broker.sh", &["stop"])
        .unwrap();
    installed
        .script("broker-b", "broker.sh", &["status"])
        .unwrap_err();
    installed
        .script("broker-a", "broker.sh", &["status"])
        .unwrap();
    assert!(installed.path().join("data/2m-noslave/broker-a").is_dir());
    assert!(installed.path().join("logs/broker-b.out").is_file());
}

/// Settings of the operator survive an upgrade.
#[test]
fn a_second_installation_leaves_the_settings_alone() {
    let installed = Installed::new();
    let settings = installed.path().join("conf/broker.properties");
    std::fs::write(&settings, "broker.port = 1\n").unwrap();
    let output = Command::new(repository::root().join("bin/install.sh"))
        .arg(installed.path())
        .env("QMQ_BIN_DIR", programs::folder().unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        std::fs::read_to_string(&settings).unwrap(),
        "broker.port = 1\n"
    );
}

/// What Java operators have in `broker-env.sh` goes on to mean the same.
#[test]
fn options_of_the_java_servers_are_understood() {
    let installed = Installed::new();
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::write(
        elsewhere.path().join("broker.properties"),
        "broker.port = 4711\n",
    )
    .unwrap();
    let options = format!(
        "JAVA_HOME=/opt/jdk\nJAVA_OPTS=\"-Xmx2g -Dqmq.conf={} -Dqmq.ip=10.9.8.7\"\n",
        elsewhere.path().display()
    );
    std::fs::write(installed.path().join("bin/broker-env.sh"), options).unwrap();
    let settings = [
        "start-foreground",
        "--set",
        "meta.server.endpoint=http://m/x",
        "--check-config",
    ];
    let printed = installed.script("broker", "broker.sh", &settings).unwrap();
    assert!(printed.contains("broker.port = 4711"), "{printed}");
    assert!(printed.contains("qmq.ip = 10.9.8.7  # --set"), "{printed}");
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn names_in(folder: &Path, ending: &str) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.extension().is_some_and(|found| found == ending))
        .collect()
}

/// Units, image and compose file name programs and settings files that an installation has.
#[test]
fn descriptions_name_what_is_there() {
    let root = repository::root();
    let mut texts: Vec<String> = names_in(&root.join("conf/systemd"), "service")
        .iter()
        .map(|unit| read(unit))
        .collect();
    assert_eq!(texts.len(), 3);
    texts.push(read(&root.join("compose.yaml")));
    let (mut files, mut commands) = (0, 0);
    for text in &texts {
        let text = text.replace("/opt/qmq/", "");
        for word in text.split([' ', ',', '[', ']', '}', '\n', '=']) {
            if word.starts_with("conf/") && word.ends_with(".properties") {
                // Database and tokens are made by the compose file itself.
                let is_made =
                    word.ends_with("datasource.properties") || word.ends_with("tokens.properties");
                let is_there = root.join(word).try_exists().unwrap();
                assert!(is_there != is_made, "{word}");
                files += 1;
            }
            let program = word.trim_start_matches("bin/");
            if program.starts_with("qmq-") && !word.contains('.') && program != "qmq-delay" {
                programs::path(program).unwrap();
                commands += 1;
            }
        }
    }
    assert!(files >= 8 && commands >= 8, "{files} {commands}");
    let toolchain = read(&root.join("rust-toolchain.toml"));
    let channel = toolchain
        .lines()
        .find_map(|line| line.strip_prefix("channel = "))
        .unwrap();
    let channel = channel.trim_matches('"');
    let image = read(&root.join("Dockerfile"));
    assert!(
        image.contains(&format!("RUSTUP_TOOLCHAIN={channel}\n")),
        "{channel}"
    );
    assert!(image.contains("\nUSER 10001"), "not run as root");
}

#[test]
fn every_script_of_servers_and_tools_has_a_counterpart() {
    let bin = repository::root().join("bin");
    for name in ["metaserver", "broker", "delay", "tools"] {
        let text = read(&bin.join(format!("{name}.cmd")));
        assert!(text.contains(&format!("bin/{name}.sh %*\r\n")), "{text}");
        assert!(
            text.lines().count() == text.matches("\r\n").count(),
            "{name}: CRLF"
        );
    }
    assert_eq!(names_in(&bin, "cmd").len(), 4);
}
