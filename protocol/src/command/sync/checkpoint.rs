//! SYNC_CHECKPOINT_REQUEST (21): where an empty slave begins.
//!
//! ```text
//! request    nothing
//! response   i8 1, then twice i32 size and text: message checkpoint, action checkpoint
//! ```
//!
//! The texts have a line per entry:
//!
//! ```text
//! message    "2", offset, then per subject   subject/sequence
//! action     "3", offset, then per subject   subject/number of groups
//!                             per group      group/broadcast (0 or 1)/pulled/number of consumers
//!                             per consumer   consumer id/pulled/acknowledged
//! ```

use bytes::{BufMut, BytesMut};

use super::{read_size, size_of};
use crate::codec::{Decode, Encode, Reader};
use crate::error::DecodeError;

/// The first byte of a response.
const FORMAT: i8 = 1;

/// Asks for the master's checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncCheckpointRequest;

impl Encode for SyncCheckpointRequest {
    fn encode(&self, _version: i16, _out: &mut BytesMut) {}
}

impl<'a> Decode<'a> for SyncCheckpointRequest {
    fn decode(version: i16, body: &'a [u8]) -> Result<Self, DecodeError> {
        Reader::new(body).end_of(version)?;
        Ok(Self)
    }
}

/// The master's checkpoint: two texts, unchecked. They are not of the same instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncCheckpointResponse<'a> {
    /// Messagelog offset and the highest sequence of every subject.
    pub messages: &'a [u8],
    /// Actionlog offset and the progress of every group and consumer.
    pub actions: &'a [u8],
}

impl Encode for SyncCheckpointResponse<'_> {
    fn encode(&self, _version: i16, out: &mut BytesMut) {
        out.put_i8(FORMAT);
        for text in [self.messages, self.actions] {
            out.put_i32(size_of(text));
            out.put_slice(text);
        }
    }
}

impl<'a> Decode<'a> for SyncCheckpointResponse<'a> {
    /// Refuses any other first byte: what follows it is unknown.
    fn decode(version: i16, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let format = reader.i8("format")?;
        if format != FORMAT {
            return Err(DecodeError::Unknown {
                field: "format",
                value: format.into(),
            });
        }
        let mut text = |field| {
            let size = read_size(&mut reader)?;
            reader.bytes(field, size)
        };
        let messages = text("message checkpoint")?;
        let actions = text("action checkpoint")?;
        reader.end_of(version)?;
        Ok(Self { messages, actions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_another_format() {
        for format in [0, 2, 0xFF] {
            let body = [format, 0, 0, 0, 0, 0, 0, 0, 0];
            assert!(matches!(
                SyncCheckpointResponse::decode(9, &body),
                Err(DecodeError::Unknown {
                    field: "format",
                    ..
                })
            ));
        }
    }
}
