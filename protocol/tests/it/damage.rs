//! Damaged commands, random bytes, streams in random pieces.

use bytes::{BufMut, Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use qmq_protocol::command::ack::AckRequest;
use qmq_protocol::command::broker_acquire_meta::{
    BrokerAcquireMetaRequest, BrokerAcquireMetaResponse,
};
use qmq_protocol::command::broker_register::BrokerRegisterRequest;
use qmq_protocol::command::client_register::{ClientRegisterRequest, ClientRegisterResponse};
use qmq_protocol::command::consume_manage::ConsumeManageRequest;
use qmq_protocol::command::heartbeat::Heartbeat;
use qmq_protocol::command::pull::{PullRequest, PullResponse, put_payload_without_delay_bit};
use qmq_protocol::command::send::{SendRequest, SendResponse};
use qmq_protocol::command::sync::{
    DelaySyncLogRequest, SyncCheckpointRequest, SyncCheckpointResponse, SyncDispatchResponse,
    SyncHeartbeatResponse, SyncIndexResponse, SyncLogRequest, SyncLogResponse,
};
use qmq_protocol::frame::BODY_BYTES_MAX;
use qmq_protocol::{Decode, Encode, Frame, Header, split_frame};

use crate::fixture::Fixture;
use crate::properties::{encoded, version};

proptest! {
    #[test]
    fn random_bytes_never_panic(version in version(), body in vec(any::<u8>(), 0..300)) {
        read_as_everything(version, &Bytes::from(body));
    }

    /// Small numbers make short strings, known types and plausible counts.
    #[test]
    fn random_small_bytes_never_panic(version in version(), body in vec(0_u8..4, 0..300)) {
        read_as_everything(version, &Bytes::from(body));
    }

    #[test]
    fn random_frames_never_panic(bytes in vec(any::<u8>(), 0..60), limit in any::<usize>()) {
        // With a right magic the length fields get their turn.
        let mut frame = bytes.clone();
        if let Some(magic) = frame.get_mut(6..10) {
            magic.copy_from_slice(&[0xDE, 0xC1, 0x0A, 0xDE]);
        }
        for bytes in [bytes, frame] {
            let before = bytes.len();
            let mut buf = BytesMut::from(&bytes[..]);
            if let Ok(Some(frame)) = split_frame(&mut buf, limit) {
                prop_assert_eq!(24 + frame.body.len() + buf.len(), before);
            } else {
                prop_assert_eq!(buf.len(), before);
            }
        }
    }

    #[test]
    fn streams_are_split_alike_however_they_arrive(
        bodies in vec(vec(any::<u8>(), 0..80), 1..8),
        pieces in vec(1_usize..60, 1..40),
    ) {
        let mut stream = BytesMut::new();
        let mut frames = Vec::new();
        for (opaque, body) in (0..).zip(&bodies) {
            let header = Header::request(11, opaque);
            header.put_frame(&mut stream, |out| out.put_slice(body));
            frames.push(Frame { header, body: Bytes::copy_from_slice(body) });
        }
        let (mut buf, mut read) = (BytesMut::new(), Vec::new());
        for piece in pieces.into_iter().cycle() {
            if stream.is_empty() {
                break;
            }
            buf.extend_from_slice(&stream.split_to(piece.min(stream.len())));
            while let Some(frame) = split_frame(&mut buf, BODY_BYTES_MAX).unwrap() {
                read.push(frame);
            }
        }
        prop_assert_eq!(read, frames);
        prop_assert!(buf.is_empty());
    }
}

#[test]
fn damaged_golden_frames_never_panic() {
    for fixture in Fixture::all()
        .into_iter()
        .filter(|fixture| fixture.bytes.len() < 1_000)
    {
        for at in 0..fixture.bytes.len() {
            for value in [0, 1, 0x7F, 0x80, 0xFF] {
                let mut bytes = fixture.bytes.clone();
                bytes[at] = value;
                if let Ok(Some(Frame { header, body })) =
                    split_frame(&mut BytesMut::from(&bytes[..]), BODY_BYTES_MAX)
                {
                    read_as_everything(header.version, &body);
                }
            }
        }
    }
}

#[test]
fn truncated_golden_frames_are_waited_for_or_refused() {
    for fixture in Fixture::all()
        .into_iter()
        .filter(|fixture| fixture.bytes.len() < 10_000)
    {
        for len in 0..fixture.bytes.len() {
            let mut buf = BytesMut::from(&fixture.bytes[..len]);
            let read = split_frame(&mut buf, BODY_BYTES_MAX);
            assert!(
                matches!(read, Ok(None) | Err(_)),
                "{} at {len}: {read:?}",
                fixture.name
            );
        }
    }
}

/// Reads `body` as each command there is, and all of what comes out.
fn read_as_everything(version: i16, body: &Bytes) {
    for version in [3, 9] {
        let split: Vec<_> = SendRequest::split_version(version, body).collect();
        if let Ok(request) = SendRequest::decode_version(version, body.clone()) {
            assert_eq!(request.messages().count(), split.len());
            request.messages().for_each(|message| {
                _ = message.crc_matches();
                assert_eq!(message.payload_bytes(), message.payload.bytes);
            });
        } else {
            assert!(split.last().is_some_and(Result::is_err));
        }
    }
    if let Ok(response) = SendResponse::decode(version, body) {
        let failures: Vec<_> = response.failures().collect();
        assert_eq!(encoded(version, &failures[..]), body);
    }
    if let Ok(request) = PullRequest::decode(version, body) {
        _ = request.tag_filter();
        _ = request.sub_env_filter();
        let again = encoded(version, &request);
        assert_eq!(PullRequest::decode(version, &again), Ok(request));
    }
    if let Ok(response) = PullResponse::decode(version, body) {
        assert_eq!(response.messages().count(), response.len());
    }
    if let Ok(request) = ClientRegisterRequest::decode(version, body) {
        let again = encoded(version, &request);
        assert_eq!(ClientRegisterRequest::decode(version, &again), Ok(request));
    }
    if let Ok(response) = ClientRegisterResponse::decode(version, body)
        && version <= 9
    {
        assert_eq!(encoded(version, &response), body);
    }
    if let Ok(response) = ClientRegisterResponse::decode_version(3, body) {
        let mut again = BytesMut::new();
        response.encode_for_version(3, &mut again);
        assert_eq!(
            ClientRegisterResponse::decode_version(3, &again),
            Ok(response)
        );
    }
    if version <= 9 {
        same_again::<ConsumeManageRequest<'_>>(version, body);
        same_again::<SyncLogRequest>(version, body);
        same_again::<SyncLogResponse<'_>>(version, body);
        same_again::<SyncHeartbeatResponse>(version, body);
        same_again::<SyncIndexResponse<'_>>(version, body);
        same_again::<DelaySyncLogRequest>(version, body);
        same_again::<SyncDispatchResponse<'_>>(version, body);
        same_again::<SyncCheckpointRequest>(version, body);
        same_again::<SyncCheckpointResponse<'_>>(version, body);
    }
    _ = AckRequest::decode(version, body);
    _ = BrokerRegisterRequest::decode(version, body);
    _ = BrokerAcquireMetaRequest::decode(version, body);
    _ = BrokerAcquireMetaResponse::decode(version, body);
    _ = Heartbeat::decode(version, body);
    let mut out = BytesMut::new();
    _ = put_payload_without_delay_bit(version, body, &mut out);
}

/// What can be read is written as it was.
fn same_again<'a, T: Decode<'a> + Encode>(version: i16, body: &'a [u8]) {
    if let Ok(command) = T::decode(version, body) {
        assert_eq!(encoded(version, &command), body);
    }
}
