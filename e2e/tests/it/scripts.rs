//! The scripts in `bin/` that start, stop and show servers, run on a home folder of their own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use qmq_e2e::{ports, programs, repository};
use tempfile::TempDir;

pub(crate) const TOKEN: &str = "script-token";
const NOT_RUNNING: i32 = 3;

/// Servers of a broker group: script, settings, group and role.
const SERVERS: [(&str, &str, &str, u8); 2] = [
    ("broker.sh", "broker.properties", "scripts", 0),
    ("delay.sh", "delay.properties", "scripts-delay", 5),
];

/// A home folder with configuration. Dropping it stops what its scripts started.
pub(crate) struct Home {
    folder: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        let home = Self {
            // A name with a space: every script has to quote.
            folder: tempfile::Builder::new()
                .prefix("qmq home ")
                .tempdir()
                .unwrap(),
        };
        let conf = home.path().join("conf");
        std::fs::create_dir(&conf).unwrap();
        let write = |name: &str, text: String| std::fs::write(conf.join(name), text).unwrap();
        write("metaserver.properties", {
            "meta.server.discover.port=0\nmeta.server.port=0\nqmq.ip=127.0.0.1\n".to_owned()
        });
        let database = home.path().join("meta.db");
        write(
            "datasource.properties",
            format!("jdbc.url=sqlite:{}\n", database.display()),
        );
        write("valid-api-tokens.properties", format!("{TOKEN}=scripts\n"));
        home
    }

    /// The configuration needs the address of the metaserver that runs.
    pub(crate) fn configure(&self, metaserver: &str, settings: &str, port: u16) {
        let text = format!(
            "meta.server.endpoint=http://{metaserver}/meta/address\nstore.root={}\n\
             broker.port={port}\nsync.port=0\nadmin.port=0\nqmq.host=script-host\nqmq.ip=127.0.0.1\n",
            self.path().join("store").join(settings).display(),
        );
        std::fs::write(self.path().join("conf").join(settings), text).unwrap();
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn script(&self, name: &str, arguments: &[&str]) -> Output {
        Command::new(script(name))
            .args(arguments)
            .current_dir("/")
            .env("QMQ_HOME", self.path())
            .env("QMQ_BIN_DIR", programs::folder().unwrap())
            .env_remove("QMQ_CONF")
            .output()
            .unwrap()
    }

    /// Runs a script and checks its exit code; returns what it printed.
    pub(crate) fn expect(&self, code: i32, name: &str, arguments: &[&str]) -> String {
        let output = self.script(name, arguments);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{name} {arguments:?} printed: {printed}"
        );
        printed
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for name in ["delay.sh", "broker.sh", "metaserver.sh"] {
            self.script(name, &["stop"]);
        }
    }
}

fn script(name: &str) -> PathBuf {
    repository::root().join("bin").join(name)
}

#[test]
fn servers_are_started_shown_and_stopped() {
    let home = Home::new();
    home.expect(NOT_RUNNING, "metaserver.sh", &["status"]);
    home.expect(0, "metaserver.sh", &["start"]);
    let again = home.expect(0, "metaserver.sh", &["start"]);
    assert!(again.contains("already running"), "{again}");
    let status = home.expect(0, "metaserver.sh", &["status"]);
    assert!(status.contains("ready"), "{status}");

    let metaserver = ports::read(&home.path().join("pid/metaserver.ports"), "http");
    let metaserver = metaserver.unwrap().unwrap().to_string();
    for (name, settings, group, role) in SERVERS {
        let port = ports::free().unwrap();
        home.configure(&metaserver, settings, port);
        let refused = home.expect(1, name, &["start"]);
        assert!(
            refused.contains("AddBroker"),
            "says how to register: {refused}"
        );
        home.expect(NOT_RUNNING, name, &["status"]);
        home.expect(
            0,
            "tools.sh",
            &[
                "AddBroker",
                "--metaserver",
                &metaserver,
                &format!("--token={TOKEN}"),
                &format!("--brokerGroup={group}"),
                &format!("--role={role}"),
                "--hostname=script-host",
                "--ip=127.0.0.1",
                &format!("--servePort={port}"),
                "--syncPort=20882",
            ],
        );
        home.expect(0, name, &["start"]);
        home.expect(0, name, &["status"]);
    }

    for name in ["delay.sh", "broker.sh", "metaserver.sh"] {
        home.expect(0, name, &["stop"]);
        home.expect(NOT_RUNNING, name, &["status"]);
        home.expect(0, name, &["stop"]);
        assert!(
            !home
                .path()
                .join("pid")
                .join(name.replace(".sh", ".pid"))
                .try_exists()
                .unwrap()
        );
    }
}

#[test]
fn quick_start_works_twice_at_once() {
    let start = || {
        let mut command = Command::new(script("quickstart.sh"));
        command
            .arg("--once")
            .current_dir("/")
            .env("QMQ_BIN_DIR", programs::folder().unwrap());
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    for running in [start(), start()] {
        let output = running.wait_with_output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{}: {printed}{errors}",
            output.status
        );
        assert!(
            printed.contains("hello"),
            "shows what was received: {printed}"
        );
        assert!(
            printed.contains("\"body\":\"later\""),
            "shows what came later: {printed}"
        );
    }
}

/// A part of the table, briefly: servers are started and stopped, results become a document.
#[test]
fn a_smoke_run_of_the_bench_makes_its_document() {
    let folder = tempfile::tempdir().unwrap();
    let results = folder.path().join("results.jsonl");
    let output = Command::new(script("bench.sh"))
        .args(["--quick", "--only", "sync-4x512", "--only", "fsync"])
        .args(["--only", "e2e-async-1k", "--results"])
        .arg(&results)
        .current_dir("/")
        .env("QMQ_BIN_DIR", programs::folder().unwrap())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}{errors}");
    let lines = std::fs::read_to_string(&results).unwrap();
    for contender in ["qmq", "ceiling", "disk"] {
        let named = format!("\"contender\":\"{contender}\"");
        assert!(lines.contains(&named), "{contender} is missing: {lines}");
    }
    let document = printed
        .lines()
        .find_map(|line| line.strip_prefix("tables: "));
    let document = PathBuf::from(document.unwrap());
    let tables = std::fs::read_to_string(&document).unwrap();
    assert!(tables.contains("| `sync`, 4 connections with 512 in flight | ceiling |"));
    std::fs::remove_dir_all(document.parent().unwrap()).unwrap();
}

#[test]
fn start_that_fails_shows_why() {
    let home = Home::new();
    let printed = home.expect(
        1,
        "metaserver.sh",
        &["start", "-c", "/no such file.properties"],
    );
    assert!(printed.contains("no such file"), "{printed}");
    assert!(printed.contains("did not start"), "{printed}");
}

#[test]
fn number_of_another_process_is_not_taken_for_the_server() {
    let home = Home::new();
    std::fs::create_dir(home.path().join("pid")).unwrap();
    std::fs::write(
        home.path().join("pid/broker.pid"),
        std::process::id().to_string(),
    )
    .unwrap();
    home.expect(NOT_RUNNING, "broker.sh", &["status"]);
    home.expect(0, "broker.sh", &["stop"]);
}

#[test]
fn unknown_action_shows_the_usage() {
    let home = Home::new();
    let printed = home.expect(2, "broker.sh", &["restart"]);
    assert!(printed.contains("start-foreground"), "{printed}");
}
