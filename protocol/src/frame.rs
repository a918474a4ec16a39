//! The frame around every command: header, splitting, encoding.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// First bytes after the two length fields.
pub const MAGIC: u32 = 0xDEC1_0ADE;
/// Bytes from magic to request code.
pub const HEADER_BYTES: usize = HEADER_SIZE as usize;
/// Bytes in front of the body: two length fields and the header.
pub const PREFIX_BYTES: usize = 4 + 2 + HEADER_BYTES;
/// Largest body we take by default: the public API promises large strings of up to 4 MB.
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Layout version our own clients and servers send.
pub const VERSION: i16 = 9;
/// First version of today's dialect: a checksum before each sent message, failures only in the
/// answer. Clients below it (C++ and Erlang, 3) have layouts of their own for sends and registers.
pub const VERSION_FAILURES: i16 = 4;
/// First version with tags in pulled messages, one tag filter in a pull, a broadcast byte in an ack.
pub const VERSION_TAGS: i16 = 8;
/// First version with a list of filters in a pull.
pub const VERSION_FILTERS: i16 = 9;

/// Whether a client of `version` speaks the legacy dialect: other layouts of the send and the
/// register commands.
#[must_use]
pub const fn is_legacy(version: i16) -> bool {
    version < VERSION_FAILURES
}

/// The header size field of every frame.
const HEADER_SIZE: u8 = 18;
/// Bytes of a header behind the magic number.
const CODES_BYTES: usize = HEADER_BYTES - 4;
const FLAG_RESPONSE: i32 = 1;
const FLAG_ONE_WAY: i32 = 2;
const TOTAL_MIN: usize = PREFIX_BYTES - 4;

const _: () = assert!(PREFIX_BYTES + BODY_BYTES_MAX < i32::MAX as usize);

/// Why a stream of bytes cannot be split into frames. The connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The peer does not speak this protocol.
    #[error("wrong magic number {0:#010x}")]
    Magic(u32),
    /// Always 18.
    #[error("header size {0} instead of 18")]
    HeaderSize(i16),
    /// Negative, shorter than a header or over the limit.
    #[error("frame length {total} is not within {TOTAL_MIN}..={limit}")]
    Total {
        /// The length that was announced.
        total: i32,
        /// The largest length taken here.
        limit: usize,
    },
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Request: command code. Response: result code.
    pub code: i16,
    /// Layout version of the body.
    pub version: i16,
    /// Request id, echoed in the response.
    pub opaque: i32,
    /// Bit 0: response. Bit 1: one-way request.
    pub flag: i32,
    /// Response: code of the request. Never dispatch on it.
    pub request_code: i16,
}

impl Header {
    /// The header of a request as our own clients send it.
    #[must_use]
    pub const fn request(code: i16, opaque: i32) -> Self {
        Self {
            code,
            version: VERSION,
            opaque,
            flag: 0,
            request_code: code,
        }
    }

    /// The header of the response to `self` with result `code`.
    #[must_use]
    pub const fn response(&self, code: i16) -> Self {
        Self {
            code,
            version: self.version,
            opaque: self.opaque,
            flag: FLAG_RESPONSE,
            request_code: self.code,
        }
    }

    /// The header of the frame at the front of `bytes`, which [`frame_len`] has found good; `None`
    /// when it is not all there.
    #[must_use]
    pub fn peek(bytes: &[u8]) -> Option<Self> {
        let mut header = bytes.get(PREFIX_BYTES - CODES_BYTES..PREFIX_BYTES)?;
        Some(Self::get(&mut header))
    }

    /// Takes the codes off the front, which must be there.
    fn get(bytes: &mut impl Buf) -> Self {
        Self {
            code: bytes.get_i16(),
            version: bytes.get_i16(),
            opaque: bytes.get_i32(),
            flag: bytes.get_i32(),
            request_code: bytes.get_i16(),
        }
    }

    /// Whether this is a response.
    #[must_use]
    pub const fn is_response(&self) -> bool {
        self.flag & FLAG_RESPONSE != 0
    }

    /// Whether the sender wants no answer.
    #[must_use]
    pub const fn is_one_way(&self) -> bool {
        self.flag & FLAG_ONE_WAY != 0
    }

    /// Appends the length fields and this header for a body of `body_len` bytes.
    ///
    /// # Panics
    /// When the body is 2 GiB or longer; callers bound it by [`BODY_BYTES_MAX`].
    pub fn put(&self, body_len: usize, out: &mut impl BufMut) {
        let total = i32::try_from(TOTAL_MIN + body_len).expect("bodies are bounded");
        out.put_i32(total);
        out.put_i16(HEADER_SIZE.into());
        out.put_u32(MAGIC);
        out.put_i16(self.code);
        out.put_i16(self.version);
        out.put_i32(self.opaque);
        out.put_i32(self.flag);
        out.put_i16(self.request_code);
    }

    /// Appends a whole frame whose body `write` appends. The length is filled in afterwards.
    ///
    /// # Panics
    /// When the body is 2 GiB or longer; callers bound it by [`BODY_BYTES_MAX`].
    pub fn put_frame(&self, out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
        let start = out.len();
        self.put(0, out);
        write(out);
        let total = i32::try_from(out.len() - start - 4).expect("bodies are bounded");
        out[start..start + 4].copy_from_slice(&total.to_be_bytes());
    }
}

/// One whole frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its header.
    pub header: Header,
    /// Its body, a slice of the bytes that were read.
    pub body: Bytes,
}

/// Takes one whole frame off the front of `buf`; `None` means "read more first". Nothing is
/// reserved for an announced length: the buffer grows with the bytes that arrive.
///
/// # Errors
/// As soon as the prefix shows that this is no frame of at most `body_bytes_max`: the stream cannot
/// be read any further.
pub fn split_frame(buf: &mut BytesMut, body_bytes_max: usize) -> Result<Option<Frame>, FrameError> {
    let Some(len) = frame_len(buf, body_bytes_max)? else {
        return Ok(None);
    };
    if buf.len() < len {
        return Ok(None);
    }
    let mut frame = buf.split_to(len).freeze();
    frame.advance(PREFIX_BYTES - CODES_BYTES);
    let header = Header::get(&mut frame);
    Ok(Some(Frame {
        header,
        body: frame,
    }))
}

/// Length of the frame at the front of `buf`, length field included; `None` while its first ten
/// bytes are not there.
///
/// # Errors
/// As [`split_frame`].
pub fn frame_len(buf: &[u8], body_bytes_max: usize) -> Result<Option<usize>, FrameError> {
    let Some(prefix) = buf.first_chunk::<10>() else {
        return Ok(None);
    };
    let [t0, t1, t2, t3, h0, h1, m0, m1, m2, m3] = *prefix;
    let magic = u32::from_be_bytes([m0, m1, m2, m3]);
    if magic != MAGIC {
        return Err(FrameError::Magic(magic));
    }
    let header_size = i16::from_be_bytes([h0, h1]);
    if header_size != i16::from(HEADER_SIZE) {
        return Err(FrameError::HeaderSize(header_size));
    }
    let total = i32::from_be_bytes([t0, t1, t2, t3]);
    let limit = TOTAL_MIN.saturating_add(body_bytes_max);
    match usize::try_from(total) {
        Ok(len) if (TOTAL_MIN..=limit).contains(&len) => Ok(Some(4 + len)),
        _ => Err(FrameError::Total { total, limit }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: Header = Header::request(11, 7);

    fn frame(header: Header, body: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        header.put_frame(&mut out, |out| out.put_slice(body));
        out
    }

    /// A frame with `bytes` written over it from `at` on.
    fn damaged(at: usize, bytes: &[u8]) -> BytesMut {
        let mut out = frame(REQUEST, b"body");
        out[at..at + bytes.len()].copy_from_slice(bytes);
        out
    }

    #[test]
    fn lays_out_every_field() {
        let bytes = frame(
            Header {
                request_code: -1,
                ..REQUEST
            },
            b"ab",
        );
        let expected = [
            &[0, 0, 0, 22][..],
            &[0, 18],
            &[0xDE, 0xC1, 0x0A, 0xDE],
            &[0, 11],
            &[0, 9],
            &[0, 0, 0, 7],
            &[0, 0, 0, 0],
            &[0xFF, 0xFF],
            b"ab",
        ];
        assert_eq!(bytes, expected.concat());
        let mut put = BytesMut::new();
        Header {
            request_code: -1,
            ..REQUEST
        }
        .put(2, &mut put);
        assert_eq!(put, bytes[..PREFIX_BYTES]);
    }

    #[test]
    fn a_frame_is_appended_behind_others() {
        let mut out = frame(REQUEST, b"first");
        Header::request(12, 8).put_frame(&mut out, |out| out.put_slice(b"second"));
        let first = split_frame(&mut out, BODY_BYTES_MAX).unwrap().unwrap();
        let second = split_frame(&mut out, BODY_BYTES_MAX).unwrap().unwrap();
        assert_eq!((first.header.opaque, &first.body[..]), (7, &b"first"[..]));
        assert_eq!(
            (second.header.opaque, &second.body[..]),
            (8, &b"second"[..])
        );
        assert!(out.is_empty());
    }

    #[test]
    fn a_response_echoes_its_request() {
        let request = Header {
            version: 3,
            opaque: -5,
            flag: 2,
            request_code: 0,
            ..REQUEST
        };
        let response = request.response(51);
        let expected = Header {
            code: 51,
            version: 3,
            opaque: -5,
            flag: 1,
            request_code: 11,
        };
        assert_eq!(response, expected);
        assert!(response.is_response() && !response.is_one_way());
        assert!(request.is_one_way() && !request.is_response());
    }

    #[test]
    fn refuses_a_wrong_magic() {
        let mut bytes = damaged(6, &[0xDE, 0xAD, 0xBE, 0xEF]);
        assert_eq!(
            split_frame(&mut bytes, BODY_BYTES_MAX),
            Err(FrameError::Magic(0xDEAD_BEEF))
        );
    }

    #[test]
    fn refuses_any_other_header_size() {
        for size in [i16::MIN, -18, 0, 16, 17, 19, 20, i16::MAX] {
            let mut bytes = damaged(4, &size.to_be_bytes());
            let error = FrameError::HeaderSize(size);
            assert_eq!(split_frame(&mut bytes, BODY_BYTES_MAX), Err(error));
        }
    }

    #[test]
    fn refuses_a_total_outside_its_bounds() {
        let (min, body_max) = (20, 100);
        let limit = 120;
        for total in [i32::MIN, -1, 0, 10, min - 1, 121, i32::MAX] {
            let mut bytes = damaged(0, &total.to_be_bytes());
            let error = FrameError::Total { total, limit };
            assert_eq!(split_frame(&mut bytes, body_max), Err(error));
        }
        for total in [min, 120] {
            let bytes = damaged(0, &total.to_be_bytes());
            let len = usize::try_from(total).unwrap() + 4;
            assert_eq!(frame_len(&bytes, body_max), Ok(Some(len)));
        }
        assert!(frame_len(&damaged(0, &i32::MAX.to_be_bytes()), usize::MAX).is_ok());
    }

    #[test]
    fn judges_a_prefix_before_the_frame_is_whole() {
        let bytes = damaged(6, &[0]);
        for len in 0..10 {
            assert_eq!(frame_len(&bytes[..len], BODY_BYTES_MAX), Ok(None), "{len}");
        }
        assert!(frame_len(&bytes[..10], BODY_BYTES_MAX).is_err());
    }

    #[test]
    fn waits_for_split_frames_and_splits_coalesced_ones() {
        let mut stream = frame(REQUEST, b"one");
        stream.extend(frame(REQUEST.response(0), b""));
        stream.extend(frame(REQUEST, &[5; 300]));
        let mut buf = BytesMut::new();
        let mut frames = Vec::new();
        for byte in stream {
            buf.put_u8(byte);
            frames.extend(split_frame(&mut buf, BODY_BYTES_MAX).unwrap());
        }
        assert!(buf.is_empty());
        let bodies: Vec<_> = frames.iter().map(|frame| frame.body.len()).collect();
        assert_eq!(bodies, [3, 0, 300]);
        assert_eq!(frames[1].header, REQUEST.response(0));
    }

    #[test]
    fn reserves_nothing_for_an_announced_length() {
        let total = i32::try_from(20 + BODY_BYTES_MAX).unwrap();
        let mut bytes = damaged(0, &total.to_be_bytes());
        let before = (bytes.len(), bytes.capacity());
        assert_eq!(split_frame(&mut bytes, BODY_BYTES_MAX), Ok(None));
        assert_eq!((bytes.len(), bytes.capacity()), before);
    }

    #[test]
    fn a_body_shares_the_buffer_it_was_read_into() {
        let mut bytes = frame(REQUEST, b"body");
        let range = bytes.as_ptr_range();
        let frame = split_frame(&mut bytes, BODY_BYTES_MAX).unwrap().unwrap();
        assert!(range.contains(&frame.body.as_ptr()));
    }
}
