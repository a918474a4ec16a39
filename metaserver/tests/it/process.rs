//! The real process: exit codes, signals, one readable line.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

fn metaserver(folder: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qmq-metaserver"));
    command.current_dir(folder.path()).args(arguments);
    command
        .env_remove("QMQ_CONF")
        .env_remove("QMQ_HOME")
        .env_remove("RUST_LOG");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(folder: &TempDir, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = metaserver(folder, arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn start_up_failures_have_a_code_and_a_line_each() {
    let folder = tempfile::tempdir().unwrap();
    let (code, _, error) = run(&folder, &["-c", "nowhere.properties"]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("nowhere.properties"), "{error}");
    let (code, _, error) = run(&folder, &["--set", "meta.server.port=x"]);
    assert_eq!(code, Some(2), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");

    std::fs::write(
        folder.path().join("text"),
        "not a database, but long enough to be looked at",
    )
    .unwrap();
    let any = ["--set", "meta.server.port=0", "--set", "log.level=off"];
    let (code, _, error) = run(
        &folder,
        &[&any[..], &["--set", "jdbc.url=sqlite:text"]].concat(),
    );
    assert_eq!(code, Some(3), "{error}");
    assert!(
        error.starts_with("qmq-metaserver: store: cannot open sqlite:text"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");

    // The text of a driver may say who was refused, not with which password.
    let (code, _, error) = run(
        &folder,
        &[
            &any[..],
            &[
                "--set",
                "jdbc.url=jdbc:mysql://127.0.0.1:1/qmq?useSSL=false",
            ],
            &["--set", "jdbc.username=me"],
            &["--set", "jdbc.password=hunter2"],
        ]
        .concat(),
    );
    assert_eq!(code, Some(3), "{error}");
    assert!(
        error.starts_with("qmq-metaserver: store: cannot open mysql://127.0.0.1:1/qmq: "),
        "{error}"
    );
    assert!(
        error.contains("refused") && !error.contains("hunter2"),
        "{error}"
    );
    assert_eq!(error.lines().count(), 1, "{error}");

    let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = format!(
        "meta.server.discover.port={}",
        taken.local_addr().unwrap().port()
    );
    let (code, _, error) = run(&folder, &[&any[..], &["--set", &port]].concat());
    assert_eq!(code, Some(4), "{error}");
    assert!(error.contains("meta.server.discover.port"), "{error}");
}

#[test]
fn shows_its_settings() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("conf")).unwrap();
    let conf = "min.group.num = 3\nmin.gruop.num = 4\n";
    std::fs::write(folder.path().join("conf/metaserver.properties"), conf).unwrap();
    let (code, shown, _) = run(&folder, &["--check-config", "--set", "meta.server.port=7"]);
    assert_eq!(code, Some(0));
    assert!(
        shown.contains("min.group.num = 3  # ./conf/metaserver.properties:1\n"),
        "{shown}"
    );
    assert!(shown.contains("meta.server.port = 7  # --set\n"), "{shown}");
    assert!(
        shown.contains("meta.server.discover.port = 8080  # default\n"),
        "{shown}"
    );
    assert!(shown.contains("unknown setting min.gruop.num (./conf/metaserver.properties:2)"));
    assert!(
        !folder.path().join("data").try_exists().unwrap(),
        "nothing was started"
    );
}

fn wait_for_file(path: &Path, child: &mut Child) {
    for _ in 0..12_000 {
        if std::fs::read_to_string(path).is_ok_and(|text| text.contains("tcp=")) {
            return;
        }
        assert!(
            child.try_wait().unwrap().is_none(),
            "the server must not end by itself"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("the server must start");
}

#[test]
fn stops_in_order_at_a_signal() {
    let folder = tempfile::tempdir().unwrap();
    let ports = folder.path().join("ports");
    let arguments = [
        "--set",
        "meta.server.port=0",
        "--set",
        "meta.server.discover.port=0",
        "--set",
        "ports.file=ports",
    ];
    let mut child = metaserver(&folder, &arguments).spawn().unwrap();
    wait_for_file(&ports, &mut child);
    // The shell's own `kill`: not every machine has a program of that name.
    let killed = Command::new("sh")
        .args(["-c", &format!("kill -TERM {}", child.id())])
        .status()
        .unwrap();
    assert!(killed.success());
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    let log = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(
        log.contains("started: http on ") && log.contains("stopped"),
        "{log}"
    );
    let data = folder.path().join("data");
    assert!(data.join("metaserver.db").try_exists().unwrap());
    assert!(
        !data.join("metaserver.db-wal").try_exists().unwrap(),
        "the database was closed"
    );
}
