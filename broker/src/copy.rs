//! Copies that the broker makes itself: messages of dead consumers and of lost acks go to the retry
//! subject of their group, or to its dead-letter subject when they were tried too often (pure).

use bytes::{BufMut, Bytes, BytesMut};
use qmq_model::message::property;
use qmq_model::names::SubjectKind;
use qmq_model::{ConsumerGroup, Payload, Subject};
use qmq_store::NewMessage;

/// Deliveries of a message that names no maximum itself, as in the Java client.
pub const RETRIES_DEFAULT: u32 = 32;

/// A copy, and where it goes.
#[derive(Clone, Debug)]
pub struct Copy {
    /// To be stored.
    pub message: NewMessage,
    /// It was tried too often: nobody gets it any more unless asked for.
    pub is_dead: bool,
}

/// Why a message cannot be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// The stored bytes are no message.
    #[error("the stored bytes are no message")]
    NoMessage,
    /// The name of the retry subject would be too long.
    #[error("the retry subject of this subject and group would have too long a name")]
    Name,
}

/// The copy of a message that a consumer of (`subject`, `group`) did not finish: all as it is, but
/// for `qmq_times`, which counts up. The subject inside the payload stays.
///
/// # Errors
/// When there is no such subject, or the payload is none.
pub fn copy_for_retry(
    payload: &[u8],
    subject: &Subject,
    group: &ConsumerGroup,
) -> Result<Copy, CopyError> {
    let (parsed, rest) = Payload::split_first(payload).map_err(|_| CopyError::NoMessage)?;
    if !rest.is_empty() {
        return Err(CopyError::NoMessage);
    }
    let number = |key: &str| {
        let value = std::str::from_utf8(parsed.property(key.as_bytes())?).ok()?;
        value.parse::<u32>().ok()
    };
    let times = number(property::TIMES).unwrap_or(1).saturating_add(1);
    let max = number(property::MAX_RETRY_NUM).unwrap_or(RETRIES_DEFAULT);
    let is_dead = times > max;
    let subject = target(subject, group, is_dead)?;
    let payload = with_times(&parsed, times);
    let crc = crc32fast::hash(&payload);
    let message = NewMessage {
        subject,
        payload,
        crc,
        // A copy is no repeat of the one that another consumer gave rise to.
        fingerprint: None,
    };
    Ok(Copy { message, is_dead })
}

/// Retry subjects belong to one group: what fails there stays there until it is dead. Dead letters
/// stay where they are.
fn target(subject: &Subject, group: &ConsumerGroup, is_dead: bool) -> Result<Subject, CopyError> {
    let named = |real: &str, group: &str, is_dead: bool| {
        let real = Subject::new(real).ok()?;
        let group = ConsumerGroup::new(group).ok()?;
        let named = if is_dead {
            Subject::dead_letter(&real, &group)
        } else {
            Subject::retry(&real, &group)
        };
        named.ok()
    };
    match subject.kind() {
        SubjectKind::DeadLetter { .. } => Ok(subject.clone()),
        SubjectKind::Retry { .. } if !is_dead => Ok(subject.clone()),
        SubjectKind::Retry {
            subject: real,
            group,
        } => named(real, group, true).ok_or(CopyError::Name),
        SubjectKind::Real => {
            named(subject.as_str(), group.as_str(), is_dead).ok_or(CopyError::Name)
        }
    }
}

/// The bytes of `payload` with another `qmq_times`; every other property stays as it is.
fn with_times(payload: &Payload<'_>, times: u32) -> Bytes {
    const LENGTH_BYTES: usize = 4;
    let head = &payload.bytes[..payload.bytes.len() - payload.body.len() - LENGTH_BYTES];
    let times = times.to_string();
    let mut out = BytesMut::with_capacity(payload.bytes.len() + 32);
    out.put_slice(head);
    let length_at = out.len();
    out.put_i32(0);
    let body_at = out.len();
    let others = payload
        .properties()
        .filter(|(key, _)| *key != property::TIMES.as_bytes());
    for (key, value) in others.chain([(property::TIMES.as_bytes(), times.as_bytes())]) {
        for text in [key, value] {
            out.put_u16(u16::try_from(text.len()).expect("read from 16 bits"));
            out.put_slice(text);
        }
    }
    let length = i32::try_from(out.len() - body_at).expect("a message is below 2 GiB");
    out[length_at..body_at].copy_from_slice(&length.to_be_bytes());
    out.freeze()
}

#[cfg(test)]
mod tests {
    use qmq_model::Message;

    use super::*;

    fn payload(properties: &[(&str, &str)]) -> Bytes {
        let message = Message {
            subject: "s".into(),
            message_id: "id".into(),
            tags: ["t".to_owned()].into(),
            properties: properties
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            ..Message::default()
        };
        message.to_payload().unwrap()
    }

    fn copy(subject: &str, properties: &[(&str, &str)]) -> (String, Message) {
        let (subject, group) = (
            Subject::new(subject).unwrap(),
            ConsumerGroup::new("g").unwrap(),
        );
        let copy = copy_for_retry(&payload(properties), &subject, &group).unwrap();
        let (parsed, rest) = Payload::split_first(&copy.message.payload).unwrap();
        assert!(rest.is_empty());
        assert_eq!(copy.message.crc, parsed.crc());
        (
            copy.message.subject.as_str().to_owned(),
            Message::from_payload(&parsed),
        )
    }

    #[test]
    fn counts_up_and_changes_nothing_else() {
        let (subject, message) = copy("s", &[("a", "1"), ("b", "2")]);
        assert_eq!((subject.as_str(), message.times()), ("%RETRY%s%g", 2));
        assert_eq!((message.subject.as_str(), message.tags.len()), ("s", 1));
        assert_eq!(message.property("a"), Some("1"));
        let (subject, message) = copy("%RETRY%s%g", &[("qmq_times", "7"), ("b", "2")]);
        assert_eq!((subject.as_str(), message.times()), ("%RETRY%s%g", 8));
        assert_eq!(message.properties.len(), 2);
    }

    #[test]
    fn ends_in_the_dead_letters_after_the_maximum() {
        let cases = [
            ("31", "32", false),
            ("32", "32", true),
            ("2", "2", true),
            ("x", "2", false),
        ];
        for (times, max, is_dead) in cases {
            let properties = [("qmq_times", times), ("qmq_maxRetryNum", max)];
            let wanted = if is_dead {
                "%DEAD_RETRY%s%g"
            } else {
                "%RETRY%s%g"
            };
            assert_eq!(copy("s", &properties).0, wanted);
            assert_eq!(copy("%RETRY%s%g", &properties).0, wanted);
            assert_eq!(copy("%DEAD_RETRY%s%g", &properties).0, "%DEAD_RETRY%s%g");
        }
        assert_eq!(copy("s", &[("qmq_times", "32")]).0, "%DEAD_RETRY%s%g");
    }

    #[test]
    fn names_that_would_be_too_long_are_no_subject() {
        let subject = Subject::new(&"界".repeat(83)).unwrap();
        let group = ConsumerGroup::new("g").unwrap();
        let copied = copy_for_retry(&payload(&[]), &subject, &group);
        assert_eq!(copied.unwrap_err(), CopyError::Name);
    }
}
