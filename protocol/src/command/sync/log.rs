//! SYNC_LOG_REQUEST (20) of a broker: request, bytes of a log, heartbeat.

use bytes::{BufMut, BytesMut};

use super::{SyncType, read_size, read_type, size_of};
use crate::codec::{Decode, Encode, Reader};
use crate::error::DecodeError;

/// A slave or backup asks a broker. Offsets are as received: negative ones are the server's to
/// judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncLogRequest {
    /// What is wanted.
    pub sync_type: SyncType,
    /// First byte wanted of the messagelog; 0 from a slave that wants the actionlog. An index
    /// request has the same offset in both fields.
    pub message_offset: i64,
    /// First byte wanted of the actionlog; 0 from a slave that wants the messagelog.
    pub action_offset: i64,
}

impl Encode for SyncLogRequest {
    fn encode(&self, _version: i16, out: &mut BytesMut) {
        out.put_i8(self.sync_type.code());
        out.put_i64(self.message_offset);
        out.put_i64(self.action_offset);
    }
}

impl<'a> Decode<'a> for SyncLogRequest {
    /// An unknown type is an error; a known one may still be none of this server's.
    fn decode(version: i16, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let request = Self {
            sync_type: read_type(&mut reader)?,
            message_offset: reader.i64("messageOffset")?,
            action_offset: reader.i64("actionOffset")?,
        };
        reader.end_of(version)?;
        Ok(request)
    }
}

/// Bytes of a log: the answer to types 1 and 2, from brokers and delay servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncLogResponse<'a> {
    /// Where they begin in the log: the offset that was asked for, or the base of the oldest
    /// segment when that offset is gone. Whoever appends must compare it with the own end.
    pub start: i64,
    /// The bytes; none when there is nothing new. They never cross a segment and may end inside a
    /// record.
    pub bytes: &'a [u8],
}

impl Encode for SyncLogResponse<'_> {
    fn encode(&self, _version: i16, out: &mut BytesMut) {
        out.put_i32(size_of(self.bytes));
        out.put_i64(self.start);
        out.put_slice(self.bytes);
    }
}

impl<'a> Decode<'a> for SyncLogResponse<'a> {
    fn decode(version: i16, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let size = read_size(&mut reader)?;
        let response = Self {
            start: reader.i64("start")?,
            bytes: reader.bytes("bytes", size)?,
        };
        reader.end_of(version)?;
        Ok(response)
    }
}

/// How far the master's logs reach: the answer to type 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncHeartbeatResponse {
    /// End of the message log.
    pub message_end: i64,
    /// From a broker: end of the actionlog. From a delay server: size of the dispatch file that the
    /// request names as its newest, 0 if it has none of that name.
    pub other_end: i64,
}

impl Encode for SyncHeartbeatResponse {
    fn encode(&self, _version: i16, out: &mut BytesMut) {
        out.put_i64(self.message_end);
        out.put_i64(self.other_end);
    }
}

impl<'a> Decode<'a> for SyncHeartbeatResponse {
    fn decode(version: i16, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let response = Self {
            message_end: reader.i64("messageOffset")?,
            other_end: reader.i64("otherOffset")?,
        };
        reader.end_of(version)?;
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_type_is_refused() {
        let mut body = BytesMut::new();
        SyncLogRequest {
            sync_type: SyncType::Message,
            message_offset: 7,
            action_offset: 0,
        }
        .encode(9, &mut body);
        assert_eq!(body.len(), 17);
        for code in [0_u8, 6, 0xFF] {
            body[0] = code;
            assert!(matches!(
                SyncLogRequest::decode(9, &body),
                Err(DecodeError::Unknown { field: "type", .. })
            ));
        }
    }

    #[test]
    fn the_size_is_that_of_the_bytes() {
        let mut body = BytesMut::new();
        let response = SyncLogResponse {
            start: 5,
            bytes: b"abc",
        };
        response.encode(9, &mut body);
        assert_eq!(SyncLogResponse::decode(9, &body), Ok(response));
        for (size, expected) in [
            (4, "body ends inside bytes"),
            (2, "1 bytes follow the last field"),
            (-1, "size has the impossible length -1"),
            (i32::MAX, "body ends inside bytes"),
        ] {
            body[..4].copy_from_slice(&i32::to_be_bytes(size));
            let error = SyncLogResponse::decode(9, &body).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }
}
