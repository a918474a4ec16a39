//! Random commands: read as they were written, never read when cut off.

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use qmq_model::{BrokerGroup, BrokerRole, BrokerState, Message, PullSequence, UnixMillis};
use qmq_protocol::command::ack::AckRequest;
use qmq_protocol::command::broker_acquire_meta::{
    BrokerAcquireMetaRequest, BrokerAcquireMetaResponse,
};
use qmq_protocol::command::broker_register::BrokerRegisterRequest;
use qmq_protocol::command::client_register::{
    ClientRegisterRequest, ClientRegisterResponse, ClientRequestType, OnOfflineState,
};
use qmq_protocol::command::pull::{
    PULL_HEADER_BYTES, PullFilter, PullRequest, PullResponse, TagFilter, TagMatch,
    put_payload_for_version, put_pull_header,
};
use qmq_protocol::command::send::{
    SendFailure, SendRequest, SendResponse, SendResult, put_message,
};
use qmq_protocol::{Decode, DecodeError, Encode};

/// Every version that differs from its neighbour, and now and then any other.
pub(crate) fn version() -> impl Strategy<Value = i16> {
    prop_oneof![1 => 2_i16..=5, 4 => 6_i16..=11, 1 => any::<i16>()]
}

pub(crate) fn text() -> impl Strategy<Value = String> {
    prop_oneof![4 => "\\PC{0,12}", 1 => "[a-z]{200,300}"]
}

pub(crate) fn encoded(version: i16, command: &(impl Encode + ?Sized)) -> Bytes {
    let mut out = BytesMut::new();
    command.encode(version, &mut out);
    out.freeze()
}

/// A body of one fixed layout: `read` tells whether it is the command it was written from.
pub(crate) fn check_fixed(
    version: i16,
    body: &[u8],
    read: impl Fn(&[u8]) -> Result<bool, DecodeError>,
) -> Result<(), TestCaseError> {
    prop_assert_eq!(read(body), Ok(true));
    for len in 0..body.len() {
        prop_assert!(
            read(&body[..len]).is_err(),
            "{} of {} bytes",
            len,
            body.len()
        );
    }
    let longer = [body, &[0]].concat();
    let trailing = if version <= 9 {
        Err(DecodeError::Trailing { bytes: 1 })
    } else {
        Ok(true)
    };
    prop_assert_eq!(read(&longer), trailing);
    Ok(())
}

/// A body of `start` bytes and then entries of the given sizes: `read` counts them. Cut between
/// two entries it holds fewer of them, cut elsewhere it is broken.
pub(crate) fn check_list(
    body: &[u8],
    start: usize,
    sizes: &[usize],
    read: impl Fn(&[u8]) -> Result<usize, DecodeError>,
) -> Result<(), TestCaseError> {
    let ends = sizes.iter().scan(start, |end, size| {
        *end += size;
        Some(*end)
    });
    let ends: Vec<_> = std::iter::once(start).chain(ends).collect();
    prop_assert_eq!(ends.last(), Some(&body.len()));
    for len in 0..=body.len() {
        let cut = read(&body[..len]).ok();
        prop_assert_eq!(
            cut,
            ends.iter().position(|&end| end == len),
            "{} bytes",
            len
        );
    }
    Ok(())
}

fn message() -> impl Strategy<Value = Message> {
    (
        "[a-z.]{1,20}",
        vec("[a-z]{1,5}", 0..4),
        vec((text(), text()), 0..4),
        proptest::option::of(any::<i64>()),
        any::<bool>(),
    )
        .prop_map(
            |(message_id, tags, properties, due, low_reliability)| Message {
                subject: "a.b".into(),
                message_id,
                created: UnixMillis(7),
                due: due.map(UnixMillis),
                low_reliability,
                tags: tags.into_iter().collect(),
                properties,
            },
        )
}

pub(crate) fn payloads() -> impl Strategy<Value = Vec<Bytes>> {
    vec(
        message().prop_map(|message| message.to_payload().unwrap()),
        0..4,
    )
}

/// A filter that owns its texts: match or environments, tags.
type OwnedFilter = (Option<i16>, Vec<String>, String);

fn filters() -> impl Strategy<Value = Vec<OwnedFilter>> {
    let tag_match = prop_oneof![4 => 0_i16..4, 1 => any::<i16>()];
    vec(
        (proptest::option::of(tag_match), vec(text(), 0..4), text()),
        0..4,
    )
}

fn borrowed((tag_match, tags, env): &OwnedFilter) -> PullFilter<'_> {
    match tag_match {
        Some(code) => PullFilter::Tag(TagFilter {
            tag_match: TagMatch::from_code(*code),
            tags: tags.iter().map(String::as_bytes).collect(),
        }),
        None => PullFilter::SubEnv {
            env,
            sub_env: tags.first().map_or("", String::as_str),
        },
    }
}

/// What is left of filters once they were written for `version`.
fn filters_at(version: i16, filters: Vec<PullFilter<'_>>) -> Vec<PullFilter<'_>> {
    let is_tag = |filter: &PullFilter<'_>| matches!(filter, PullFilter::Tag(_));
    let none = TagFilter {
        tag_match: TagMatch::NoTag,
        tags: Vec::new(),
    };
    match version {
        ..8 => Vec::new(),
        8 => vec![
            filters
                .into_iter()
                .find(is_tag)
                .unwrap_or(PullFilter::Tag(none)),
        ],
        _ => filters,
    }
}

pub(crate) fn group() -> impl Strategy<Value = BrokerGroup> {
    (text(), text(), any::<i64>(), 1..=4).prop_map(|(name, master, updated_ms, state)| {
        let state = BrokerState::from_code(state).expect("1 to 4 are states");
        BrokerGroup {
            name,
            master,
            updated_ms,
            state,
        }
    })
}

proptest! {
    #[test]
    fn send_request(payloads in payloads()) {
        let mut body = BytesMut::new();
        payloads.iter().for_each(|payload| put_message(payload, &mut body));
        let body = body.freeze();
        let request = SendRequest::decode(body.clone()).unwrap();
        prop_assert!(request.messages().all(|message| message.crc_matches()));
        let read: Vec<_> = request.messages().map(|message| message.payload_bytes()).collect();
        prop_assert_eq!(&read, &payloads);

        let sizes: Vec<_> = payloads.iter().map(|payload| 8 + payload.len()).collect();
        check_list(&body, 0, &sizes, |cut| {
            let cut = Bytes::copy_from_slice(cut);
            SendRequest::decode(cut).map(|request| request.len())
        })?;
    }

    #[test]
    fn send_response(
        version in version(),
        entries in vec((text(), prop_oneof![0..8, any::<i32>()], text()), 0..4),
    ) {
        let failures: Vec<_> = entries
            .iter()
            .map(|(id, code, remark)| {
                let result = SendResult::from_code(*code);
                SendFailure { message_id: id.as_bytes(), result, remark }
            })
            .collect();
        let body = encoded(version, &failures[..]);
        let response = SendResponse::decode(version, &body).unwrap();
        prop_assert_eq!(response.failures().collect::<Vec<_>>(), failures);

        let sizes: Vec<_> = entries.iter().map(|(id, _, text)| 8 + id.len() + text.len()).collect();
        check_list(&body, 0, &sizes, |cut| {
            SendResponse::decode(version, cut).map(|response| response.failures().count())
        })?;
    }

    #[test]
    fn pull_request(
        version in version(),
        (subject, group, consumer_id) in (text(), text(), text()),
        numbers in any::<(i32, i64, i64, i64, i64, bool)>(),
        filters in filters(),
    ) {
        let (request_num, offset, pull_begin, pull_last, timeout_ms, is_broadcast) = numbers;
        let mut request = PullRequest {
            subject: &subject,
            group: &group,
            consumer_id: &consumer_id,
            request_num,
            offset,
            pull_begin,
            pull_last,
            timeout_ms,
            is_broadcast,
            filters: filters.iter().map(borrowed).collect(),
        };
        let body = encoded(version, &request);
        request.filters = filters_at(version, request.filters);
        prop_assert_eq!(encoded(version, &request), &body);
        check_fixed(version, &body, |body| {
            PullRequest::decode(version, body).map(|read| read == request)
        })?;
    }

    #[test]
    fn pull_response(version in version(), first in 0..i64::MAX - 10, payloads in payloads()) {
        let mut body = BytesMut::new();
        put_pull_header(PullSequence(first), &mut body);
        let mut sizes = Vec::new();
        for payload in &payloads {
            let start = body.len();
            put_payload_for_version(version, payload, &mut body).unwrap();
            sizes.push(body.len() - start);
        }
        let response = PullResponse::decode(version, &body).unwrap();
        prop_assert_eq!((response.first, response.len()), (PullSequence(first), payloads.len()));
        for ((read, payload), sequence) in response.messages().zip(&payloads).zip(first..) {
            prop_assert_eq!(read.sequence, PullSequence(sequence));
            let (sent, _) = qmq_model::Payload::split_first(payload).unwrap();
            prop_assert_eq!((read.payload.flag, read.payload.body), (sent.flag, sent.body));
            prop_assert_eq!(read.payload.message_id, sent.message_id);
            let tags = if version >= 8 { sent.tags } else { &[] };
            prop_assert_eq!(read.payload.tags, tags);
        }
        check_list(&body, PULL_HEADER_BYTES, &sizes, |cut| {
            PullResponse::decode(version, cut).map(|response| response.messages().count())
        })?;
    }

    #[test]
    fn ack_request(
        version in version(),
        (subject, group, consumer_id) in (text(), text(), text()),
        (pull_begin, pull_last, is_broadcast) in any::<(i64, i64, bool)>(),
    ) {
        let (subject, group, consumer_id) = (&*subject, &*group, &*consumer_id);
        let request =
            AckRequest { subject, group, consumer_id, pull_begin, pull_last, is_broadcast };
        let body = encoded(version, &request);
        let expected = AckRequest { is_broadcast: is_broadcast && version >= 8, ..request };
        check_fixed(version, &body, |body| {
            AckRequest::decode(version, body).map(|read| read == expected)
        })?;
    }

    #[test]
    fn client_register_request(
        version in version(),
        texts in proptest::array::uniform5(text()),
        client_type_code in any::<i32>(),
        is_heartbeat in any::<bool>(),
    ) {
        let [subject, client_id, app_code, consumer_group, ldc] = &texts;
        let request_type =
            if is_heartbeat { ClientRequestType::Heartbeat } else { ClientRequestType::Online };
        let request = ClientRegisterRequest {
            subject,
            client_type_code,
            request_type,
            client_id,
            app_code,
            consumer_group,
            ldc,
        };
        check_fixed(version, &encoded(version, &request), |body| {
            ClientRegisterRequest::decode(version, body).map(|read| read == request)
        })?;
    }

    #[test]
    fn client_register_response(
        version in version(),
        (subject, consumer_group) in (text(), text()),
        (timestamp_ms, is_online, client_type_code) in any::<(i64, bool, i8)>(),
        groups in vec(group(), 0..4),
    ) {
        let response = ClientRegisterResponse {
            timestamp_ms,
            subject: &subject,
            consumer_group: &consumer_group,
            state: if is_online { OnOfflineState::Online } else { OnOfflineState::Offline },
            client_type_code,
            groups,
        };
        check_fixed(version, &encoded(version, &response), |body| {
            ClientRegisterResponse::decode(version, body).map(|read| read == response)
        })?;
    }

    #[test]
    fn broker_register_request(
        version in version(),
        (group_name, broker_address) in (text(), text()),
        (request_type_code, role_code, state_code) in any::<(i32, i32, i32)>(),
    ) {
        let (group_name, broker_address) = (&*group_name, &*broker_address);
        let request = BrokerRegisterRequest {
            request_type_code,
            group_name,
            broker_address,
            role_code,
            state_code,
        };
        check_fixed(version, &encoded(version, &request), |body| {
            BrokerRegisterRequest::decode(version, body).map(|read| read == request)
        })?;
    }

    #[test]
    fn broker_acquire_meta(
        version in version(),
        (hostname, name, master) in (text(), text(), text()),
        port in any::<i32>(),
        role in 0..8,
    ) {
        let request = BrokerAcquireMetaRequest { hostname: &hostname, port };
        check_fixed(version, &encoded(version, &request), |body| {
            BrokerAcquireMetaRequest::decode(version, body).map(|read| read == request)
        })?;
        let role = BrokerRole::from_code(role).expect("0 to 7 are roles");
        let response = BrokerAcquireMetaResponse { name: &name, master: &master, role };
        check_fixed(version, &encoded(version, &response), |body| {
            BrokerAcquireMetaResponse::decode(version, body).map(|read| read == response)
        })?;
    }
}
