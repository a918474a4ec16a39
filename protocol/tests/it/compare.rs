//! Compares decoded bodies with the fields of their fixtures and writes them again.

use bytes::{BufMut, Bytes, BytesMut};
use qmq_model::Payload;
use qmq_model::payload::FLAG_TAGS;
use qmq_protocol::command::ack::AckRequest;
use qmq_protocol::command::broker_acquire_meta::{
    BrokerAcquireMetaRequest, BrokerAcquireMetaResponse,
};
use qmq_protocol::command::broker_register::BrokerRegisterRequest;
use qmq_protocol::command::client_register::{ClientRegisterRequest, ClientRegisterResponse};
use qmq_protocol::command::consume_manage::{ConsumeFromWhere, ConsumeManageRequest};
use qmq_protocol::command::pull::{
    PullFilter, PullRequest, PullResponse, TagFilter, put_payload_for_version, put_pull_header,
};
use qmq_protocol::command::send::{SendRequest, SendResponse, put_message};
use qmq_protocol::{Decode, Encode};
use serde_json::Value;

use crate::fixture::{int, list, text};

/// Checks a body against its decoded fields; returns it as our encoder writes it.
pub(crate) type Check = fn(version: i16, body: &Bytes, expected: &Value) -> BytesMut;

fn again(version: i16, command: &(impl Encode + ?Sized)) -> BytesMut {
    let mut out = BytesMut::new();
    command.encode(version, &mut out);
    out
}

/// A body that has to be empty.
pub(crate) fn empty(_version: i16, body: &Bytes, expected: &Value) -> BytesMut {
    assert_eq!(expected, &serde_json::json!({}));
    assert!(body.is_empty());
    BytesMut::new()
}

pub(crate) fn send_request(_version: i16, body: &Bytes, expected: &Value) -> BytesMut {
    let request = SendRequest::decode(body.clone()).unwrap();
    let expected = list(&expected["messages"]);
    assert_eq!(request.len(), expected.len());
    let mut out = BytesMut::new();
    for (message, expected) in request.messages().zip(expected) {
        assert_eq!(message.declared_crc, int::<i64>(&expected["crc"]));
        let is_valid = expected["crcValid"] != false;
        assert_eq!(message.crc_matches(), is_valid);
        payload(&message.payload, expected);
        if is_valid {
            put_message(&written_payload(expected, true), &mut out);
        } else {
            out.put_i64(message.declared_crc);
            out.put_slice(&message.payload_bytes());
        }
    }
    out
}

pub(crate) fn send_response(version: i16, body: &Bytes, expected: &Value) -> BytesMut {
    let response = SendResponse::decode(version, body).unwrap();
    let failures: Vec<_> = response.failures().collect();
    let expected = list(&expected["results"]);
    assert_eq!(failures.len(), expected.len());
    for (failure, expected) in failures.iter().zip(expected) {
        assert_eq!(failure.message_id, text(&expected["messageId"]).as_bytes());
        assert_eq!(failure.result.code(), int::<i32>(&expected["code"]));
        assert_eq!(failure.remark, text(&expected["remark"]));
    }
    again(version, &failures[..])
}

pub(crate) fn pull_request(version: i16, body: &Bytes, expected: &Value) -> BytesMut {
    let request = PullRequest::decode(version, body).unwrap();
    let filters: Vec<_> = match version {
        ..8 => Vec::new(),
        8 => vec![PullFilter::Tag(tag_filter(&expected["tagFilter"]))],
        _ => list(&expected["filters"]).iter().map(filter).collect(),
    };
    let expected = PullRequest {
        subject: text(&expected["subject"]),
        group: text(&expected["group"]),
        consumer_id: text(&expected["consumerId"]),
        request_num: int(&expected["requestNum"]),
        offset: int(&expected["offset"]),
        pull_begin: int(&expected["pullOffsetBegin"]),
        pull_last: int(&expected["pullOffsetLast"]),
        timeout_ms: int(&expected["timeoutMillis"]),
        is_broadcast: int::<i8>(&expected["isBroadcast"]) != 0,
        filters,
    };
    assert_eq!(request, expected);
    again(version, &request)
}

fn filter(expected: &Value) -> PullFilter<'_> {
    match int(&expected["type"]) {
        1 => PullFilter::Tag(tag_filter(expected)),
        2 => PullFilter::SubEnv {
            env: text(&expected["env"]),
            sub_env: text(&expected["subEnv"]),
        },
        other => panic!("filter type {other}"),
    }
}

fn tag_filter(expected: &Value) -> TagFilter<'_> {
    TagFilter {
        tag_match: qmq_protocol::command::pull::TagMatch::from_code(int(&expected["tagType"])),
        tags: list(&expected["tags"])
            .iter()
            .map(|tag| text(tag).as_bytes())
            .collect(),
    }
}

pub(crate) fn pull_response(version: i16, body: &Bytes, expected: &Value) -> BytesMut {
    let response = PullResponse::decode(version, body).unwrap();
    assert_eq!(response.first.0, int::<i64>(&expected["pullLogOffset"]));
    assert_eq!(int::<i64>(&expected["consumerLogOffset"]), -1);
    let expected = list(&expected["messages"]);
    assert_eq!(response.len(), expected.len());
    let mut out = BytesMut::new();
    put_pull_header(response.first, &mut out);
    for ((message, expected), sequence) in response.messages().zip(expected).zip(response.first.0..)
    {
        assert_eq!(message.sequence.0, sequence);
        payload(&message.payload, expected);
        if version >= 8 {
            let written = written_payload(expected, true);
            put_payload_for_version(version, &written, &mut out).unwrap();
        } else {
            out.put_slice(message.payload.bytes);
            assert_eq!(message.payload.bytes, written_payload(expected, false));
        }
    }
    out
}

pub(crate) fn ack_request(version: i16, body: &Bytes, expected: &Value) -> BytesMut {
    let request = AckRequest::decode(version, body).unwrap();
    let expected = AckRequest {
        subject: text(&expected["subject"]),
        group: text(&expected["group"]),
        consumer_id: text(&expected["consumerId"]),
        pull_begin: int(&expected["pullOffsetBegin"]),
        pull_last: int(&expected["pullOffsetLast"]),
        is_broadcast: version >= 8 && int::<i8>(&expected["isBroadcast"]) == 1,
    };
    assert_eq!(request, expected);
    again(version, &request)
}

pub(crate) fn client_register_request(version: i16, body: &Bytes, expected: &Value) -> BytesMut {
    let request = ClientRegisterRequest::decode(version, body).unwrap();
    for entry in list(&expected["attrs"]) {
        let value = text(&entry[1]);
        match text(&entry[0]) {
            "subject" => assert_eq!(request.subject, value),
            "clientTypeCode" => assert_eq!(request.client_type_code.to_string(), value),
            "requestType" => assert_eq!(request.request_type.code().to_string(), value),
            "clientId" => assert_eq!(request.client_id, value),
            "appCode" => assert_eq!(request.app_code, value),
            "consumerGroup" => assert_eq!(request.consumer_group, value),
            "clientLDC" => assert_eq!(request.ldc, value),
            other => panic!("key {other}"),
        }
    }
    again(version, &request)
}

pub(crate) fn client_register_response(version: i16, body: &Bytes, expected: &Value) -> BytesMut {
    let response = ClientRegisterResponse::decode(version, body).unwrap();
    assert_eq!(response.timestamp_ms, int::<i64>(&expected["timestamp"]));
    assert_eq!(response.subject, text(&expected["subject"]));
    assert_eq!(response.consumer_group, text(&expected["consumerGroup"]));
    assert_eq!(response.state as i8, int::<i8>(&expected["onOfflineState"]));
    assert_eq!(
        response.client_type_code,
        int::<i8>(&expected["clientTypeCode"])
    );
    let expected = list(&expected["brokerGroups"]);
    assert_eq!(response.groups.len(), expected.len());
    for (group, expected) in response.groups.iter().zip(expected) {
        assert_eq!(group.name, text(&expected["groupName"]));
        assert_eq!(group.master, text(&expected["master"]));
        assert_eq!(group.updated_ms, int::<i64>(&expected["updateTime"]));
        assert_eq!(group.state.code(), int::<i8>(&expected["brokerState"]));
    }
    again(version, &response)
}

pub(crate) fn broker_register_request(version: i16, body: &Bytes, expected: &Value) -> BytesMut {
    let request = BrokerRegisterRequest::decode(version, body).unwrap();
    let expected = BrokerRegisterRequest {
        request_type_code: int(&expected["requestType"]),
        group_name: text(&expected["groupName"]),
        broker_address: text(&expected["brokerAddress"]),
        role_code: int(&expected["brokerRole"]),
        state_code: int(&expected["brokerState"]),
    };
    assert_eq!(request, expected);
    assert!(request.request_type().is_some() && request.role().is_some());
    assert!(request.state().is_some());
    again(version, &request)
}

pub(crate) fn acquire_meta_request(version: i16, body: &Bytes, expected: &Value) -> BytesMut {
    let request = BrokerAcquireMetaRequest::decode(version, body).unwrap();
    assert_eq!(request.hostname, text(&expected["hostname"]));
    assert_eq!(request.port, int::<i32>(&expected["port"]));
    again(version, &request)
}

pub(crate) fn acquire_meta_response(version: i16, body: &Bytes, expected: &Value) -> BytesMut {
    let response = BrokerAcquireMetaResponse::decode(version, body).unwrap();
    assert_eq!(response.name, text(&expected["name"]));
    assert_eq!(response.master, text(&expected["master"]));
    assert_eq!(response.role.code(), int::<i32>(&expected["role"]));
    again(version, &response)
}

pub(crate) fn consume_manage_request(version: i16, body: &Bytes, expected: &Value) -> BytesMut {
    let request = ConsumeManageRequest::decode(version, body).unwrap();
    let from = match int::<i32>(&expected["consumeFromWhere"]) {
        1 => ConsumeFromWhere::Latest,
        2 => ConsumeFromWhere::Earliest,
        other => ConsumeFromWhere::Other(other),
    };
    let expected = ConsumeManageRequest {
        subject: text(&expected["subject"]),
        group: text(&expected["group"]),
        from,
    };
    assert_eq!(request, expected);
    again(version, &request)
}

/// Compares every field of one message.
pub(crate) fn payload(payload: &Payload<'_>, expected: &Value) {
    assert_eq!(payload.flag, int::<u8>(&expected["flag"]));
    assert_eq!(payload.create_ms, int::<i64>(&expected["createTime"]));
    assert_eq!(
        payload.second_ms,
        int::<i64>(&expected["expireOrScheduleTime"])
    );
    assert_eq!(payload.subject, text(&expected["subject"]).as_bytes());
    assert_eq!(payload.message_id, text(&expected["messageId"]).as_bytes());
    let tags = list(&expected["tags"]);
    assert_eq!(usize::from(payload.tag_count), tags.len());
    assert!(
        payload
            .tag_iter()
            .eq(tags.iter().map(|tag| text(tag).as_bytes()))
    );
    assert_eq!(payload.body.len(), int::<usize>(&expected["bodyLength"]));
    let properties = list(&expected["properties"]);
    assert_eq!(payload.properties().count(), properties.len());
    for ((key, value), expected) in payload.properties().zip(properties) {
        assert_eq!(key, text(&expected[0]).as_bytes());
        assert_eq!(value, text(&expected[1]).as_bytes());
    }
}

/// Writes a message from the fields of its fixture, by other code than the model's.
pub(crate) fn written_payload(fields: &Value, with_tags: bool) -> Vec<u8> {
    let mut body = Vec::new();
    for property in list(&fields["properties"]) {
        put_long_str(&mut body, text(&property[0]));
        put_long_str(&mut body, text(&property[1]));
    }
    let mut out = Vec::new();
    let flag: u8 = int(&fields["flag"]);
    out.put_u8(flag);
    out.put_i64(int(&fields["createTime"]));
    out.put_i64(int(&fields["expireOrScheduleTime"]));
    put_long_str(&mut out, text(&fields["subject"]));
    put_long_str(&mut out, text(&fields["messageId"]));
    if with_tags && flag & FLAG_TAGS != 0 {
        let tags = list(&fields["tags"]);
        out.put_u8(u8::try_from(tags.len()).unwrap());
        tags.iter()
            .for_each(|tag| put_long_str(&mut out, text(tag)));
    }
    out.put_i32(i32::try_from(body.len()).unwrap());
    out.extend(body);
    out
}

/// Java writes the low 16 bits of any length; one fixture has a value of 33 000 bytes.
fn put_long_str(out: &mut Vec<u8>, text: &str) {
    out.put_u16(u16::try_from(text.len()).unwrap());
    out.put_slice(text.as_bytes());
}
