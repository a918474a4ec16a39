//! From settings to a running broker, and to its orderly end.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use qmq_daemon::address::HostIdentity;
use qmq_daemon::admin::{self, Readiness};
use qmq_daemon::http::HttpServer;
use qmq_daemon::process::Running;
use qmq_daemon::registration::{self, BrokerIdentity, BrokerMeta, Registration, Timing};
use qmq_daemon::{FailureKind, Settings, StartError};
use qmq_model::{BrokerRole, BrokerState, Clock, SystemClock};
use qmq_remoting::{Server, ServerConfig};
use qmq_store::fs::RealFs;
use qmq_store::{FlushMode, Opened, RealtimeStore, StoreConfig};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::config::BrokerConfig;
use crate::http::LateShards;
use crate::serving::Serving;

/// A broker that has started.
pub struct RunningBroker {
    banner: String,
    stop: CancellationToken,
    serving: Serving,
    state: watch::Sender<BrokerState>,
    registration: Registration,
    leave: CancellationToken,
    admin: HttpServer,
    stop_admin: CancellationToken,
}

/// Starts a broker: binds its ports, learns its role, opens its store, serves, registers.
///
/// # Errors
/// What kept it from starting, with the exit code that belongs to it.
pub async fn start(
    config: BrokerConfig,
    settings: Settings,
    stop: CancellationToken,
) -> Result<RunningBroker, StartError> {
    let host = HostIdentity::from_settings(&settings)?;
    let registry = qmq_daemon::metrics::Metrics::new("broker", env!("CARGO_PKG_VERSION"));
    let readiness = Readiness::default();
    readiness.waits("store", "not open yet");
    readiness.waits("metaserver", "not registered yet");
    let server = bind(&config).await?;
    let identity = BrokerIdentity {
        hostname: host.hostname,
        ip: host.ip,
        serve_port: server.local_addr().port(),
        sync_port: config.sync_port,
    };
    let stop_admin = CancellationToken::new();
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, config.admin_port));
    let late = LateShards::default();
    let router = admin::router(registry.clone(), readiness.clone());
    let router = router.merge(crate::http::router(late.clone()));
    let admin = HttpServer::start(address, router, stop_admin.clone()).await;
    let admin = admin.with_context(|| format!("cannot listen on {address} (admin.port)"));
    let admin = admin.map_err(|error| StartError::new(FailureKind::Network, error))?;
    write_ports(&config, identity.serve_port, admin.address().port())?;

    let meta = acquire(&config, &identity).await?;
    let opened = open_store(config.store_root.clone(), config.store(&meta.group));
    let opened = opened.await?;
    readiness.ready("store");
    let serving = Serving::start(
        &config,
        server,
        opened,
        &registry,
        &late,
        Arc::new(SystemClock),
    );
    let serving = serving.map_err(|error| StartError::new(FailureKind::Running, error))?;

    let (state, watch_state) = watch::channel(BrokerState::ReadWrite);
    let leave = CancellationToken::new();
    let address = format!("{}:{}", identity.ip, identity.serve_port);
    let endpoint = &config.meta_endpoint;
    let timing = Timing::default();
    let registration = registration::start(
        endpoint,
        &meta,
        address.clone(),
        watch_state,
        timing,
        leave.clone(),
    )?;
    tokio::spawn(tell_when_online(registration.online(), readiness));
    let banner = banner(&config, &meta, &address, admin.address().port());
    Ok(RunningBroker {
        banner,
        stop,
        serving,
        state,
        registration,
        leave,
        admin,
        stop_admin,
    })
}

async fn bind(config: &BrokerConfig) -> Result<Server, StartError> {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, config.port));
    let limits = ServerConfig {
        connections_max: config.connections_max,
        ..ServerConfig::default()
    };
    let bound = Server::bind(address, limits).await;
    let bound = bound.with_context(|| format!("cannot listen on {address} (broker.port)"));
    bound.map_err(|error| StartError::new(FailureKind::Network, error))
}

async fn acquire(
    config: &BrokerConfig,
    identity: &BrokerIdentity,
) -> Result<BrokerMeta, StartError> {
    let meta = registration::acquire(&config.meta_endpoint, identity, Timing::default()).await?;
    if meta.role == BrokerRole::Master {
        return Ok(meta);
    }
    let what = anyhow!(
        "this broker was added with role {}; this release serves role 0 (MASTER) only",
        meta.role.name()
    );
    Err(StartError::new(FailureKind::Registration, what))
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

async fn tell_when_online(mut online: watch::Receiver<bool>, readiness: Readiness) {
    // The sender goes when the broker stops: nothing is to be told then.
    if online.wait_for(|online| *online).await.is_ok() {
        readiness.ready("metaserver");
    }
}

fn banner(config: &BrokerConfig, meta: &BrokerMeta, address: &str, admin: u16) -> String {
    let flush = match config.flush {
        FlushMode::Sync => "sync: acknowledged means on disk".to_owned(),
        FlushMode::Async { interval } => {
            let millis = interval.as_millis();
            format!("ASYNC: a power cut may lose the last {millis} ms of acknowledged messages")
        }
    };
    let group = &meta.group;
    let root = config.store_root.display();
    format!("master of group {group} on {address}, admin port {admin}, store {root}, {flush}")
}

fn write_ports(config: &BrokerConfig, tcp: u16, admin: u16) -> Result<(), StartError> {
    let Some(path) = &config.ports_file else {
        return Ok(());
    };
    let written = std::fs::write(path, format!("tcp={tcp}\nadmin={admin}\n"));
    let written = written.with_context(|| format!("cannot write {}", path.display()));
    written.map_err(|error| StartError::new(FailureKind::Config, error))
}

impl Running for RunningBroker {
    fn banner(&self) -> String {
        self.banner.clone()
    }

    async fn ended(mut self) -> anyhow::Result<()> {
        let failed = tokio::select! {
            () = self.stop.cancelled() => None,
            failed = self.serving.failed() => Some(failed),
        };
        if failed.is_some() {
            error!("the store failed: clients are sent to other brokers");
        } else {
            info!("stopping: no new messages are taken");
        }
        self.serving.refuse_sends();
        self.state.send_replace(BrokerState::Away);
        self.leave.cancel();
        self.registration.stopped().await;
        let stopped = match failed {
            Some(error) => Err(error),
            None => self.serving.stop().await,
        };
        self.stop_admin.cancel();
        self.admin.stopped().await;
        stopped
    }
}
