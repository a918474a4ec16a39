//! SEND_MESSAGE as every server takes it: what is checked before anything is stored, and how the
//! producer is answered.

use std::collections::HashMap;

use bytes::Bytes;
use qmq_model::names::NameError;
use qmq_model::payload::{MESSAGE_ID_UNITS_MAX, TAGS_MAX};
use qmq_model::{Payload, Subject};
use qmq_protocol::command::send::{SendFailure, SendRequest, SendResult, SentMessage, put_results};
use qmq_protocol::frame::is_legacy;
use qmq_protocol::{DecodeError, ResultCode};
use qmq_remoting::{Request, Responder};

/// Why a message is not stored: the number clients act on, the reason for people.
pub type Refusal = (SendResult, &'static str);

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

    fn new(message: &SentMessage<'_>, (result, remark): Refusal) -> Self {
        Self {
            message_id: message_id(message),
            result,
            remark,
        }
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

/// Why nothing of a request is stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Its bytes are no messages.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Results are told apart by message id: without one there is no way to name the message.
    #[error("a message has an empty id")]
    Nameless,
}

/// Reads the whole of a request.
///
/// # Errors
/// When nothing of it may be stored: [`refuse_request`] answers it.
pub fn read(request: &Request) -> Result<SendRequest, Unreadable> {
    let sent = SendRequest::decode_version(request.header.version, request.body.clone())?;
    if sent
        .messages()
        .any(|message| message.payload.message_id.is_empty())
    {
        return Err(Unreadable::Nameless);
    }
    Ok(sent)
}

/// The ids of all messages, if a client of `version` wants the result of each; else none.
#[must_use]
pub fn listed(version: i16, request: &SendRequest) -> Vec<Bytes> {
    if is_legacy(version) {
        request.messages().map(|sent| message_id(&sent)).collect()
    } else {
        Vec::new()
    }
}

/// Checks every message of a request: with `check`, then its subject, then with `admit` whether the
/// subject is taken. What passes all goes to `take`; the others are returned.
pub fn check_all(
    request: &SendRequest,
    mut check: impl FnMut(&SentMessage<'_>) -> Result<(), Refusal>,
    mut admit: impl FnMut(&Subject) -> Result<(), Refusal>,
    mut take: impl FnMut(&SentMessage<'_>, Subject),
) -> Vec<Refused> {
    let mut refused = Vec::new();
    // Producers batch messages of one subject: the name is checked and kept once per run.
    let mut last: Option<(&[u8], Subject)> = None;
    for message in request.messages() {
        if let Err(refusal) = check(&message) {
            refused.push(Refused::new(&message, refusal));
            continue;
        }
        let name = message.payload.subject;
        let subject = match last.as_ref().filter(|(known, _)| *known == name) {
            Some((_, subject)) => Ok(subject.clone()),
            None => subject_of(name).and_then(|subject| admit(&subject).map(|()| subject)),
        };
        match subject {
            Ok(subject) => {
                last = Some((name, subject.clone()));
                take(&message, subject);
            }
            Err(refusal) => refused.push(Refused::new(&message, refusal)),
        }
    }
    refused
}

/// What no server must take: it would later be lost by consumers, or stop them. Payloads have at
/// most `bytes_max` bytes.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn check(message: &SentMessage<'_>, bytes_max: usize) -> Result<(), Refusal> {
    let payload = &message.payload;
    let refuse = |remark| Err((SendResult::StoreError, remark));
    if payload.bytes.len() > bytes_max {
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
pub fn refuse_request(body: &Bytes, responder: Responder) {
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

fn message_id(message: &SentMessage<'_>) -> Bytes {
    message
        .payload_bytes()
        .slice_ref(message.payload.message_id)
}

fn subject_of(name: &[u8]) -> Result<Subject, Refusal> {
    // Trying again cannot help, and this is the number at which every producer gives up at once.
    let illegal = |error| (SendResult::Block, illegal_subject(error));
    let name = std::str::from_utf8(name).map_err(|_| illegal(NameError::NotUtf8))?;
    Subject::new(name).map_err(illegal)
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
