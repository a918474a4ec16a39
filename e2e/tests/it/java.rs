//! The released Java client, unmodified, against our servers: starts a cluster and runs the Maven
//! project in `e2e/java`. What is asserted about messages stands there.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use qmq_e2e::{Balancer, Cluster, Order, Server, control, repository};

use crate::{captures, recorder};

/// Speaks header version 9.
const NEWEST: &str = "1.1.43";
/// Speaks header version 8.
const OLDEST: &str = "1.1.0";
/// Need no server: show that the accounts of messages notice lost, changed and repeated ones.
const SABOTAGE_TESTS: &str = "TallyTest,AttemptsTest";
/// The tests that run at the same time in one JVM while nobody kills a server.
const SCENARIO: &str = "scenario";
/// The tests that need a delay server.
const DELAYED: &str = "delayed";
/// The tests that need two metaservers.
const TWO_METASERVERS: &str = "two-metaservers";
/// Begin of the lines in which tests tell what they measured.
const MEASURED: &str = "lateness";
/// Of each test class, when something failed.
const OUTPUT_LINES_SHOWN: usize = 100;

#[test]
fn newest_client_keeps_every_promise() {
    let cluster = Arc::new(Mutex::new(Cluster::with_broker_on_mariadb().unwrap()));
    let meta = cluster.lock().unwrap().meta_address().unwrap();
    let control = control::serve(&cluster).unwrap().to_string();
    let build = tempfile::tempdir().unwrap();
    prepare(NEWEST, build.path());
    maven(
        NEWEST,
        build.path(),
        &[
            "--offline",
            &format!("-DexcludedGroups={SCENARIO},{DELAYED},{TWO_METASERVERS}"),
            &format!("-Dqmq.meta={meta}"),
            &format!("-Dqmq.control={control}"),
        ],
    );
    cluster.lock().unwrap().stop().unwrap();
}

/// And everything that passes is recorded: see `captures`.
#[test]
fn newest_client_consumes_in_every_way() {
    let mut cluster = Cluster::start().unwrap();
    // A retry after a second instead of five, to have it sooner.
    let settings = [("message.retry.delay.seconds", "1")];
    cluster.add_broker(captures::GROUP, &settings).unwrap();
    let broker = cluster.broker().server.address("tcp").unwrap();
    let metaserver = cluster.metaserver.address("tcp").unwrap();
    // Clients learn the broker's address from the metaserver.
    let (recorded_broker, at_broker) = recorder::forward(broker);
    let (recorded_metaserver, at_metaserver) =
        recorder::forward_replacing(metaserver, broker, recorded_broker);
    let meta = recorder::page_with(recorded_metaserver);
    let build = tempfile::tempdir().unwrap();
    prepare(NEWEST, build.path());
    maven(
        NEWEST,
        build.path(),
        &[
            "--offline",
            &format!("-Dgroups={SCENARIO}"),
            &format!("-Dqmq.meta={meta}"),
            &format!("-Dqmq.clientId={}", captures::CLIENT_ID),
            &format!("-Dqmq.appCode={}", captures::APP_CODE),
            "-Dqmq.sendThreads=8",
        ],
    );
    let records = [at_metaserver, at_broker].map(|record| record.lock().unwrap().clone());
    captures::contain_the_golden_frames(&records);
    captures::are_written_as_they_came(&records);
    cluster.stop().unwrap();
}

#[test]
fn newest_client_sends_for_later() {
    let mut cluster = Cluster::with_broker().unwrap();
    cluster.add_delay_server("d1", &[]).unwrap();
    let meta = cluster.meta_address().unwrap();
    let build = tempfile::tempdir().unwrap();
    prepare(NEWEST, build.path());
    maven(
        NEWEST,
        build.path(),
        &[
            "--offline",
            &format!("-Dgroups={DELAYED}"),
            &format!("-Dqmq.meta={meta}"),
        ],
    );
    let lines = output_lines(build.path()).into_iter();
    let measured: Vec<_> = lines.filter(|line| line.starts_with(MEASURED)).collect();
    println!("{}", measured.join("\n"));
    assert!(!measured.is_empty(), "nothing was measured");
    cluster.stop().unwrap();
}

/// Everybody uses the first of two metaservers on one database until it is killed.
#[test]
fn newest_client_goes_on_with_the_other_metaserver() {
    let mut cluster = Cluster::start_on_mariadb().unwrap();
    let mut second = cluster.another_metaserver().unwrap();
    second.start().unwrap();
    let both = [&cluster.metaserver, &second].map(|server| server.address("http").unwrap());
    let balancer = Balancer::start(Order::FirstThatAnswers, both.to_vec()).unwrap();
    let meta = format!("http://{}/meta/address", balancer.address());
    let endpoint = [("meta.server.endpoint", meta.as_str())];
    cluster.add_broker("g1", &endpoint).unwrap();
    let cluster = Arc::new(Mutex::new(cluster));
    let control = control::serve(&cluster).unwrap().to_string();
    let build = tempfile::tempdir().unwrap();
    prepare(NEWEST, build.path());
    assert_eq!(client_types(&second), [] as [&str; 0], "nobody uses it yet");
    maven(
        NEWEST,
        build.path(),
        &[
            "--offline",
            &format!("-Dgroups={TWO_METASERVERS}"),
            &format!("-Dqmq.meta={meta}"),
            &format!("-Dqmq.control={control}"),
        ],
    );
    assert_eq!(client_types(&second), ["1", "2"], "producer and consumer");
    cluster.lock().unwrap().broker().server.stop().unwrap();
    second.stop().unwrap();
}

/// What kinds of clients registered with this metaserver: 1 producers, 2 consumers.
fn client_types(metaserver: &Server) -> Vec<String> {
    let (_, metrics) = metaserver.get("http", "/metrics").unwrap();
    let counted = metrics
        .lines()
        .filter(|line| line.starts_with("clientRegisterCount"));
    let types = counted.filter_map(|line| {
        let (_, rest) = line.split_once("clientTypeCode=\"")?;
        rest.split_once('"').map(|(code, _)| code.to_owned())
    });
    types.collect::<BTreeSet<_>>().into_iter().collect()
}

#[test]
fn client_with_header_version_8_sends_and_receives() {
    let mut cluster = Cluster::with_broker().unwrap();
    cluster.add_delay_server("d1", &[]).unwrap();
    let meta = cluster.meta_address().unwrap();
    let build = tempfile::tempdir().unwrap();
    prepare(OLDEST, build.path());
    maven(
        OLDEST,
        build.path(),
        &[
            "--offline",
            "-Dtest=SendAndReceiveTest,DelayedRetryTest",
            &format!("-Dqmq.meta={meta}"),
        ],
    );
    cluster.stop().unwrap();
}

/// Compiles, fetches what Maven needs and runs the test of the account. One at a time: Maven's
/// local repository is not made for two processes that download the same file.
fn prepare(version: &str, build: &Path) {
    let folder = std::env::home_dir().unwrap().join(".m2");
    std::fs::create_dir_all(&folder).unwrap();
    let lock = File::create(folder.join("qmq-e2e.lock")).unwrap();
    lock.lock().unwrap();
    maven(version, build, &[&format!("-Dtest={SABOTAGE_TESTS}")]);
}

/// Runs the tests of the project; its output is not captured, so that it says how far it is.
fn maven(version: &str, build: &Path, arguments: &[&str]) {
    let started = Instant::now();
    let mut command = Command::new("mvn");
    command
        .current_dir(repository::root().join("e2e/java"))
        .args(["--batch-mode", "--no-transfer-progress", "test"])
        .arg(format!("-Dqmq.version={version}"))
        .arg(format!("-Dqmq.build={}", build.display()))
        .args(arguments);
    let status = command.status().unwrap_or_else(|error| {
        panic!("cannot run mvn: {error}; a JDK from 17 on and Maven are needed")
    });
    if !status.success() {
        show_output(build);
        panic!("{command:?} ended with {status}");
    }
    println!("client {version}: {} s", started.elapsed().as_secs());
}

/// What the client and the tests wrote is kept in files: shows the end of each.
fn show_output(build: &Path) {
    for (path, output) in outputs(build) {
        let lines: Vec<&str> = output.lines().collect();
        let tail = lines[lines.len().saturating_sub(OUTPUT_LINES_SHOWN)..].join("\n");
        eprintln!("end of {}:\n{tail}", path.display());
    }
}

fn output_lines(build: &Path) -> Vec<String> {
    let outputs = outputs(build).into_iter();
    let lines = |(_, output): (PathBuf, String)| {
        let lines = output.lines().map(str::to_owned);
        lines.collect::<Vec<_>>()
    };
    outputs.flat_map(lines).collect()
}

/// What each test class wrote, by file.
fn outputs(build: &Path) -> Vec<(PathBuf, String)> {
    let reports = std::fs::read_dir(build.join("surefire-reports"));
    let paths = reports
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path());
    let is_output = |path: &PathBuf| path.to_string_lossy().ends_with("-output.txt");
    paths
        .filter(is_output)
        .map(|path| {
            let bytes = std::fs::read(&path).unwrap();
            (path, String::from_utf8_lossy(&bytes).into_owned())
        })
        .collect()
}
