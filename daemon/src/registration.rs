//! Registration of a broker with the metaserver: who am I, I am online, alive, gone.
//!
//! A broker first [`acquire`]s its entry (group, role, whom to copy from), then [`start`] keeps
//! reporting its state until it stops:
//!
//! ```text
//! HEARTBEAT(NRW) every 10 s -> ONLINE, repeated until it succeeds -> HEARTBEAT(state) -> OFFLINE
//! ```
//!
//! The metaserver's address comes from an HTTP endpoint and is asked for again after each failure.
//! The reference's brokers never look at result codes, so a failed ONLINE left them invisible;
//! here every code is checked.

mod endpoint;
mod error;
mod metaserver;
mod reporter;

use std::net::Ipv4Addr;
use std::time::Duration;

use qmq_model::{BrokerRole, BrokerState};
use qmq_protocol::command::broker_acquire_meta::{
    BrokerAcquireMetaRequest, BrokerAcquireMetaResponse,
};
use qmq_protocol::{CommandCode, Decode, ResultCode};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub use endpoint::{MetaEndpoint, address};
pub use error::RegistrationError;

use metaserver::Metaserver;
use reporter::Reporter;

/// How often the entry is asked for while the metaserver cannot be reached.
const ACQUIRE_ATTEMPTS: u32 = 3;

/// How this broker process is known to the metaserver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerIdentity {
    /// Host name under which it was added.
    pub hostname: String,
    /// Address that clients use.
    pub ip: Ipv4Addr,
    /// Port that clients use; with the host name the key of its entry.
    pub serve_port: u16,
    /// Port that slaves use.
    pub sync_port: u16,
    /// The role this program has: named in the command that adds it.
    pub serves: BrokerRole,
}

/// The entry of this broker process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerMeta {
    /// Name of its broker group.
    pub group: String,
    /// What it is within the group.
    pub role: BrokerRole,
    /// `ip:syncPort` to copy from; empty for a master.
    pub master: String,
}

/// When reports are sent.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// From the end of one heartbeat to the next. The metaserver gives up after 30 s of silence.
    pub heartbeat: Duration,
    /// From a failure to the next attempt; doubles with each failure in a row, up to `heartbeat`.
    pub retry: Duration,
    /// Longest wait for one answer of the metaserver.
    pub deadline: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(10),
            retry: Duration::from_secs(1),
            deadline: Duration::from_secs(2),
        }
    }
}

/// Asks the metaserver for this broker's entry.
///
/// # Errors
/// When the metaserver cannot be reached in three attempts, or has no such broker: the text then
/// holds the command that adds it.
pub async fn acquire(
    endpoint: &MetaEndpoint,
    identity: &BrokerIdentity,
    timing: Timing,
) -> Result<BrokerMeta, RegistrationError> {
    let mut metaserver = Metaserver::new(endpoint.clone(), timing.deadline)?;
    for attempt in 1..ACQUIRE_ATTEMPTS {
        match acquire_once(&mut metaserver, identity).await {
            Err(error) if error.is_transport() => {
                warn!(%error, attempt, "cannot ask the metaserver who I am");
                tokio::time::sleep(timing.retry).await;
            }
            result => return result,
        }
    }
    acquire_once(&mut metaserver, identity).await
}

async fn acquire_once(
    metaserver: &mut Metaserver,
    identity: &BrokerIdentity,
) -> Result<BrokerMeta, RegistrationError> {
    let BrokerIdentity {
        hostname,
        serve_port,
        ..
    } = identity;
    let request = BrokerAcquireMetaRequest {
        hostname,
        port: i32::from(*serve_port),
    };
    let reply = metaserver
        .ask(CommandCode::BrokerAcquireMeta, &request)
        .await?;
    if reply.header.code == ResultCode::BrokerError.code() {
        return Err(RegistrationError::not_registered(
            metaserver.endpoint(),
            identity,
        ));
    }
    metaserver.check(&reply)?;
    let meta = BrokerAcquireMetaResponse::decode(reply.header.version, &reply.body)
        .map_err(|source| metaserver.bad_reply(source))?;
    Ok(BrokerMeta {
        group: meta.name.to_owned(),
        role: meta.role,
        master: meta.master.to_owned(),
    })
}

/// A broker that keeps the metaserver informed.
#[derive(Debug)]
pub struct Registration {
    online: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Registration {
    /// Whether the metaserver has confirmed ONLINE.
    #[must_use]
    pub fn online(&self) -> watch::Receiver<bool> {
        self.online.clone()
    }

    /// Waits until the broker has taken its leave, or failed to three times.
    pub async fn stopped(self) {
        // A panic of the task has been printed by then; there is nothing left to report.
        drop(self.task.await);
    }
}

/// Reports to the metaserver until `stop`: heartbeats, ONLINE as soon as `state` is anything but
/// away, every change of `state` at once, and OFFLINE at the end. `address` is the `ip:port` that
/// clients use. Dropping the sender of `state` counts as a stop.
///
/// # Errors
/// When no HTTP client can be made.
pub fn start(
    endpoint: &MetaEndpoint,
    meta: &BrokerMeta,
    address: String,
    state: watch::Receiver<BrokerState>,
    timing: Timing,
    stop: CancellationToken,
) -> Result<Registration, RegistrationError> {
    let metaserver = Metaserver::new(endpoint.clone(), timing.deadline)?;
    let (confirm, online) = watch::channel(false);
    let reporter = Reporter {
        metaserver,
        group: meta.group.clone(),
        role: meta.role,
        address,
        state,
        confirm,
        timing,
    };
    let task = tokio::spawn(reporter.run(stop));
    Ok(Registration { online, task })
}
