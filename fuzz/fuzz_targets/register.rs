//! Register commands: CLIENT_REGISTER in both dialects, BROKER_REGISTER, BROKER_ACQUIRE_META.
//! Input: version, then a body.
//!
//! Oracle: what is written again is read as the same; where a layout leaves no choice, it is
//! written to the same bytes.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use qmq_fuzz::{same_bytes, same_value, version_and_body};
use qmq_protocol::Decode;
use qmq_protocol::command::broker_acquire_meta::{
    BrokerAcquireMetaRequest, BrokerAcquireMetaResponse,
};
use qmq_protocol::command::broker_register::BrokerRegisterRequest;
use qmq_protocol::command::client_register::{ClientRegisterRequest, ClientRegisterResponse};

fuzz_target!(|input: &[u8]| {
    let Some((version, body)) = version_and_body(input) else {
        return;
    };
    same_value!(ClientRegisterRequest<'_>, version, &body);
    if let Ok(request) = ClientRegisterRequest::decode(version, &body) {
        let refusal = ClientRegisterResponse::refusal(&request);
        check_response(version, &refusal);
    }
    same_bytes::<ClientRegisterResponse<'_>>(version, &body);
    if let Ok(response) = ClientRegisterResponse::decode_version(version, &body) {
        check_response(version, &response);
    }
    same_bytes::<BrokerRegisterRequest<'_>>(version, &body);
    same_bytes::<BrokerAcquireMetaRequest<'_>>(version, &body);
    same_bytes::<BrokerAcquireMetaResponse<'_>>(version, &body);
});

/// A response of either dialect: subject, type and groups survive the way to the client.
fn check_response(version: i16, response: &ClientRegisterResponse<'_>) {
    let mut out = BytesMut::new();
    response.encode_for_version(version, &mut out);
    let read = ClientRegisterResponse::decode_version(version, &out);
    let read = read.expect("we can read what we wrote");
    assert_eq!(read.subject, response.subject);
    assert_eq!(read.client_type_code, response.client_type_code);
    assert_eq!(read.groups, response.groups);
    assert!(read.may_be_sent_to(version) || read.groups.is_empty());
}
