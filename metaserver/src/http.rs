//! The HTTP port: discovery, management, metrics and health.

mod address;
mod consumers;
mod management;
mod onoffline;
mod openapi;
mod reply;
mod slave;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use qmq_daemon::admin::{self, Readiness};
use qmq_daemon::metrics::Metrics;

use crate::state::State;

/// Largest body of a request, as in the Java metaserver.
const BODY_BYTES_MAX: usize = 200_000;

/// All paths.
pub(crate) fn router(state: Arc<State>, metrics: Metrics, readiness: Readiness) -> Router {
    Router::new()
        .route("/meta/address", get(address::get))
        .route("/slave/meta", get(slave::get))
        .route("/management", post(management::post))
        .route("/subject/consumers", get(consumers::get))
        .route("/onoffline", get(onoffline::handle).post(onoffline::handle))
        .route("/openapi.json", get(openapi::serve))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(state)
        .merge(admin::router(metrics, readiness))
}
