//! What passed between the released Java client and our servers, compared with the golden frames
//! of the Java servers: byte by byte, but for fields that differ by their nature.
//!
//! The client sends, as `e2e/java`'s CaptureTest, the message of the golden frames.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::BytesMut;
use qmq_e2e::repository;
use qmq_protocol::command::ack::AckRequest;
use qmq_protocol::command::client_register::{ClientRegisterRequest, ClientRegisterResponse};
use qmq_protocol::command::pull::{PullRequest, PullResponse, put_pull_header};
use qmq_protocol::command::send::{SendRequest, SendResponse, put_message};
use qmq_protocol::{CommandCode, Decode, Encode, ResultCode};

use crate::recorder::Recorded;

/// Name of the broker group in the golden frames.
pub(crate) const GROUP: &str = "brokergroup1";
/// Settings with which the Java client sends what is in the golden frames.
pub(crate) const CLIENT_ID: &str = "host1@@0123456789abcdef0123456789abcdef";
pub(crate) const APP_CODE: &str = "wire_app";

const OPAQUE: Range<usize> = 14..18;
/// Of a send request: checksum, and the time of encoding.
const SENT_CRC: Range<usize> = 24..32;
const SENT_TIME: Range<usize> = 41..49;
/// Of a pull response: when its first message was encoded.
const PULLED_TIME: Range<usize> = 49..57;
/// Of a register response: when the database was read.
const REGISTER_TIME: Range<usize> = 24..32;

/// A golden frame, and where it differs by nature from what is sent today.
struct Golden {
    name: &'static str,
    differs: &'static [Range<usize>],
    /// How many bytes before the end something differs, and how many of them.
    differs_at_end: &'static [(usize, usize)],
}

const fn golden(name: &'static str, differs: &'static [Range<usize>]) -> Golden {
    Golden {
        name,
        differs,
        differs_at_end: &[],
    }
}

/// Each must have come at least once.
const EXPECTED: [Golden; 12] = [
    golden("send_request_single", &[OPAQUE, SENT_CRC, SENT_TIME]),
    golden("send_response_ok", &[OPAQUE]),
    golden("pull_request_v9_no_tag_filter", &[OPAQUE]),
    golden("pull_response_no_message", &[OPAQUE]),
    golden("pull_response_1_message", &[OPAQUE, PULLED_TIME]),
    Golden {
        // The golden one is of 50 messages.
        differs_at_end: &[(9, 8)],
        ..golden("ack_request_v9", &[OPAQUE])
    },
    golden("ack_response_ok", &[OPAQUE]),
    golden("client_register_request_producer_online", &[]),
    golden("client_register_request_consumer_retry_subject", &[]),
    register_response("client_register_response_consumer_online"),
    register_response("client_register_response_consumer_retry_subject"),
    register_response("client_register_response_producer_online"),
];

/// The port of the broker, and when the broker was heard last.
const fn register_response(name: &'static str) -> Golden {
    Golden {
        name,
        differs: &[REGISTER_TIME],
        differs_at_end: &[(14, 5), (9, 8)],
    }
}

/// Every golden frame above came, from whoever sends it.
pub(crate) fn contain_the_golden_frames(records: &[Vec<Recorded>]) {
    let missing: Vec<String> = EXPECTED
        .iter()
        .filter_map(|golden| golden.missing(records.iter().flatten()))
        .collect();
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

impl Golden {
    fn bytes(&self) -> Vec<u8> {
        let path = format!("protocol/tests/fixtures/{}.json", self.name);
        let text = std::fs::read_to_string(repository::root().join(path)).unwrap();
        let fixture: serde_json::Value = serde_json::from_str(&text).unwrap();
        let hex = fixture["hex"].as_str().unwrap();
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect()
    }

    /// The frame with zeros where it may differ.
    fn masked(&self, frame: &[u8]) -> Vec<u8> {
        let mut masked = frame.to_vec();
        let from_end = |&(before_end, len): &(usize, usize)| {
            let begin = frame.len() - before_end;
            begin..begin + len
        };
        let all = self.differs.iter().cloned();
        for range in all.chain(self.differs_at_end.iter().map(from_end)) {
            masked[range].fill(0);
        }
        masked
    }

    /// What to tell if none of these frames is like it: the one with the most equal bytes.
    fn missing<'a>(&self, all: impl Iterator<Item = &'a Recorded>) -> Option<String> {
        let bytes = self.bytes();
        let wanted = self.masked(&bytes);
        let equal = |recorded: &&Recorded| {
            let masked = self.masked(&recorded.bytes);
            masked.iter().zip(&wanted).filter(|(a, b)| a == b).count()
        };
        let nearest = all
            .filter(|recorded| recorded.bytes.len() == bytes.len())
            .max_by_key(equal);
        let Some(nearest) = nearest else {
            return Some(format!("{}: no frame of its length", self.name));
        };
        let differ = (0..bytes.len()).filter(|&at| self.masked(&nearest.bytes)[at] != wanted[at]);
        let differ: Vec<usize> = differ.collect();
        (!differ.is_empty()).then(|| {
            format!(
                "{}: {:02x?}\nis the nearest to {bytes:02x?}, it differs at {differ:?}",
                self.name,
                nearest.bytes.to_vec()
            )
        })
    }
}

/// Every frame is read by our protocol crate and written again as it was, whoever wrote it.
pub(crate) fn are_written_as_they_came(records: &[Vec<Recorded>]) {
    let mut checked: BTreeMap<(i16, bool), usize> = BTreeMap::new();
    for Recorded { bytes, frame } in records.iter().flatten() {
        let header = &frame.header;
        let body = written_body(frame)
            .unwrap_or_else(|error| panic!("{error} in {header:?} {:02x?}", frame.body.to_vec()));
        let mut written = BytesMut::new();
        header.put_frame(&mut written, |out| out.extend_from_slice(&body));
        assert!(
            written == bytes,
            "{header:?}: {:02x?}\ninstead of {:02x?}",
            written.to_vec(),
            bytes.to_vec()
        );
        let code = if header.is_response() {
            header.request_code
        } else {
            header.code
        };
        *checked.entry((code, header.is_response())).or_default() += 1;
    }
    println!("frames read and written by (command, is a response): {checked:?}");
    assert_eq!(checked.len(), 8, "both directions of four commands");
}

fn written_body(frame: &qmq_protocol::Frame) -> Result<BytesMut, qmq_protocol::DecodeError> {
    let qmq_protocol::Frame { header, body } = frame;
    let version = header.version;
    let mut out = BytesMut::new();
    let is_response = header.is_response();
    let code = if is_response {
        header.request_code
    } else {
        header.code
    };
    let command = CommandCode::from_code(code).expect("Java clients send known commands");
    if is_response && header.code != ResultCode::Success.code() {
        assert!(body.is_empty(), "an error says nothing more: {header:?}");
        return Ok(out);
    }
    match (command, is_response) {
        (CommandCode::SendMessage, false) => {
            for message in SendRequest::decode(body.clone())?.messages() {
                assert!(message.crc_matches());
                put_message(message.payload.bytes, &mut out);
            }
        }
        (CommandCode::SendMessage, true) => {
            let response = SendResponse::decode(version, body)?;
            let failures: Vec<_> = response.failures().collect();
            failures[..].encode(version, &mut out);
        }
        (CommandCode::PullMessage, false) => {
            PullRequest::decode(version, body)?.encode(version, &mut out);
        }
        (CommandCode::PullMessage, true) => {
            let response = PullResponse::decode(version, body)?;
            put_pull_header(response.first, &mut out);
            for message in response.messages() {
                out.extend_from_slice(message.payload.bytes);
            }
        }
        (CommandCode::Ack, false) => AckRequest::decode(version, body)?.encode(version, &mut out),
        (CommandCode::Ack, true) => assert!(body.is_empty()),
        (CommandCode::ClientRegister, false) => {
            ClientRegisterRequest::decode(version, body)?.encode(version, &mut out);
        }
        (CommandCode::ClientRegister, true) => {
            ClientRegisterResponse::decode(version, body)?.encode(version, &mut out);
        }
        (other, _) => panic!("{other:?} is no command of a Java client"),
    }
    Ok(out)
}

#[test]
fn a_changed_byte_is_noticed() {
    for golden in &EXPECTED {
        let bytes = golden.bytes();
        let wanted = golden.masked(&bytes);
        let noticed = (0..bytes.len())
            .filter(|&at| {
                let mut changed = bytes.clone();
                changed[at] ^= 1;
                golden.masked(&changed) != wanted
            })
            .count();
        let masked: usize = golden
            .differs
            .iter()
            .map(ExactSizeIterator::len)
            .sum::<usize>()
            + golden
                .differs_at_end
                .iter()
                .map(|(_, len)| len)
                .sum::<usize>();
        assert_eq!(noticed, bytes.len() - masked, "{}", golden.name);
        assert!(masked < bytes.len() / 3 + 8, "{}", golden.name);
    }
}
