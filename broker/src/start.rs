//! From settings to a running broker.

use std::path::Path;
use std::sync::Arc;

use qmq_daemon::member::{self, Member, RunningMember};
use qmq_daemon::metrics::Metrics;
use qmq_daemon::{FailureKind, Settings, StartError};
use qmq_model::{BrokerRole, Clock, SystemClock};
use qmq_store::RealtimeStore;
use qmq_store::fs::RealFs;
use tokio_util::sync::CancellationToken;

use crate::config::BrokerConfig;
use crate::http::LateShards;
use crate::serving::Serving;

/// Starts a broker: binds its ports, learns its role, opens its store, serves, registers.
///
/// # Errors
/// What kept it from starting, with the exit code that belongs to it.
pub async fn start(
    config: BrokerConfig,
    settings: Settings,
    stop: CancellationToken,
) -> Result<RunningMember<Serving>, StartError> {
    let registry = Metrics::new("broker", env!("CARGO_PKG_VERSION"));
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
    let serving = Serving::start(&config, server, opened, &registry, &late, clock());
    let serving = serving.map_err(|error| StartError::new(FailureKind::Running, error))?;
    let banner = banner(&config, &meta.group, &member);
    member.register(&meta, serving, banner, stop)
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
