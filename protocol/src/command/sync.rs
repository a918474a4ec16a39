//! SYNC_LOG_REQUEST (20) and SYNC_CHECKPOINT_REQUEST (21): how a slave copies its master.
//!
//! ```text
//! request to a broker          i8 type, i64 messagelog offset, i64 actionlog offset
//! request to a delay server    i8 type, i64 message log offset, then a newest and an older
//!                              dispatch file, each i64 base, i64 size; -1 for none
//! response, types 1 and 2      i32 size, i64 start, bytes of the log
//! response, type 3             i64 end of the message log, i64 end of the other log
//! response, type 4             i32 size, i64 start, i64 base of the file, bytes of the file
//! response, type 5             i32 size, i64 next offset to ask for, digest entries
//! ```
//!
//! Both requests have the same code: a server knows its own by the port they reach. The offset a
//! slave asks for is also its acknowledgement of everything before it. Offsets are bytes of a log.
//! A batch may end anywhere, also inside a record. Layouts do not depend on the version.

mod checkpoint;
mod delay;
mod index;
mod log;

use crate::codec::Reader;
use crate::error::DecodeError;

pub use checkpoint::{SyncCheckpointRequest, SyncCheckpointResponse};
pub use delay::{DelaySyncLogRequest, DispatchFile, SyncDispatchResponse};
pub use index::{SyncIndexEntry, SyncIndexResponse};
pub use log::{SyncHeartbeatResponse, SyncLogRequest, SyncLogResponse};

/// What a slave asks for: the first byte of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i8)]
pub enum SyncType {
    /// Bytes of a broker's actionlog.
    Action = 1,
    /// Bytes of the messagelog. The offset releases producers that wait for a slave.
    Message = 2,
    /// How far the logs reach; tells the slave's own ends and releases nobody.
    Heartbeat = 3,
    /// Bytes of a delay server's dispatch file.
    Dispatch = 4,
    /// Subjects and ids of a broker's messages, for a backup.
    Index = 5,
}

impl SyncType {
    /// The type with this number, if there is one.
    #[must_use]
    pub const fn from_code(code: i8) -> Option<Self> {
        Some(match code {
            1 => Self::Action,
            2 => Self::Message,
            3 => Self::Heartbeat,
            4 => Self::Dispatch,
            5 => Self::Index,
            _ => return None,
        })
    }

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> i8 {
        self as i8
    }
}

fn read_type(reader: &mut Reader<'_>) -> Result<SyncType, DecodeError> {
    let code = reader.i8("type")?;
    SyncType::from_code(code).ok_or(DecodeError::Unknown {
        field: "type",
        value: code.into(),
    })
}

/// A size in front of a block.
fn read_size(reader: &mut Reader<'_>) -> Result<usize, DecodeError> {
    let size = reader.i32("size")?;
    usize::try_from(size).map_err(|_| DecodeError::Length {
        field: "size",
        length: size.into(),
    })
}

/// A block's size as it is written.
fn size_of(bytes: &[u8]) -> i32 {
    i32::try_from(bytes.len()).expect("a response fits a frame")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_numbers_lead_back() {
        let known: Vec<_> = (i8::MIN..=i8::MAX)
            .filter_map(|code| Some((code, SyncType::from_code(code)?)))
            .inspect(|(code, sync_type)| assert_eq!(sync_type.code(), *code))
            .map(|(code, _)| code)
            .collect();
        assert_eq!(known, [1, 2, 3, 4, 5]);
    }
}
