//! SEND_MESSAGE: everything is checked before the first message is stored.

use std::cell::Cell;

use qmq_daemon::receive::{self, Received, Receiver, Refusal};
use qmq_model::{Subject, UnixMillis};
use qmq_protocol::command::send::{SendResult, SentMessage};
use qmq_remoting::Group;

use crate::due::{Due, Told, TooFar, due_of};
use crate::inbox::{Incoming, SendBatch};
use crate::server::DelayServer;

/// Takes send requests that arrived together.
pub async fn handle(server: &DelayServer, group: Group) {
    let batch = read(server, group);
    if batch.messages.is_empty() {
        return batch.answer();
    }
    // When the writer has stopped the connection is about to close: no answer, outcome unknown.
    let _ = server.inbox.put_send(batch).await;
}

fn read(server: &DelayServer, group: Group) -> SendBatch {
    let desk = Desk {
        server,
        now: server.clock.now(),
        due: Cell::new(UnixMillis::default()),
    };
    Received::read(group, &desk)
}

/// The server at the moment it reads a group.
struct Desk<'a> {
    server: &'a DelayServer,
    now: UnixMillis,
    /// What the check of a message found is taken by the next step of the same message.
    due: Cell<UnixMillis>,
}

impl Receiver for Desk<'_> {
    type Message = Incoming;

    fn check(&self, message: &SentMessage<'_>) -> Result<(), Refusal> {
        self.due.set(check(message, self.now, self.server)?.at);
        Ok(())
    }

    fn admit(&self, subject: &Subject) -> Result<(), Refusal> {
        if self.server.has_room_for(subject) {
            return Ok(());
        }
        let remark = "the delay server has subjects.max subjects already";
        Err((SendResult::StoreError, remark))
    }

    fn take(&self, message: &SentMessage<'_>, _subject: &Subject) -> Incoming {
        Incoming {
            due: self.due.get(),
            // Checked before: the declared checksum is that of the payload.
            crc: u32::try_from(message.declared_crc).unwrap_or_default(),
        }
    }

    fn count_undecodable(&self) {
        self.server.metrics.undecodable.inc();
    }

    fn count_refused(&self, messages: u64) {
        self.server.metrics.refused.inc_by(messages);
    }
}

/// What a delay server must not take, and when the rest is due.
fn check(message: &SentMessage<'_>, now: UnixMillis, server: &DelayServer) -> Result<Due, Refusal> {
    if !server.is_writable() {
        return Err((SendResult::BrokerReadOnly, "DELAY SERVER READ ONLY"));
    }
    receive::check(message, server.message_bytes_max)?;
    let metrics = &server.metrics;
    let due = due_of(&message.payload, now, server.delay_max).map_err(|TooFar| {
        metrics.too_far.inc();
        // No attempt can mend it, and this is the number at which producers give up.
        let remark = "due later than delay.max.days of the delay server allows";
        (SendResult::Block, remark)
    })?;
    match due.told {
        Told::Header => {}
        Told::Property => drop(metrics.from_property.inc()),
        Told::Nowhere => drop(metrics.untold.inc()),
    }
    if due.is_past {
        metrics.past.inc();
    }
    Ok(due)
}
