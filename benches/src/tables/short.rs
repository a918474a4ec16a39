//! The few numbers that the README shows.

use std::fmt::Write;

use crate::results::Results;

use super::aims::{RATE, RATE_CASES};
use super::{CEILING, ORIGINAL, OURS, put};

/// A case and what acknowledged means in it, for us.
const CASES: [(&str, &str); 5] = [
    ("sync-4x512", SYNC),
    ("sync-batch100", SYNC),
    ("async-4x512", ASYNC),
    ("drain-1", ASYNC),
    ("drain-10", ASYNC),
];
const SYNC: &str = "on disk";
const ASYNC: &str = "in the page cache";

/// The generated part of the README: medians of our server and of those measured beside it, each
/// with what its acknowledgement is worth.
#[must_use]
pub fn generate_short(results: &Results) -> String {
    if results.is_empty() {
        return "Nothing has been measured yet: `bin/bench.sh` fills this part.\n".to_owned();
    }
    let mut out = String::from(
        "| Case, 1 KiB messages | Server | Acknowledged means | Messages per second |\n\
         | --- | --- | --- | --: |\n",
    );
    for (name, durability) in CASES {
        let Some(case) = RATE_CASES.iter().find(|case| case.name == name) else {
            continue;
        };
        // What ours is told stands in a column of its own.
        let text = case
            .text
            .trim_start_matches("`sync`, ")
            .trim_start_matches("`async`, ");
        for contender in results.contenders(name) {
            let who = match contender {
                OURS => "this one",
                CEILING => "the least a server can do",
                ORIGINAL => "QMQ in Java",
                other => other,
            };
            let durability = match contender {
                OURS | CEILING => durability,
                ORIGINAL => ASYNC,
                _ => "as it was started",
            };
            let rate = results.spread(name, contender, RATE);
            let rate = rate.map_or("none".to_owned(), |rate| to_thousands(rate.median));
            put(&mut out, &[text, who, durability, &rate]);
        }
    }
    let at = |case: &str, contender: &str| {
        let spread = results.spread(case, contender, "/latency_us/delivery/p50")?;
        Some(spread.median / 1e3)
    };
    out.push_str("\nFrom send to receipt at 1 000 messages per second, median: ");
    let ours = [("e2e-async-1k", ASYNC), ("e2e-sync-1k", SYNC)];
    let mut parts: Vec<String> = ours
        .into_iter()
        .filter_map(|(case, how)| Some(format!("{:.2} ms ({how})", at(case, OURS)?)))
        .collect();
    let original = at("e2e-async-1k", ORIGINAL);
    parts.extend(original.map(|ms| format!("QMQ in Java {ms:.2} ms ({ASYNC})")));
    let _ = writeln!(out, "{}.", parts.join(", "));
    out
}

/// `1234567.8` as `1 235 000`.
fn to_thousands(rate: f64) -> String {
    let thousands = format!("{:.0}", rate / 1e3);
    match thousands.len().checked_sub(3) {
        Some(at) if at > 0 => format!("{} {} 000", &thousands[..at], &thousands[at..]),
        _ => format!("{thousands} 000"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rate_stands_beside_what_it_is_worth() {
        let lines = r#"{"machine":{"kernel":"6.1"}}
{"case":"sync-4x512","contender":"qmq","round":1,"report":{"valid":true,"messages_per_second":1234567.8}}
{"case":"sync-4x512","contender":"java","round":1,"report":{"valid":true,"messages_per_second":85357.0}}
{"case":"e2e-sync-1k","contender":"qmq","round":1,"report":{"valid":true,"latency_us":{"delivery":{"p50":390}}}}
"#;
        let text = generate_short(&Results::parse(lines).unwrap());
        for part in [
            "| 4 connections with 512 in flight | this one | on disk | 1 235 000 |",
            "| 4 connections with 512 in flight | QMQ in Java | in the page cache | 85 000 |",
            "median: 0.39 ms (on disk).",
        ] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
    }
}
