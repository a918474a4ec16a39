//! CLIENT_REGISTER (35), the request: a producer or consumer asks the metaserver which brokers
//! serve a subject.
//!
//! ```text
//! i16 count, then count times: str key, str value
//! ```
//!
//! The keys are listed at [`ClientRegisterRequest`]; others are ignored, such as `room` and `env` of
//! legacy clients. The layout is that of every version.

mod response;

use bytes::{BufMut, BytesMut};
use qmq_model::payload::put_str;

use crate::codec::{Decode, Encode, Reader};
use crate::error::DecodeError;

pub use response::{ClientRegisterResponse, OnOfflineState};

/// What the asking client does with the subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i8)]
pub enum ClientType {
    /// Sends to brokers.
    Producer = 1,
    /// Pulls from brokers.
    Consumer = 2,
    /// Something else, or a number we have no name for.
    Other = 3,
    /// Sends to delay servers.
    DelayProducer = 4,
}

impl ClientType {
    /// The type with this number; [`ClientType::Other`] if there is none.
    #[must_use]
    pub const fn from_code(code: i32) -> Self {
        match code {
            1 => Self::Producer,
            2 => Self::Consumer,
            4 => Self::DelayProducer,
            _ => Self::Other,
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> i8 {
        self as i8
    }
}

/// Whether a client asks for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientRequestType {
    /// For the first time in this process; also any number but 2.
    Online,
    /// Again, to refresh what it knows.
    Heartbeat,
}

impl ClientRequestType {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> i32 {
        match self {
            Self::Online => 1,
            Self::Heartbeat => 2,
        }
    }
}

/// A question for the brokers of a subject. Names are unchecked; what is missing is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientRegisterRequest<'a> {
    /// Key `subject`: real, retry or dead-letter subject.
    pub subject: &'a str,
    /// Key `clientTypeCode`: number of a [`ClientType`], as sent; 3 when missing or no number.
    pub client_type_code: i32,
    /// Key `requestType`: 1 online, 2 heartbeat; online when missing or no such number.
    pub request_type: ClientRequestType,
    /// Key `clientId`, or its older name `consumerId`.
    pub client_id: &'a str,
    /// Key `appCode`.
    pub app_code: &'a str,
    /// Key `consumerGroup`; empty for producers.
    pub consumer_group: &'a str,
    /// Key `clientLDC`: logical data centre; written only if set.
    pub ldc: &'a str,
}

impl ClientRegisterRequest<'_> {
    /// What the client does with the subject.
    #[must_use]
    pub const fn client_type(&self) -> ClientType {
        ClientType::from_code(self.client_type_code)
    }

    /// The client type as responses echo it: the low byte of the number, known or not.
    #[must_use]
    pub const fn echoed_client_type(&self) -> i8 {
        let [.., low] = self.client_type_code.to_be_bytes();
        i8::from_be_bytes([low])
    }
}

impl Encode for ClientRegisterRequest<'_> {
    /// Writes the keys in the order of the Java client.
    ///
    /// # Panics
    /// When a text is over 32 767 bytes.
    fn encode(&self, _version: i16, out: &mut BytesMut) {
        let client_type = self.client_type_code.to_string();
        let request_type = self.request_type.code().to_string();
        let entries = [
            ("clientLDC", self.ldc),
            ("clientId", self.client_id),
            ("clientTypeCode", &client_type),
            ("requestType", &request_type),
            ("subject", self.subject),
            ("appCode", self.app_code),
            ("consumerGroup", self.consumer_group),
        ];
        let entries = if self.ldc.is_empty() {
            &entries[1..]
        } else {
            &entries[..]
        };
        out.put_i16(if self.ldc.is_empty() { 6 } else { 7 });
        for (key, value) in entries {
            put_str(out, key.as_bytes());
            put_str(out, value.as_bytes());
        }
    }
}

impl<'a> Decode<'a> for ClientRegisterRequest<'a> {
    fn decode(version: i16, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut request = Self {
            subject: "",
            client_type_code: i32::from(ClientType::Other.code()),
            request_type: ClientRequestType::Online,
            client_id: "",
            app_code: "",
            consumer_group: "",
            ldc: "",
        };
        let mut old_client_id = "";
        let mut reader = Reader::new(body);
        // A count below zero is an empty map, so the range is simply empty.
        for _ in 0..reader.i16("count")? {
            let key = reader.short_bytes("key")?;
            let mut value = reader.clone();
            reader.short_bytes("value")?;
            match key {
                b"subject" => request.subject = value.str("subject")?,
                b"clientTypeCode" => {
                    let other = i32::from(ClientType::Other.code());
                    request.client_type_code = number(&mut value)?.unwrap_or(other);
                }
                b"requestType" => {
                    let is_heartbeat = number(&mut value)? == Some(2);
                    request.request_type = if is_heartbeat {
                        ClientRequestType::Heartbeat
                    } else {
                        ClientRequestType::Online
                    };
                }
                b"clientId" => request.client_id = value.str("clientId")?,
                b"consumerId" => old_client_id = value.str("consumerId")?,
                b"appCode" => request.app_code = value.str("appCode")?,
                b"consumerGroup" => request.consumer_group = value.str("consumerGroup")?,
                b"clientLDC" => request.ldc = value.str("clientLDC")?,
                _ => {}
            }
        }
        if request.client_id.is_empty() {
            request.client_id = old_client_id;
        }
        reader.end_of(version)?;
        Ok(request)
    }
}

fn number(value: &mut Reader<'_>) -> Result<Option<i32>, DecodeError> {
    let text = value.short_bytes("value")?;
    Ok(std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(count: i16, entries: &[(&[u8], &[u8])]) -> BytesMut {
        let mut out = BytesMut::new();
        out.put_i16(count);
        for (key, value) in entries {
            put_str(&mut out, key);
            put_str(&mut out, value);
        }
        out
    }

    #[test]
    fn what_is_missing_has_a_default() {
        let expected = ClientRegisterRequest {
            subject: "",
            client_type_code: 3,
            request_type: ClientRequestType::Online,
            client_id: "",
            app_code: "",
            consumer_group: "",
            ldc: "",
        };
        let numbers: [(&[u8], &[u8]); 2] = [(b"clientTypeCode", b"two"), (b"requestType", b"")];
        for body in [
            map(0, &[]),
            map(-1, &[]),
            map(i16::MIN, &[]),
            map(2, &numbers),
        ] {
            assert_eq!(ClientRegisterRequest::decode(9, &body), Ok(expected));
        }
    }

    #[test]
    fn unknown_keys_are_ignored_whatever_they_hold() {
        let body = map(
            3,
            &[(b"room", b"\xFF"), (b"\xFF", b"x"), (b"subject", b"a.b")],
        );
        assert_eq!(
            ClientRegisterRequest::decode(3, &body).unwrap().subject,
            "a.b"
        );
    }

    #[test]
    fn a_repeated_key_keeps_the_last_value() {
        let body = map(2, &[(b"appCode", b"first"), (b"appCode", b"last")]);
        assert_eq!(
            ClientRegisterRequest::decode(9, &body).unwrap().app_code,
            "last"
        );
    }

    #[test]
    fn the_client_id_has_an_older_name() {
        let body = map(1, &[(b"consumerId", b"old")]);
        assert_eq!(
            ClientRegisterRequest::decode(3, &body).unwrap().client_id,
            "old"
        );
        let body = map(2, &[(b"clientId", b"new"), (b"consumerId", b"old")]);
        assert_eq!(
            ClientRegisterRequest::decode(9, &body).unwrap().client_id,
            "new"
        );
    }

    #[test]
    fn the_client_type_is_echoed_by_its_low_byte() {
        let cases: [(&[u8], ClientType, i8); 6] = [
            (b"1", ClientType::Producer, 1),
            (b"2", ClientType::Consumer, 2),
            (b"4", ClientType::DelayProducer, 4),
            (b"77", ClientType::Other, 77),
            (b"300", ClientType::Other, 44),
            (b"-1", ClientType::Other, -1),
        ];
        for (text, client_type, echoed) in cases {
            let body = map(1, &[(b"clientTypeCode", text)]);
            let request = ClientRegisterRequest::decode(9, &body).unwrap();
            assert_eq!(
                (request.client_type(), request.echoed_client_type()),
                (client_type, echoed)
            );
        }
    }
}
