//! From settings to a running broker.

use std::path::Path;
use std::sync::Arc;

use qmq_daemon::member::{self, Member, RunningMember};
use qmq_daemon::metrics::Metrics;
use qmq_daemon::settings::{FOLLOW_PERIOD, SettingsError, follow};
use qmq_daemon::{FailureKind, Settings, StartError};
use qmq_model::{BrokerRole, Clock, SystemClock};
use qmq_store::fs::RealFs;
use qmq_store::{Keeping, RealtimeStore};
use tokio_util::sync::CancellationToken;

use crate::config::{BrokerConfig, RuleValues, kept};
use crate::export::{self, Exporter};
use crate::http::LateShards;
use crate::serving::Serving;
use crate::shard::Shards;

/// Starts a broker: binds its ports, learns its role, opens its store, serves, registers.
///
/// # Errors
/// What kept it from starting, with the exit code that belongs to it.
pub async fn start(
    config: BrokerConfig,
    settings: Settings,
    stop: CancellationToken,
) -> Result<RunningMember<Serving>, StartError> {
    let registry = Metrics::new("broker", env!("CARGO_PKG_VERSION")).following(&settings)?;
    let late = LateShards::default();
    let http = crate::http::router(late.clone());
    let role = BrokerRole::Master;
    let bound = Member::bind(&config.member, &settings, role, registry.clone(), http);
    let (member, server) = bound.await?;
    let meta = member.entry().await?;
    let store = config.store(&meta.group);
    let open = |root: &Path| RealtimeStore::open(Arc::new(RealFs), root, store, clock());
    let opened = member::open_store(config.store_root.clone(), open).await?;
    member.store_is_open();
    let reader = opened.reader.clone();
    let keeping = opened.writer.keeping();
    let serving = Serving::start(&config, server, opened, &registry, &late, clock());
    let serving = serving.map_err(|error| StartError::new(FailureKind::Running, error))?;
    let banner = banner(&config, &meta.group, &member);
    if let Some(shards) = late.get() {
        if let Some(period) = config.export_period {
            let folder = config.store_root.join(export::FOLDER);
            let exporter = Exporter::new(folder, shards.clone(), reader);
            tokio::spawn(exporter.run(period, stop.clone()));
        }
        follow_settings(settings, shards.clone(), keeping, stop.clone());
    }
    member.register(&meta, serving, banner, stop)
}

/// Looks at the settings again until `stop`.
fn follow_settings(settings: Settings, shards: Shards, keeping: Keeping, stop: CancellationToken) {
    let apply = move |settings: &Settings| {
        let rules = take_over(settings, &keeping)?;
        let shards = shards.clone();
        tokio::spawn(async move { shards.set_rules(rules).await });
        Ok(())
    };
    tokio::spawn(follow(settings, FOLLOW_PERIOD, stop, apply));
}

/// Takes over what the store shall keep and returns what is for the shards: all of it, or nothing
/// when one value makes no sense.
fn take_over(settings: &Settings, keeping: &Keeping) -> Result<RuleValues, SettingsError> {
    let rules = RuleValues::from_settings(settings)?;
    keeping.set(kept(settings)?);
    Ok(rules)
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

fn banner(config: &BrokerConfig, group: &str, member: &Member) -> String {
    let flush = config.flush;
    let (address, admin) = (member.address(), member.admin_port());
    let root = config.store_root.display();
    format!("master of group {group} on {address}, admin port {admin}, store {root}, {flush}")
}

#[cfg(test)]
mod tests {
    use qmq_store::StoreConfig;

    use super::*;

    /// One value that makes no sense leaves all as they were.
    #[test]
    fn changed_settings_are_taken_over_together_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let config = StoreConfig {
            group_name: "g".into(),
            ..StoreConfig::default()
        };
        let fs = Arc::new(RealFs);
        let opened = RealtimeStore::open(fs, folder.path(), config, clock()).unwrap();
        let keeping = opened.writer.keeping();
        let apply = |pairs: &[(&str, &str)]| {
            let applied = take_over(&Settings::of_pairs("broker", pairs), &keeping);
            applied.map(|rules| rules.retry_delay.as_secs())
        };
        let hours = |hours: u64| std::time::Duration::from_secs(hours * 3600);
        let changed = [
            ("messagelog.retention.hours", "5"),
            ("pulllog.retention.hours", "6"),
            ("log.retention.check.interval.seconds", "7"),
            ("checkpoint.retain.count", "8"),
            ("message.retry.delay.seconds", "9"),
        ];
        assert_eq!(apply(&changed).unwrap(), 9);
        let kept = keeping.get();
        let retention = kept.retention.unwrap();
        assert_eq!(
            (retention.messages, retention.actions),
            (hours(5), hours(6))
        );
        assert_eq!(
            (retention.check_interval.as_secs(), kept.checkpoints),
            (7, 8)
        );
        for bad in ["messagelog.retention.hours", "checkpoint.retain.count"] {
            let pairs = [("pulllog.retention.hours", "1"), (bad, "0")];
            let error = apply(&pairs).unwrap_err();
            assert_eq!(error.key(), Some(bad));
            assert_eq!(keeping.get(), kept);
        }
        apply(&[("log.expired.delete.enable", "false")]).unwrap();
        assert_eq!(keeping.get().retention, None);
    }
}
