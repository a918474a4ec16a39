//! `bench` against real servers, briefly: every kind of run finds what it sent.

use qmq_e2e::cluster::Cluster;

/// Options that keep a run short.
const SHORT: [&str; 3] = ["--warm-up=0", "--duration=0.3", "--size=300"];

#[test]
fn every_kind_of_bench_is_valid_on_a_real_broker() {
    let mut cluster = Cluster::with_broker().unwrap();
    let broker = format!("--connect=127.0.0.1:{}", cluster.broker().port);
    let metaserver = format!("--metaserver={}", cluster.http_authority().unwrap());
    let runs: [&[&str]; 5] = [
        &["produce", &metaserver, "--in-flight=16", "--batch=5"],
        &["produce", &broker, "--rate=200", "--subjects=3"],
        &["e2e", &broker, "--rate=200", "--groups=2", "--consumers=2"],
        // The ratio of a loaded machine says nothing here.
        &[
            "isolation",
            &broker,
            "--in-flight=4",
            "--probe-rate=50",
            "--ratio-max=1000000",
        ],
        &[
            "consume",
            &broker,
            "--messages=3000",
            "--subjects=2",
            "--pull=100",
        ],
    ];
    for run in runs {
        let is_timed = run[0] != "consume";
        let short = &SHORT[if is_timed { 0 } else { 2 }..];
        let printed = cluster.tools(&[&["bench"], run, short].concat()).unwrap();
        assert!(
            printed.contains("everything acknowledged came once and unchanged"),
            "{run:?}: {printed}"
        );
    }
    cluster.stop().unwrap();
}
