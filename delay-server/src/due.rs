//! When a received message is due (pure).
//!
//! The second time of its header is that time, if the delay bit is set. Without the bit it is
//! noise: Java's producer decides twice whether a message is delayed, and one that falls between
//! the two decisions arrives without it; C#'s sets the bit in about half of the cases. Both then
//! still have the time in a property, under two names.

use std::time::Duration;

use qmq_model::message::property;
use qmq_model::{Payload, UnixMillis};

/// How long a message is delayed that does not say when it is due, as by the original.
pub const UNTOLD_DELAY: Duration = Duration::from_secs(10);
/// What C#'s client calls [`property::SCHEDULE_TIME`].
const MISSPELT_SCHEDULE_TIME: &str = "qmq_scheduleRecevieTime";

/// Where the due time came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// From the header.
    Header,
    /// From a property, because the bit was missing.
    Property,
    /// Nowhere: [`UNTOLD_DELAY`] from now.
    Nowhere,
}

/// When a message is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The time, never before now.
    pub at: UnixMillis,
    /// Where it came from.
    pub told: Told,
    /// Whether the time told has passed, so that it is due now.
    pub is_past: bool,
}

/// It is due later than messages are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooFar;

/// When the message is due, seen from `now`, and at most `delay_max` ahead.
///
/// # Errors
/// When it is due later than that. It is not shortened: the message would come too early.
pub fn due_of(payload: &Payload<'_>, now: UnixMillis, delay_max: Duration) -> Result<Due, TooFar> {
    let (told_at, told) = if payload.is_delayed() {
        (UnixMillis(payload.second_ms), Told::Header)
    } else {
        match in_properties(payload) {
            Some(at) => (at, Told::Property),
            None => (now.plus(UNTOLD_DELAY), Told::Nowhere),
        }
    };
    if told_at > now.plus(delay_max) {
        return Err(TooFar);
    }
    Ok(Due {
        at: told_at.max(now),
        told,
        is_past: told_at < now,
    })
}

fn in_properties(payload: &Payload<'_>) -> Option<UnixMillis> {
    let names = [property::SCHEDULE_TIME, MISSPELT_SCHEDULE_TIME];
    names.iter().find_map(|name| {
        let value = payload.property(name.as_bytes())?;
        let millis = std::str::from_utf8(value).ok()?.trim().parse().ok()?;
        Some(UnixMillis(millis))
    })
}

#[cfg(test)]
mod tests {
    use qmq_model::Message;

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
    const MAX: Duration = Duration::from_secs(730 * 86_400);

    fn due(message: &Message) -> Result<Due, TooFar> {
        let bytes = message.to_payload().unwrap();
        let (payload, _) = Payload::split_first(&bytes).unwrap();
        due_of(&payload, NOW, MAX)
    }

    fn with_property(name: &str, value: &str) -> Message {
        Message {
            subject: "s".into(),
            message_id: "id".into(),
            properties: vec![(name.to_owned(), value.to_owned())],
            ..Message::default()
        }
    }

    fn at(millis: i64) -> Message {
        Message {
            due: Some(UnixMillis(millis)),
            ..with_property("k", "v")
        }
    }

    #[test]
    fn the_header_counts_with_the_bit_only() {
        let told = due(&at(NOW.0 + 1_234)).unwrap();
        assert_eq!((told.at.0, told.told), (NOW.0 + 1_234, Told::Header));
        let mut without = with_property("k", "v");
        without.created = UnixMillis(NOW.0 + 5);
        let told = due(&without).unwrap();
        assert_eq!((told.at.0, told.told), (NOW.0 + 10_000, Told::Nowhere));
        assert!(!told.is_past);
    }

    #[test]
    fn without_the_bit_the_time_is_taken_from_the_body_under_both_names() {
        for name in ["qmq_scheduleReceiveTime", "qmq_scheduleRecevieTime"] {
            let told = due(&with_property(name, &(NOW.0 + 700).to_string())).unwrap();
            assert_eq!((told.at.0, told.told), (NOW.0 + 700, Told::Property));
            let told = due(&with_property(name, "soon")).unwrap();
            assert_eq!(told.told, Told::Nowhere);
        }
    }

    #[test]
    fn the_past_is_due_now_and_the_far_future_refused() {
        for millis in [i64::MIN, 0, NOW.0 - 1] {
            let told = due(&at(millis)).unwrap();
            assert!(told.is_past && told.at == NOW, "{millis}");
        }
        assert!(!due(&at(NOW.0)).unwrap().is_past);
        let last = NOW.plus(MAX).0;
        assert_eq!(due(&at(last)).unwrap().at.0, last);
        assert_eq!(due(&at(last + 1)), Err(TooFar));
        assert_eq!(due(&at(i64::MAX)), Err(TooFar));
    }
}
