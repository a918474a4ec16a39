//! PULL_MESSAGE. Input: version, then a body.
//!
//! Oracle: a request that is written again is read as the same; the messages of a response, put
//! together, are its payloads, and those of today can be written for older versions.

#![no_main]

use bytes::{BufMut, BytesMut};
use libfuzzer_sys::fuzz_target;
use qmq_fuzz::{same_value, version_and_body};
use qmq_model::PullSequence;
use qmq_protocol::Decode;
use qmq_protocol::command::pull::{
    PULL_HEADER_BYTES, PullRequest, PullResponse, put_payload_for_version,
    put_payload_without_delay_bit, put_pull_header,
};
use qmq_protocol::frame::VERSION_TAGS;

fuzz_target!(|input: &[u8]| {
    let Some((version, body)) = version_and_body(input) else {
        return;
    };
    same_value!(PullRequest<'_>, version, &body);
    if let Ok(request) = PullRequest::decode(version, &body) {
        assert!(
            request
                .tag_filter()
                .is_none_or(|filter| !filter.tags.is_empty())
        );
        _ = request.sub_env_filter();
    }
    if let Ok(response) = PullResponse::decode(version, &body) {
        check_response(version, &response, &body[PULL_HEADER_BYTES..]);
    }
});

fn check_response(version: i16, response: &PullResponse<'_>, payloads: &[u8]) {
    let mut same = BytesMut::new();
    let mut untagged = BytesMut::new();
    put_pull_header(response.first, &mut untagged);
    for (message, sequence) in response.messages().zip(response.first.0..) {
        assert_eq!(message.sequence, PullSequence(sequence));
        same.put_slice(message.payload.bytes);
        if version >= VERSION_TAGS {
            let bytes = message.payload.bytes;
            put_payload_for_version(7, bytes, &mut untagged).expect("it is a whole message");
            let mut cleared = BytesMut::new();
            put_payload_without_delay_bit(version, bytes, &mut cleared).expect("as above");
            assert_eq!(cleared.len(), bytes.len());
        }
    }
    assert_eq!(same, payloads);
    assert_eq!(response.messages().count(), response.len());
    if version >= VERSION_TAGS {
        let older = PullResponse::decode(7, &untagged).expect("we can read what we wrote");
        let fields = |response: &PullResponse<'_>| -> Vec<_> {
            let messages = response.messages();
            messages
                .map(|m| (m.payload.message_id.to_vec(), m.payload.body.to_vec()))
                .collect()
        };
        assert_eq!(fields(&older), fields(response));
    }
}
