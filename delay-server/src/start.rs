//! From settings to a running delay server.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use qmq_daemon::member::{Member, RunningMember};
use qmq_daemon::metrics::Metrics;
use qmq_daemon::tokens::Tokens;
use qmq_daemon::{FailureKind, Settings, StartError};
use qmq_model::{BrokerRole, Clock, SystemClock};
use qmq_store::fs::RealFs;
use qmq_store::{DelayConfig, DelayOpened, DelayStore, FlushMode};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::config::DelayServerConfig;
use crate::http::LateDesk;
use crate::serving::Serving;

/// File with the tokens of management calls, beside the settings file.
const TOKENS: &str = "valid-api-tokens";

/// Starts a delay server: binds its ports, learns its role, opens its store, serves, registers.
///
/// # Errors
/// What kept it from starting, with the exit code that belongs to it.
pub async fn start(
    config: DelayServerConfig,
    settings: Settings,
    stop: CancellationToken,
) -> Result<RunningMember<Serving>, StartError> {
    let registry = Metrics::new("delay-server", env!("CARGO_PKG_VERSION"));
    let late = LateDesk::default();
    let tokens = Tokens::new(settings.companion_path(TOKENS));
    let http = crate::http::router(late.clone(), tokens);
    let role = BrokerRole::DelayMaster;
    let bound = Member::bind(&config.member, &settings, role, registry.clone(), http);
    let (member, server) = bound.await?;
    let meta = member.entry().await?;
    let opened = open_store(config.store_root.clone(), config.store(&meta.group)).await?;
    member.store_is_open();
    let report = &opened.report;
    let (pending, begun) = (report.pending, report.begun);
    info!(pending, begun, clean = report.was_clean, "store is open");
    let serving = Serving::start(
        &config,
        &meta.group,
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

async fn open_store(root: PathBuf, config: DelayConfig) -> Result<DelayOpened, StartError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let place = root.display().to_string();
    let open = move || DelayStore::open(Arc::new(RealFs), &root, config, clock);
    let opened = tokio::task::spawn_blocking(open).await;
    let opened = opened
        .context("opening the store was interrupted")
        .and_then(|opened| {
            opened.with_context(|| format!("cannot open the store in {place} (store.root)"))
        });
    opened.map_err(|error| StartError::new(FailureKind::Store, error))
}

fn banner(config: &DelayServerConfig, group: &str, member: &Member) -> String {
    let flush = match config.flush {
        FlushMode::Sync => "sync: acknowledged means on disk".to_owned(),
        FlushMode::Async { interval } => {
            let millis = interval.as_millis();
            format!("ASYNC: a power cut may lose the last {millis} ms of acknowledged messages")
        }
    };
    let (address, admin) = (member.address(), member.admin_port());
    let root = config.store_root.display();
    format!("delay master of group {group} on {address}, admin port {admin}, store {root}, {flush}")
}
