//! Which questions of clients are logged, by `client_log_switch.properties`.

use qmq_daemon::settings::MapFile;

/// The key that stands for every subject without a line of its own.
const DEFAULT: &str = "default";

/// The switches: `SUBJECT = true` logs the clients of a subject, `SUBJECT = false` does not,
/// `default` is for all others. Without the file nothing is logged; in one without `default` it is
/// true, as in the Java metaserver (where `false` of a subject has no effect).
#[derive(Debug)]
pub(crate) struct RegisterLog(MapFile);

impl RegisterLog {
    pub(crate) const fn new(switches: MapFile) -> Self {
        Self(switches)
    }

    /// Whether questions for `subject` (never a retry subject) are logged.
    pub(crate) fn is_on(&self, subject: &str) -> bool {
        let Some(switches) = self.0.values() else {
            return false;
        };
        let switch = |key| {
            let value: Option<&String> = switches.get(key);
            value.map(|value| value.eq_ignore_ascii_case("true"))
        };
        switch(subject).or_else(|| switch(DEFAULT)).unwrap_or(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_has_its_own_switch_and_the_default_is_for_the_rest() {
        let is_on = |pairs: &[(&str, &str)], subject| {
            RegisterLog::new(MapFile::of_pairs(pairs)).is_on(subject)
        };
        assert!(!RegisterLog::new(MapFile::default()).is_on("a"), "no file");
        assert!(is_on(&[], "a"), "a file without a default");
        assert!(!is_on(&[("a", "false")], "a"));
        assert!(is_on(&[("a", "false")], "b"));
        assert!(!is_on(&[("default", "false"), ("a", "TRUE")], "b"));
        assert!(is_on(&[("default", "false"), ("a", "TRUE")], "a"));
        assert!(!is_on(&[("default", "yes")], "a"), "only true is true");
    }
}
