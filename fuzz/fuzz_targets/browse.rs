//! BROWSE. Input: version, then a body.
//!
//! Oracle: what can be read is written to the same bytes.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use qmq_fuzz::{same_bytes, version_and_body};
use qmq_protocol::Decode;
use qmq_protocol::command::browse::{
    BrowseRequest, BrowseResponse, put_browse_header, put_browsed,
};

fuzz_target!(|input: &[u8]| {
    let Some((version, body)) = version_and_body(input) else {
        return;
    };
    same_bytes::<BrowseRequest<'_>>(version, &body);
    if let Ok(response) = BrowseResponse::decode(version, &body) {
        let mut again = BytesMut::new();
        put_browse_header(response.next, response.end, &mut again);
        for (sequence, payload) in &response.messages {
            put_browsed(*sequence, payload.bytes, &mut again);
        }
        assert_eq!(again, body);
    }
});
