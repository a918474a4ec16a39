//! Starts a metaserver and stops it: database, snapshot, ports, tasks, and back.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use axum::Router;
use qmq_daemon::address::local_ipv4;
use qmq_daemon::admin::Readiness;
use qmq_daemon::http::HttpServer;
use qmq_daemon::metrics::Metrics;
use qmq_daemon::process::Running;
use qmq_daemon::settings::{MapFile, Settings, follow};
use qmq_daemon::{FailureKind, StartError};
use qmq_remoting::{DrainReport, Server, ServerConfig, ServerStats};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::assign::Assigner;
use crate::clients::{Clients, Expiry};
use crate::config::{MetaserverConfig, Rules};
use crate::db::{Db, DbResult};
use crate::handler::Handler;
use crate::http;
use crate::liveness::Liveness;
use crate::metrics::Counters;
use crate::register_log::RegisterLog;
use crate::snapshot::{Alarm, Snapshots};
use crate::state::{State, WAITING_CLIENTS_MAX};
use qmq_daemon::tokens::Tokens;

/// How long a stop waits for started requests; a client waits 2 s for its first route.
const DRAIN: Duration = Duration::from_secs(5);
/// How often files of settings are looked at, as documented.
const SETTINGS_PERIOD: Duration = Duration::from_secs(10);
/// File of switches that say which questions of clients are logged.
const LOG_SWITCHES: &str = "client_log_switch";
/// How often gauges are set.
const GAUGE_PERIOD: Duration = Duration::from_secs(5);

/// A metaserver that serves.
#[derive(Debug)]
pub struct RunningMetaserver {
    http_addr: SocketAddr,
    tcp_addr: SocketAddr,
    advertised: SocketAddrV4,
    database: String,
    db: Db,
    http: HttpServer,
    tcp: JoinHandle<DrainReport>,
    tasks: TaskTracker,
    background: CancellationToken,
}

/// Starts a metaserver; it serves until `stop`. `settings` are followed for the keys that may
/// change.
///
/// # Errors
/// When the database cannot be opened or read, or a port is taken.
pub async fn start(
    config: MetaserverConfig,
    mut settings: Settings,
    stop: CancellationToken,
) -> Result<RunningMetaserver, StartError> {
    let db = open(&config).await?;
    let snapshots = Snapshots::load(db.clone()).await.map_err(store_failed)?;
    let expiry = expiry(&config, &db).await.map_err(store_failed)?;
    let tcp = bind(&config).await?;
    let tcp_addr = tcp.local_addr();
    let metrics = Metrics::new("metaserver", env!("CARGO_PKG_VERSION"));
    let counters = Counters::new(&metrics);
    let rules = Arc::new(Rules::new(config.rules));
    let tasks = TaskTracker::new();
    // Background tasks outlive the ports: what the last requests changed is still written down.
    let background = CancellationToken::new();
    let parts = Parts {
        db,
        snapshots: Arc::new(snapshots),
        rules,
        counters,
        tasks,
        background,
        switches: settings.map_file(LOG_SWITCHES),
        readiness: Readiness::default(),
        expiry,
    };
    let state = parts.state(&config, tcp_addr.port(), &stop);
    let router = http::router(Arc::clone(&state), metrics, parts.readiness.clone());
    let http = bind_http(config.http_port, router, stop.clone()).await?;
    parts.follow_settings(settings);
    parts.keep_running(&config, tcp.stats());
    let handler = Arc::new(Handler(Arc::clone(&state)));
    let running = RunningMetaserver {
        http_addr: http.address(),
        tcp_addr,
        advertised: state.advertised,
        database: config.database.to_string(),
        db: parts.db,
        http,
        tcp: tokio::spawn(tcp.serve(handler, stop, DRAIN)),
        tasks: parts.tasks,
        background: parts.background,
    };
    if let Some(path) = &config.ports_file {
        write_ports(path, &running)?;
    }
    Ok(running)
}

async fn open(config: &MetaserverConfig) -> Result<Db, StartError> {
    let folder = config.database.path().and_then(Path::parent);
    if let Some(folder) = folder.filter(|folder| !folder.as_os_str().is_empty()) {
        let created = std::fs::create_dir_all(folder);
        let created = created.with_context(|| format!("cannot create {}", folder.display()));
        created.map_err(store_failed)?;
    }
    let db = Db::open(&config.database, config.database_connections).await;
    let db = db.with_context(|| format!("cannot open {}", config.database));
    db.map_err(store_failed)
}

async fn expiry(config: &MetaserverConfig, db: &Db) -> DbResult<Option<Expiry>> {
    let Some(silence_max) = config.client_silence_max else {
        return Ok(None);
    };
    let expiry = Expiry::new(db, silence_max, config.client_expiry_round).await?;
    Ok(Some(expiry))
}

fn store_failed(error: impl Into<anyhow::Error>) -> StartError {
    StartError::new(FailureKind::Store, error)
}

/// Questions and answers are small: a question has seven texts of at most 32 KiB.
fn limits(config: &MetaserverConfig) -> ServerConfig {
    ServerConfig {
        connections_max: config.connections_max,
        body_bytes_max: 256 * 1024,
        connection_bytes_max: 4 * 1024 * 1024,
        in_flight_bytes_max: 64 * 1024 * 1024,
        outbox_bytes_max: 8 * 1024 * 1024,
        outbox_total_bytes_max: 128 * 1024 * 1024,
        ..ServerConfig::default()
    }
}

async fn bind(config: &MetaserverConfig) -> Result<Server, StartError> {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, config.tcp_port));
    let server = Server::bind(address, limits(config)).await;
    let server = server.with_context(|| format!("cannot listen on {address} (meta.server.port)"));
    server.map_err(|error| StartError::new(FailureKind::Network, error))
}

async fn bind_http(
    port: u16,
    router: Router,
    stop: CancellationToken,
) -> Result<HttpServer, StartError> {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let server = HttpServer::start(address, router, stop).await;
    let server =
        server.with_context(|| format!("cannot listen on {address} (meta.server.discover.port)"));
    server.map_err(|error| StartError::new(FailureKind::Network, error))
}

fn write_ports(path: &Path, running: &RunningMetaserver) -> Result<(), StartError> {
    let ports = format!("http={}\ntcp={}\n", running.http_addr, running.tcp_addr);
    let written = std::fs::write(path, ports);
    let written = written.with_context(|| format!("cannot write {} (ports.file)", path.display()));
    written.map_err(|error| StartError::new(FailureKind::Config, error))
}

/// What the tasks of a metaserver share.
struct Parts {
    db: Db,
    snapshots: Arc<Snapshots>,
    rules: Arc<Rules>,
    counters: Counters,
    tasks: TaskTracker,
    background: CancellationToken,
    switches: MapFile,
    readiness: Readiness,
    expiry: Option<Expiry>,
}

impl Parts {
    fn state(
        &self,
        config: &MetaserverConfig,
        tcp_port: u16,
        stop_serving: &CancellationToken,
    ) -> Arc<State> {
        let (clients, waiting) = Clients::new(self.counters.clone());
        let clients = Arc::new(clients);
        let liveness = Arc::new(Liveness::new(
            self.db.clone(),
            Arc::clone(&self.snapshots),
            Arc::clone(&self.rules),
            self.counters.clone(),
        ));
        let (db, stop) = (self.db.clone(), self.background.clone());
        let writer = Arc::clone(&clients);
        self.spawn(async move { writer.write_down(db, waiting, stop).await });
        if let Some(expiry) = self.expiry {
            let (db, stop) = (self.db.clone(), self.background.clone());
            let clients = Arc::clone(&clients);
            self.spawn(async move { clients.expire(db, expiry, stop).await });
        }
        let (watch, stop) = (Arc::clone(&liveness), self.background.clone());
        self.spawn(async move { watch.run(stop).await });
        let advertised = config
            .advertised
            .unwrap_or_else(|| SocketAddrV4::new(config.ip.unwrap_or_else(local_ipv4), tcp_port));
        let snapshots = Arc::clone(&self.snapshots);
        let rules = Arc::clone(&self.rules);
        Arc::new(State {
            db: self.db.clone(),
            assigner: Assigner::new(self.db.clone(), Arc::clone(&snapshots), rules),
            snapshots,
            liveness,
            clients,
            counters: self.counters.clone(),
            tokens: Tokens::new(config.tokens_file.clone()),
            register_log: RegisterLog::new(self.switches.clone()),
            advertised,
            first_route_wait: config.first_route_wait,
            open_register: config.open_register,
            open_onoffline: config.open_onoffline,
            slave_ports_file: config.slave_ports_file.clone(),
            waiting: Arc::new(Semaphore::new(WAITING_CLIENTS_MAX)),
            tasks: self.tasks.clone(),
            stop: stop_serving.clone(),
        })
    }

    fn follow_settings(&self, settings: Settings) {
        let rules = Arc::clone(&self.rules);
        let apply = move |settings: &Settings| rules.follow(settings);
        self.spawn(follow(
            settings,
            SETTINGS_PERIOD,
            self.background.clone(),
            apply,
        ));
    }

    fn keep_running(&self, config: &MetaserverConfig, stats: Arc<ServerStats>) {
        let (snapshots, period) = (Arc::clone(&self.snapshots), config.refresh_period);
        let alarm = Alarm {
            errors: self.counters.refresh_errors.clone(),
            away: self.counters.database_away.clone(),
            readiness: self.readiness.clone(),
        };
        let stop = self.background.clone();
        self.spawn(async move { snapshots.keep_fresh(period, alarm, stop).await });
        let connections = self.counters.connections.clone();
        let stop = self.background.clone();
        self.spawn(async move {
            while stop
                .run_until_cancelled(tokio::time::sleep(GAUGE_PERIOD))
                .await
                .is_some()
            {
                connections.set(i64::try_from(stats.connections_open()).unwrap_or(i64::MAX));
            }
        });
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }
}

impl RunningMetaserver {
    /// Where HTTP is served.
    #[must_use]
    pub const fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Where clients and brokers are served.
    #[must_use]
    pub const fn tcp_addr(&self) -> SocketAddr {
        self.tcp_addr
    }

    /// The database it uses.
    #[must_use]
    pub const fn db(&self) -> &Db {
        &self.db
    }
}

impl Running for RunningMetaserver {
    fn banner(&self) -> String {
        let Self {
            http_addr,
            tcp_addr,
            advertised,
            database,
            ..
        } = self;
        format!(
            "http on {http_addr}, clients and brokers on {tcp_addr} (told to use {advertised}), \
             database {database}"
        )
    }

    async fn ended(self) -> anyhow::Result<()> {
        let drained = self.tcp.await;
        self.http.stopped().await;
        self.background.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.db.close().await;
        match drained {
            Ok(DrainReport { cut: 0, .. }) => Ok(()),
            Ok(report) => {
                warn!(
                    cut = report.cut,
                    unanswered = report.unanswered,
                    "connections were cut"
                );
                Ok(())
            }
            Err(error) => Err(anyhow!("the tcp port failed: {error}")),
        }
        .inspect(|()| info!("database closed"))
    }
}
