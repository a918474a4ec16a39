//! `GET /subject/consumers`: who consumes a subject, by consumer group.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{RawQuery, State as Shared};
use axum::http::HeaderMap;
use qmq_daemon::parameters::Parameters;
use serde::Serialize;
use tracing::warn;
use utoipa::ToSchema;

use super::openapi::{Parameter, parameter};
use super::reply::Reply;
use crate::state::State;

/// What is asked for.
pub(super) const PARAMETERS: [Parameter; 1] = [parameter("subject", "Subject")];

/// The consumers of one group; the order of the fields is part of the API.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SubjectConsumers {
    namespace: &'static str,
    /// The subject.
    prefix: String,
    consumer_group: String,
    /// Always null, as in the Java metaserver.
    owner: Option<String>,
    /// One URL per consumer, `qmq://CLIENT?room=ROOM&appCode=APP`, nothing escaped.
    end_point: Vec<String>,
}

pub(super) async fn get(Shared(state): Shared<Arc<State>>, RawQuery(query): RawQuery) -> Reply {
    let parameters = Parameters::read(query.as_deref(), &HeaderMap::new(), &[]);
    let subject = parameters.text("subject");
    if subject.is_empty() {
        return Reply::refused("subject is empty");
    }
    let consumers = match state.db.consumers_of(subject).await {
        Ok(consumers) => consumers,
        Err(error) => {
            warn!(%error, "cannot list consumers");
            return Reply::refused("the database did not answer");
        }
    };
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for consumer in consumers {
        let url = format!(
            "qmq://{}?room={}&appCode={}",
            consumer.client_id, consumer.room, consumer.app_code
        );
        groups.entry(consumer.consumer_group).or_default().push(url);
    }
    let groups = groups
        .into_iter()
        .map(|(group, end_point)| SubjectConsumers {
            namespace: "newqmq",
            prefix: subject.to_owned(),
            consumer_group: group,
            owner: None,
            end_point,
        });
    Reply::done_with("success", Some(groups.collect::<Vec<_>>()))
}
