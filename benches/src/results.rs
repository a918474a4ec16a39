//! The lines that `bin/bench.sh` collects: one with the machine, then one per run. What was added
//! later has a line with the machine of its own.
//!
//! ```text
//! {"machine": {"commit": .., "kernel": .., "cpu": .., ..}}
//! {"case": "sync-4x512", "contender": "qmq", "round": 1, "report": {..}}
//! ```
//!
//! A report is what `qmq-tools bench --json`, `qmq-ceiling fsync`, `qmq-ceiling pages`, `qmq-allocations`,
//! `qmq-delay-pending` or `qmq-registers` printed, or null when the run could not be made.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

/// All runs of one call of `bin/bench.sh`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Results {
    /// Facts of the machine, by name.
    pub machine: BTreeMap<String, String>,
    runs: Vec<Run>,
}

/// One run.
#[derive(Clone, Debug, PartialEq)]
struct Run {
    case: String,
    contender: String,
    report: Value,
}

/// One number over the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one; of an even number the lower of the two.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// How many rounds gave a number.
    pub rounds: usize,
}

impl Results {
    /// Reads the lines.
    ///
    /// # Errors
    /// When one of them is none of these.
    pub fn parse(lines: &str) -> Result<Self> {
        let mut results = Self::default();
        for (number, line) in lines.lines().enumerate() {
            let value: Value =
                serde_json::from_str(line).with_context(|| format!("line {}", number + 1))?;
            if let Some(machine) = value["machine"].as_object() {
                for (name, fact) in machine {
                    results.note(name, fact.as_str().unwrap_or(""));
                }
                continue;
            }
            let text = |name: &str| {
                let text = value[name].as_str().map(str::to_owned);
                text.with_context(|| format!("line {} has no {name}", number + 1))
            };
            results.runs.push(Run {
                case: text("case")?,
                contender: text("contender")?,
                report: value["report"].clone(),
            });
        }
        Ok(results)
    }

    /// Notes a fact; one that changed is shown with both values.
    fn note(&mut self, name: &str, fact: &str) {
        let known = self.machine.entry(name.to_owned()).or_default();
        if known.is_empty() {
            fact.clone_into(known);
        } else if known.split("; ").all(|known| known != fact) {
            known.push_str("; ");
            known.push_str(fact);
        }
    }

    /// Whether nothing was run.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The contenders of a case, in the order of their first run.
    #[must_use]
    pub fn contenders(&self, case: &str) -> Vec<&str> {
        let mut contenders = Vec::new();
        for run in self.runs.iter().filter(|run| run.case == case) {
            if !contenders.contains(&run.contender.as_str()) {
                contenders.push(&run.contender);
            }
        }
        contenders
    }

    /// The valid reports of a contender in a case. What no tool of ours judged counts as valid.
    pub fn reports(&self, case: &str, contender: &str) -> impl Iterator<Item = &Value> {
        self.all(case, contender)
            .filter(|report| !report.is_null() && report["valid"] != Value::Bool(false))
    }

    /// How many runs of a contender in a case are no result.
    #[must_use]
    pub fn failures(&self, case: &str, contender: &str) -> usize {
        self.all(case, contender).count() - self.reports(case, contender).count()
    }

    fn all(&self, case: &str, contender: &str) -> impl Iterator<Item = &Value> {
        self.runs
            .iter()
            .filter(move |run| run.case == case && run.contender == contender)
            .map(|run| &run.report)
    }

    /// The number at `pointer` (`/latency_us/send/p99`) over the rounds.
    #[must_use]
    pub fn spread(&self, case: &str, contender: &str, pointer: &str) -> Option<Spread> {
        let reports = self.reports(case, contender);
        let values = reports.filter_map(|report| report.pointer(pointer)?.as_f64());
        Spread::of(values.collect())
    }
}

impl Spread {
    /// Of these numbers, if there are any.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        Some(Self {
            median: values[(values.len() - 1) / 2],
            min,
            max,
            rounds: values.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"{"machine":{"kernel":"6.1"}}
{"case":"a","contender":"qmq","round":1,"report":{"valid":true,"x":{"y":3}}}
{"case":"a","contender":"ceiling","round":1,"report":{"valid":true,"x":{"y":9}}}
{"case":"a","contender":"qmq","round":2,"report":{"valid":true,"x":{"y":1}}}
{"case":"a","contender":"qmq","round":3,"report":{"valid":false,"x":{"y":100}}}
{"case":"a","contender":"qmq","round":4,"report":null}
{"case":"a","contender":"qmq","round":5,"report":{"valid":true,"x":{"y":2}}}
"#;

    #[test]
    fn runs_that_are_not_valid_have_no_numbers() {
        let results = Results::parse(LINES).unwrap();
        assert_eq!(results.machine["kernel"], "6.1");
        assert_eq!(results.contenders("a"), ["qmq", "ceiling"]);
        let expected = Spread {
            median: 2.0,
            min: 1.0,
            max: 3.0,
            rounds: 3,
        };
        assert_eq!(results.spread("a", "qmq", "/x/y"), Some(expected));
        assert_eq!(results.failures("a", "qmq"), 2);
        assert_eq!(results.spread("b", "qmq", "/x/y"), None);
    }

    #[test]
    fn what_was_added_later_says_where() {
        let both = format!("{LINES}{}", LINES.replace("6.1", "6.2"));
        let results = Results::parse(&format!("{both}{both}")).unwrap();
        assert_eq!(results.machine["kernel"], "6.1; 6.2");
    }

    #[test]
    fn other_lines_are_refused() {
        for bad in ["x", "{}", r#"{"case":"a","report":{}}"#] {
            assert!(Results::parse(bad).is_err(), "{bad}");
        }
    }
}
