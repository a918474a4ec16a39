//! BROKER_ACQUIRE_META (40): a broker asks the metaserver who it is.
//!
//! ```text
//! request    str host name, i32 serve port
//! response   str group name, str master, i32 role
//! ```
//!
//! A broker that is not registered, or has no peer to copy from, is answered 51 without a body.

use bytes::{BufMut, BytesMut};
use qmq_model::BrokerRole;
use qmq_model::payload::put_str;

use crate::codec::{Decode, Encode, Reader};
use crate::error::DecodeError;

/// Asks for the entry of one broker process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerAcquireMetaRequest<'a> {
    /// Host name as it was registered.
    pub hostname: &'a str,
    /// Port that clients use.
    pub port: i32,
}

impl Encode for BrokerAcquireMetaRequest<'_> {
    /// # Panics
    /// When the host name is over 32 767 bytes.
    fn encode(&self, _version: i16, out: &mut BytesMut) {
        put_str(out, self.hostname.as_bytes());
        out.put_i32(self.port);
    }
}

impl<'a> Decode<'a> for BrokerAcquireMetaRequest<'a> {
    fn decode(version: i16, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let request = Self {
            hostname: reader.str("hostname")?,
            port: reader.i32("port")?,
        };
        reader.end_of(version)?;
        Ok(request)
    }
}

/// The entry of one broker process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerAcquireMetaResponse<'a> {
    /// Name of its broker group.
    pub name: &'a str,
    /// `ip:syncPort` to copy from; empty for a master.
    pub master: &'a str,
    /// What it is within the group.
    pub role: BrokerRole,
}

impl Encode for BrokerAcquireMetaResponse<'_> {
    /// # Panics
    /// When a text is over 32 767 bytes.
    fn encode(&self, _version: i16, out: &mut BytesMut) {
        put_str(out, self.name.as_bytes());
        put_str(out, self.master.as_bytes());
        out.put_i32(self.role.code());
    }
}

impl<'a> Decode<'a> for BrokerAcquireMetaResponse<'a> {
    /// An unknown role is an error: a broker that does not know what it is must not start.
    fn decode(version: i16, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let name = reader.str("name")?;
        let master = reader.str("master")?;
        let code = reader.i32("role")?;
        let unknown = DecodeError::Unknown {
            field: "role",
            value: code.into(),
        };
        let role = BrokerRole::from_code(code).ok_or(unknown)?;
        reader.end_of(version)?;
        Ok(Self { name, master, role })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_role_nobody_knows() {
        let mut body = BytesMut::new();
        put_str(&mut body, b"group");
        put_str(&mut body, b"");
        body.put_i32(8);
        let unknown = DecodeError::Unknown {
            field: "role",
            value: 8,
        };
        assert_eq!(BrokerAcquireMetaResponse::decode(9, &body), Err(unknown));
    }
}
