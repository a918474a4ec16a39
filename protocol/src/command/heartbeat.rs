//! HEARTBEAT (100): any client asks any server whether it is there.
//!
//! Request and response have no body. The response has [`ResultCode::Heartbeat`]: clients skip a
//! reply with that code quietly, where they log any other as unmatched.
//!
//! [`ResultCode::Heartbeat`]: crate::ResultCode::Heartbeat

use bytes::BytesMut;

use crate::codec::{Decode, Encode};
use crate::error::DecodeError;

/// Request and response alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat;

impl Encode for Heartbeat {
    fn encode(&self, _version: i16, _out: &mut BytesMut) {}
}

impl Decode<'_> for Heartbeat {
    /// Never fails: a body that should not be there is no reason to call a peer dead.
    fn decode(_version: i16, _body: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self)
    }
}
