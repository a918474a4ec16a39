//! Every golden frame is read as its fields say and written as it was.

use bytes::BytesMut;
use qmq_protocol::frame::MAGIC;
use qmq_protocol::{CommandCode, Frame, Header, ResultCode};

use crate::compare::{self, Check};
use crate::fixture::{FIXTURES, Fixture, int, text};
use crate::legacy;

/// How requests are checked, by the first part of their names, longest match first.
const REQUESTS: [(&str, CommandCode, Check); 12] = [
    (
        "send_request_",
        CommandCode::SendMessage,
        compare::send_request,
    ),
    (
        "delay_forward_request_",
        CommandCode::SendMessage,
        compare::send_request,
    ),
    (
        "pull_request_",
        CommandCode::PullMessage,
        compare::pull_request,
    ),
    ("ack_request_", CommandCode::Ack, compare::ack_request),
    (
        "client_register_request_",
        CommandCode::ClientRegister,
        compare::client_register_request,
    ),
    (
        "broker_register_request_",
        CommandCode::BrokerRegister,
        compare::broker_register_request,
    ),
    (
        "broker_acquire_meta_request_",
        CommandCode::BrokerAcquireMeta,
        compare::acquire_meta_request,
    ),
    (
        "consume_manage_request_",
        CommandCode::ConsumeManage,
        compare::consume_manage_request,
    ),
    ("heartbeat_request", CommandCode::Heartbeat, compare::empty),
    (
        "legacy_v3_cpp_send_request",
        CommandCode::SendMessage,
        legacy::send_request,
    ),
    (
        "legacy_v3_cpp_client_register_request",
        CommandCode::ClientRegister,
        legacy::client_register_request,
    ),
    (
        "legacy_v3_cpp_heartbeat_request",
        CommandCode::Heartbeat,
        compare::empty,
    ),
];

/// How responses with code 0 are checked.
const RESPONSES: [(&str, CommandCode, Check); 11] = [
    (
        "send_response_",
        CommandCode::SendMessage,
        compare::send_response,
    ),
    (
        "pull_response_",
        CommandCode::PullMessage,
        compare::pull_response,
    ),
    ("ack_response_", CommandCode::Ack, compare::empty),
    (
        "client_register_response_",
        CommandCode::ClientRegister,
        compare::client_register_response,
    ),
    (
        "broker_register_response_",
        CommandCode::BrokerRegister,
        compare::empty,
    ),
    (
        "broker_acquire_meta_response_",
        CommandCode::BrokerAcquireMeta,
        compare::acquire_meta_response,
    ),
    (
        "consume_manage_response_",
        CommandCode::ConsumeManage,
        compare::empty,
    ),
    (
        "heartbeat_response_",
        CommandCode::Heartbeat,
        compare::empty,
    ),
    (
        "legacy_v3_cpp_send_response",
        CommandCode::SendMessage,
        compare::send_response,
    ),
    // Java servers answer legacy clients in today's layout, which those cannot read.
    (
        "legacy_v3_cpp_client_register_response",
        CommandCode::ClientRegister,
        compare::client_register_response,
    ),
    (
        "legacy_v3_cpp_heartbeat_response",
        CommandCode::Heartbeat,
        compare::empty,
    ),
];

#[test]
fn none_is_missing() {
    assert_eq!(Fixture::all().len(), FIXTURES);
}

#[test]
fn bodies_are_read_as_described_and_written_as_they_were() {
    let mut checked = 0;
    for fixture in Fixture::all() {
        if fixture.name.starts_with("malformed_") {
            continue;
        }
        println!("{}", fixture.name);
        let frame = fixture.frame();
        let check = check_of(&fixture.name, &frame.header);
        let body = check(frame.header.version, &frame.body, fixture.decoded());
        let mut written = BytesMut::new();
        frame
            .header
            .put_frame(&mut written, |out| out.extend_from_slice(&body));
        assert!(
            written == fixture.bytes,
            "{}: written otherwise",
            fixture.name
        );
        checked += 1;
    }
    assert_eq!(
        checked + Fixture::starting_with("malformed_").count(),
        FIXTURES
    );
}

/// Chooses the check by name and makes sure that the header belongs to it.
fn check_of(name: &str, header: &Header) -> Check {
    let table = if header.is_response() {
        &RESPONSES[..]
    } else {
        &REQUESTS[..]
    };
    let entry = table.iter().find(|(prefix, ..)| name.starts_with(prefix));
    let (_, command, check) = entry.unwrap_or_else(|| panic!("no check for {name}"));
    if !header.is_response() {
        assert_eq!(CommandCode::from_code(header.code), Some(*command));
        return *check;
    }
    assert_eq!(CommandCode::from_code(header.request_code), Some(*command));
    match ResultCode::from_code(header.code).expect("a known result") {
        ResultCode::Success => *check,
        _ => compare::empty,
    }
}

#[test]
fn headers_are_read_as_described() {
    for fixture in Fixture::all() {
        let expected = &fixture.json["header"];
        if expected.is_null() {
            continue;
        }
        let Frame { header, body } = fixture.frame();
        assert_eq!(int::<usize>(&expected["total"]), 20 + body.len());
        assert_eq!(int::<i16>(&expected["headerSize"]), 18);
        assert_eq!(text(&expected["magic"]), format!("{MAGIC:#010x}"));
        let expected = Header {
            code: int(&expected["code"]),
            version: int(&expected["version"]),
            opaque: int(&expected["opaque"]),
            flag: int(&expected["flag"]),
            request_code: int(&expected["requestCode"]),
        };
        assert_eq!(header, expected, "{}", fixture.name);
    }
}

#[test]
fn responses_have_the_header_we_would_give_them() {
    let all = Fixture::all();
    let (mut checked, mut not_kept) = (0, Vec::new());
    for response in &all {
        let Some(request) = response.json["inReplyTo"].as_str() else {
            continue;
        };
        let Some(request) = all.iter().find(|fixture| fixture.name == request) else {
            not_kept.push(request);
            continue;
        };
        let header = response.frame().header;
        assert_eq!(
            header,
            request.frame().header.response(header.code),
            "{}",
            response.name
        );
        checked += 1;
    }
    assert!(checked > 10, "{checked}");
    assert_eq!(not_kept, ["consume_manage_request_earliest"]);
}
