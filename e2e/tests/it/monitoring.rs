//! The board and the alert rules in `conf/` against the metrics that the servers have.

use std::collections::BTreeSet;
use std::time::Duration;

use qmq_e2e::cluster::Cluster;
use qmq_e2e::server::Server;
use qmq_e2e::{repository, wait};
use serde_json::Value;

/// The metaserver reads its changed settings within 10 s, and only then a group falls silent soon.
const SEEN_MAX: Duration = Duration::from_secs(120);
/// Words of the query language that stand where a metric may.
const WORDS: [&str; 9] = [
    "and",
    "by",
    "delta",
    "histogram_quantile",
    "increase",
    "label_values",
    "or",
    "rate",
    "sum",
];
/// What Prometheus itself adds to every server.
const OF_PROMETHEUS: &str = "up";

/// Names of metrics in one query.
fn names_in(query: &str) -> BTreeSet<String> {
    let mut plain = String::new();
    let mut depth = 0_usize;
    // Label matchers and ranges hold no metric, nor do the labels that `by` names.
    let query = without_labels_of_by(query);
    for letter in query.chars() {
        match letter {
            '{' | '[' => depth += 1,
            '}' | ']' => depth -= 1,
            _ if depth == 0 => plain.push(letter),
            _ => {}
        }
    }
    let words = plain.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let words = words.filter(|word| word.starts_with(|c: char| c.is_ascii_alphabetic()));
    let words = words.filter(|word| !WORDS.contains(word) && *word != OF_PROMETHEUS);
    words.map(str::to_owned).collect()
}

fn without_labels_of_by(query: &str) -> String {
    let mut parts = query.split("by (");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out += part.split_once(')').expect("labels in brackets").1;
    }
    out
}

/// Names of metrics on the board and in the alert rules.
fn names_used() -> BTreeSet<String> {
    let conf = repository::root().join("conf");
    let board = std::fs::read_to_string(conf.join("grafana/qmq.json")).unwrap();
    let board: Value = serde_json::from_str(&board).unwrap();
    let panels = board["panels"].as_array().unwrap().iter();
    let targets = panels
        .filter_map(|panel| panel["targets"].as_array())
        .flatten();
    let shown: Vec<String> = targets
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .collect();
    let rules = std::fs::read_to_string(conf.join("prometheus/qmq-alerts.yml")).unwrap();
    let rules = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("expr: "));
    let rules: Vec<String> = rules.map(str::to_owned).collect();
    assert!(shown.len() > 20 && rules.len() > 10, "{shown:?} {rules:?}");
    shown
        .iter()
        .chain(&rules)
        .flat_map(|query| names_in(query))
        .collect()
}

/// Names of all series a server has now.
fn series(server: &Server, port: &str) -> BTreeSet<String> {
    let (status, text) = server.get(port, "/metrics").unwrap();
    assert_eq!(status, 200);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let name = |line: &str| line.split(['{', ' ']).next().unwrap().to_owned();
    lines.map(name).collect()
}

#[test]
fn every_metric_on_the_board_and_in_the_rules_exists() {
    let used = names_used();
    let mut cluster = Cluster::with_broker().unwrap();
    cluster.add_delay_server("d1", &[]).unwrap();
    let metaserver = format!("--metaserver={}", cluster.http_authority().unwrap());
    let publish = [
        "pub",
        &metaserver,
        "--subject=watched",
        "--body=x",
        "--delay=1ms",
        "--count=50",
    ];
    let (mut seen, mut is_impatient) = (BTreeSet::new(), false);
    let all = wait::until("every metric is seen", SEEN_MAX, || {
        seen.extend(series(&cluster.metaserver, "http"));
        seen.extend(series(&cluster.delay_server().server, "admin"));
        seen.extend(series(&cluster.broker().server, "admin"));
        // Some have series only once something happened: messages were delivered, and a group fell
        // silent, which a metaserver sees in every pause between two reports if it is impatient.
        if !seen.contains("qmq_dispatch_requests") {
            cluster.tools(&publish)?;
        } else if !is_impatient {
            is_impatient = true;
            cluster
                .metaserver
                .change_settings("heartbeat.timeout.ms = 500\n")?;
        }
        let missing: Vec<&String> = used.difference(&seen).collect();
        Ok(missing.is_empty().then_some(()))
    });
    let missing: Vec<&String> = used.difference(&seen).collect();
    assert!(all.is_ok(), "no server has {missing:?}");
}

/// A rule about a metric that is not there would never fire, and nobody would notice.
#[test]
fn a_name_that_does_not_exist_is_noticed() {
    let query = r#"histogram_quantile(0.99, sum by (le, instance) (rate(a_bucket{job=~"$job"}[5m]))) > 0.5 or up == 0"#;
    assert_eq!(names_in(query), BTreeSet::from(["a_bucket".to_owned()]));
    let query = "sum by (x) (increase(b_total[5m])) > 0 and c == 1";
    assert_eq!(
        names_in(query),
        BTreeSet::from(["b_total".to_owned(), "c".to_owned()])
    );
}
