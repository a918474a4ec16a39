//! What the targets share: how an input is cut into version and body, and the oracles.

use bytes::{Bytes, BytesMut};
use qmq_protocol::{Decode, Encode};

/// Layouts up to this version are known to the last byte; later ones may have more.
pub const KNOWN_VERSION_MAX: i16 = qmq_protocol::frame::VERSION;

/// An input of a body target: two bytes of version, then the body.
#[must_use]
pub fn version_and_body(input: &[u8]) -> Option<(i16, Bytes)> {
    let (version, body) = input.split_first_chunk()?;
    Some((i16::from_be_bytes(*version), Bytes::copy_from_slice(body)))
}

/// The body of `command`.
pub fn encoded(version: i16, command: &(impl Encode + ?Sized)) -> Bytes {
    let mut out = BytesMut::new();
    command.encode(version, &mut out);
    out.freeze()
}

/// For layouts that say the same thing in one way only: what can be read is written as it was.
pub fn same_bytes<'a, T: Decode<'a> + Encode>(version: i16, body: &'a [u8]) {
    if let Ok(command) = T::decode(version, body)
        && version <= KNOWN_VERSION_MAX
    {
        assert_eq!(encoded(version, &command), body);
    }
}

/// For layouts that can say the same thing in several ways: what was written again is read as the
/// same, and written as the same bytes from then on.
#[macro_export]
macro_rules! same_value {
    ($command:ty, $version:expr, $body:expr) => {
        if let Ok(command) = <$command>::decode($version, $body) {
            let again = $crate::encoded($version, &command);
            let read = <$command>::decode($version, &again).expect("we can read what we wrote");
            assert_eq!(read, command);
            assert_eq!($crate::encoded($version, &read), again);
        }
    };
}
