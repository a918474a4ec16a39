//! Typed property values, as the Java client stores them: everything travels as text.
//!
//! | Value | Text |
//! | --- | --- |
//! | boolean | `true`, `false` |
//! | integer | decimal |
//! | float | as Java prints it: `1.0`, `1.0E10`, `Infinity`, `NaN` |
//! | time | milliseconds since 1970, decimal |
//! | long text | parts of at most [`LARGE_PART_UNITS`] UTF-16 units under `<key>#part0`, `<key>#part1`, ... |

use crate::message::{Message, MessageError, property};
use crate::payload::{STRING_BYTES_MAX, TAGS_MAX};
use crate::time::UnixMillis;

/// Most UTF-16 units of one part of a long text. A unit takes at most three bytes of UTF-8 (a pair
/// four), so a part always fits a property.
pub const LARGE_PART_UNITS: usize = 8192;

const _: () = assert!(LARGE_PART_UNITS * 3 <= STRING_BYTES_MAX);

/// A property that is there and is not what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("property {key:?} is no {wanted}: {text:?}")]
pub struct ValueError {
    /// Name of the property.
    pub key: String,
    /// What was asked for.
    pub wanted: &'static str,
    /// What it holds, the first 100 characters of it.
    pub text: String,
}

/// Typed properties. A getter returns `None` for a property that is not there (the getters of the
/// Java client return `false` and 0 then).
impl Message {
    /// Sets a boolean.
    pub fn set_boolean(&mut self, key: &str, value: bool) {
        self.set_property(key, value.to_string());
    }

    /// A boolean: the word `true` in any case is true, every other text false, as in Java.
    #[must_use]
    pub fn boolean(&self, key: &str) -> Option<bool> {
        self.property(key)
            .map(|text| text.eq_ignore_ascii_case("true"))
    }

    /// Sets an integer.
    pub fn set_integer(&mut self, key: &str, value: i64) {
        self.set_property(key, value.to_string());
    }

    /// An integer.
    ///
    /// # Errors
    /// When the property is no decimal integer of 64 bits.
    pub fn integer(&self, key: &str) -> Result<Option<i64>, ValueError> {
        self.parsed(key, "integer")
    }

    /// Sets a floating-point number.
    pub fn set_float(&mut self, key: &str, value: f64) {
        self.set_property(key, java_text(value));
    }

    /// A floating-point number.
    ///
    /// # Errors
    /// When the property is no number.
    pub fn float(&self, key: &str) -> Result<Option<f64>, ValueError> {
        self.parsed(key, "number")
    }

    /// Sets a point in time; dates of the Java client are such.
    pub fn set_time(&mut self, key: &str, value: UnixMillis) {
        self.set_property(key, value.to_string());
    }

    /// A point in time.
    ///
    /// # Errors
    /// When the property is no number of milliseconds.
    pub fn time(&self, key: &str) -> Result<Option<UnixMillis>, ValueError> {
        Ok(self.parsed(key, "time in milliseconds")?.map(UnixMillis))
    }

    /// Sets a text of any length: what does not fit one property is split. Read it with
    /// [`Self::large`]. Characters are never cut in two.
    pub fn set_large(&mut self, key: &str, value: &str) {
        let is_of_key = |name: &str| name == key || part_number(name, key).is_some();
        self.properties.retain(|(name, _)| !is_of_key(name));
        let parts = parts(value);
        if let [whole] = parts[..] {
            self.set_property(key, whole);
            return;
        }
        for (number, part) in parts.into_iter().enumerate() {
            self.set_property(&part_name(key, number), part);
        }
    }

    /// A text set with [`Self::set_large`] or by the large-string call of another client.
    #[must_use]
    pub fn large(&self, key: &str) -> Option<String> {
        if let Some(whole) = self.property(key) {
            return Some(whole.to_owned());
        }
        let mut parts = (0..).map_while(|number| self.property(&part_name(key, number)));
        let mut text = parts.next()?.to_owned();
        text.extend(parts);
        Some(text)
    }

    /// Adds a word that consumers can filter by.
    ///
    /// # Errors
    /// When it is empty or over 32 767 bytes, or there are 10 others.
    pub fn add_tag(&mut self, tag: impl Into<String>) -> Result<(), MessageError> {
        let tag = tag.into();
        let is_bad = tag.is_empty() || tag.len() > STRING_BYTES_MAX;
        if is_bad || (self.tags.len() >= TAGS_MAX && !self.tags.contains(&tag)) {
            return Err(MessageError::Tags);
        }
        self.tags.insert(tag);
        Ok(())
    }

    /// How often it may be delivered before it goes to the dead-letter subject; consumers have a
    /// number of their own for messages without one.
    pub fn set_max_retries(&mut self, deliveries: u32) {
        self.set_property(property::MAX_RETRY_NUM, deliveries.to_string());
    }

    /// The number set with [`Self::set_max_retries`]; a negative one counts as none.
    #[must_use]
    pub fn max_retries(&self) -> Option<u32> {
        self.property(property::MAX_RETRY_NUM)
            .and_then(|text| text.parse().ok())
    }

    fn parsed<T: std::str::FromStr>(
        &self,
        key: &str,
        wanted: &'static str,
    ) -> Result<Option<T>, ValueError> {
        let parse = |text: &str| {
            text.parse().map_err(|_| ValueError {
                key: key.to_owned(),
                wanted,
                text: text.chars().take(100).collect(),
            })
        };
        self.property(key).map(parse).transpose()
    }
}

fn part_name(key: &str, number: usize) -> String {
    format!("{key}#part{number}")
}

fn part_number(name: &str, key: &str) -> Option<usize> {
    let number = name.strip_prefix(key)?.strip_prefix("#part")?;
    number.parse().ok()
}

/// At least one part, each of at most [`LARGE_PART_UNITS`].
fn parts(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut begin, mut units) = (0, 0);
    for (at, c) in text.char_indices() {
        if units + c.len_utf16() > LARGE_PART_UNITS {
            parts.push(&text[begin..at]);
            (begin, units) = (at, 0);
        }
        units += c.len_utf16();
    }
    parts.push(&text[begin..]);
    parts
}

/// The text of `Double.toString`.
fn java_text(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    if value == 0.0 || (1e-3..1e7).contains(&value.abs()) {
        return format!("{value:?}");
    }
    let text = format!("{value:E}");
    let (digits, exponent) = text.split_once('E').unwrap_or((&text, "0"));
    let fraction = if digits.contains('.') { "" } else { ".0" };
    format!("{digits}{fraction}E{exponent}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_the_text_of_the_java_client() {
        let mut message = Message::default();
        message.set_boolean("b", true);
        message.set_integer("i", i64::MIN);
        message.set_time("t", UnixMillis(1_559_547_489_447));
        assert_eq!(message.property("b"), Some("true"));
        assert_eq!(message.property("i"), Some("-9223372036854775808"));
        assert_eq!(message.property("t"), Some("1559547489447"));
        let floats = [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.001, "0.001"),
            (0.000_123, "1.23E-4"),
            (9_999_999.0, "9999999.0"),
            (1e7, "1.0E7"),
            (1.5e10, "1.5E10"),
            (f64::MAX, "1.7976931348623157E308"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
            (f64::NAN, "NaN"),
        ];
        for (value, text) in floats {
            message.set_float("f", value);
            assert_eq!(message.property("f"), Some(text));
            let read = message.float("f").unwrap().unwrap();
            assert!(
                read.to_bits() == value.to_bits() || value.is_nan(),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_missing_is_none_and_what_is_malformed_an_error() {
        let mut message = Message::default();
        assert_eq!(message.boolean("x"), None);
        assert_eq!(message.integer("x"), Ok(None));
        assert_eq!(message.float("x"), Ok(None));
        assert_eq!(message.time("x"), Ok(None));
        assert_eq!(message.large("x"), None);
        message.set_property("x", "12 or so");
        assert_eq!(message.boolean("x"), Some(false));
        let error = message.integer("x").unwrap_err();
        assert!(error.to_string().contains("\"x\" is no integer"), "{error}");
        assert!(message.float("x").is_err() && message.time("x").is_err());
        message.set_property("x", "TRUE");
        assert_eq!(message.boolean("x"), Some(true));
    }

    #[test]
    fn long_texts_are_split_as_the_java_client_does() {
        let mut message = Message::default();
        message.set_large("short", &"x".repeat(LARGE_PART_UNITS));
        assert_eq!(message.property("short").unwrap().len(), LARGE_PART_UNITS);
        message.set_large("long", &"x".repeat(LARGE_PART_UNITS + 1));
        assert_eq!(message.property("long"), None);
        let part = |number| message.property(&part_name("long", number)).map(str::len);
        assert_eq!(
            [part(0), part(1), part(2)],
            [Some(LARGE_PART_UNITS), Some(1), None]
        );
        // A shorter value leaves no part of the longer one behind.
        message.set_large("long", "now short");
        assert_eq!(message.large("long").as_deref(), Some("now short"));
        assert_eq!(message.properties.len(), 2);
    }

    #[test]
    fn tags_are_bounded() {
        let mut message = Message::default();
        for n in 0..TAGS_MAX {
            message.add_tag(format!("t{n}")).unwrap();
        }
        assert_eq!(message.add_tag("t0"), Ok(()), "it is there already");
        assert_eq!(message.add_tag("more"), Err(MessageError::Tags));
        message.tags.clear();
        assert_eq!(message.add_tag(""), Err(MessageError::Tags));
        assert_eq!(message.add_tag("x".repeat(32_768)), Err(MessageError::Tags));
    }

    #[test]
    fn a_negative_maximum_of_retries_is_none() {
        let mut message = Message::default();
        assert_eq!(message.max_retries(), None);
        message.set_max_retries(3);
        assert_eq!(message.max_retries(), Some(3));
        message.set_property(property::MAX_RETRY_NUM, "-1");
        assert_eq!(message.max_retries(), None);
    }

    proptest! {
        #[test]
        fn any_text_survives(text in "\\PC{0,10}", repeat in 0_usize..4000) {
            let text = text.repeat(repeat);
            let mut message = Message { subject: "s".into(), message_id: "m".into(), ..Message::default() };
            message.set_large("k", &text);
            prop_assert_eq!(message.large("k"), Some(text));
            prop_assert!(message.to_payload().is_ok(), "every part fits a property");
        }
    }
}
