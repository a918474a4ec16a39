//! Frames computed by hand from the layouts, written and read.

use bytes::{BufMut, BytesMut};
use qmq_model::payload::{FLAG_TAGS, put_str};
use qmq_model::{BrokerGroup, BrokerState};
use qmq_protocol::command::ack::AckRequest;
use qmq_protocol::command::client_register::{ClientRegisterResponse, OnOfflineState};
use qmq_protocol::command::pull::{PullFilter, PullRequest, TagFilter, TagMatch};
use qmq_protocol::command::send::{SendRequest, put_message};
use qmq_protocol::{Decode, Encode, Header};

use crate::fixture::{from_hex, whole_frame};

/// The frame in hex.
pub(crate) fn written(header: Header, write: impl FnOnce(&mut BytesMut)) -> String {
    let mut out = BytesMut::new();
    header.put_frame(&mut out, write);
    out.iter().map(|byte| format!("{byte:02x}")).collect()
}

const PULL: PullRequest<'_> = PullRequest {
    subject: "a.b",
    group: "g",
    consumer_id: "h@@1",
    request_num: 50,
    offset: -1,
    pull_begin: -1,
    pull_last: -1,
    timeout_ms: 2_500,
    is_broadcast: false,
    filters: Vec::new(),
};

const NO_TAG: PullFilter<'_> = PullFilter::Tag(TagFilter {
    tag_match: TagMatch::NoTag,
    tags: Vec::new(),
});

#[test]
fn send_version_9() {
    let hex = "000000470012dec10ade000a00090000000100000000000a0000000000cb55c40400000000000003e8\
               00000000000007d00003612e62000469642d3101000274310000000600016b000176";
    let mut payload = Vec::new();
    payload.put_u8(FLAG_TAGS);
    payload.put_i64(1_000);
    payload.put_i64(2_000);
    put_str(&mut payload, b"a.b");
    put_str(&mut payload, b"id-1");
    payload.put_u8(1);
    put_str(&mut payload, b"t1");
    payload.put_i32(6);
    put_str(&mut payload, b"k");
    put_str(&mut payload, b"v");
    assert_eq!(
        written(Header::request(10, 1), |out| put_message(&payload, out)),
        hex
    );

    let request = SendRequest::decode(whole_frame(&from_hex(hex)).unwrap().body).unwrap();
    let message = request.messages().next().unwrap();
    assert!(message.crc_matches());
    assert_eq!(message.payload_bytes(), payload);
}

#[test]
fn pull_version_9_with_one_filter() {
    let hex = "000000500012dec10ade000b00090000000200000000000b0003612e62000167000468404031000000\
               32ffffffffffffffffffffffffffffffffffffffffffffffff00000000000009c40000000001000100\
               0000";
    let request = PullRequest {
        filters: vec![NO_TAG],
        ..PULL
    };
    assert_eq!(
        written(Header::request(11, 2), |out| request.encode(9, out)),
        hex
    );
    let frame = whole_frame(&from_hex(hex)).unwrap();
    assert_eq!(PullRequest::decode(9, &frame.body), Ok(request));
}

#[test]
fn pull_version_8_as_c_sharp_sends_it() {
    let hex = "0000004a0012dec10ade000b0008000000020000000000000003612e62000167000468404031000000\
               32ffffffffffffffffffffffffffffffffffffffffffffffff00000000000003e800000000";
    let request = PullRequest {
        timeout_ms: 1_000,
        filters: vec![NO_TAG],
        ..PULL
    };
    let header = Header {
        version: 8,
        request_code: 0,
        ..Header::request(11, 2)
    };
    assert_eq!(written(header, |out| request.encode(8, out)), hex);
    let frame = whole_frame(&from_hex(hex)).unwrap();
    assert_eq!(frame.header, header);
    assert_eq!(PullRequest::decode(8, &frame.body), Ok(request));
}

#[test]
fn ack_version_9() {
    let hex = "000000330012dec10ade000c00090000000300000000000c0003612e62000167000468404031000000\
               0000000000000000000000003100";
    let request = AckRequest {
        subject: "a.b",
        group: "g",
        consumer_id: "h@@1",
        pull_begin: 0,
        pull_last: 49,
        is_broadcast: false,
    };
    assert_eq!(
        written(Header::request(12, 3), |out| request.encode(9, out)),
        hex
    );
    let frame = whole_frame(&from_hex(hex)).unwrap();
    assert_eq!(AckRequest::decode(9, &frame.body), Ok(request));
}

#[test]
fn register_reply_version_9() {
    let hex = "000000450012dec10ade00000009000000000000000100230000018bcfe568000003612e6200016700\
               02000100026731000e31302e302e302e313a3230383831000000000000000501";
    let group = BrokerGroup {
        name: "g1".into(),
        master: "10.0.0.1:20881".into(),
        updated_ms: 5,
        state: BrokerState::ReadWrite,
    };
    let response = ClientRegisterResponse {
        timestamp_ms: 1_700_000_000_000,
        subject: "a.b",
        consumer_group: "g",
        state: OnOfflineState::Online,
        client_type_code: 2,
        groups: vec![group],
    };
    let header = Header::request(35, 0).response(0);
    assert_eq!(written(header, |out| response.encode(9, out)), hex);
    let frame = whole_frame(&from_hex(hex)).unwrap();
    assert_eq!(ClientRegisterResponse::decode(9, &frame.body), Ok(response));
}
