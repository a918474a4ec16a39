//! CONSUME_MANAGE: the metaserver moves a consumer group.

use qmq_model::{ConsumerGroup, Subject, UnixMillis};
use qmq_protocol::command::consume_manage::{ConsumeFromWhere, ConsumeManageRequest};
use qmq_protocol::{Decode, ResultCode};
use qmq_remoting::{Request, Responder};
use tracing::{debug, info};

use crate::broker::Broker;
use crate::shard::{Reset, ResetTo, SubscriptionKey};

/// Takes a reset. A missing name is an error; a place without a meaning, and a subject that holds
/// nothing, change nothing and are answered with success, as in the reference.
pub async fn handle(broker: &Broker, request: Request, responder: Responder) {
    let decoded = match ConsumeManageRequest::decode(request.header.version, &request.body) {
        Ok(decoded) => decoded,
        Err(error) => {
            debug!(peer = %request.peer, %error, "reset cannot be decoded");
            broker.metrics.undecodable.inc();
            return responder.send_empty(ResultCode::BrokerError);
        }
    };
    let names = Subject::new(decoded.subject)
        .ok()
        .zip(ConsumerGroup::new(decoded.group).ok());
    let Some((subject, group)) = names else {
        return responder.send_empty(ResultCode::ParamError);
    };
    let to = match decoded.from {
        ConsumeFromWhere::Latest => ResetTo::Latest,
        ConsumeFromWhere::Earliest => ResetTo::Earliest,
        ConsumeFromWhere::Time(millis) => ResetTo::Time(UnixMillis(millis)),
        ConsumeFromWhere::Other(_) => return responder.send_empty(ResultCode::Success),
    };
    info!(peer = %request.peer, %subject, %group, ?to, "group is to be moved");
    let key = SubscriptionKey { subject, group };
    broker.shards.reset(Reset { key, to }, responder).await;
}
