//! Encode and decode: checked reads over borrowed bytes.

use bytes::BytesMut;

use crate::error::DecodeError;
use crate::frame::VERSION;

/// Something with a body layout that depends on the header's version.
pub trait Encode {
    /// Appends the body to `out`.
    fn encode(&self, version: i16, out: &mut BytesMut);
}

/// Something that can be read from a body.
pub trait Decode<'a>: Sized {
    /// Reads the whole of `body`.
    ///
    /// # Errors
    /// When the body is no such thing; nothing of it may be used then.
    fn decode(version: i16, body: &'a [u8]) -> Result<Self, DecodeError>;
}

/// Reads fields off the front of a body.
#[derive(Clone, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads from the start of `body`.
    #[must_use]
    pub fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    /// What has not been read yet.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// A fixed number of bytes.
    ///
    /// # Errors
    /// When the body ends before.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Truncated { field })?;
        self.0 = tail;
        Ok(*head)
    }

    /// One byte.
    ///
    /// # Errors
    /// When the body ends before.
    pub fn i8(&mut self, field: &'static str) -> Result<i8, DecodeError> {
        self.array(field).map(i8::from_be_bytes)
    }

    /// A 16-bit number.
    ///
    /// # Errors
    /// When the body ends before.
    pub fn i16(&mut self, field: &'static str) -> Result<i16, DecodeError> {
        self.array(field).map(i16::from_be_bytes)
    }

    /// A 32-bit number.
    ///
    /// # Errors
    /// When the body ends before.
    pub fn i32(&mut self, field: &'static str) -> Result<i32, DecodeError> {
        self.array(field).map(i32::from_be_bytes)
    }

    /// A 64-bit number.
    ///
    /// # Errors
    /// When the body ends before.
    pub fn i64(&mut self, field: &'static str) -> Result<i64, DecodeError> {
        self.array(field).map(i64::from_be_bytes)
    }

    /// `len` bytes.
    ///
    /// # Errors
    /// When the body ends before.
    pub fn bytes(&mut self, field: &'static str, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self
            .0
            .split_at_checked(len)
            .ok_or(DecodeError::Truncated { field })?;
        self.0 = tail;
        Ok(head)
    }

    /// Bytes with an `i16` length.
    ///
    /// # Errors
    /// When the length is negative or the body ends before.
    pub fn short_bytes(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let length = self.i16(field)?;
        let len = usize::try_from(length).map_err(|_| DecodeError::Length {
            field,
            length: length.into(),
        })?;
        self.bytes(field, len)
    }

    /// Text with an `i16` length.
    ///
    /// # Errors
    /// When the length is negative, the body ends before, or the text is not UTF-8.
    pub fn str(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.short_bytes(field)?).map_err(|_| DecodeError::NotUtf8 { field })
    }

    /// Nothing may be left.
    ///
    /// # Errors
    /// When something is.
    pub fn end(self) -> Result<(), DecodeError> {
        match self.0.len() {
            0 => Ok(()),
            bytes => Err(DecodeError::Trailing { bytes }),
        }
    }

    /// Nothing may be left, unless the sender speaks a version newer than ours: that one may have
    /// appended fields, and is served as if it were ours.
    ///
    /// # Errors
    /// When something is left of a body of a version up to [`VERSION`].
    pub fn end_of(self, version: i16) -> Result<(), DecodeError> {
        if version > VERSION {
            Ok(())
        } else {
            self.end()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_fields_in_turn() {
        let bytes = [1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, b'a', 9];
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.i8("a"), Ok(1));
        assert_eq!(reader.i16("b"), Ok(2));
        assert_eq!(reader.i32("c"), Ok(3));
        assert_eq!(reader.i64("d"), Ok(4));
        assert_eq!(reader.str("e"), Ok("a"));
        assert_eq!(
            reader.clone().end(),
            Err(DecodeError::Trailing { bytes: 1 })
        );
        assert_eq!(reader.bytes("f", 1), Ok(&[9][..]));
        assert_eq!(reader.end(), Ok(()));
    }

    #[test]
    fn a_string_is_cut_off_negative_or_no_text() {
        let read = |bytes: &'static [u8]| Reader::new(bytes).str("name");
        let field = "name";
        assert_eq!(read(&[0]), Err(DecodeError::Truncated { field }));
        assert_eq!(read(&[0, 2, b'a']), Err(DecodeError::Truncated { field }));
        assert_eq!(
            read(&[0x80, 0]),
            Err(DecodeError::Length {
                field,
                length: -32_768
            })
        );
        assert_eq!(read(&[0, 1, 0xFF]), Err(DecodeError::NotUtf8 { field }));
        assert_eq!(read(&[0, 0]), Ok(""));
    }

    #[test]
    fn a_failed_read_takes_nothing() {
        let mut reader = Reader::new(&[1, 2, 3]);
        assert!(reader.i32("a").is_err() && reader.bytes("b", 4).is_err());
        assert_eq!(reader.rest(), [1, 2, 3]);
    }
}
