//! What was measured of delay servers.

use crate::results::Results;

use super::{OURS, RATE, met, put, thousands};

/// A case of `bench delay`.
struct Case {
    name: &'static str,
    text: &'static str,
    aim: Aim,
}

/// What a case has to reach.
enum Aim {
    /// The p99 of lateness, microseconds.
    P99(f64),
    /// The largest lateness, microseconds: everything has come by then.
    Largest(f64),
    /// Messages taken, as a share of what a broker takes in the case of this name.
    Taken(f64, &'static str),
}

const CASES: [Case; 4] = [
    Case {
        name: "delay-idle",
        text: "100 messages/s fall due",
        aim: Aim::P99(10_000.0),
    },
    Case {
        name: "delay-10k",
        text: "10 000 messages/s fall due",
        aim: Aim::P99(50_000.0),
    },
    Case {
        name: "delay-burst",
        text: "500 000 messages of 100 bytes fall due within a second",
        aim: Aim::Largest(3_000_000.0),
    },
    Case {
        name: "delay-accept",
        text: "taken as fast as possible, 4 connections with 512 in flight",
        aim: Aim::Taken(0.6, "sync-4x512"),
    },
];

/// Appends the table, if there is anything to tell.
pub(super) fn put_delayed(results: &Results, out: &mut String) {
    let has_results = |case: &&Case| !results.contenders(case.name).is_empty();
    let mut cases = CASES.iter().filter(has_results).peekable();
    if cases.peek().is_none() {
        return;
    }
    out.push_str(
        "\n### Messages for later\n\nTaken: thousands of messages per second, acknowledged after \
         a sync. Lateness: microseconds from the due time to the receipt from a broker, median of \
         the rounds; a message that came early would make the run invalid.\n\n\
         | Case | Taken | late p50 | p99 | p99.9 | largest | Aim |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for case in cases {
        let taken = results.spread(case.name, OURS, RATE);
        let late = |name: &str| {
            let pointer = format!("/latency_us/lateness/{name}");
            let spread = results.spread(case.name, OURS, &pointer);
            spread.map(|spread| spread.median)
        };
        let [p50, p99, p999, max] = ["p50", "p99", "p999", "max"]
            .map(|name| late(name).map_or(String::new(), |value| format!("{value:.0}")));
        let taken_text = thousands(taken);
        let aim = match case.aim {
            Aim::P99(most) => late("p99").map(|p99| at_most("p99", p99, most)),
            Aim::Largest(most) => late("max").map(|max| at_most("largest", max, most)),
            Aim::Taken(least, broker) => {
                let broker = results.spread(broker, OURS, RATE);
                taken.zip(broker).map(|(taken, broker)| {
                    let share = taken.median / broker.median;
                    let is_met = met(share >= least);
                    format!("{share:.2} of what a broker takes; at least {least}: {is_met}")
                })
            }
        };
        let aim = aim.unwrap_or_default();
        put(
            out,
            &[case.text, &taken_text, &p50, &p99, &p999, &max, &aim],
        );
    }
}

fn at_most(what: &str, micros: f64, most: f64) -> String {
    format!("{what} at most {most:.0}: {}", met(micros <= most))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"{"case":"delay-idle","contender":"qmq","round":1,"report":{"valid":true,"messages_per_second":100.0,"latency_us":{"lateness":{"p50":900,"p99":5000,"p999":6000,"max":7000}}}}
{"case":"delay-accept","contender":"qmq","round":1,"report":{"valid":true,"messages_per_second":50000.0,"latency_us":{"lateness":{"p50":1,"p99":2,"p999":3,"max":4}}}}
{"case":"sync-4x512","contender":"qmq","round":1,"report":{"valid":true,"messages_per_second":100000.0}}
"#;

    #[test]
    fn aims_are_compared() {
        let mut out = String::new();
        put_delayed(&Results::parse(LINES).unwrap(), &mut out);
        assert!(
            out.contains("| 900 | 5000 | 6000 | 7000 | p99 at most 10000: met |"),
            "{out}"
        );
        assert!(
            out.contains("0.50 of what a broker takes; at least 0.6: **not met**"),
            "{out}"
        );
        let mut nothing = String::new();
        put_delayed(&Results::parse("").unwrap(), &mut nothing);
        assert_eq!(nothing, "");
    }
}
