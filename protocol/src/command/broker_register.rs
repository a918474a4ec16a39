//! BROKER_REGISTER (30): a broker tells the metaserver that it is online, alive or going.
//!
//! ```text
//! i32 request type       0 online, 1 heartbeat, 2 offline
//! str group name
//! str broker address     ip:port that clients use
//! i32 role
//! i32 state
//! ```
//!
//! The response has no body.

use bytes::{BufMut, BytesMut};
use qmq_model::payload::put_str;
use qmq_model::{BrokerRole, BrokerState};

use crate::codec::{Decode, Encode, Reader};
use crate::error::DecodeError;

/// What a broker reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum BrokerRequestType {
    /// Ready to serve; makes the group readable and writable.
    Online = 0,
    /// Still there, in the state it names.
    Heartbeat = 1,
    /// About to stop.
    Offline = 2,
}

impl BrokerRequestType {
    /// The type with this number, if there is one.
    #[must_use]
    pub const fn from_code(code: i32) -> Option<Self> {
        Some(match code {
            0 => Self::Online,
            1 => Self::Heartbeat,
            2 => Self::Offline,
            _ => return None,
        })
    }

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> i32 {
        self as i32
    }
}

/// A report of one broker. Numbers are as received: which ones matter depends on the role, so an
/// unknown one is for the metaserver to judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerRegisterRequest<'a> {
    /// Number of a [`BrokerRequestType`].
    pub request_type_code: i32,
    /// Name of the broker group.
    pub group_name: &'a str,
    /// `ip:port` that clients use.
    pub broker_address: &'a str,
    /// Number of a [`BrokerRole`].
    pub role_code: i32,
    /// Number of a [`BrokerState`].
    pub state_code: i32,
}

impl BrokerRegisterRequest<'_> {
    /// What is reported, if its number is known.
    #[must_use]
    pub const fn request_type(&self) -> Option<BrokerRequestType> {
        BrokerRequestType::from_code(self.request_type_code)
    }

    /// The broker's role, if its number is known.
    #[must_use]
    pub const fn role(&self) -> Option<BrokerRole> {
        BrokerRole::from_code(self.role_code)
    }

    /// The broker's state, if its number is known.
    #[must_use]
    pub const fn state(&self) -> Option<BrokerState> {
        BrokerState::from_code(self.state_code)
    }
}

impl Encode for BrokerRegisterRequest<'_> {
    /// # Panics
    /// When a text is over 32 767 bytes.
    fn encode(&self, _version: i16, out: &mut BytesMut) {
        out.put_i32(self.request_type_code);
        put_str(out, self.group_name.as_bytes());
        put_str(out, self.broker_address.as_bytes());
        out.put_i32(self.role_code);
        out.put_i32(self.state_code);
    }
}

impl<'a> Decode<'a> for BrokerRegisterRequest<'a> {
    fn decode(version: i16, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let request = Self {
            request_type_code: reader.i32("requestType")?,
            group_name: reader.str("groupName")?,
            broker_address: reader.str("brokerAddress")?,
            role_code: reader.i32("brokerRole")?,
            state_code: reader.i32("brokerState")?,
        };
        reader.end_of(version)?;
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_numbers_are_kept_for_the_metaserver() {
        let request = BrokerRegisterRequest {
            request_type_code: 3,
            group_name: "g",
            broker_address: "10.0.0.1:20881",
            role_code: 8,
            state_code: 0,
        };
        let mut body = BytesMut::new();
        request.encode(8, &mut body);
        let read = BrokerRegisterRequest::decode(8, &body).unwrap();
        assert_eq!(read, request);
        assert_eq!(
            (read.request_type(), read.role(), read.state()),
            (None, None, None)
        );
    }
}
