//! SEND_MESSAGE: everything is checked before the first message is stored.

use std::cell::Cell;

use qmq_daemon::receive::{self, Refusal, Refused, Unreadable};
use qmq_model::{Subject, UnixMillis};
use qmq_protocol::command::send::{SendRequest, SendResult, SentMessage};
use qmq_remoting::{Request, Responder};
use qmq_store::NewDelayed;
use tracing::debug;

use crate::due::{Due, Told, TooFar, due_of};
use crate::inbox::SendBatch;
use crate::server::DelayServer;

/// Takes a send request.
pub async fn handle(server: &DelayServer, request: Request, responder: Responder) {
    let sent = match receive::read(&request) {
        Ok(sent) => sent,
        Err(error) => {
            debug!(peer = %request.peer, %error, "send request cannot be read");
            if matches!(error, Unreadable::Decode(_)) {
                server.metrics.undecodable.inc();
            }
            return receive::refuse_request(&request.body, responder);
        }
    };
    let (messages, refused) = check_all(&sent, server);
    let listed = receive::listed(request.header.version, &sent);
    if messages.is_empty() {
        return receive::answer(responder, &refused, &listed);
    }
    let count = messages.len();
    // When the writer has stopped the connection is about to close: no answer, outcome unknown.
    let _ = server
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

fn check_all(request: &SendRequest, server: &DelayServer) -> (Vec<NewDelayed>, Vec<Refused>) {
    let now = server.clock.now();
    let mut messages = Vec::with_capacity(request.len());
    // What the check of a message found is taken by the next step of the same message.
    let due = Cell::new(UnixMillis::default());
    let check = |message: &SentMessage<'_>| {
        due.set(check(message, now, server)?.at);
        Ok(())
    };
    let admit = |subject: &Subject| {
        if server.has_room_for(subject) {
            return Ok(());
        }
        let remark = "the delay server has subjects.max subjects already";
        Err((SendResult::StoreError, remark))
    };
    let take = |message: &SentMessage<'_>, subject: Subject| {
        messages.push(NewDelayed {
            subject,
            due: due.get(),
            payload: message.payload_bytes(),
            // Checked before: the declared checksum is that of the payload.
            crc: u32::try_from(message.declared_crc).unwrap_or_default(),
        });
    };
    let refused = receive::check_all(request, check, admit, take);
    if let Some(first) = refused.first() {
        let remark = first.remark;
        debug!(refused = refused.len(), remark, "messages refused");
        server.metrics.refused.inc_by(refused.len() as u64);
    }
    (messages, refused)
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
