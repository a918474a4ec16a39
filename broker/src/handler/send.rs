//! SEND_MESSAGE: everything is checked before the first message is appended.

use std::collections::HashMap;

use bytes::Bytes;
use qmq_model::names::{NameError, SubjectKind};
use qmq_model::payload::{MESSAGE_ID_UNITS_MAX, TAGS_MAX};
use qmq_model::{Payload, Subject};
use qmq_protocol::ResultCode;
use qmq_protocol::command::send::{SendFailure, SendRequest, SendResult, SentMessage, put_results};
use qmq_protocol::frame::is_legacy;
use qmq_remoting::{Request, Responder};
use qmq_store::NewMessage;
use tracing::debug;

use crate::broker::Broker;
use crate::inbox::SendBatch;

/// A message that is not stored, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its id, as sent.
    pub message_id: Bytes,
    /// The number clients act on.
    pub result: SendResult,
    /// The reason for people.
    pub remark: &'static str,
}

impl Refused {
    /// The disk is full.
    #[must_use]
    pub fn no_space(payload: &Bytes) -> Self {
        Self::by_store(payload, "disk of the broker is full")
    }

    /// The store can never take it.
    #[must_use]
    pub fn unstorable(payload: &Bytes) -> Self {
        Self::by_store(payload, "message does not fit the store")
    }

    fn entry(&self) -> SendFailure<'_> {
        SendFailure {
            message_id: &self.message_id,
            result: self.result,
            remark: self.remark,
        }
    }

    fn by_store(payload: &Bytes, remark: &'static str) -> Self {
        let parsed = Payload::split_first(payload);
        let id = parsed.map(|(parsed, _)| payload.slice_ref(parsed.message_id));
        Self {
            message_id: id.unwrap_or_default(),
            result: SendResult::StoreError,
            remark,
        }
    }
}

/// Takes a send request.
pub async fn handle(broker: &Broker, request: Request, responder: Responder) {
    let version = request.header.version;
    let decoded = match SendRequest::decode_version(version, request.body.clone()) {
        Ok(decoded) => decoded,
        Err(error) => {
            debug!(peer = %request.peer, %error, "send request cannot be decoded");
            broker.metrics.undecodable.inc();
            return refuse_request(&request.body, responder);
        }
    };
    if decoded
        .messages()
        .any(|message| message.payload.message_id.is_empty())
    {
        // Results are told apart by message id: without one there is no way to name the message.
        return refuse_request(&request.body, responder);
    }
    let (messages, refused) = check_all(&decoded, broker);
    let listed = if is_legacy(version) {
        decoded.messages().map(|sent| message_id(&sent)).collect()
    } else {
        Vec::new()
    };
    if messages.is_empty() {
        return answer(responder, &refused, &listed);
    }
    let count = messages.len();
    // When the writer has stopped the connection is about to close: no answer, outcome unknown.
    let _ = broker
        .inbox
        .put_send(SendBatch {
            messages,
            count,
            refused,
            listed,
            responder,
        })
        .await;
}

/// Answers a send request: failures are listed, an empty list means all are stored. A legacy client
/// gets the result of each message in `listed`, which are then those of the whole request.
pub fn answer(responder: Responder, refused: &[Refused], listed: &[Bytes]) {
    let version = responder.header().version;
    let code = ResultCode::Success.code();
    if listed.is_empty() {
        let entries = refused.iter().map(Refused::entry);
        return responder.send(code, |out| put_results(version, entries, out));
    }
    // Clients tell results apart by id as well: messages with the same id share one.
    let by_id: HashMap<&[u8], &Refused> = refused
        .iter()
        .map(|refused| (&refused.message_id[..], refused))
        .collect();
    let entries = listed.iter().map(|id| match by_id.get(&id[..]) {
        Some(refused) => refused.entry(),
        None => SendFailure {
            message_id: id,
            result: SendResult::Success,
            remark: "",
        },
    });
    responder.send(code, |out| put_results(version, entries, out));
}

/// Refuses a request of which nothing is stored. A legacy client reads a list of results whatever
/// the code is, so it gets one of the messages in front of the broken one.
fn refuse_request(body: &Bytes, responder: Responder) {
    let version = responder.header().version;
    responder.send(ResultCode::BrokerError.code(), |out| {
        if !is_legacy(version) {
            return;
        }
        let readable = SendRequest::split_version(version, body).map_while(Result::ok);
        let entries = readable.map(|message| SendFailure {
            message_id: message.payload.message_id,
            result: SendResult::StoreError,
            remark: "request cannot be read: nothing of it is stored",
        });
        put_results(version, entries, out);
    });
}

fn check_all(request: &SendRequest, broker: &Broker) -> (Vec<NewMessage>, Vec<Refused>) {
    let mut messages = Vec::with_capacity(request.len());
    let mut refused = Vec::new();
    // Producers batch messages of one subject: the name is checked and kept once per run.
    let mut last: Option<(&[u8], Subject)> = None;
    for message in request.messages() {
        if let Err((result, remark)) = check(&message, broker) {
            let message_id = message_id(&message);
            refused.push(Refused {
                message_id,
                result,
                remark,
            });
            continue;
        }
        let same = last
            .as_ref()
            .filter(|(name, _)| *name == message.payload.subject);
        let subject = match same {
            Some((_, subject)) => Ok(subject.clone()),
            None => subject_of(message.payload.subject, broker),
        };
        let subject = match subject {
            Ok(subject) => subject,
            Err((result, remark)) => {
                let message_id = message_id(&message);
                refused.push(Refused {
                    message_id,
                    result,
                    remark,
                });
                continue;
            }
        };
        last = Some((message.payload.subject, subject.clone()));
        // Checked above: the declared checksum is that of the payload.
        let crc = u32::try_from(message.declared_crc).unwrap_or_default();
        let payload = message.payload_bytes();
        // Two consumers may put the same message into a retry subject: both count.
        let may_repeat = subject.kind() == SubjectKind::Real;
        let fingerprint = broker.reader.fingerprint(&payload).filter(|_| may_repeat);
        messages.push(NewMessage {
            subject,
            payload,
            crc,
            fingerprint,
        });
    }
    if !refused.is_empty() {
        debug!(
            refused = refused.len(),
            first = refused[0].remark,
            "messages refused"
        );
        broker.metrics.refused.inc_by(refused.len() as u64);
    }
    (messages, refused)
}

fn message_id(message: &SentMessage<'_>) -> Bytes {
    message
        .payload_bytes()
        .slice_ref(message.payload.message_id)
}

fn subject_of(name: &[u8], broker: &Broker) -> Result<Subject, (SendResult, &'static str)> {
    // Trying again cannot help, and this is the number at which every producer gives up at once.
    let illegal = |error| (SendResult::Block, illegal_subject(error));
    let name = std::str::from_utf8(name).map_err(|_| illegal(NameError::NotUtf8))?;
    let subject = Subject::new(name).map_err(illegal)?;
    if broker.has_room_for(&subject) {
        return Ok(subject);
    }
    let remark = "the broker has subjects.max subjects already";
    Err((SendResult::StoreError, remark))
}

const fn illegal_subject(error: NameError) -> &'static str {
    match error {
        NameError::Empty => "illegal subject: it is empty",
        NameError::TooLong => "illegal subject: it is longer than 100 characters or 255 bytes",
        NameError::Character => {
            "illegal subject: it holds white space, a control character, '/' or '%'"
        }
        NameError::Dots => "illegal subject: '.' and '..' are not names",
        NameError::NotUtf8 => "illegal subject: it is not UTF-8",
    }
}

/// What a broker must not take: it would later be lost by consumers, or stop them.
fn check(message: &SentMessage<'_>, broker: &Broker) -> Result<(), (SendResult, &'static str)> {
    let payload = &message.payload;
    if !broker.is_writable() {
        return Err((SendResult::BrokerReadOnly, "BROKER READ ONLY"));
    }
    let refuse = |remark| Err((SendResult::StoreError, remark));
    if payload.bytes.len() > broker.message_bytes_max {
        return refuse("message is larger than message.bytes.max of the broker");
    }
    if !message.crc_matches() {
        return refuse("checksum does not match the message: damaged on the way or by the client");
    }
    let Ok(id) = std::str::from_utf8(payload.message_id) else {
        return refuse("message id is not UTF-8");
    };
    if id.len() > MESSAGE_ID_UNITS_MAX && id.encode_utf16().count() > MESSAGE_ID_UNITS_MAX {
        return refuse("message id is longer than 100 characters");
    }
    if usize::from(payload.tag_count) > TAGS_MAX {
        return refuse("message has more than 10 tags");
    }
    if payload.tag_iter().any(<[u8]>::is_empty) {
        return refuse("message has an empty tag");
    }
    if !payload.properties_are_readable() {
        return refuse("a property cannot be read: keys and values have at most 32767 bytes");
    }
    Ok(())
}
