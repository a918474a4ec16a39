//! SEND_MESSAGE, both dialects. Input: version, then a body.
//!
//! Oracle: the messages of a request, put together, are its body; entries of a response as well.

#![no_main]

use bytes::{BufMut, BytesMut};
use libfuzzer_sys::fuzz_target;
use qmq_fuzz::{encoded, version_and_body};
use qmq_model::Message;
use qmq_protocol::Decode;
use qmq_protocol::command::send::{
    SendFailure, SendRequest, SendResponse, SendResult, put_message_for_version, put_results,
};
use qmq_protocol::frame::is_legacy;

fuzz_target!(|input: &[u8]| {
    let Some((version, body)) = version_and_body(input) else {
        return;
    };
    let split = SendRequest::split_version(version, &body);
    let (good, bad) = split.fold((0, 0), |(good, bad), message| match message {
        Ok(_) => (good + 1, bad),
        Err(_) => (good, bad + 1),
    });
    let request = SendRequest::decode_version(version, body.clone());
    assert_eq!(bad, usize::from(request.is_err()));
    if let Ok(request) = request {
        assert_eq!(good, request.len());
        check_request(version, &request, &body);
    }
    if let Ok(response) = SendResponse::decode(version, &body) {
        let entries: Vec<_> = response.failures().collect();
        assert_eq!(encoded(version, &entries[..]), body);
    }
});

fn check_request(version: i16, request: &SendRequest, body: &[u8]) {
    let mut as_sent = BytesMut::new();
    let mut with_right_crc = BytesMut::new();
    let mut all_right = true;
    for message in request.messages() {
        let payload = message.payload_bytes();
        assert_eq!(payload, message.payload.bytes);
        if !is_legacy(version) {
            as_sent.put_i64(message.declared_crc);
        }
        as_sent.put_slice(&payload);
        put_message_for_version(version, &payload, &mut with_right_crc);
        all_right &= message.crc_matches();
        assert_eq!(
            message.payload.tag_iter().count(),
            usize::from(message.payload.tag_count)
        );
        _ = message.payload.properties_are_readable();
        _ = Message::from_payload(&message.payload);
    }
    assert_eq!(as_sent, body);
    assert_eq!(with_right_crc == body, all_right);
    check_answer(version, request);
}

/// Every message can be answered under its own id.
fn check_answer(version: i16, request: &SendRequest) {
    let results = request.messages().map(|message| SendFailure {
        message_id: message.payload.message_id,
        result: SendResult::from_code(i32::from(message.payload.flag)),
        remark: "",
    });
    let mut out = BytesMut::new();
    put_results(version, results.clone(), &mut out);
    let response = SendResponse::decode(version, &out).expect("we can read what we wrote");
    let expected = results
        .filter(|entry| is_legacy(version) || entry.result != SendResult::Success)
        .map(|entry| entry.message_id);
    assert!(
        response
            .failures()
            .map(|entry| entry.message_id)
            .eq(expected)
    );
}
