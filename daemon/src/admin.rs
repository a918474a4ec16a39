//! The HTTP paths every server has: `/metrics`, `/healthz`, `/readyz`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;

use crate::metrics::Metrics;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a server still waits for before it can serve. Cheap to clone; all clones are the same.
///
/// It is ready while no part is waiting. A part may wait again later, for example when a store
/// refuses writes.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, String>>>);

impl Readiness {
    /// Notes that `part` waits, and why.
    pub fn waits(&self, part: &'static str, reason: impl Into<String>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(part, reason.into());
    }

    /// Notes that `part` waits for nothing.
    pub fn ready(&self, part: &'static str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(part);
    }

    /// What is waited for, as `part: reason`; empty when the server is ready.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts
            .iter()
            .map(|(part, reason)| format!("{part}: {reason}"))
            .collect()
    }
}

/// The paths every server has.
///
/// `/healthz` answers 200 while the process runs at all; `/readyz` answers 200, or 503 with one
/// reason per line. `qmq_ready` among the metrics says the same.
pub fn router(metrics: Metrics, readiness: Readiness) -> Router {
    let ready = metrics.gauge("qmq_ready", "1 while the server can serve, as /readyz says");
    let asked = readiness.clone();
    let text = async move || {
        ready.set(i64::from(asked.reasons().is_empty()));
        ([(CONTENT_TYPE, OPEN_METRICS)], metrics.text())
    };
    Router::new()
        .route("/metrics", get(text))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(async move || ready_reply(&readiness)))
}

fn ready_reply(readiness: &Readiness) -> impl IntoResponse + use<> {
    let reasons = readiness.reasons();
    if reasons.is_empty() {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_ready_when_nothing_waits() {
        let readiness = Readiness::default();
        assert_eq!(
            ready_reply(&readiness).into_response().status(),
            StatusCode::OK
        );
        readiness.waits("registration", "not online yet");
        let other = readiness.clone();
        assert_eq!(other.reasons(), ["registration: not online yet"]);
        assert_eq!(
            ready_reply(&readiness).into_response().status(),
            StatusCode::SERVICE_UNAVAILABLE
        );
        other.ready("registration");
        assert!(readiness.reasons().is_empty());
    }
}
