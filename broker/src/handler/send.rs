//! SEND_MESSAGE: everything is checked before the first message is appended.

use qmq_daemon::receive::{self, Refusal, Refused, Unreadable};
use qmq_model::Subject;
use qmq_model::names::SubjectKind;
use qmq_protocol::command::send::{SendRequest, SendResult, SentMessage};
use qmq_remoting::{Request, Responder};
use qmq_store::NewMessage;
use tracing::debug;

use crate::broker::Broker;
use crate::inbox::SendBatch;

/// Takes a send request.
pub async fn handle(broker: &Broker, request: Request, responder: Responder) {
    let sent = match receive::read(&request) {
        Ok(sent) => sent,
        Err(error) => {
            debug!(peer = %request.peer, %error, "send request cannot be read");
            if matches!(error, Unreadable::Decode(_)) {
                broker.metrics.undecodable.inc();
            }
            return receive::refuse_request(&request.body, responder);
        }
    };
    let (messages, refused) = check_all(&sent, broker);
    let listed = receive::listed(request.header.version, &sent);
    if messages.is_empty() {
        return receive::answer(responder, &refused, &listed);
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

fn check_all(request: &SendRequest, broker: &Broker) -> (Vec<NewMessage>, Vec<Refused>) {
    let mut messages = Vec::with_capacity(request.len());
    let take = |message: &SentMessage<'_>, subject: Subject| {
        // Checked before: the declared checksum is that of the payload.
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
    };
    let admit = |subject: &Subject| {
        if broker.has_room_for(subject) {
            return Ok(());
        }
        let remark = "the broker has subjects.max subjects already";
        Err((SendResult::StoreError, remark))
    };
    let refused = receive::check_all(request, |message| check(message, broker), admit, take);
    if let Some(first) = refused.first() {
        let remark = first.remark;
        debug!(refused = refused.len(), remark, "messages refused");
        broker.metrics.refused.inc_by(refused.len() as u64);
    }
    (messages, refused)
}

fn check(message: &SentMessage<'_>, broker: &Broker) -> Result<(), Refusal> {
    if !broker.is_writable() {
        return Err((SendResult::BrokerReadOnly, "BROKER READ ONLY"));
    }
    receive::check(message, broker.message_bytes_max)
}
