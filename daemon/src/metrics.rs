//! Counters of a process and their Prometheus text.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

use crate::settings::{Settings, SettingsError};

const LEGACY_KEY: &str = "metrics.legacy.names";

/// The registry of a process. Cheap to clone; all clones are the same registry.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    with_legacy: bool,
}

/// A counter as the Java servers show theirs: a gauge, without a suffix.
#[derive(Debug)]
struct AsGauge(Counter);

impl EncodeMetric for AsGauge {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_gauge(&i64::try_from(self.0.get()).unwrap_or(i64::MAX))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

/// Reads `metrics.legacy.names`: whether counters also have the names of the Java servers.
///
/// # Errors
/// When it is neither true nor false.
pub fn legacy_names(settings: &Settings) -> Result<bool, SettingsError> {
    settings.flag(LEGACY_KEY, false)
}

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

    /// The same with the names of the Java servers, if the settings say so.
    ///
    /// # Errors
    /// As [`legacy_names`].
    pub fn following(self, settings: &Settings) -> Result<Self, SettingsError> {
        let with_legacy = legacy_names(settings)?;
        Ok(Self {
            with_legacy,
            ..self
        })
    }

    /// Adds `counter` under the name it has in the Java servers, if the settings say so.
    pub fn also_as(&self, legacy: &str, help: &str, counter: &Counter) {
        if self.with_legacy {
            self.lock().register(legacy, help, AsGauge(counter.clone()));
        }
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
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legacy_names_are_gauges_and_shown_when_asked_for() {
        let of = |text| {
            let settings = Settings::of_pairs("broker", &[(LEGACY_KEY, text)]);
            let metrics = Metrics::default().following(&settings)?;
            let pulls: Counter = metrics.register("qmq_pulls", "pulls", Counter::default());
            metrics.also_as("pullRequestCount", "pulls", &pulls);
            pulls.inc_by(3);
            Ok::<_, SettingsError>(metrics.text())
        };
        let text = of("true").unwrap();
        assert!(text.contains("# TYPE pullRequestCount gauge\n"), "{text}");
        assert!(text.contains("\npullRequestCount 3\n"), "{text}");
        assert!(text.contains("\nqmq_pulls_total 3\n"), "{text}");
        assert!(!of("false").unwrap().contains("pullRequestCount"));
        assert!(of("maybe").is_err());
    }

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
