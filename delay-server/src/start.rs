//! From settings to a running delay server.

use std::path::Path;
use std::sync::Arc;

use qmq_daemon::member::{self, Member, RunningMember};
use qmq_daemon::metrics::Metrics;
use qmq_daemon::settings::{FOLLOW_PERIOD, follow};
use qmq_daemon::tokens::Tokens;
use qmq_daemon::{FailureKind, Settings, StartError};
use qmq_model::{BrokerRole, Clock, SystemClock};
use qmq_store::DelayStore;
use qmq_store::fs::RealFs;
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
    let registry = Metrics::new("delay-server", env!("CARGO_PKG_VERSION")).following(&settings)?;
    let late = LateDesk::default();
    let tokens = Tokens::new(settings.companion_path(TOKENS));
    let http = crate::http::router(late.clone(), tokens);
    let role = BrokerRole::DelayMaster;
    let bound = Member::bind(&config.member, &settings, role, registry.clone(), http);
    let (member, server) = bound.await?;
    let meta = member.entry().await?;
    let store = config.store(&meta.group);
    let open = |root: &Path| DelayStore::open(Arc::new(RealFs), root, store, clock());
    let opened = member::open_store(config.store_root.clone(), open).await?;
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
        clock(),
    );
    let serving = serving.map_err(|error| StartError::new(FailureKind::Running, error))?;
    let banner = banner(&config, &meta.group, &member);
    let apply = serving.follower();
    tokio::spawn(follow(settings, FOLLOW_PERIOD, stop.clone(), apply));
    member.register(&meta, serving, banner, stop)
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

fn banner(config: &DelayServerConfig, group: &str, member: &Member) -> String {
    let flush = config.flush;
    let (address, admin) = (member.address(), member.admin_port());
    let root = config.store_root.display();
    format!("delay master of group {group} on {address}, admin port {admin}, store {root}, {flush}")
}
