//! Bytes to commands and back: no IO, no async, no clock.
//!
//! ```text
//! i32 total          bytes after this field: 20 + body
//! i16 header size    always 18
//! i32 magic          DE C1 0A DE
//! i16 code           request: command; response: result
//! i16 version        layout version of the body
//! i32 opaque         request id, chosen by the client
//! i32 flag           bit 0: response; bit 1: one-way request
//! i16 request code   response: code of the request; request: not used
//! ..  body
//! ```
//!
//! All integers are big-endian. What each protocol version added to the bodies is listed in
//! `docs/protocol.md`.

pub mod codec;
pub mod command;
pub mod error;
pub mod frame;

pub use codec::{Decode, Encode, Reader};
pub use command::{CommandCode, ResultCode};
pub use error::DecodeError;
pub use frame::{Frame, FrameError, Header, split_frame};
