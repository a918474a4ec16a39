//! Checked names: subjects, consumer groups, consumer ids, and the retry and dead-letter forms.

use std::fmt;
use std::sync::Arc;

/// Longest name in bytes, retry prefix included: a Java slave uses names as folder names.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest real subject and group in UTF-16 units: Java consumers cannot decode longer ones.
pub const NAME_UNITS_MAX: usize = 100;

const RETRY_PREFIX: &str = "%RETRY%";
const DEAD_LETTER_PREFIX: &str = "%DEAD_RETRY%";

/// Why a name was refused. The text is meant for the person who chose the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing but an empty string.
    #[error("name is empty")]
    Empty,
    /// Longer than [`NAME_BYTES_MAX`] bytes or [`NAME_UNITS_MAX`] characters.
    #[error("name is too long: at most 100 characters and 255 bytes, retry prefix included")]
    TooLong,
    /// Holds white space, a control character, `/` or a stray `%`.
    #[error("name holds white space, a control character, '/' or '%'")]
    Character,
    /// `.` or `..`.
    #[error("'.' and '..' are not names")]
    Dots,
    /// Not UTF-8.
    #[error("name is not UTF-8")]
    NotUtf8,
}

/// What kind of stream a subject name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubjectKind<'a> {
    /// An ordinary subject.
    Real,
    /// `%RETRY%<subject>%<group>`: messages to be delivered to one group again.
    Retry {
        /// The subject the messages were first sent to.
        subject: &'a str,
        /// The group that failed to consume them.
        group: &'a str,
    },
    /// `%DEAD_RETRY%<subject>%<group>`: messages that one group gave up on.
    DeadLetter {
        /// The subject the messages were first sent to.
        subject: &'a str,
        /// The group that gave up.
        group: &'a str,
    },
}

impl<'a> SubjectKind<'a> {
    /// Reads the kind off a name. A name with the prefix but not of exactly three non-empty parts
    /// is taken as it is, as the Java servers do.
    #[must_use]
    pub fn of(name: &'a str) -> Self {
        let retry = name.starts_with("%RETRY");
        let dead = name.starts_with("%DEAD_RETRY");
        if !retry && !dead {
            return Self::Real;
        }
        let mut parts = name
            .split('%')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        let (Some(_), Some(subject), Some(group), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Self::Real;
        };
        if retry {
            Self::Retry { subject, group }
        } else {
            Self::DeadLetter { subject, group }
        }
    }

    /// The subject whose route this name shares: itself, or the one inside a retry name.
    #[must_use]
    pub fn real_subject(name: &'a str) -> &'a str {
        match Self::of(name) {
            Self::Real => name,
            Self::Retry { subject, .. } | Self::DeadLetter { subject, .. } => subject,
        }
    }
}

/// A named stream that producers send to. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject(Arc<str>);

impl Subject {
    /// Checks `name` and takes it.
    ///
    /// # Errors
    /// When [`check_subject`] refuses it.
    pub fn new(name: &str) -> Result<Self, NameError> {
        check_subject(name)?;
        Ok(Self(name.into()))
    }

    /// The retry subject of `subject` for `group`.
    ///
    /// # Errors
    /// When the composed name is too long, or `subject` is no real subject.
    pub fn retry(subject: &Self, group: &ConsumerGroup) -> Result<Self, NameError> {
        Self::new(&format!("{RETRY_PREFIX}{subject}%{group}"))
    }

    /// The dead-letter subject of `subject` for `group`.
    ///
    /// # Errors
    /// When the composed name is too long, or `subject` is no real subject.
    pub fn dead_letter(subject: &Self, group: &ConsumerGroup) -> Result<Self, NameError> {
        Self::new(&format!("{DEAD_LETTER_PREFIX}{subject}%{group}"))
    }

    /// The kind of this subject.
    #[must_use]
    pub fn kind(&self) -> SubjectKind<'_> {
        SubjectKind::of(&self.0)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Consumers that share one progress over a subject. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerGroup(Arc<str>);

impl ConsumerGroup {
    /// Checks `name` and takes it. Broadcast consumers use their client id here.
    ///
    /// # Errors
    /// When the name is empty, too long or holds a forbidden character.
    pub fn new(name: &str) -> Result<Self, NameError> {
        check_plain(name)?;
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One consumer instance, stable over its restarts. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerId(Arc<str>);

impl ConsumerId {
    /// Checks `name` and takes it.
    ///
    /// # Errors
    /// When the name is empty, too long or holds a forbidden character.
    pub fn new(name: &str) -> Result<Self, NameError> {
        check_plain(name)?;
        Ok(Self(name.into()))
    }

    /// The id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}
text!(Subject);
text!(ConsumerGroup);
text!(ConsumerId);

/// Whether `name` may be a subject: real, retry or dead-letter. Allocates nothing.
///
/// # Errors
/// The first rule that `name` breaks.
pub fn check_subject(name: &str) -> Result<(), NameError> {
    if name.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong);
    }
    match SubjectKind::of(name) {
        SubjectKind::Real => {
            check_plain(name)?;
            check_units(name)
        }
        SubjectKind::Retry { subject, group } => check_composed(name, RETRY_PREFIX, subject, group),
        SubjectKind::DeadLetter { subject, group } => {
            check_composed(name, DEAD_LETTER_PREFIX, subject, group)
        }
    }
}

fn check_composed(name: &str, prefix: &str, subject: &str, group: &str) -> Result<(), NameError> {
    check_plain(subject)?;
    check_units(subject)?;
    check_plain(group)?;
    let exact = name
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix(subject));
    let exact = exact.and_then(|rest| rest.strip_prefix('%'));
    if exact == Some(group) {
        Ok(())
    } else {
        Err(NameError::Character)
    }
}

fn check_units(name: &str) -> Result<(), NameError> {
    // Bytes are never fewer than UTF-16 units, so most names need no counting.
    if name.len() > NAME_UNITS_MAX && name.encode_utf16().count() > NAME_UNITS_MAX {
        return Err(NameError::TooLong);
    }
    Ok(())
}

fn check_plain(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong);
    }
    if name == "." || name == ".." {
        return Err(NameError::Dots);
    }
    let forbidden = if name.is_ascii() {
        name.bytes()
            .any(|b| b <= b' ' || b == 0x7f || b == b'/' || b == b'%')
    } else {
        name.chars().any(is_forbidden)
    };
    if forbidden {
        Err(NameError::Character)
    } else {
        Ok(())
    }
}

fn is_forbidden(c: char) -> bool {
    // The two no-break spaces are let through because the reference lets them through.
    let breaking_space = c.is_whitespace() && c != '\u{a0}' && c != '\u{2007}' && c != '\u{202f}';
    c == '/' || c == '%' || c.is_control() || breaking_space
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_ordinary_names() {
        for name in [
            "order.changed",
            "a",
            "订单.创建",
            "with@at",
            "%RETRY%a%g",
            "%DEAD_RETRY%a%g",
        ] {
            assert_eq!(check_subject(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn refuses_names_that_hurt_others() {
        let cases = [
            ("", NameError::Empty),
            ("..", NameError::Dots),
            (".", NameError::Dots),
            ("a/b", NameError::Character),
            ("a b", NameError::Character),
            ("a\nb", NameError::Character),
            ("a%b", NameError::Character),
            ("%RETRY%a", NameError::Character),
            ("%RETRY%%a%%g", NameError::Character),
            ("%RETRY% a%g", NameError::Character),
            ("a\u{2028}b", NameError::Character),
        ];
        for (name, error) in cases {
            assert_eq!(check_subject(name), Err(error), "{name:?}");
        }
        assert_eq!(check_subject(&"a".repeat(101)), Err(NameError::TooLong));
        assert_eq!(check_subject(&"订".repeat(86)), Err(NameError::TooLong));
    }

    #[test]
    fn unwraps_retry_names() {
        assert_eq!(SubjectKind::real_subject("%RETRY%a.b%g"), "a.b");
        assert_eq!(SubjectKind::real_subject("%DEAD_RETRY%a.b%g"), "a.b");
        assert_eq!(SubjectKind::real_subject("%RETRY%a.b"), "%RETRY%a.b");
        assert_eq!(SubjectKind::real_subject("a.b"), "a.b");
    }

    #[test]
    fn composes_retry_names() {
        let subject = Subject::new("a.b").unwrap();
        let group = ConsumerGroup::new("g").unwrap();
        assert_eq!(
            Subject::retry(&subject, &group).unwrap().as_str(),
            "%RETRY%a.b%g"
        );
        assert_eq!(
            Subject::dead_letter(&subject, &group).unwrap().as_str(),
            "%DEAD_RETRY%a.b%g"
        );
    }
}
