//! Counters of a process and their Prometheus text.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

/// The registry of a process. Cheap to clone; all clones are the same registry.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    /// A registry that holds nothing but `qmq_build_info`.
    #[must_use]
    pub fn new(server: &'static str, version: &'static str) -> Self {
        let metrics = Self::default();
        let info = Info::new(vec![("server", server), ("version", version)]);
        metrics
            .lock()
            .register("qmq_build", "what is running", info);
        metrics
    }

    /// Adds a metric and hands it back. Counters are exported with the suffix `_total`.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        let registered = metric.clone();
        self.lock().register(name, help, registered);
        metric
    }

    /// Adds a gauge that starts at 0.
    #[must_use]
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(name, help, Gauge::default())
    }

    /// All metrics in the OpenMetrics text format.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        encode(&mut out, &self.lock()).expect("writing to a string does not fail");
        out
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn clones_share_one_registry() {
        let metrics = Metrics::default();
        let other = metrics.clone();
        let sent: Counter = other.register("sent", "messages taken", Counter::default());
        sent.inc();
        assert!(
            metrics.text().contains("sent_total 1"),
            "{}",
            metrics.text()
        );
    }
}
