//! SEND_MESSAGE as every server takes it: what is checked before anything is stored, and how the
//! producer is answered. Requests that arrived together are taken together: nothing is allocated
//! or locked for each message.

use std::collections::HashMap;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use qmq_model::names::NameError;
use qmq_model::payload::{MESSAGE_ID_UNITS_MAX, TAGS_MAX};
use qmq_model::{Payload, Subject};
use qmq_protocol::command::send::{SendFailure, SendRequest, SendResult, SentMessage, put_results};
use qmq_protocol::frame::is_legacy;
use qmq_protocol::{DecodeError, Header, ResultCode};
use qmq_remoting::{Group, GroupResponder};
use tracing::debug;

/// Subjects received that the next one is compared with before it is taken for another.
const SUBJECTS_COMPARED_MAX: usize = 4;
const UNREADABLE: &str = "request cannot be read: nothing of it is stored";

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
enum Unreadable {
    /// Its bytes are no messages.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Results are told apart by message id: without one there is no way to name the message.
    #[error("a message has an empty id")]
    Nameless,
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

/// Failures are listed, an empty list means all are stored. A legacy client gets the result of each
/// message in `listed`, which are then those of the whole request.
fn put_answer(version: i16, refused: &[Refused], listed: &[Bytes], out: &mut BytesMut) {
    if listed.is_empty() {
        let entries = refused.iter().map(Refused::entry);
        return put_results(version, entries, out);
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
    put_results(version, entries, out);
}

/// Send requests that arrived together on one connection, with what they hold that passed all
/// checks.
#[derive(Debug)]
pub struct Received<M> {
    /// What was read; the payloads are slices of it.
    pub bytes: Bytes,
    /// Subjects of the messages.
    pub subjects: Vec<Subject>,
    /// To be stored, in order.
    pub messages: Vec<(Place, M)>,
    /// The answers to the requests, in order.
    pub answers: Vec<SendAnswer>,
    /// Sends them.
    pub responder: GroupResponder,
}

/// Where the parts of a message are.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its subject, among those received.
    pub subject: u32,
    /// Its request, among the answers.
    pub request: u32,
    /// Its payload, in the bytes.
    pub payload: Range<u32>,
}

/// What one request is answered.
#[derive(Debug)]
pub struct SendAnswer {
    header: Header,
    /// Success, unless nothing of it can be taken.
    code: ResultCode,
    refused: Vec<Refused>,
    /// Ids of all its messages, if the client wants the result of each; else none.
    listed: Vec<Bytes>,
}

/// What a server decides about each message it receives.
pub trait Receiver {
    /// What it needs to know of a message to store it, beside where it is.
    type Message;

    /// Whether the message is taken.
    ///
    /// # Errors
    /// Why it is not.
    fn check(&self, message: &SentMessage<'_>) -> Result<(), Refusal>;

    /// Whether messages of the subject are taken.
    ///
    /// # Errors
    /// Why they are not.
    fn admit(&self, subject: &Subject) -> Result<(), Refusal>;

    /// Takes a message that passed.
    fn take(&self, message: &SentMessage<'_>, subject: &Subject) -> Self::Message;

    /// A request could not be decoded.
    fn count_undecodable(&self);

    /// So many messages are refused.
    fn count_refused(&self, messages: u64);
}

impl<M> Received<M> {
    /// Reads and checks requests.
    pub fn read(group: Group, receiver: &impl Receiver<Message = M>) -> Self {
        let mut received = Self {
            subjects: Vec::with_capacity(1),
            messages: Vec::with_capacity(group.requests.len()),
            answers: Vec::with_capacity(group.requests.len()),
            bytes: group.bytes,
            responder: group.responder,
        };
        let mut refused = 0;
        for (header, body) in group.requests {
            let kept = received.messages.len();
            let answer = match received.read_request(header, body.clone(), receiver) {
                Ok(answer) => answer,
                Err(error) => {
                    debug!(peer = %group.peer, %error, "send request cannot be read");
                    received.messages.truncate(kept);
                    if matches!(error, Unreadable::Decode(_)) {
                        receiver.count_undecodable();
                    }
                    received.refuse_request(header, body)
                }
            };
            if let Some(first) = answer.refused.first() {
                let (messages, remark) = (answer.refused.len(), first.remark);
                debug!(peer = %group.peer, messages, remark, "messages refused");
                refused += messages as u64;
            }
            received.answers.push(answer);
        }
        receiver.count_refused(refused);
        received
    }

    /// Adds the messages of one request that pass all checks.
    fn read_request(
        &mut self,
        header: Header,
        body: Range<usize>,
        receiver: &impl Receiver<Message = M>,
    ) -> Result<SendAnswer, Unreadable> {
        let mut answer = SendAnswer {
            header,
            code: ResultCode::Success,
            refused: Vec::new(),
            listed: Vec::new(),
        };
        let (bytes, request) = (self.bytes.clone(), position(self.answers.len()));
        for message in SendRequest::split_within(header.version, &bytes, body) {
            let message = message?;
            if message.payload.message_id.is_empty() {
                return Err(Unreadable::Nameless);
            }
            if is_legacy(header.version) {
                answer.listed.push(message_id(&message));
            }
            let checked = receiver.check(&message);
            let subject = checked.and_then(|()| self.subject(message.payload.subject, receiver));
            match subject {
                Ok(subject) => {
                    let payload = message.place();
                    let place = Place {
                        subject: position(subject),
                        request,
                        payload: position(payload.start)..position(payload.end),
                    };
                    let taken = receiver.take(&message, &self.subjects[subject]);
                    self.messages.push((place, taken));
                }
                Err(refusal) => answer.refused.push(Refused::new(&message, refusal)),
            }
        }
        Ok(answer)
    }

    /// The place of a subject. Producers send many messages of one: each is checked once.
    fn subject(
        &mut self,
        name: &[u8],
        receiver: &impl Receiver<Message = M>,
    ) -> Result<usize, Refusal> {
        let known = self.subjects.iter().rev().take(SUBJECTS_COMPARED_MAX);
        let mut names = known.map(|subject| subject.as_str().as_bytes());
        if let Some(back) = names.position(|known| known == name) {
            return Ok(self.subjects.len() - 1 - back);
        }
        let subject = subject_of(name)?;
        receiver.admit(&subject)?;
        self.subjects.push(subject);
        Ok(self.subjects.len() - 1)
    }

    /// Refuses a request of which nothing is stored. A legacy client reads a list of results whatever
    /// the code is, so it gets one of the messages in front of the broken one.
    fn refuse_request(&self, header: Header, body: Range<usize>) -> SendAnswer {
        let mut refused = Vec::new();
        if is_legacy(header.version) {
            let messages = SendRequest::split_within(header.version, &self.bytes, body);
            let refusal = (SendResult::StoreError, UNREADABLE);
            let readable = messages.map_while(Result::ok);
            refused.extend(readable.map(|message| Refused::new(&message, refusal)));
        }
        SendAnswer {
            header,
            code: ResultCode::BrokerError,
            refused,
            listed: Vec::new(),
        }
    }

    /// The messages with their subjects and payloads.
    pub fn iter(&self) -> impl Iterator<Item = (&Subject, &[u8], &M)> + Clone {
        self.messages.iter().map(|(place, message)| {
            let subject = &self.subjects[place.subject as usize];
            (subject, &self.bytes[place.range()], message)
        })
    }

    /// Refuses all messages.
    pub fn refuse_all(&mut self, refused: fn(&Bytes) -> Refused) {
        for (place, _) in std::mem::take(&mut self.messages) {
            self.note_refused(&place, refused);
        }
    }

    /// Refuses the message at `index`, which is not to be stored.
    pub fn refuse(&mut self, index: usize, refused: fn(&Bytes) -> Refused) {
        let (place, _) = self.messages.remove(index);
        self.note_refused(&place, refused);
    }

    fn note_refused(&mut self, place: &Place, refused: fn(&Bytes) -> Refused) {
        let payload = self.bytes.slice(place.range());
        let answer = &mut self.answers[place.request as usize];
        answer.refused.push(refused(&payload));
    }

    /// Answers all requests: what was not refused is stored.
    pub fn answer(self) {
        let answers = self.answers;
        self.responder.send(|out| {
            for SendAnswer {
                header,
                code,
                refused,
                listed,
            } in &answers
            {
                out.push(header, code.code(), |out| {
                    put_answer(header.version, refused, listed, out);
                });
            }
        });
    }
}

impl Place {
    fn range(&self) -> Range<usize> {
        self.payload.start as usize..self.payload.end as usize
    }
}

/// Refuses the message that stands at `index` of all messages of `batches`.
pub fn refuse_at<M>(batches: &mut [Received<M>], mut index: usize, refused: fn(&Bytes) -> Refused) {
    for batch in batches {
        if index < batch.messages.len() {
            return batch.refuse(index, refused);
        }
        index -= batch.messages.len();
    }
}

fn position(at: usize) -> u32 {
    u32::try_from(at).expect("frames are shorter than 4 GiB")
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
