//! Durations and points in time as users write them.

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Local, NaiveDateTime, SecondsFormat, TimeZone};
use qmq_model::UnixMillis;

/// Shorter numbers are seconds by mistake: as milliseconds they are before 1973.
const MILLIS_DIGITS_MIN: usize = 12;
/// Local times, without and with seconds.
const LOCAL_FORMATS: [&str; 4] = [
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
];
/// Longest first, so that `ms` is not taken for minutes.
const UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// Where a look at a subject begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// At the oldest message.
    Earliest,
    /// At this sequence.
    Sequence(i64),
    /// At what was taken at this time or later.
    Time(UnixMillis),
    /// So long ago.
    Ago(Duration),
}

impl FromStr for Start {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "earliest" {
            return Ok(Self::Earliest);
        }
        if let Some(ago) = text.strip_prefix('-') {
            return duration(ago).map(Self::Ago);
        }
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if is_number && text.len() < MILLIS_DIGITS_MIN {
            return text
                .parse()
                .map(Self::Sequence)
                .map_err(|_| "too large".to_owned());
        }
        match text.parse() {
            Ok(Moment::At(time)) => Ok(Self::Time(time)),
            Ok(Moment::After(_)) => Err("nothing comes from the future".to_owned()),
            Err(problem) => Err(format!(
                "{problem}; or a sequence, \"earliest\", or -30m for half an hour ago"
            )),
        }
    }
}

/// A point in time: absolute, or from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    At(UnixMillis),
    After(Duration),
}

impl Moment {
    pub(crate) fn from(self, now: UnixMillis) -> UnixMillis {
        match self {
            Self::At(time) => time,
            Self::After(wait) => now.plus(wait),
        }
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(wait) = text.strip_prefix('+') {
            return duration(wait).map(Self::After);
        }
        if text.len() >= MILLIS_DIGITS_MIN && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let millis = text.parse().map_err(|_| format!("{text} is too large"))?;
            return Ok(Self::At(UnixMillis(millis)));
        }
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self::At(UnixMillis(time.timestamp_millis())));
        }
        let parsed = LOCAL_FORMATS
            .iter()
            .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
        let local = parsed.ok_or(
            "expected a time such as 2026-11-21T18:00:00+08:00, \"2026-11-21 18:00\" (local), \
             1795159757436 (milliseconds) or +30m (from now on)",
        )?;
        let time = Local.from_local_datetime(&local).single();
        let time = time.ok_or("no or two such local times: add an offset, as in +08:00")?;
        Ok(Self::At(UnixMillis(time.timestamp_millis())))
    }
}

/// A duration such as `250ms`, `90s`, `1h30m` or `2d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration: expected one such as 250ms, 90s, 1h30m or 2d");
    let (mut rest, mut millis) = (text, 0_u64);
    while !rest.is_empty() || text.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let unit = UNITS.iter().find(|(name, _)| rest.starts_with(name));
        let (name, factor) = unit.ok_or_else(wrong)?;
        rest = &rest[name.len()..];
        let part = number.checked_mul(*factor).ok_or_else(wrong)?;
        millis = millis.checked_add(part).ok_or_else(wrong)?;
    }
    Ok(Duration::from_millis(millis))
}

/// A time for people, in the local time zone; the bare number where no calendar goes.
pub(crate) fn shown(time: UnixMillis) -> String {
    let local = DateTime::from_timestamp_millis(time.0).map(|time| time.with_timezone(&Local));
    local.map_or_else(
        || time.to_string(),
        |local| local.to_rfc3339_opts(SecondsFormat::Millis, true),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        let millis = |text| duration(text).map(|wait| wait.as_millis());
        assert_eq!(millis("250ms"), Ok(250));
        assert_eq!(millis("1h30m"), Ok(5_400_000));
        assert_eq!(millis("2d1s5ms"), Ok(172_801_005));
        assert_eq!(millis("0s"), Ok(0));
        for bad in [
            "",
            "5",
            "m",
            "1x",
            "-1s",
            "1.5h",
            "1h 5m",
            "99999999999999999999s",
        ] {
            assert!(millis(bad).is_err(), "{bad}");
        }
        assert!(duration("213503982335d").is_err(), "over 64 bits");
    }

    #[test]
    fn times_are_absolute_or_from_now_on() {
        let at = |text: &str| {
            text.parse::<Moment>()
                .map(|moment| moment.from(UnixMillis(5)).0)
        };
        assert_eq!(at("1795159757436"), Ok(1_795_159_757_436));
        assert_eq!(at("2026-11-20T15:29:17.436+08:00"), Ok(1_795_159_757_436));
        assert_eq!(at("2026-11-20T07:29:17Z"), Ok(1_795_159_757_000));
        assert_eq!(at("+1m"), Ok(60_005));
        // Seconds would be long ago, and the message would go out at once.
        for bad in [
            "1795159757",
            "",
            "+",
            "tomorrow",
            "2026-13-01 00:00",
            "18:00",
        ] {
            assert!(at(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn local_times_are_told_as_they_are_read() {
        for text in [
            "2026-11-20 18:05",
            "2026-11-20T18:05",
            "2026-11-20 18:05:00",
            "2026-11-20T18:05:00.000",
        ] {
            let time = text.parse::<Moment>().unwrap().from(UnixMillis(0));
            assert!(shown(time).starts_with("2026-11-20T18:05:00.000"), "{text}");
        }
        assert_eq!(shown(UnixMillis(i64::MAX)), i64::MAX.to_string());
    }

    #[test]
    fn a_look_begins_at_a_sequence_or_a_time() {
        let start = |text: &str| text.parse::<Start>();
        assert_eq!(start("earliest"), Ok(Start::Earliest));
        assert_eq!(start("0"), Ok(Start::Sequence(0)));
        assert_eq!(start("12345678901"), Ok(Start::Sequence(12_345_678_901)));
        let time = UnixMillis(1_795_159_757_436);
        assert_eq!(start("1795159757436"), Ok(Start::Time(time)));
        assert_eq!(
            start("2026-11-20T15:29:17.436+08:00"),
            Ok(Start::Time(time))
        );
        assert_eq!(start("-30m"), Ok(Start::Ago(Duration::from_secs(1800))));
        for bad in ["", "-", "-5", "+5m", "newest", "1x"] {
            assert!(start(bad).is_err(), "{bad}");
        }
    }
}
