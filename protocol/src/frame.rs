//! The frame around every command: header, splitting, encoding.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// First bytes after the two length fields.
pub const MAGIC: u32 = 0xDEC1_0ADE;
/// Bytes from magic to request code.
pub const HEADER_BYTES: usize = 18;
/// Bytes in front of the body: two length fields and the header.
pub const PREFIX_BYTES: usize = 4 + 2 + HEADER_BYTES;
/// Largest body we take by default: the public API promises large strings of up to 4 MB.
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Layout version our own clients and servers send.
pub const VERSION: i16 = 9;

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
        Self { code, version: VERSION, opaque, flag: 0, request_code: code }
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
        out.put_i16(HEADER_BYTES as i16);
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
pub fn split_frame(
    buf: &mut BytesMut,
    body_bytes_max: usize,
) -> Result<Option<Frame>, FrameError> {
    let Some(len) = frame_len(buf, body_bytes_max)? else { return Ok(None) };
    if buf.len() < len {
        return Ok(None);
    }
    let mut frame = buf.split_to(len).freeze();
    frame.advance(10);
    let header = Header {
        code: frame.get_i16(),
        version: frame.get_i16(),
        opaque: frame.get_i32(),
        flag: frame.get_i32(),
        request_code: frame.get_i16(),
    };
    Ok(Some(Frame { header, body: frame }))
}

/// Length of the frame at the front of `buf`, length field included; `None` while its first ten
/// bytes are not there.
///
/// # Errors
/// As [`split_frame`].
pub fn frame_len(buf: &[u8], body_bytes_max: usize) -> Result<Option<usize>, FrameError> {
    let Some(prefix) = buf.first_chunk::<10>() else { return Ok(None) };
    let [t0, t1, t2, t3, h0, h1, m0, m1, m2, m3] = *prefix;
    let magic = u32::from_be_bytes([m0, m1, m2, m3]);
    if magic != MAGIC {
        return Err(FrameError::Magic(magic));
    }
    let header_size = i16::from_be_bytes([h0, h1]);
    if usize::try_from(header_size) != Ok(HEADER_BYTES) {
        return Err(FrameError::HeaderSize(header_size));
    }
    let total = i32::from_be_bytes([t0, t1, t2, t3]);
    let limit = TOTAL_MIN + body_bytes_max;
    match usize::try_from(total) {
        Ok(len) if (TOTAL_MIN..=limit).contains(&len) => Ok(Some(4 + len)),
        _ => Err(FrameError::Total { total, limit }),
    }
}
