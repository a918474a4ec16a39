//! From settings to a running broker.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use qmq_daemon::member::{Member, RunningMember};
use qmq_daemon::metrics::Metrics;
use qmq_daemon::{FailureKind, Settings, StartError};
use qmq_model::{BrokerRole, Clock, SystemClock};
use qmq_store::fs::RealFs;
use qmq_store::{FlushMode, Opened, RealtimeStore, StoreConfig};
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
    let opened = open_store(config.store_root.clone(), config.store(&meta.group));
    let opened = opened.await?;
    member.store_is_open();
    let serving = Serving::start(
        &config,
        server,
        opened,
        &registry,
        &late,
        Arc::new(SystemClock),
    );
    let serving = serving.map_err(|error| StartError::new(FailureKind::Running, error))?;
    let banner = banner(&config, &meta.group, &member);
    member.register(&meta, serving, banner, stop)
}

async fn open_store(root: PathBuf, config: StoreConfig) -> Result<Opened, StartError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let place = root.display().to_string();
    let open = move || RealtimeStore::open(Arc::new(RealFs), &root, config, clock);
    let opened = tokio::task::spawn_blocking(open).await;
    let opened = opened
        .context("opening the store was interrupted")
        .and_then(|opened| {
            opened.with_context(|| format!("cannot open the store in {place} (store.root)"))
        });
    let opened = opened.map_err(|error| StartError::new(FailureKind::Store, error))?;
    Ok(opened)
}

fn banner(config: &BrokerConfig, group: &str, member: &Member) -> String {
    let flush = match config.flush {
        FlushMode::Sync => "sync: acknowledged means on disk".to_owned(),
        FlushMode::Async { interval } => {
            let millis = interval.as_millis();
            format!("ASYNC: a power cut may lose the last {millis} ms of acknowledged messages")
        }
    };
    let (address, admin) = (member.address(), member.admin_port());
    let root = config.store_root.display();
    format!("master of group {group} on {address}, admin port {admin}, store {root}, {flush}")
}
