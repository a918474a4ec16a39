//! ACK_REQUEST. Input: version, then a body.
//!
//! Oracle: what is written again is read as the same, and as long as before.

#![no_main]

use libfuzzer_sys::fuzz_target;
use qmq_fuzz::{KNOWN_VERSION_MAX, encoded, same_value, version_and_body};
use qmq_protocol::Decode;
use qmq_protocol::command::ack::AckRequest;

fuzz_target!(|input: &[u8]| {
    let Some((version, body)) = version_and_body(input) else {
        return;
    };
    same_value!(AckRequest<'_>, version, &body);
    if let Ok(request) = AckRequest::decode(version, &body) {
        assert_eq!(request.is_keep_alive(), request.pull_begin < 0);
        let again = encoded(version, &request);
        assert!(again.len() == body.len() || version > KNOWN_VERSION_MAX);
        // Only the broadcast byte has several ways to say no.
        assert_eq!(again[..again.len() - 1], body[..again.len() - 1]);
    }
});
