//! `GET /meta/address`: where the TCP port is.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State as Shared;
use axum::response::Response;

use crate::state::State;

/// A bare `ip:port`: no line end, no host name, no IPv6, because clients split it at the first
/// colon and some crash on anything else.
pub(super) async fn get(Shared(state): Shared<Arc<State>>) -> Response {
    Response::new(Body::from(state.advertised.to_string()))
}
