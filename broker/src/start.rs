//! From settings to a running broker.

use std::path::Path;
use std::sync::Arc;

use qmq_daemon::member::{self, Member, RunningMember};
use qmq_daemon::metrics::Metrics;
use qmq_daemon::settings::{FOLLOW_PERIOD, follow};
use qmq_daemon::{FailureKind, Settings, StartError};
use qmq_model::{BrokerRole, Clock, SystemClock};
use qmq_store::RealtimeStore;
use qmq_store::fs::RealFs;
use tokio_util::sync::CancellationToken;

use crate::config::{BrokerConfig, RuleValues};
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
    let serving = Serving::start(&config, server, opened, &registry, &late, clock());
    let serving = serving.map_err(|error| StartError::new(FailureKind::Running, error))?;
    let banner = banner(&config, &meta.group, &member);
    if let Some(shards) = late.get() {
        if let Some(period) = config.export_period {
            let folder = config.store_root.join(export::FOLDER);
            let exporter = Exporter::new(folder, shards.clone(), reader);
            tokio::spawn(exporter.run(period, stop.clone()));
        }
        follow_settings(settings, shards.clone(), stop.clone());
    }
    member.register(&meta, serving, banner, stop)
}

/// Looks at the settings again until `stop`.
fn follow_settings(settings: Settings, shards: Shards, stop: CancellationToken) {
    let apply = move |settings: &Settings| {
        let rules = RuleValues::from_settings(settings)?;
        let shards = shards.clone();
        tokio::spawn(async move { shards.set_rules(rules).await });
        Ok(())
    };
    tokio::spawn(follow(settings, FOLLOW_PERIOD, stop, apply));
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
