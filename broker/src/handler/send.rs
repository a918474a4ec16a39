//! SEND_MESSAGE: everything is checked before the first message is appended; what is not to be stored
//! goes its own way.

use bytes::Bytes;
use qmq_daemon::receive::{self, Received, Receiver, Refusal, Refused};
use qmq_model::Subject;
use qmq_model::names::SubjectKind;
use qmq_protocol::command::send::{SendResult, SentMessage};
use qmq_remoting::Group;

use crate::broker::Broker;
use crate::inbox::{Incoming, SendBatch};
use crate::unretained::{RING_BYTES_MAX, is_unretained};

/// Takes send requests that arrived together.
pub async fn handle(broker: &Broker, group: Group) {
    let mut batch = Received::read(group, broker);
    if batch
        .messages
        .iter()
        .any(|(_, message)| message.is_unretained)
    {
        keep_unretained(broker, &mut batch);
    }
    if batch.messages.is_empty() {
        return batch.answer();
    }
    // When the writer has stopped the connection is about to close: no answer, outcome unknown.
    let _ = broker.desk.put_send(batch).await;
}

/// Takes out what is not to be stored, and keeps it in memory.
fn keep_unretained(broker: &Broker, batch: &mut SendBatch) {
    let now = broker.clock.now();
    for (place, message) in std::mem::take(&mut batch.messages) {
        let payload = place.payload.start as usize..place.payload.end as usize;
        if message.is_unretained && payload.len() <= RING_BYTES_MAX {
            let subject = &batch.subjects[place.subject as usize];
            broker.unretained.keep(subject, &batch.bytes[payload], now);
            broker.metrics.unretained.inc();
            continue;
        }
        batch.messages.push((place, message));
        if message.is_unretained {
            broker.metrics.refused.inc();
            batch.refuse(batch.messages.len() - 1, too_large);
        }
    }
}

fn too_large(payload: &Bytes) -> Refused {
    Refused {
        remark: "message is too large to be kept in memory only",
        ..Refused::unstorable(payload)
    }
}

impl Receiver for Broker {
    type Message = Incoming;

    fn check(&self, message: &SentMessage<'_>) -> Result<(), Refusal> {
        if !self.is_writable() {
            return Err((SendResult::BrokerReadOnly, "BROKER READ ONLY"));
        }
        receive::check(message, self.message_bytes_max)
    }

    fn admit(&self, subject: &Subject) -> Result<(), Refusal> {
        if self.has_room_for(subject) {
            return Ok(());
        }
        let remark = "the broker has subjects.max subjects already";
        Err((SendResult::StoreError, remark))
    }

    fn take(&self, message: &SentMessage<'_>, subject: &Subject) -> Incoming {
        // Two consumers may put the same message into a retry subject: both count.
        let may_repeat = subject.kind() == SubjectKind::Real;
        let fingerprint = may_repeat.then(|| self.reader.fingerprint(message.payload.bytes));
        Incoming {
            // Checked before: the declared checksum is that of the payload.
            crc: u32::try_from(message.declared_crc).unwrap_or_default(),
            fingerprint: fingerprint.flatten(),
            is_unretained: may_repeat && is_unretained(&message.payload),
        }
    }

    fn count_undecodable(&self) {
        self.metrics.undecodable.inc();
    }

    fn count_refused(&self, messages: u64) {
        self.metrics.refused.inc_by(messages);
    }
}
