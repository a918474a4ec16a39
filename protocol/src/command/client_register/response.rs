//! CLIENT_REGISTER (35), the response: the broker groups of a subject.
//!
//! ```text
//! i64 timestamp          ms
//! str subject
//! str group
//! i8  on/off             0 online, 1 offline
//! i8  client type
//! i16 count, then count times:
//!     str group name, str master (ip:port), i64 update time, i8 state
//! ```
//!
//! Legacy clients (version below 4) have a layout of their own:
//!
//! ```text
//! str subject
//! i8  client type
//! i16 count, then count times:
//!     str group name, str master (ip:port), str room, i64 update time, i8 state
//! ```
//!
//! Clients match a response by (client type, subject), not by the header's opaque, so both are
//! echoed as they came.

use bytes::{BufMut, BytesMut};
use qmq_model::payload::put_str;
use qmq_model::{BrokerGroup, BrokerState};

use super::ClientRegisterRequest;
use crate::codec::{Decode, Encode, Reader};
use crate::error::DecodeError;
use crate::frame::{VERSION, is_legacy};

/// Whether a consumer may consume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i8)]
pub enum OnOfflineState {
    /// It may.
    Online = 0,
    /// An operator, or a refusal, says it may not.
    Offline = 1,
}

/// The answer: which brokers serve the subject. Its code is 0 even for a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRegisterResponse<'a> {
    /// When the on/off table was read, ms, or one of the constants below. Never goes back.
    pub timestamp_ms: i64,
    /// The subject exactly as it was asked for.
    pub subject: &'a str,
    /// The group as it was asked for.
    pub consumer_group: &'a str,
    /// Whether the client may consume.
    pub state: OnOfflineState,
    /// [`ClientRegisterRequest::echoed_client_type`].
    pub client_type_code: i8,
    /// The groups that serve the subject, names unique. None at all stops a consumer.
    pub groups: Vec<BrokerGroup>,
}

impl<'a> ClientRegisterResponse<'a> {
    /// Timestamp before the on/off table was read for the first time.
    pub const TIMESTAMP_NONE: i64 = -1;
    /// Timestamp of a refusal.
    pub const TIMESTAMP_REFUSED: i64 = -2;

    /// The refusal of `request`.
    #[must_use]
    pub const fn refusal(request: &ClientRegisterRequest<'a>) -> Self {
        Self {
            timestamp_ms: Self::TIMESTAMP_REFUSED,
            subject: request.subject,
            consumer_group: request.consumer_group,
            state: OnOfflineState::Offline,
            client_type_code: request.echoed_client_type(),
            groups: Vec::new(),
        }
    }

    /// Whether a client of `version` can be sent this. Without groups a legacy one must not: C++
    /// clients divide by their number, Erlang clients crash on any code but success. Both get over
    /// silence.
    #[must_use]
    pub fn may_be_sent_to(&self, version: i16) -> bool {
        !is_legacy(version) || !self.groups.is_empty()
    }

    /// Appends this response in the layout of `version`. The trait's `encode` always writes today's
    /// layout, as Java servers do.
    ///
    /// # Panics
    /// As the trait's `encode`.
    pub fn encode_for_version(&self, version: i16, out: &mut BytesMut) {
        if !is_legacy(version) {
            return self.encode(version, out);
        }
        put_str(out, self.subject.as_bytes());
        out.put_i8(self.client_type_code);
        put_groups(&self.groups, out, |group, out| {
            put_str(out, group.name.as_bytes());
            put_str(out, group.master.as_bytes());
            put_str(out, NO_ROOM);
        });
    }

    /// Reads a response in the layout of `version`. What the legacy one leaves out is as in a first
    /// answer to a producer: no timestamp, no group, online. Rooms are stepped over.
    ///
    /// # Errors
    /// As the trait's `decode`.
    pub fn decode_version(version: i16, body: &'a [u8]) -> Result<Self, DecodeError> {
        if !is_legacy(version) {
            return Self::decode(version, body);
        }
        let mut reader = Reader::new(body);
        let response = Self {
            timestamp_ms: Self::TIMESTAMP_NONE,
            subject: reader.str("subject")?,
            consumer_group: "",
            state: OnOfflineState::Online,
            client_type_code: reader.i8("clientTypeCode")?,
            groups: read_groups(version, &mut reader)?,
        };
        reader.end()?;
        Ok(response)
    }

    /// Whether the metaserver refused to answer.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        self.timestamp_ms == Self::TIMESTAMP_REFUSED
    }
}

impl Encode for ClientRegisterResponse<'_> {
    /// # Panics
    /// When a text is over 32 767 bytes or there are more than 32 767 groups.
    fn encode(&self, _version: i16, out: &mut BytesMut) {
        out.put_i64(self.timestamp_ms);
        put_str(out, self.subject.as_bytes());
        put_str(out, self.consumer_group.as_bytes());
        out.put_i8(self.state as i8);
        out.put_i8(self.client_type_code);
        put_groups(&self.groups, out, |group, out| {
            put_str(out, group.name.as_bytes());
            put_str(out, group.master.as_bytes());
        });
    }
}

/// Legacy clients choose nothing by room.
const NO_ROOM: &[u8] = b"";

fn put_groups(
    groups: &[BrokerGroup],
    out: &mut BytesMut,
    put_names: impl Fn(&BrokerGroup, &mut BytesMut),
) {
    out.put_i16(i16::try_from(groups.len()).expect("a subject has few groups"));
    for group in groups {
        put_names(group, out);
        out.put_i64(group.updated_ms);
        out.put_i8(group.state.code());
    }
}

impl<'a> Decode<'a> for ClientRegisterResponse<'a> {
    fn decode(version: i16, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let timestamp_ms = reader.i64("timestamp")?;
        let subject = reader.str("subject")?;
        let consumer_group = reader.str("consumerGroup")?;
        let state = match reader.i8("onOfflineState")? {
            0 => OnOfflineState::Online,
            1 => OnOfflineState::Offline,
            other => {
                let value = other.into();
                return Err(DecodeError::Unknown {
                    field: "onOfflineState",
                    value,
                });
            }
        };
        let client_type_code = reader.i8("clientTypeCode")?;
        let groups = read_groups(VERSION, &mut reader)?;
        reader.end_of(version)?;
        Ok(Self {
            timestamp_ms,
            subject,
            consumer_group,
            state,
            client_type_code,
            groups,
        })
    }
}

fn read_groups(version: i16, reader: &mut Reader<'_>) -> Result<Vec<BrokerGroup>, DecodeError> {
    let count = reader.i16("groupCount")?;
    if count < 0 {
        return Err(DecodeError::Length {
            field: "groupCount",
            length: count.into(),
        });
    }
    (0..count).map(|_| read_group(version, reader)).collect()
}

fn read_group(version: i16, reader: &mut Reader<'_>) -> Result<BrokerGroup, DecodeError> {
    let name = reader.str("groupName")?.to_owned();
    let master = reader.str("master")?.to_owned();
    if is_legacy(version) {
        reader.str("room")?;
    }
    let updated_ms = reader.i64("updateTime")?;
    let code = reader.i8("brokerState")?;
    let unknown = DecodeError::Unknown {
        field: "brokerState",
        value: code.into(),
    };
    let state = BrokerState::from_code(code.into()).ok_or(unknown)?;
    Ok(BrokerGroup {
        name,
        master,
        updated_ms,
        state,
    })
}

#[cfg(test)]
mod tests {
    use super::super::ClientRequestType;
    use super::*;

    fn refusal() -> BytesMut {
        let request = ClientRegisterRequest {
            subject: "bad subject",
            client_type_code: 2,
            request_type: ClientRequestType::Online,
            client_id: "c",
            app_code: "a",
            consumer_group: "g",
            ldc: "",
        };
        let mut out = BytesMut::new();
        ClientRegisterResponse::refusal(&request).encode(9, &mut out);
        out
    }

    #[test]
    fn a_refusal_echoes_the_question() {
        let out = refusal();
        let refusal = ClientRegisterResponse::decode(9, &out).unwrap();
        assert!(refusal.is_refusal());
        assert_eq!(
            (refusal.subject, refusal.client_type_code),
            ("bad subject", 2)
        );
        assert_eq!(
            (refusal.state, refusal.groups.len()),
            (OnOfflineState::Offline, 0)
        );
    }

    #[test]
    fn a_negative_group_count_is_an_error() {
        let mut out = refusal();
        let at = out.len() - 2;
        out[at..].copy_from_slice(&(-1_i16).to_be_bytes());
        let error = DecodeError::Length {
            field: "groupCount",
            length: -1,
        };
        assert_eq!(ClientRegisterResponse::decode(9, &out), Err(error));
    }

    #[test]
    fn each_dialect_has_its_layout() {
        let group = BrokerGroup {
            name: "g1".into(),
            master: "10.0.0.1:20881".into(),
            updated_ms: 5,
            state: BrokerState::ReadWrite,
        };
        let response = ClientRegisterResponse {
            timestamp_ms: 7,
            subject: "a.b",
            consumer_group: "g",
            state: OnOfflineState::Offline,
            client_type_code: 1,
            groups: vec![group],
        };
        let written = |version| {
            let mut out = BytesMut::new();
            response.encode_for_version(version, &mut out);
            out
        };
        for version in [4, 7, 9] {
            let read = written(version);
            assert_eq!(
                ClientRegisterResponse::decode_version(version, &read),
                Ok(response.clone())
            );
        }
        let what_is_left = ClientRegisterResponse {
            timestamp_ms: -1,
            consumer_group: "",
            state: OnOfflineState::Online,
            ..response.clone()
        };
        for version in [i16::MIN, 0, 3] {
            let read = written(version);
            let read = ClientRegisterResponse::decode_version(version, &read);
            assert_eq!(read, Ok(what_is_left.clone()), "{version}");
            assert!(ClientRegisterResponse::decode(version, &written(version)).is_err());
        }
    }

    #[test]
    fn a_list_without_groups_is_not_for_legacy_clients() {
        let body = refusal();
        let refusal = ClientRegisterResponse::decode(9, &body).unwrap();
        for (version, expected) in [(0, false), (3, false), (4, true), (9, true)] {
            assert_eq!(refusal.may_be_sent_to(version), expected);
        }
    }
}
