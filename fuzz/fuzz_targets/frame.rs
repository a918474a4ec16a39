//! Frame splitting. Input: the size of the pieces the stream arrives in, then the stream.
//!
//! Oracle: frames do not depend on the pieces, and each is written back to the bytes it was read
//! from. Flag bits and request codes we have no name for included.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use qmq_protocol::frame::PREFIX_BYTES;
use qmq_protocol::{Frame, FrameError, split_frame};

/// Smaller than a server's: an input reaches it.
const BODY_BYTES_MAX: usize = 2_000;

fuzz_target!(|input: &[u8]| {
    let Some((piece, stream)) = input.split_first() else {
        return;
    };
    let (frames, end, left) = read(stream, stream.len().max(1));
    let mut written = BytesMut::new();
    for frame in &frames {
        assert!(frame.body.len() <= BODY_BYTES_MAX);
        frame
            .header
            .put_frame(&mut written, |out| out.extend_from_slice(&frame.body));
    }
    assert_eq!([&written[..], &left].concat(), stream);
    if end.is_none() {
        assert!(left.len() < PREFIX_BYTES + BODY_BYTES_MAX);
    }

    let (in_pieces, end_in_pieces, _) = read(stream, usize::from(*piece).max(1));
    assert_eq!(in_pieces, frames);
    assert_eq!(end_in_pieces, end);
});

/// The frames of a stream, the error that ended it, and what was left.
fn read(stream: &[u8], piece: usize) -> (Vec<Frame>, Option<FrameError>, BytesMut) {
    let (mut frames, mut buf) = (Vec::new(), BytesMut::new());
    for piece in stream.chunks(piece) {
        buf.extend_from_slice(piece);
        loop {
            match split_frame(&mut buf, BODY_BYTES_MAX) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error), buf),
            }
        }
    }
    (frames, None, buf)
}
