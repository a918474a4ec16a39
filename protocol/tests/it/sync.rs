//! Commands between servers: recorded exchanges of Java masters and slaves, and random ones.

use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::*;
use qmq_protocol::command::consume_manage::{ConsumeFromWhere, ConsumeManageRequest};
use qmq_protocol::command::sync::{
    DelaySyncLogRequest, DispatchFile, SyncCheckpointRequest, SyncCheckpointResponse,
    SyncDispatchResponse, SyncHeartbeatResponse, SyncIndexEntry, SyncIndexResponse, SyncLogRequest,
    SyncLogResponse, SyncType,
};
use qmq_protocol::{CommandCode, Decode, Encode, Header};

use crate::fixture::{from_hex, whole_frame};
use crate::properties::{check_fixed, encoded, text, version};
use crate::vectors::written;

/// Checks that the body in `hex` is `command`, both ways.
fn check<'a, T>(command: &T, hex: &'a mut Vec<u8>) -> &'a [u8]
where
    T: Encode + Decode<'a> + PartialEq + std::fmt::Debug,
{
    let mut out = BytesMut::new();
    command.encode(9, &mut out);
    assert_eq!(&out[..], &hex[..]);
    assert_eq!(&T::decode(9, hex).unwrap(), command);
    hex
}

#[test]
fn an_empty_slave_asks_for_messages() {
    let hex = "000000250012dec10ade00140009000000030000000000140200000000000000000000000000000000";
    let request = SyncLogRequest {
        sync_type: SyncType::Message,
        message_offset: 0,
        action_offset: 0,
    };
    let header = Header::request(CommandCode::SyncLog.code(), 3);
    assert_eq!(written(header, |out| request.encode(9, out)), hex);
    let frame = whole_frame(&from_hex(hex)).unwrap();
    assert_eq!(SyncLogRequest::decode(9, &frame.body), Ok(request));
    assert!(DelaySyncLogRequest::decode(9, &frame.body).is_err());
}

#[test]
fn the_master_answers_with_one_record() {
    let record = [
        &from_hex("a1b2c30200000001a1f7da6fd800000000000000000005")[..],
        b"sub.a",
        &from_hex("0000000031ac3c5d00000027"),
        &[7; 0x27],
    ]
    .concat();
    assert_eq!(record.len(), 0x4F);
    let response = SyncLogResponse {
        start: 0,
        bytes: &record,
    };
    let header = Header::request(CommandCode::SyncLog.code(), 3).response(0);
    let hex = written(header, |out| response.encode(9, out));
    let start = "0000006f0012dec10ade00000009000000030000000100140000004f0000000000000000a1b2c302";
    assert!(hex.starts_with(start), "{hex}");
    let frame = whole_frame(&from_hex(&hex)).unwrap();
    assert_eq!(SyncLogResponse::decode(9, &frame.body), Ok(response));
}

#[test]
fn nothing_new_is_size_zero_at_the_offset_asked_for() {
    let mut hex = from_hex("000000000000000000001000");
    check(
        &SyncLogResponse {
            start: 4096,
            bytes: &[],
        },
        &mut hex,
    );
}

#[test]
fn heartbeat() {
    let mut hex = from_hex("000000000000004f0000000000000010");
    check(
        &SyncHeartbeatResponse {
            message_end: 79,
            other_end: 16,
        },
        &mut hex,
    );
}

#[test]
fn checkpoint() {
    let mut nothing = Vec::new();
    check(&SyncCheckpointRequest, &mut nothing);
    assert!(SyncCheckpointRequest::decode(9, &[0]).is_err());

    let mut hex = from_hex("010000000d320a37390a7375622e612f300a00000005330a2d310a");
    let body = check(
        &SyncCheckpointResponse {
            messages: b"2\n79\nsub.a/0\n",
            actions: b"3\n-1\n",
        },
        &mut hex,
    );
    for len in 0..body.len() {
        assert!(SyncCheckpointResponse::decode(9, &body[..len]).is_err());
    }
}

#[test]
fn a_delay_slave_asks_for_its_first_dispatch_file() {
    let mut hex = vec![0xFF; 41];
    hex[0] = 4;
    let request = DelaySyncLogRequest {
        sync_type: SyncType::Dispatch,
        message_offset: -1,
        newest: DispatchFile::NONE,
        older: DispatchFile::NONE,
    };
    check(&request, &mut hex);
}

#[test]
fn an_empty_delay_slave_asks_for_messages() {
    let mut hex = vec![0xFF; 41];
    hex[0] = 2;
    hex[1..9].fill(0);
    let request = DelaySyncLogRequest {
        sync_type: SyncType::Message,
        message_offset: 0,
        newest: DispatchFile::NONE,
        older: DispatchFile::NONE,
    };
    let body = check(&request, &mut hex);
    assert!(SyncLogRequest::decode(9, body).is_err());
}

#[test]
fn bytes_of_a_dispatch_file() {
    let two_sequences = from_hex("00000000000000010000000000000002");
    let mut hex = from_hex("0000001000000000000000000000002f2c919514");
    hex.extend(&two_sequences);
    check(
        &SyncDispatchResponse {
            start: 0,
            base: 202_611_201_300,
            bytes: &two_sequences,
        },
        &mut hex,
    );
}

fn sync_type() -> impl Strategy<Value = SyncType> {
    (1_i8..=5).prop_map(|code| SyncType::from_code(code).expect("1 to 5 are types"))
}

proptest! {
    #[test]
    fn requests(
        version in version(),
        sync_type in sync_type(),
        (message_offset, action_offset) in any::<(i64, i64)>(),
        (newest, older) in any::<((i64, i64), (i64, i64))>(),
    ) {
        let request = SyncLogRequest { sync_type, message_offset, action_offset };
        check_fixed(version, &encoded(version, &request), |body| {
            SyncLogRequest::decode(version, body).map(|read| read == request)
        })?;
        let file = |(base, bytes)| DispatchFile { base, bytes };
        let (newest, older) = (file(newest), file(older));
        let request = DelaySyncLogRequest { sync_type, message_offset, newest, older };
        check_fixed(version, &encoded(version, &request), |body| {
            DelaySyncLogRequest::decode(version, body).map(|read| read == request)
        })?;
    }

    #[test]
    fn responses(
        version in version(),
        (start, base) in any::<(i64, i64)>(),
        (bytes, actions) in (vec(any::<u8>(), 0..60), vec(any::<u8>(), 0..60)),
    ) {
        let response = SyncLogResponse { start, bytes: &bytes };
        check_fixed(version, &encoded(version, &response), |body| {
            SyncLogResponse::decode(version, body).map(|read| read == response)
        })?;
        let response = SyncDispatchResponse { start, base, bytes: &bytes };
        check_fixed(version, &encoded(version, &response), |body| {
            SyncDispatchResponse::decode(version, body).map(|read| read == response)
        })?;
        let response = SyncHeartbeatResponse { message_end: start, other_end: base };
        check_fixed(version, &encoded(version, &response), |body| {
            SyncHeartbeatResponse::decode(version, body).map(|read| read == response)
        })?;
        let response = SyncCheckpointResponse { messages: &bytes, actions: &actions };
        check_fixed(version, &encoded(version, &response), |body| {
            SyncCheckpointResponse::decode(version, body).map(|read| read == response)
        })?;
    }

    #[test]
    fn index_responses(
        version in version(),
        next in any::<i64>(),
        entries in vec((any::<(i64, i64)>(), text(), text()), 0..4),
    ) {
        let mut bytes = BytesMut::new();
        let entries: Vec<_> = entries
            .iter()
            .map(|((sequence, create_ms), subject, message_id)| SyncIndexEntry {
                sequence: *sequence,
                create_ms: *create_ms,
                subject: subject.as_bytes(),
                message_id: message_id.as_bytes(),
            })
            .collect();
        entries.iter().for_each(|entry| entry.put(&mut bytes));
        let response = SyncIndexResponse::new(next, &bytes).unwrap();
        prop_assert_eq!(response.entries().collect::<Vec<_>>(), entries);
        check_fixed(version, &encoded(version, &response), |body| {
            SyncIndexResponse::decode(version, body).map(|read| read == response)
        })?;
    }

    #[test]
    fn consume_manage(
        version in version(),
        (subject, group) in (text(), text()),
        from in prop_oneof![
            Just(ConsumeFromWhere::Latest),
            Just(ConsumeFromWhere::Earliest),
            any::<i64>().prop_map(ConsumeFromWhere::Time),
            (4..i32::MAX).prop_map(ConsumeFromWhere::Other),
        ],
    ) {
        let request = ConsumeManageRequest { subject: &subject, group: &group, from };
        check_fixed(version, &encoded(version, &request), |body| {
            ConsumeManageRequest::decode(version, body).map(|read| read == request)
        })?;
    }
}
