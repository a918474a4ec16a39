//! What a run says at its end, as text and as JSON.
//!
//! The JSON is one object; its fields keep their names and units. A new field may come, and then
//! [`SCHEMA`] stays; when one goes or means something else, it is counted up.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;

use crate::bench::latency::Summary;
use crate::bench::ledger::Verdict;
use crate::bench::server::Usage;

/// Version of the JSON.
pub(crate) const SCHEMA: u32 = 1;

/// The result of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) schema: u32,
    /// `produce`, `consume`, `e2e`, `delay` or `isolation`.
    pub(crate) command: &'static str,
    /// Version of this program.
    pub(crate) version: &'static str,
    /// When the run began, ms since 1970.
    pub(crate) started_ms: i64,
    pub(crate) servers: Vec<String>,
    /// The options.
    pub(crate) plan: Value,
    /// Whether everything acknowledged was received, once and unchanged.
    pub(crate) valid: bool,
    /// Whether that was looked at.
    pub(crate) checked: bool,
    /// What is wrong.
    pub(crate) faults: Vec<String>,
    /// Length of what was measured.
    pub(crate) seconds: f64,
    /// Bytes of one message in a request.
    pub(crate) message_bytes: usize,
    /// Messages confirmed (produce, e2e, delay) or received (consume) per second; none in a run that is
    /// not valid.
    pub(crate) messages_per_second: Option<f64>,
    /// Messages confirmed or received within the measured time.
    pub(crate) messages: u64,
    pub(crate) refused: BTreeMap<String, u64>,
    pub(crate) unanswered: u64,
    /// Due and never sent, because the server did not keep up with the rate.
    pub(crate) unsent: u64,
    /// Microseconds, by what was measured.
    pub(crate) latency_us: BTreeMap<&'static str, Summary>,
    /// Loaded p99 divided by idle p99, by what was measured.
    pub(crate) ratios: BTreeMap<&'static str, f64>,
    pub(crate) verdicts: Vec<Verdict>,
    pub(crate) server: Option<Usage>,
    pub(crate) generator: Option<Usage>,
}

impl Report {
    /// Decides whether the run counts; to be called when all else is set.
    pub(crate) fn judge(&mut self) {
        for verdict in &self.verdicts {
            if !verdict.is_good() {
                self.faults.push(format!(
                    "group {}: of {} acknowledged messages {} lost, {} duplicated, {} altered, \
                     {} foreign",
                    verdict.group,
                    verdict.acknowledged,
                    verdict.lost,
                    verdict.duplicated,
                    verdict.altered,
                    verdict.foreign
                ));
            }
        }
        if self.messages == 0 {
            self.faults
                .push("no message was confirmed within the measured time".to_owned());
        }
        self.valid = self.faults.is_empty();
        self.messages_per_second = self.valid.then(|| self.messages as f64 / self.seconds);
    }

    /// The report for people.
    pub(crate) fn text(&self) -> String {
        let mut out = format!("{} at {}\n", self.command, self.servers.join(", "));
        self.put_rate(&mut out);
        self.put_latencies(&mut out);
        for (name, usage) in [("server", &self.server), ("generator", &self.generator)] {
            if let Some(usage) = usage {
                put_usage(name, usage, &mut out);
            }
        }
        self.put_check(&mut out);
        out
    }

    fn put_rate(&self, out: &mut String) {
        let rate = match self.messages_per_second {
            Some(rate) => {
                let megabytes = rate * self.message_bytes as f64 / 1e6;
                format!("{rate:.0} messages/s, {megabytes:.1} MB/s")
            }
            None => "none: the run is not valid".to_owned(),
        };
        let (messages, seconds) = (self.messages, self.seconds);
        line(
            out,
            "throughput",
            &format!("{rate} ({messages} in {seconds:.2} s)"),
        );
        for (reason, count) in &self.refused {
            line(out, "refused", &format!("{count} messages: {reason}"));
        }
        let missing = [("unanswered", self.unanswered), ("unsent", self.unsent)];
        for (name, count) in missing.iter().filter(|(_, count)| *count > 0) {
            line(out, name, &format!("{count} messages"));
        }
    }

    fn put_latencies(&self, out: &mut String) {
        if self.latency_us.is_empty() {
            return;
        }
        let heads = ["mean", "p50", "p90", "p99", "p99.9", "p99.99", "max"];
        let heads: String = heads.iter().map(|head| format!("{head:>10}")).collect();
        line(out, "latency, us", &heads);
        for (name, summary) in &self.latency_us {
            let s = summary;
            let values = [s.mean, s.p50, s.p90, s.p99, s.p999, s.p9999, s.max];
            let values: String = values
                .iter()
                .map(|value| format!("{value:>10.1}"))
                .collect();
            line(out, &format!("  {name}"), &values);
        }
        for (name, ratio) in &self.ratios {
            line(
                out,
                &format!("  {name}"),
                &format!("p99 {ratio:.2} times the idle one"),
            );
        }
    }

    fn put_check(&self, out: &mut String) {
        let text = match (self.checked, self.valid) {
            (true, true) => {
                let received: u64 = self.verdicts.iter().map(|verdict| verdict.received).sum();
                format!("everything acknowledged came once and unchanged ({received} received)")
            }
            (false, true) => "not made: what was acknowledged was not received again".to_owned(),
            (_, false) => "FAILED".to_owned(),
        };
        line(out, "check", &text);
        for fault in &self.faults {
            line(out, "fault", fault);
        }
    }
}

fn put_usage(name: &str, usage: &Usage, out: &mut String) {
    let mut text = format!("{:.2} cores", usage.cpu_cores);
    // Writing to a string cannot fail.
    if let Some(micros) = usage.cpu_us_per_message {
        let _ = write!(text, ", {micros:.2} us per message");
    }
    if let (Some(device), Some(flushes)) = (&usage.device, usage.device_flushes) {
        let _ = write!(text, ", {flushes} flushes of {device}");
    }
    if let Some(messages) = usage.messages_per_flush {
        let _ = write!(text, " ({messages:.1} messages each)");
    }
    line(out, name, &text);
}

fn line(out: &mut String, name: &str, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{name:<16}{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lost: u64) -> Report {
        Report {
            schema: SCHEMA,
            command: "produce",
            version: "0",
            started_ms: 1,
            servers: vec!["127.0.0.1:1".to_owned()],
            plan: Value::Null,
            valid: false,
            checked: true,
            faults: Vec::new(),
            seconds: 2.0,
            message_bytes: 1_000,
            messages_per_second: None,
            messages: 100,
            refused: BTreeMap::new(),
            unanswered: 0,
            unsent: 0,
            latency_us: BTreeMap::new(),
            ratios: BTreeMap::new(),
            verdicts: vec![Verdict {
                group: "g".to_owned(),
                acknowledged: 100,
                received: 100 - lost,
                lost,
                duplicated: 0,
                altered: 0,
                foreign: 0,
            }],
            server: None,
            generator: None,
        }
    }

    #[test]
    fn a_run_with_a_loss_has_no_throughput() {
        let mut good = report(0);
        good.judge();
        assert_eq!((good.valid, good.messages_per_second), (true, Some(50.0)));
        assert!(good.text().contains("50 messages/s"), "{}", good.text());
        let mut bad = report(1);
        bad.judge();
        assert_eq!((bad.valid, bad.messages_per_second), (false, None));
        let text = bad.text();
        assert!(text.contains("none: the run is not valid"), "{text}");
        assert!(text.contains("1 lost"), "{text}");
    }

    #[test]
    fn a_run_without_messages_is_not_valid() {
        let mut empty = report(0);
        empty.messages = 0;
        empty.judge();
        assert!(!empty.valid && empty.text().contains("FAILED"));
    }

    #[test]
    fn the_fields_of_the_json_are_those_that_are_documented() {
        let report = serde_json::to_value(report(0)).unwrap();
        let names: Vec<_> = report.as_object().unwrap().keys().cloned().collect();
        let mut expected = vec![
            "schema",
            "command",
            "version",
            "started_ms",
            "servers",
            "plan",
            "valid",
            "checked",
            "faults",
            "seconds",
            "message_bytes",
            "messages_per_second",
            "messages",
            "refused",
            "unanswered",
            "unsent",
            "latency_us",
            "ratios",
            "verdicts",
            "server",
            "generator",
        ];
        expected.sort_unstable();
        assert_eq!(
            names, expected,
            "a field that goes needs a new schema number"
        );
    }
}
