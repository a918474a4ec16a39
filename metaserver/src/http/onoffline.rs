//! `/onoffline`: switches consumers off and on, and tells how a switch stands.
//!
//! A switch is changed with a token, by GET or POST. `onoffline.open` also takes GET without one, as
//! the reference does.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{RawQuery, State as Shared};
use axum::http::{HeaderMap, Method};
use qmq_daemon::parameters::Parameters;
use tracing::{info, warn};

use super::openapi::{Parameter, parameter};
use super::reply::Reply;
use crate::db::client_offline_state::Switch;
use crate::state::State;

/// What a switch is described with.
pub(super) const PARAMETERS: [Parameter; 5] = [
    parameter("operation", "update or query"),
    parameter("clientId", "Client id, or * for all of the group"),
    parameter("subject", "Subject"),
    parameter("consumerGroup", "Consumer group"),
    parameter("state", "0 on, anything else off").number(),
];

/// Length of every column, in characters.
const COLUMN_MAX: usize = 100;

pub(super) async fn handle(
    Shared(state): Shared<Arc<State>>,
    RawQuery(query): RawQuery,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Reply {
    let parameters = Parameters::read(query.as_deref(), &headers, &body);
    let (switch, is_off) = match check(&parameters) {
        Ok(checked) => checked,
        Err(refusal) => return Reply::refused(refusal),
    };
    match parameters.text("operation") {
        "query" => tell(&state, &switch).await,
        "update" => {
            let is_open = state.open_onoffline && method == Method::GET;
            if !is_open && let Err(refusal) = state.tokens.authorize(&headers, "onoffline").await {
                return Reply::refused(refusal);
            }
            // A task, because the work of a caller who hangs up must not end half-way.
            let (shared, switch) = (Arc::clone(&state), OwnedSwitch::from(switch));
            let work = async move { set(&shared, &switch.borrowed(), is_off).await };
            let done = state.tasks.spawn(work).await;
            done.unwrap_or_else(|_| Reply::refused("it failed: see the log"))
        }
        _ => Reply::refused("operation is neither update nor query"),
    }
}

/// A [`Switch`] that a task can keep.
struct OwnedSwitch {
    client_id: String,
    subject: String,
    consumer_group: String,
}

impl From<Switch<'_>> for OwnedSwitch {
    fn from(switch: Switch<'_>) -> Self {
        Self {
            client_id: switch.client_id.to_owned(),
            subject: switch.subject.to_owned(),
            consumer_group: switch.consumer_group.to_owned(),
        }
    }
}

impl OwnedSwitch {
    fn borrowed(&self) -> Switch<'_> {
        Switch {
            client_id: &self.client_id,
            subject: &self.subject,
            consumer_group: &self.consumer_group,
        }
    }
}

/// Every parameter is needed, also for a question.
fn check(parameters: &Parameters) -> Result<(Switch<'_>, bool), String> {
    let text = |key: &str| match parameters.text(key) {
        "" => Err(format!("{key} is empty")),
        text if text.chars().count() > COLUMN_MAX => {
            Err(format!("{key} is longer than {COLUMN_MAX} characters"))
        }
        text => Ok(text),
    };
    text("operation")?;
    let switch = Switch {
        client_id: text("clientId")?,
        subject: text("subject")?,
        consumer_group: text("consumerGroup")?,
    };
    text("state")?;
    let state: i32 = parameters.number("state")?;
    Ok((switch, state != 0))
}

async fn tell(state: &State, switch: &Switch<'_>) -> Reply {
    match state.db.offline_state(switch).await {
        Ok(Some(true)) => Reply::done_with("OFF", None::<()>),
        Ok(_) => Reply::done_with("ON", None::<()>),
        Err(error) => {
            warn!(%error, "cannot read a switch");
            Reply::refused("the database did not answer")
        }
    }
}

async fn set(state: &State, switch: &Switch<'_>, is_off: bool) -> Reply {
    let changed = if is_off {
        state.db.switch_off(switch).await
    } else {
        state.db.switch_on(switch).await
    };
    match changed {
        Ok(()) => {
            let Switch {
                client_id,
                subject,
                consumer_group,
            } = switch;
            info!(
                client_id,
                subject, consumer_group, is_off, "consumer switched"
            );
            state.snapshots.refreshed().await;
            Reply::done_with("ok", None::<()>)
        }
        Err(error) => {
            warn!(%error, "cannot change a switch");
            Reply::refused("the database did not answer")
        }
    }
}
