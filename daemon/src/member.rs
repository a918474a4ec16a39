//! A server that belongs to a broker group: its ports, its entry at the metaserver, its reports,
//! its orderly end.
//!
//! ```text
//! Member::bind -> role() -> open the store, serve -> register() -> RunningMember
//! ```

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use axum::Router;
use qmq_model::{BrokerRole, BrokerState};
use qmq_remoting::{Server, ServerConfig};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::address::HostIdentity;
use crate::admin::{self, Readiness};
use crate::failure::{FailureKind, StartError};
use crate::http::HttpServer;
use crate::metrics::Metrics;
use crate::process::Running;
use crate::registration::{self, BrokerIdentity, BrokerMeta, MetaEndpoint, Registration, Timing};
use crate::settings::{Settings, SettingsError};

/// Where a member listens and whom it reports to.
#[derive(Clone, Debug)]
pub struct MemberConfig {
    /// `broker.port`: where clients connect. 0 takes a free one. Default: 20881.
    pub port: u16,
    /// `sync.port`: where slaves will connect; announced, not yet served. Default: 20882.
    pub sync_port: u16,
    /// `admin.port`: metrics, health and management over HTTP. 0 takes a free one.
    pub admin_port: u16,
    /// `meta.server.endpoint`: URL that tells the metaserver's address. Required.
    pub meta_endpoint: MetaEndpoint,
    /// `server.connections.max`: clients connected at a time. Default: 20 000.
    pub connections_max: usize,
    /// `ports.file`: where to write the ports in use, for scripts that let us choose. Default: none.
    pub ports_file: Option<PathBuf>,
}

impl MemberConfig {
    /// Reads the settings; `admin_port` is the default of that port.
    ///
    /// # Errors
    /// The first value that makes no sense, with its origin.
    pub fn from_settings(settings: &Settings, admin_port: u16) -> Result<Self, SettingsError> {
        Ok(Self {
            port: settings.get("broker.port", 20881)?,
            sync_port: settings.get("sync.port", 20882)?,
            admin_port: settings.get("admin.port", admin_port)?,
            meta_endpoint: settings.required("meta.server.endpoint")?,
            connections_max: settings.number("server.connections.max", 20_000, 1..=1_000_000)?,
            ports_file: settings.optional("ports.file")?,
        })
    }
}

/// `flush.disk.type` and `flush.interval.ms`: `None` when a message is acknowledged once it is on
/// disk (`sync`, the default), else the most that a power cut can lose (`async`).
///
/// # Errors
/// When the type is neither, or the interval out of range.
pub fn flush_interval(settings: &Settings) -> Result<Option<Duration>, SettingsError> {
    let interval = settings.number("flush.interval.ms", 500, 10..=60_000)?;
    match settings
        .get("flush.disk.type", "sync".to_owned())?
        .to_ascii_lowercase()
        .as_str()
    {
        "sync" => Ok(None),
        "async" => Ok(Some(Duration::from_millis(interval))),
        _ => Err(settings.invalid("flush.disk.type", "neither sync nor async".to_owned())),
    }
}

/// Opens the store in folder `root` (`store.root`), which may take a while.
///
/// # Errors
/// When `open` fails.
pub async fn open_store<T, E>(
    root: PathBuf,
    open: impl FnOnce(&Path) -> Result<T, E> + Send + 'static,
) -> Result<T, StartError>
where
    T: Send + 'static,
    E: std::error::Error + Send + Sync + 'static,
{
    let place = root.display().to_string();
    let opened = tokio::task::spawn_blocking(move || open(&root)).await;
    let opened = opened
        .context("opening the store was interrupted")
        .and_then(|opened| {
            opened.with_context(|| format!("cannot open the store in {place} (store.root)"))
        });
    opened.map_err(|error| StartError::new(FailureKind::Store, error))
}

/// What clients talk to, and its orderly end.
pub trait Serving: Send {
    /// From now on sends are refused with "read only".
    fn refuse_sends(&self);

    /// Waits until the store fails. Nothing can be stored or promised after that.
    fn failed(&mut self) -> impl Future<Output = anyhow::Error> + Send;

    /// Finishes started requests, then writes and closes the store.
    fn stop(self) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// A member with bound ports that does not serve yet.
#[derive(Debug)]
pub struct Member {
    endpoint: MetaEndpoint,
    identity: BrokerIdentity,
    readiness: Readiness,
    admin: HttpServer,
    stop_admin: CancellationToken,
}

impl Member {
    /// Binds the ports and serves the admin port: what every server has, and `management`. `serves`
    /// is the only role this program has.
    ///
    /// # Errors
    /// When a setting makes no sense or a port is taken.
    pub async fn bind(
        config: &MemberConfig,
        settings: &Settings,
        serves: BrokerRole,
        metrics: Metrics,
        management: Router,
    ) -> Result<(Self, Server), StartError> {
        let host = HostIdentity::from_settings(settings)?;
        let readiness = Readiness::default();
        readiness.waits("store", "not open yet");
        readiness.waits("metaserver", "not registered yet");
        let server = bind(config).await?;
        let stop_admin = CancellationToken::new();
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, config.admin_port));
        let router = admin::router(metrics, readiness.clone()).merge(management);
        let admin = HttpServer::start(address, router, stop_admin.clone()).await;
        let admin = admin.with_context(|| format!("cannot listen on {address} (admin.port)"));
        let admin = admin.map_err(|error| StartError::new(FailureKind::Network, error))?;
        let identity = BrokerIdentity {
            hostname: host.hostname,
            ip: host.ip,
            serve_port: server.local_addr().port(),
            sync_port: config.sync_port,
            serves,
        };
        write_ports(config, identity.serve_port, admin.address().port())?;
        let member = Self {
            endpoint: config.meta_endpoint.clone(),
            identity,
            readiness,
            admin,
            stop_admin,
        };
        Ok((member, server))
    }

    /// Learns from the metaserver who this is.
    ///
    /// # Errors
    /// When the metaserver cannot be reached, does not know this server (the text then holds the
    /// command that adds it), or has it in another role.
    pub async fn entry(&self) -> Result<BrokerMeta, StartError> {
        let meta = registration::acquire(&self.endpoint, &self.identity, Timing::default()).await?;
        let serves = self.identity.serves;
        if meta.role == serves {
            return Ok(meta);
        }
        let what = anyhow!(
            "this broker was added with role {}; this release serves role {} ({}) only",
            meta.role.name(),
            serves.code(),
            serves.name()
        );
        Err(StartError::new(FailureKind::Registration, what))
    }

    /// `ip:port` that clients use.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}", self.identity.ip, self.identity.serve_port)
    }

    /// The HTTP port.
    #[must_use]
    pub fn admin_port(&self) -> u16 {
        self.admin.address().port()
    }

    /// The store is open: one reason less for not being ready.
    pub fn store_is_open(&self) {
        self.readiness.ready("store");
    }

    /// Begins to report to the metaserver that `serving` serves. `stop` ends it.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn register<S: Serving>(
        self,
        meta: &BrokerMeta,
        serving: S,
        banner: String,
        stop: CancellationToken,
    ) -> Result<RunningMember<S>, StartError> {
        let (state, watch_state) = watch::channel(BrokerState::ReadWrite);
        let leave = CancellationToken::new();
        let registration = registration::start(
            &self.endpoint,
            meta,
            self.address(),
            watch_state,
            Timing::default(),
            leave.clone(),
        )?;
        tokio::spawn(tell_when_online(registration.online(), self.readiness));
        Ok(RunningMember {
            banner,
            stop,
            serving,
            state,
            registration,
            leave,
            admin: self.admin,
            stop_admin: self.stop_admin,
        })
    }
}

/// A member that serves and reports.
pub struct RunningMember<S> {
    banner: String,
    stop: CancellationToken,
    serving: S,
    state: watch::Sender<BrokerState>,
    registration: Registration,
    leave: CancellationToken,
    admin: HttpServer,
    stop_admin: CancellationToken,
}

impl<S: Serving> Running for RunningMember<S> {
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

async fn bind(config: &MemberConfig) -> Result<Server, StartError> {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, config.port));
    let limits = ServerConfig {
        connections_max: config.connections_max,
        ..ServerConfig::default()
    };
    let bound = Server::bind(address, limits).await;
    let bound = bound.with_context(|| format!("cannot listen on {address} (broker.port)"));
    bound.map_err(|error| StartError::new(FailureKind::Network, error))
}

async fn tell_when_online(mut online: watch::Receiver<bool>, readiness: Readiness) {
    // The sender goes when the server stops: nothing is to be told then.
    if online.wait_for(|online| *online).await.is_ok() {
        readiness.ready("metaserver");
    }
}

fn write_ports(config: &MemberConfig, tcp: u16, admin: u16) -> Result<(), StartError> {
    let Some(path) = &config.ports_file else {
        return Ok(());
    };
    let written = std::fs::write(path, format!("tcp={tcp}\nadmin={admin}\n"));
    let written = written.with_context(|| format!("cannot write {}", path.display()));
    written.map_err(|error| StartError::new(FailureKind::Config, error))
}
