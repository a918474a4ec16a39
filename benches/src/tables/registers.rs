//! What was measured of a metaserver with very many subjects.

use crate::results::Results;

use super::{OURS, met, put};

const CASE: &str = "meta-registers";
/// Registers per second of the aim.
const RATE_MIN: f64 = 100_000.0;
/// Most microseconds that 99 of 100 may take.
const P99_US_MAX: f64 = 5_000.0;
/// Most memory of the process, MiB.
const RESIDENT_MIB_MAX: f64 = 1_024.0;

/// Appends the table, if there is anything to tell.
pub(super) fn put_registers(results: &Results, out: &mut String) {
    let at = |pointer: &str| {
        let spread = results.spread(CASE, OURS, pointer);
        spread.map(|spread| spread.median)
    };
    let (Some(rate), Some(p99), Some(resident)) = (
        at("/registers_per_second"),
        at("/latency_us/p99"),
        at("/resident_mib"),
    ) else {
        return;
    };
    let whole = |pointer: &str| at(pointer).map_or(String::new(), |value| format!("{value:.0}"));
    out.push_str(
        "\n### Registers of clients\n\nA metaserver on MariaDB, client and database on the same \
         machine; every question names a subject that is known. Refreshes go on meanwhile.\n\n\
         | | | Aim |\n| --- | --- | --- |\n",
    );
    put(out, &["subjects", &whole("/subjects"), ""]);
    put(out, &["broker groups", &whole("/groups"), ""]);
    let aim = format!("at least {RATE_MIN:.0}: {}", met(rate >= RATE_MIN));
    put(out, &["registers per second", &format!("{rate:.0}"), &aim]);
    put(out, &["p50, us", &whole("/latency_us/p50"), ""]);
    let aim = format!("at most {P99_US_MAX:.0}: {}", met(p99 <= P99_US_MAX));
    put(out, &["p99, us", &format!("{p99:.0}"), &aim]);
    put(out, &["largest, us", &whole("/latency_us/max"), ""]);
    let aim = format!(
        "at most {RESIDENT_MIB_MAX:.0}: {}",
        met(resident <= RESIDENT_MIB_MAX)
    );
    put(out, &["memory, MiB", &format!("{resident:.0}"), &aim]);
    put(out, &["start until it serves, ms", &whole("/start_ms"), ""]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"case":"meta-registers","contender":"qmq","round":1,"report":{"valid":true,"subjects":1000000,"groups":10000,"registers_per_second":120000.4,"latency_us":{"p50":900,"p99":5001,"max":9000},"start_ms":7000.2,"resident_mib":400}}
"#;

    #[test]
    fn every_aim_is_judged() {
        let mut out = String::new();
        put_registers(&Results::parse(LINE).unwrap(), &mut out);
        assert!(
            out.contains("| registers per second | 120000 | at least 100000: met |"),
            "{out}"
        );
        assert!(
            out.contains("| p99, us | 5001 | at most 5000: **not met** |"),
            "{out}"
        );
        assert!(
            out.contains("| memory, MiB | 400 | at most 1024: met |"),
            "{out}"
        );
        let mut nothing = String::new();
        put_registers(&Results::parse("").unwrap(), &mut nothing);
        assert_eq!(nothing, "");
    }
}
