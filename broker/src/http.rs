//! What a broker tells over HTTP beside metrics and health: who consumes what, and how far.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use qmq_model::Subject;
use serde::{Deserialize, Serialize};

use crate::shard::{GroupReport, MemberReport, Shards};

/// The shards, once there are any.
pub type LateShards = Arc<OnceLock<Shards>>;

/// `GET /consumers?subject=S[&group=G]`: the groups of a subject with their members, as JSON.
pub fn router(shards: LateShards) -> Router {
    Router::new()
        .route("/consumers", get(consumers))
        .with_state(shards)
}

#[derive(Deserialize)]
struct Wanted {
    subject: String,
    group: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    group: String,
    broadcast: bool,
    next: i64,
    end: i64,
    lag: i64,
    members: Vec<Member>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Member {
    consumer_id: String,
    unacked: u64,
    next_pull: i64,
    last_seen: i64,
    waiting_pulls: usize,
}

async fn consumers(State(shards): State<LateShards>, Query(wanted): Query<Wanted>) -> Response {
    let Some(shards) = shards.get() else {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "the store is not open yet\n",
        )
            .into_response();
    };
    let subject = match Subject::new(&wanted.subject) {
        Ok(subject) => subject,
        Err(error) => {
            return (StatusCode::BAD_REQUEST, format!("subject: {error}\n")).into_response();
        }
    };
    let groups = shards.describe(&subject).await;
    let is_wanted = |found: &GroupReport| {
        let name = wanted.group.as_deref();
        name.is_none_or(|name| name == found.group.as_str())
    };
    let groups: Vec<Group> = groups
        .into_iter()
        .filter(is_wanted)
        .map(Group::from)
        .collect();
    match serde_json::to_vec(&groups) {
        Ok(json) => ([(CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

impl From<GroupReport> for Group {
    fn from(report: GroupReport) -> Self {
        Self {
            group: report.group.to_string(),
            broadcast: report.broadcast,
            next: report.next.0,
            end: report.end.0,
            lag: report.end.0.saturating_sub(report.next.0).max(0),
            members: report.members.into_iter().map(Member::from).collect(),
        }
    }
}

impl From<MemberReport> for Member {
    fn from(report: MemberReport) -> Self {
        Self {
            consumer_id: report.consumer.to_string(),
            unacked: report.unacked,
            next_pull: report.next_pull,
            last_seen: report.last_seen.0,
            waiting_pulls: report.waiting,
        }
    }
}
