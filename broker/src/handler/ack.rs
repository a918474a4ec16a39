//! ACK_REQUEST: confirms a range of pull sequences, or only says that a consumer is alive.

use std::time::Duration;

use qmq_model::{ConsumerGroup, ConsumerId, Subject};
use qmq_protocol::command::ack::AckRequest;
use qmq_protocol::{Decode, ResultCode};
use qmq_remoting::{Request, Responder};
use tracing::debug;

use crate::broker::Broker;
use crate::shard::{Ack, SubscriptionKey};

/// How long the answer to an ack that cannot be read is held back: C# clients repeat it at once.
const BAD_ACK_HOLD: Duration = Duration::from_millis(300);

/// Takes an ack.
pub async fn handle(broker: &Broker, request: Request, responder: Responder) {
    match decode(&request) {
        Some(ack) => broker.shards.ack(ack, responder).await,
        None => {
            debug!(peer = %request.peer, "ack cannot be decoded");
            broker.metrics.undecodable.inc();
            broker.hold(responder, ResultCode::BrokerError, BAD_ACK_HOLD);
        }
    }
}

fn decode(request: &Request) -> Option<Ack> {
    let decoded = AckRequest::decode(request.header.version, &request.body).ok()?;
    let subject = Subject::new(decoded.subject).ok()?;
    let group = ConsumerGroup::new(decoded.group).ok()?;
    let consumer = ConsumerId::new(decoded.consumer_id).ok()?;
    let first = decoded.pull_begin;
    // Inclusive on the wire, half-open in here; the largest number stands for itself and beyond.
    let pulls = (!decoded.is_keep_alive()).then(|| first..decoded.pull_last.saturating_add(1));
    Some(Ack {
        key: SubscriptionKey { subject, group },
        consumer,
        pulls,
    })
}
