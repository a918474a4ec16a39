//! SYNC_LOG_REQUEST (20) of a delay server: request and bytes of a dispatch file.

use bytes::{BufMut, BytesMut};

use super::{SyncType, read_size, read_type, size_of};
use crate::codec::{Decode, Encode, Reader};
use crate::error::DecodeError;

/// A dispatch file of the slave, and how much of it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DispatchFile {
    /// Its name as a number, such as 202611201500; -1 for none.
    pub base: i64,
    /// Its size in bytes; -1 for none.
    pub bytes: i64,
}

impl DispatchFile {
    /// There is no such file, or it does not matter.
    pub const NONE: Self = Self {
        base: -1,
        bytes: -1,
    };
}

/// A slave asks a delay server. Numbers are as received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DelaySyncLogRequest {
    /// What is wanted.
    pub sync_type: SyncType,
    /// First byte wanted of the message log; -1 when the dispatch files are meant.
    pub message_offset: i64,
    /// The slave's newest dispatch file.
    pub newest: DispatchFile,
    /// The next older one.
    pub older: DispatchFile,
}

impl Encode for DelaySyncLogRequest {
    fn encode(&self, _version: i16, out: &mut BytesMut) {
        out.put_i8(self.sync_type.code());
        out.put_i64(self.message_offset);
        for file in [self.newest, self.older] {
            out.put_i64(file.base);
            out.put_i64(file.bytes);
        }
    }
}

impl<'a> Decode<'a> for DelaySyncLogRequest {
    /// An unknown type is an error; a known one may still be none of this server's.
    fn decode(version: i16, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let request = Self {
            sync_type: read_type(&mut reader)?,
            message_offset: reader.i64("messageOffset")?,
            newest: DispatchFile {
                base: reader.i64("segmentBase")?,
                bytes: reader.i64("segmentOffset")?,
            },
            older: DispatchFile {
                base: reader.i64("lastSegmentBase")?,
                bytes: reader.i64("lastSegmentOffset")?,
            },
        };
        reader.end_of(version)?;
        Ok(request)
    }
}

/// Bytes of a dispatch file: the answer to type 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncDispatchResponse<'a> {
    /// Where they begin in the file. Whoever appends must compare it with the own size.
    pub start: i64,
    /// The file: one that was asked for, or the next newer one.
    pub base: i64,
    /// The bytes; none when there is nothing new.
    pub bytes: &'a [u8],
}

impl Encode for SyncDispatchResponse<'_> {
    fn encode(&self, _version: i16, out: &mut BytesMut) {
        out.put_i32(size_of(self.bytes));
        out.put_i64(self.start);
        out.put_i64(self.base);
        out.put_slice(self.bytes);
    }
}

impl<'a> Decode<'a> for SyncDispatchResponse<'a> {
    fn decode(version: i16, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let size = read_size(&mut reader)?;
        let response = Self {
            start: reader.i64("start")?,
            base: reader.i64("segmentBase")?,
            bytes: reader.bytes("bytes", size)?,
        };
        reader.end_of(version)?;
        Ok(response)
    }
}
