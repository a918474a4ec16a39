//! Commands between servers: SYNC_LOG_REQUEST, SYNC_CHECKPOINT_REQUEST, CONSUME_MANAGE.
//! Input: version, then a body.
//!
//! Oracle: what can be read is written to the same bytes.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use qmq_fuzz::{same_bytes, version_and_body};
use qmq_protocol::Decode;
use qmq_protocol::command::consume_manage::ConsumeManageRequest;
use qmq_protocol::command::sync::{
    DelaySyncLogRequest, SyncCheckpointRequest, SyncCheckpointResponse, SyncDispatchResponse,
    SyncHeartbeatResponse, SyncIndexResponse, SyncLogRequest, SyncLogResponse,
};

fuzz_target!(|input: &[u8]| {
    let Some((version, body)) = version_and_body(input) else {
        return;
    };
    same_bytes::<ConsumeManageRequest<'_>>(version, &body);
    same_bytes::<SyncLogRequest>(version, &body);
    same_bytes::<DelaySyncLogRequest>(version, &body);
    same_bytes::<SyncLogResponse<'_>>(version, &body);
    same_bytes::<SyncHeartbeatResponse>(version, &body);
    same_bytes::<SyncDispatchResponse<'_>>(version, &body);
    same_bytes::<SyncIndexResponse<'_>>(version, &body);
    same_bytes::<SyncCheckpointRequest>(version, &body);
    same_bytes::<SyncCheckpointResponse<'_>>(version, &body);
    if let Ok(response) = SyncIndexResponse::decode(version, &body) {
        let mut entries = BytesMut::new();
        response.entries().for_each(|entry| entry.put(&mut entries));
        let again = SyncIndexResponse::new(response.next, &entries);
        assert_eq!(again, Ok(response));
    }
});
