//! What becomes of each odd or broken frame.

use qmq_model::names::check_subject;
use qmq_protocol::command::ack::AckRequest;
use qmq_protocol::command::heartbeat::Heartbeat;
use qmq_protocol::command::pull::PullRequest;
use qmq_protocol::command::send::SendRequest;
use qmq_protocol::{CommandCode, Decode, DecodeError, Frame, FrameError};

use crate::fixture::{Fixture, from_hex, text, whole_frame};

/// What a server does with a frame, as far as this crate decides it.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// The stream cannot be read any further: the connection is closed.
    Close(FrameError),
    /// The body is answered with code 51, the connection is kept.
    Refuse(DecodeError),
    /// The frame is good for this crate; the server that gets it decides. Why, in a word.
    Server(&'static str),
}

/// Every malformed fixture has to be here.
fn expected(name: &str) -> Outcome {
    let limit = 20 + 16 * 1024 * 1024;
    match name {
        "malformed_bad_magic" => Outcome::Close(FrameError::Magic(0xDEAD_BEEF)),
        "malformed_header_size_16" => Outcome::Close(FrameError::HeaderSize(16)),
        "malformed_header_size_20" => Outcome::Close(FrameError::HeaderSize(20)),
        "malformed_total_max" => Outcome::Close(FrameError::Total {
            total: i32::MAX,
            limit,
        }),
        "malformed_total_too_small" => Outcome::Close(FrameError::Total { total: 10, limit }),
        "malformed_pull_truncated" => Outcome::Refuse(DecodeError::Truncated { field: "subject" }),
        "malformed_pull_unknown_filter" => Outcome::Refuse(DecodeError::Unknown {
            field: "filter type",
            value: 9,
        }),
        "malformed_ack_v9_without_broadcast_byte" => Outcome::Refuse(DecodeError::Truncated {
            field: "isBroadcast",
        }),
        "malformed_send_empty_message_id" => Outcome::Server("empty message id"),
        "malformed_send_wrong_crc" => Outcome::Server("wrong checksum"),
        "malformed_pull_request_num_0" => Outcome::Server("wants no messages"),
        "malformed_pull_subject_with_slash" => Outcome::Server("illegal subject"),
        "malformed_unknown_code_9999" => Outcome::Server("unknown code"),
        "malformed_response_flag" => Outcome::Server("is a response"),
        other => panic!("no outcome is known for {other}"),
    }
}

fn outcome(bytes: &[u8]) -> Outcome {
    match whole_frame(bytes) {
        Ok(frame) if frame.header.is_response() => Outcome::Server("is a response"),
        Ok(frame) => judge(&frame).map_or_else(Outcome::Refuse, Outcome::Server),
        Err(error) => Outcome::Close(error),
    }
}

fn judge(frame: &Frame) -> Result<&'static str, DecodeError> {
    let version = frame.header.version;
    match CommandCode::from_code(frame.header.code) {
        Some(CommandCode::SendMessage) => {
            let request = SendRequest::decode(frame.body.clone())?;
            let mut messages = request.messages();
            if messages.clone().any(|message| !message.crc_matches()) {
                return Ok("wrong checksum");
            }
            let is_empty = messages.any(|message| message.payload.message_id.is_empty());
            Ok(if is_empty { "empty message id" } else { "good" })
        }
        Some(CommandCode::PullMessage) => {
            let request = PullRequest::decode(version, &frame.body)?;
            Ok(
                match (request.request_num, check_subject(request.subject)) {
                    (..=0, _) => "wants no messages",
                    (_, Err(_)) => "illegal subject",
                    (_, Ok(())) => "good",
                },
            )
        }
        Some(CommandCode::Ack) => AckRequest::decode(version, &frame.body).map(|_| "good"),
        Some(CommandCode::Heartbeat) => Heartbeat::decode(version, &frame.body).map(|_| "good"),
        Some(other) => panic!("no malformed frame of {other:?} is known"),
        None => Ok("unknown code"),
    }
}

#[test]
fn each_malformed_frame_has_its_outcome() {
    let mut checked = 0;
    for fixture in Fixture::starting_with("malformed_") {
        assert_eq!(
            outcome(&fixture.bytes),
            expected(&fixture.name),
            "{}",
            fixture.name
        );
        checked += 1;
    }
    assert_eq!(checked, 14);
}

#[test]
fn the_frame_sent_after_it_is_good() {
    for fixture in Fixture::starting_with("malformed_") {
        let next = from_hex(text(&fixture.json["nextFrameSent"]));
        assert_eq!(outcome(&next), Outcome::Server("good"), "{}", fixture.name);
    }
}
