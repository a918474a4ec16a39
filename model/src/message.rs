//! A message as applications see it, and its way to and from [`Payload`] bytes.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use crate::names::{NameError, check_subject};
use crate::payload::{
    FLAG_DELAY, FLAG_LOW_RELIABILITY, FLAG_TAGS, MESSAGE_ID_UNITS_MAX, Payload, STRING_BYTES_MAX,
    TAGS_MAX, put_str,
};
use crate::time::UnixMillis;

/// Names of properties that carry meaning for clients and servers.
pub mod property {
    /// When the producer made the message, ms.
    pub const CREATE_TIME: &str = "qmq_createTime";
    /// When the producer thinks it is out of date, ms. Nobody enforces it.
    pub const EXPIRE_TIME: &str = "qmq_expireTime";
    /// Application that sent it.
    pub const APP_CODE: &str = "qmq_appCode";
    /// When it shall be delivered, ms.
    pub const SCHEDULE_TIME: &str = "qmq_scheduleReceiveTime";
    /// How often it was delivered; absent means 1.
    pub const TIMES: &str = "qmq_times";
    /// Deliveries after which it goes to the dead-letter subject.
    pub const MAX_RETRY_NUM: &str = "qmq_maxRetryNum";
    /// The only group that shall see it.
    pub const CONSUMER_GROUP: &str = "qmq_consumerGroupName";
    /// Pull sequence a Java consumer notes on receipt; stale copies travel in retries.
    pub const PULL_OFFSET: &str = "qmq_pullOffset";
    /// Environment it was sent from.
    pub const ENVIRONMENT: &str = "qmq_env";
    /// Sub-environment it was sent from.
    pub const SUB_ENVIRONMENT: &str = "qmq_subEnv";
}

/// Why a message cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The subject breaks a rule of [`check_subject`].
    #[error("subject: {0}")]
    Subject(#[from] NameError),
    /// Message ids have 1 to 100 characters.
    #[error("message id must have 1 to {MESSAGE_ID_UNITS_MAX} characters")]
    MessageId,
    /// Keys and values have at most 32 767 bytes.
    #[error(
        "property {0:?} is longer than {STRING_BYTES_MAX} bytes: set it with set_large, or send a reference"
    )]
    PropertyTooLong(String),
    /// At most 10 tags, none empty.
    #[error("a message has at most {TAGS_MAX} tags, none of them empty or over 32 767 bytes")]
    Tags,
    /// A body length is a signed 32-bit number.
    #[error("message body is over 2 GiB")]
    BodyTooLong,
}

/// A message with its properties, owned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Where it is sent, or what it was pulled from.
    pub subject: String,
    /// Unique per message; chosen by the producer.
    pub message_id: String,
    /// When the producer made it.
    pub created: UnixMillis,
    /// When it shall be delivered; `None` means now.
    pub due: Option<UnixMillis>,
    /// The reply to the producer need not wait for a slave.
    pub low_reliability: bool,
    /// Words that consumers can filter by.
    pub tags: BTreeSet<String>,
    /// Content, in the order it is written.
    pub properties: Vec<(String, String)>,
}

impl Message {
    /// The value of a property.
    #[must_use]
    pub fn property(&self, key: &str) -> Option<&str> {
        self.properties
            .iter()
            .rev()
            .find(|(k, _)| k == key)
            .map(|(_, value)| value.as_str())
    }

    /// Sets a property, replacing an earlier value.
    pub fn set_property(&mut self, key: &str, value: impl Into<String>) {
        let value = value.into();
        match self.properties.iter_mut().find(|(k, _)| k == key) {
            Some((_, old)) => *old = value,
            None => self.properties.push((key.to_owned(), value)),
        }
    }

    /// It shall be delivered `after` its creation has passed, not before. Replaces an earlier time.
    pub fn delay(&mut self, after: Duration) {
        self.due = Some(self.created.plus(after));
    }

    /// It shall be delivered at `time`, not before. Replaces an earlier time; one that has passed
    /// when the message is sent means now.
    pub fn at(&mut self, time: impl Into<UnixMillis>) {
        self.due = Some(time.into());
    }

    /// How often it was delivered, this time included.
    #[must_use]
    pub fn times(&self) -> u32 {
        self.property(property::TIMES)
            .and_then(|text| text.parse().ok())
            .unwrap_or(1)
    }

    /// Reads a message from its bytes; text that is not UTF-8 is replaced.
    #[must_use]
    pub fn from_payload(payload: &Payload<'_>) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            subject: text(payload.subject),
            message_id: text(payload.message_id),
            created: UnixMillis(payload.create_ms),
            due: payload
                .is_delayed()
                .then_some(UnixMillis(payload.second_ms)),
            low_reliability: payload.flag & FLAG_LOW_RELIABILITY != 0,
            tags: payload.tag_iter().map(text).collect(),
            properties: payload
                .properties()
                .map(|(k, v)| (text(k), text(v)))
                .collect(),
        }
    }

    /// The bytes of this message as brokers store them, without the CRC.
    ///
    /// # Errors
    /// When the id, a tag or a property is outside its bounds.
    pub fn to_payload(&self) -> Result<Bytes, MessageError> {
        self.check()?;
        let flag = if self.low_reliability {
            FLAG_LOW_RELIABILITY
        } else {
            0
        } | if self.due.is_some() { FLAG_DELAY } else { 0 }
            | if self.tags.is_empty() { 0 } else { FLAG_TAGS };
        let mut out = BytesMut::with_capacity(64 + self.body_bytes());
        out.put_u8(flag);
        out.put_i64(self.created.0);
        out.put_i64(self.due.unwrap_or(self.created).0);
        put_str(&mut out, self.subject.as_bytes());
        put_str(&mut out, self.message_id.as_bytes());
        if !self.tags.is_empty() {
            out.put_u8(u8::try_from(self.tags.len()).map_err(|_| MessageError::Tags)?);
            self.tags
                .iter()
                .for_each(|tag| put_str(&mut out, tag.as_bytes()));
        }
        out.put_i32(i32::try_from(self.body_bytes()).map_err(|_| MessageError::BodyTooLong)?);
        for (key, value) in &self.properties {
            put_str(&mut out, key.as_bytes());
            put_str(&mut out, value.as_bytes());
        }
        Ok(out.freeze())
    }

    fn body_bytes(&self) -> usize {
        self.properties
            .iter()
            .map(|(key, value)| 4 + key.len() + value.len())
            .sum()
    }

    fn check(&self) -> Result<(), MessageError> {
        check_subject(&self.subject)?;
        let id_units = self.message_id.encode_utf16().count();
        if id_units == 0 || id_units > MESSAGE_ID_UNITS_MAX {
            return Err(MessageError::MessageId);
        }
        let tag_is_bad = |tag: &String| tag.is_empty() || tag.len() > STRING_BYTES_MAX;
        if self.tags.len() > TAGS_MAX || self.tags.iter().any(tag_is_bad) {
            return Err(MessageError::Tags);
        }
        let long = |text: &String| text.len() > STRING_BYTES_MAX;
        match self
            .properties
            .iter()
            .find(|(key, value)| long(key) || long(value))
        {
            Some((key, _)) => Err(MessageError::PropertyTooLong(
                key.chars().take(100).collect(),
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_what_consumers_cannot_read() {
        let mut message = Message {
            subject: "s".into(),
            ..Message::default()
        };
        assert_eq!(message.to_payload(), Err(MessageError::MessageId));
        message.message_id = "id".into();
        message.set_property("big", "x".repeat(32_768));
        assert_eq!(
            message.to_payload(),
            Err(MessageError::PropertyTooLong("big".into()))
        );
        message.set_property("big", "x".repeat(32_767));
        assert!(message.to_payload().is_ok());
        message.tags.insert(String::new());
        assert_eq!(message.to_payload(), Err(MessageError::Tags));
    }

    #[test]
    fn a_delay_counts_from_the_creation() {
        let mut message = Message {
            created: UnixMillis(1_000),
            ..Message::default()
        };
        message.delay(Duration::from_millis(1));
        assert_eq!(message.due, Some(UnixMillis(1_001)));
        message.at(UnixMillis(7));
        assert_eq!(message.due, Some(UnixMillis(7)));
        message.delay(Duration::MAX);
        assert_eq!(message.due, Some(UnixMillis(i64::MAX)));
    }

    proptest! {
        #[test]
        fn survives_the_round_trip(
            id in "[a-z0-9.]{1,40}",
            tags in proptest::collection::btree_set("\\PC{1,8}", 0..10),
            properties in proptest::collection::btree_map("\\PC{0,8}", "\\PC{0,40}", 0..8),
            due in proptest::option::of(0_i64..),
        ) {
            let message = Message {
                subject: "a.b".into(),
                message_id: id,
                created: UnixMillis(7),
                due: due.map(UnixMillis),
                low_reliability: false,
                tags,
                properties: properties.into_iter().collect(),
            };
            let bytes = message.to_payload().unwrap();
            let (payload, rest) = Payload::split_first(&bytes).unwrap();
            prop_assert!(rest.is_empty());
            prop_assert_eq!(Message::from_payload(&payload), message);
        }
    }
}
