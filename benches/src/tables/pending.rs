//! What was measured of delay stores with many pending messages.

use crate::results::Results;

use super::{OURS, met, put};

/// How many messages, and the case they are measured in.
const CASES: [(&str, &str); 4] = [
    ("pending-1000", "1 thousand"),
    ("pending-100000", "100 thousand"),
    ("pending-1000000", "1 million"),
    ("pending-100000000", "100 million"),
];
/// What a start may take with the most messages.
const START_MS_MAX: f64 = 5000.0;
/// What the process may need, MiB.
const RESIDENT_MIB_MAX: f64 = 512.0;

/// Appends the table, if there is anything to tell.
pub(super) fn put_pending(results: &Results, out: &mut String) {
    let has_results = |case: &&(&str, &str)| !results.contenders(case.0).is_empty();
    let mut cases = CASES.iter().filter(has_results).peekable();
    if cases.peek().is_none() {
        return;
    }
    out.push_str(
        "\n### Messages that wait\n\nOf 100 bytes of body, due over the next two years, put \
         straight into the store. Start: until it is open. Memory: resident after that, and \
         after a minute of messages was loaded and a thousand were looked up by their ids.\n\n\
         | Messages | Start, ms | Memory, MiB | after look-ups | one look-up, ms | Aim |\n\
         | --- | --- | --- | --- | --- | --- |\n",
    );
    for (name, text) in cases {
        let at = |pointer: &str| {
            let spread = results.spread(name, OURS, pointer);
            spread.map(|spread| spread.median)
        };
        let [start, resident, after, look_up] = [
            at("/start_ms"),
            at("/resident_at_start_mib"),
            at("/resident_mib"),
            at("/look_up_ms"),
        ];
        let is_met = start.is_some_and(|start| start <= START_MS_MAX)
            && after.is_some_and(|after| after <= RESIDENT_MIB_MAX);
        let aim = format!(
            "at most {START_MS_MAX:.0} ms, {RESIDENT_MIB_MAX:.0} MiB: {}",
            met(is_met)
        );
        let whole = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.0}"));
        let look_up = look_up.map_or(String::new(), |value| format!("{value:.2}"));
        let cells = [whole(start), whole(resident), whole(after)];
        put(
            out,
            &[text, &cells[0], &cells[1], &cells[2], &look_up, &aim],
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"{"case":"pending-1000000","contender":"qmq","round":1,"report":{"pending":1000000,"start_ms":54.4,"look_up_ms":0.298,"resident_at_start_mib":4,"resident_mib":28}}
{"case":"pending-100000000","contender":"qmq","round":1,"report":{"pending":100000000,"start_ms":6000.0,"look_up_ms":1.0,"resident_at_start_mib":4,"resident_mib":34}}
"#;

    #[test]
    fn each_number_of_messages_has_a_row() {
        let mut out = String::new();
        put_pending(&Results::parse(LINES).unwrap(), &mut out);
        let row = "| 1 million | 54 | 4 | 28 | 0.30 | at most 5000 ms, 512 MiB: met |";
        assert!(out.contains(row), "{out}");
        assert!(
            out.contains(
                "| 100 million | 6000 | 4 | 34 | 1.00 | at most 5000 ms, 512 MiB: **not met** |"
            ),
            "{out}"
        );
        let mut nothing = String::new();
        put_pending(&Results::parse("").unwrap(), &mut nothing);
        assert_eq!(nothing, "");
    }
}
