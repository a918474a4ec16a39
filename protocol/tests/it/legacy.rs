//! The dialect of version 3: its golden frames, and vectors that C++ code agreed to.

use bytes::{BufMut, Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use qmq_model::Payload;
use qmq_model::payload::FLAG_TAGS;
use qmq_model::payload::put_str;
use qmq_model::{BrokerGroup, BrokerState};
use qmq_protocol::command::client_register::{
    ClientRegisterRequest, ClientRegisterResponse, ClientRequestType, ClientType, OnOfflineState,
};
use qmq_protocol::command::send::{
    SendFailure, SendRequest, SendResponse, SendResult, put_message_for_version, put_results,
};
use qmq_protocol::frame::is_legacy;
use qmq_protocol::{Decode, Header};
use serde_json::Value;

use crate::compare::{payload, written_payload};
use crate::fixture::{Fixture, from_hex, list, text, whole_frame};
use crate::properties::{check_list, group, payloads, text as any_text};
use crate::vectors::written;

const VERSION: i16 = 3;

/// Checks the body of a golden frame; returns it as our encoder writes it.
pub(crate) fn send_request(version: i16, body: &Bytes, expected: &Value) -> BytesMut {
    assert!(is_legacy(version));
    let request = SendRequest::decode_version(version, body.clone()).unwrap();
    let expected = list(&expected["messages"]);
    assert_eq!(request.len(), expected.len());
    let mut out = BytesMut::new();
    for (message, expected) in request.messages().zip(expected) {
        assert!(message.crc_matches());
        payload(&message.payload, expected);
        put_message_for_version(version, &written_payload(expected, true), &mut out);
    }
    out
}

/// Checks the body of a golden frame; returns it as a C++ client writes it. We never send one.
pub(crate) fn client_register_request(version: i16, body: &Bytes, expected: &Value) -> BytesMut {
    let request = ClientRegisterRequest::decode(version, body).unwrap();
    let attrs = list(&expected["attrs"]);
    let mut out = BytesMut::new();
    out.put_i16(i16::try_from(attrs.len()).unwrap());
    for entry in attrs {
        let (key, value) = (text(&entry[0]), text(&entry[1]));
        match key {
            "subject" => assert_eq!(request.subject, value),
            "clientTypeCode" => assert_eq!(request.client_type_code.to_string(), value),
            "requestType" => assert_eq!(request.request_type.code().to_string(), value),
            "consumerId" => assert_eq!(request.client_id, value),
            "appCode" => assert_eq!(request.app_code, value),
            "room" => {}
            other => panic!("key {other}"),
        }
        put_str(&mut out, key.as_bytes());
        put_str(&mut out, value.as_bytes());
    }
    out
}

fn header(code: i16, opaque: i32) -> Header {
    Header {
        version: VERSION,
        ..Header::request(code, opaque)
    }
}

/// The body of the only frame that `hex` stands for.
fn body_of(hex: &str) -> Bytes {
    whole_frame(&from_hex(hex)).unwrap().body
}

#[test]
fn a_golden_send_is_none_of_todays() {
    let fixture = Fixture::starting_with("legacy_v3_cpp_send_request").next();
    let body = fixture.unwrap().frame().body;
    assert!(SendRequest::decode(body.clone()).is_err());
    assert!(SendRequest::decode_version(4, body).is_err());
}

#[test]
fn register_request() {
    let hex = "0000006c0012dec10ade0023000300000001000000000023000500077375626a656374000173000e63\
               6c69656e7454797065436f64650001310007617070436f64650003617070000b7265717565737454\
               797065000131000a636f6e73756d65724964000b312e322e332e3440617070";
    let body = body_of(hex);
    let expected = ClientRegisterRequest {
        subject: "s",
        client_type_code: ClientType::Producer.code().into(),
        request_type: ClientRequestType::Online,
        client_id: "1.2.3.4@app",
        app_code: "app",
        consumer_group: "",
        ldc: "",
    };
    assert_eq!(ClientRegisterRequest::decode(VERSION, &body), Ok(expected));
}

#[test]
fn register_reply() {
    let hex = "000000390012dec10ade000000030000000100000001002300017301000100026731000e31302e302e\
               302e313a32303838310000000000000000000501";
    let group = BrokerGroup {
        name: "g1".into(),
        master: "10.0.0.1:20881".into(),
        updated_ms: 5,
        state: BrokerState::ReadWrite,
    };
    let response = ClientRegisterResponse {
        timestamp_ms: ClientRegisterResponse::TIMESTAMP_NONE,
        subject: "s",
        consumer_group: "",
        state: OnOfflineState::Online,
        client_type_code: ClientType::Producer.code(),
        groups: vec![group],
    };
    assert!(response.may_be_sent_to(VERSION));
    let header = header(35, 1).response(0);
    let write = |out: &mut BytesMut| response.encode_for_version(VERSION, out);
    assert_eq!(written(header, write), hex);
    let body = body_of(hex);
    assert_eq!(
        ClientRegisterResponse::decode_version(VERSION, &body),
        Ok(response.clone())
    );
}

#[test]
fn a_room_in_a_register_reply_is_stepped_over() {
    let mut body = BytesMut::new();
    put_str(&mut body, b"s");
    body.put_i8(4);
    body.put_i16(1);
    for name in ["g1", "10.0.0.1:20881", "room"] {
        put_str(&mut body, name.as_bytes());
    }
    body.put_i64(5);
    body.put_i8(2);
    let response = ClientRegisterResponse::decode_version(VERSION, &body).unwrap();
    let [group] = &response.groups[..] else {
        panic!("{response:?}")
    };
    assert_eq!((group.updated_ms, group.state), (5, BrokerState::Read));
    body.put_u8(0);
    assert!(ClientRegisterResponse::decode_version(VERSION, &body).is_err());
}

#[test]
fn send() {
    let hex = "000000350012dec10ade000a00030000000200000000000a0000000000000000010000000000000000\
               0001730001690000000600016b000176";
    let mut payload = Vec::new();
    payload.put_u8(0);
    payload.put_i64(1);
    payload.put_i64(0);
    put_str(&mut payload, b"s");
    put_str(&mut payload, b"i");
    payload.put_i32(6);
    put_str(&mut payload, b"k");
    put_str(&mut payload, b"v");
    let write = |out: &mut BytesMut| put_message_for_version(VERSION, &payload, out);
    assert_eq!(written(header(10, 2), write), hex);

    let request = SendRequest::decode_version(VERSION, body_of(hex)).unwrap();
    let message = request.messages().next().unwrap();
    assert!(message.crc_matches());
    assert_eq!(message.payload_bytes(), payload);
}

#[test]
fn send_reply() {
    let hex = "0000001d0012dec10ade000000030000000200000001000a000169000000000000";
    let stored = SendFailure {
        message_id: b"i",
        result: SendResult::Success,
        remark: "",
    };
    let header = header(10, 2).response(0);
    let write = |out: &mut BytesMut| put_results(VERSION, [stored], out);
    assert_eq!(written(header, write), hex);
    let body = body_of(hex);
    let response = SendResponse::decode(VERSION, &body).unwrap();
    assert_eq!(response.failures().collect::<Vec<_>>(), [stored]);
}

proptest! {
    #[test]
    fn random_sends(version in i16::MIN..4, payloads in payloads()) {
        let (tagged, plain): (Vec<_>, Vec<_>) =
            payloads.iter().partition(|payload| payload[Payload::FLAG_AT] & FLAG_TAGS != 0);
        let mut body = BytesMut::new();
        plain.iter().for_each(|payload| put_message_for_version(version, payload, &mut body));
        let sizes: Vec<_> = plain.iter().map(|payload| payload.len()).collect();
        check_list(&body, 0, &sizes, |cut| {
            let request = SendRequest::decode_version(version, Bytes::copy_from_slice(cut))?;
            assert!(request.messages().all(|message| message.crc_matches()));
            let read = request.messages().map(|message| message.payload_bytes());
            assert!(read.eq(plain[..request.len()].iter().copied()));
            Ok(request.len())
        })?;
        for payload in tagged {
            prop_assert!(SendRequest::decode_version(version, payload.clone()).is_err());
        }
    }

    #[test]
    fn random_register_replies(
        version in i16::MIN..4,
        subject in any_text(),
        client_type_code in any::<i8>(),
        groups in vec(group(), 0..4),
    ) {
        let response = ClientRegisterResponse {
            timestamp_ms: -1,
            subject: &subject,
            consumer_group: "",
            state: OnOfflineState::Online,
            client_type_code,
            groups,
        };
        let mut body = BytesMut::new();
        response.encode_for_version(version, &mut body);
        let read = ClientRegisterResponse::decode_version(version, &body);
        prop_assert_eq!(read, Ok(response));
        for len in 0..body.len() {
            prop_assert!(ClientRegisterResponse::decode_version(version, &body[..len]).is_err());
        }
    }
}
