//! What every request needs, shared by the two ports.

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::assign::Assigner;
use crate::clients::Clients;
use crate::db::Db;
use crate::liveness::Liveness;
use crate::metrics::Counters;
use crate::register_log::RegisterLog;
use crate::snapshot::Snapshots;
use qmq_daemon::tokens::Tokens;

/// Clients that may wait for their first route, or for its assignment, at the same time; others
/// are answered at once with what is known.
pub(crate) const WAITING_CLIENTS_MAX: usize = 10_000;

/// The parts of a metaserver.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) db: Db,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) assigner: Assigner,
    pub(crate) liveness: Arc<Liveness>,
    pub(crate) clients: Arc<Clients>,
    pub(crate) counters: Counters,
    pub(crate) tokens: Tokens,
    /// Whose questions are logged.
    pub(crate) register_log: RegisterLog,
    /// What `/meta/address` answers.
    pub(crate) advertised: SocketAddrV4,
    /// How long a client waits for its first route.
    pub(crate) first_route_wait: Duration,
    /// Take groups and addresses that are not in table `broker`.
    pub(crate) open_register: bool,
    /// Take `/onoffline` by GET without a token.
    pub(crate) open_onoffline: bool,
    /// `broker-http-port-map.properties`.
    pub(crate) slave_ports_file: Option<PathBuf>,
    /// Permits of [`WAITING_CLIENTS_MAX`].
    pub(crate) waiting: Arc<Semaphore>,
    /// Tasks that must end before the process does.
    pub(crate) tasks: TaskTracker,
    /// Ends every wait of a client.
    pub(crate) stop: CancellationToken,
}
