//! PULL_MESSAGE: checks the parameters and passes the pull to the owner of its subscription.

use std::sync::Arc;
use std::time::Duration;

use qmq_model::{ConsumerGroup, ConsumerId, Subject};
use qmq_protocol::command::pull::PullRequest;
use qmq_protocol::{Decode, ResultCode};
use qmq_remoting::{Request, Responder};
use tracing::debug;

use crate::broker::Broker;
use crate::env_rules::Known;
use crate::filter::{EnvRules, Filter};
use crate::shard::{Pull, SubscriptionKey};

/// Most messages one pull gets.
pub const PULL_COUNT_MAX: usize = 10_000;
/// Longest a pull waits; clients that want more ask again.
pub const PULL_WAIT_MAX: Duration = Duration::from_secs(60);
/// How long the answer to a pull with bad parameters is held back: the clients of the reference ask
/// again at once, for ever.
const BAD_PULL_HOLD: Duration = Duration::from_millis(300);

/// Takes a pull.
pub async fn handle(broker: &Broker, request: Request, responder: Responder) {
    let decoded = match PullRequest::decode(request.header.version, &request.body) {
        Ok(decoded) => decoded,
        Err(error) => {
            debug!(peer = %request.peer, %error, "pull cannot be decoded");
            broker.metrics.undecodable.inc();
            return broker.hold(responder, ResultCode::BrokerError, BAD_PULL_HOLD);
        }
    };
    let rules = match broker.env_rules.known() {
        Known::Off => None,
        Known::Rules(rules) => Some(rules),
        Known::NotYet if decoded.sub_env_filter().is_none() => None,
        Known::NotYet => return broker.hold(responder, ResultCode::NoMessage, BAD_PULL_HOLD),
    };
    let Some(pull) = checked(&decoded, broker, rules.as_deref()) else {
        debug!(peer = %request.peer, "pull has bad parameters");
        return broker.hold(responder, ResultCode::NoMessage, BAD_PULL_HOLD);
    };
    broker.shards.pull(pull, responder).await;
}

/// `None` when a parameter makes no sense; that cannot be told from "no message" on the wire.
fn checked(request: &PullRequest<'_>, broker: &Broker, rules: Option<&EnvRules>) -> Option<Pull> {
    let subject = Subject::new(request.subject).ok()?;
    let group = ConsumerGroup::new(request.group).ok()?;
    let consumer = ConsumerId::new(request.consumer_id).ok()?;
    let count = usize::try_from(request.request_num)
        .ok()
        .filter(|count| *count > 0)?;
    let wait = u64::try_from(request.timeout_ms).map_or(Duration::ZERO, Duration::from_millis);
    Some(Pull {
        key: SubscriptionKey { subject, group },
        consumer,
        broadcast: request.is_broadcast,
        pull_last: request.pull_last,
        count: count.min(PULL_COUNT_MAX),
        filter: Filter::of(request, rules).map(Arc::new),
        deadline: broker.clock.now().plus(wait.min(PULL_WAIT_MAX)),
    })
}
