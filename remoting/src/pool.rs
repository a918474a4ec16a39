//! One client per address, opened on demand and again after it was lost.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use qmq_protocol::{CommandCode, Frame};
use rand::Rng;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use crate::client::{Client, ClientConfig, ConnectError, RequestError};

/// Longer deadlines are shortened to this, so that points in time stay within their range.
const DEADLINE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Limits of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// Limits of each connection.
    pub client: ClientConfig,
    /// Addresses in use at the same time. Default: 1024.
    pub addresses_max: usize,
    /// Pause after the first failed attempt; it doubles with each further one and is shortened by
    /// up to half at random. Default: 50 ms.
    pub back_off_min: Duration,
    /// Longest pause. Default: 5 s.
    pub back_off_max: Duration,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            client: ClientConfig::default(),
            addresses_max: 1024,
            back_off_min: Duration::from_millis(50),
            back_off_max: Duration::from_secs(5),
        }
    }
}

/// Why a request through a pool has no reply.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PoolError {
    /// So many addresses are in use that this one is refused.
    #[error("more than {0} addresses are in use")]
    TooManyAddresses(usize),
    /// The last attempt to connect failed so recently that no other is made yet.
    #[error("waiting before the next attempt: {0}")]
    BackingOff(Arc<ConnectError>),
    /// The last connections were lost before they answered anything; no other is opened yet.
    #[error("waiting before the next attempt: the server closes connections unanswered")]
    Unanswered,
    /// The attempt to connect failed.
    #[error(transparent)]
    Connect(Arc<ConnectError>),
    /// The deadline passed before there was a connection.
    #[error("no connection before the deadline")]
    Deadline,
    /// The request failed on its connection.
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl PoolError {
    /// Whether the server may have executed the request, now or later: the outcome is unknown.
    /// When not, it can be repeated anywhere without being done twice.
    #[must_use]
    pub const fn is_sent(&self) -> bool {
        match self {
            Self::Request(error) => error.is_sent(),
            Self::TooManyAddresses(_)
            | Self::BackingOff(_)
            | Self::Unanswered
            | Self::Connect(_)
            | Self::Deadline => false,
        }
    }
}

/// Connections to many servers, shared by its clones.
#[derive(Clone, Debug)]
pub struct Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: PoolConfig,
    slots: Mutex<HashMap<String, Arc<Slot>>>,
}

/// What is known about one address.
#[derive(Debug)]
struct Slot {
    addr: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    link: LinkState,
    /// Attempts since the server last answered anything.
    failures: u32,
}

#[derive(Debug)]
enum LinkState {
    /// Nothing is known against an attempt.
    Free,
    /// An attempt is under way; the sender is dropped at its end.
    Connecting(watch::Receiver<()>),
    Connected(Client),
    /// No attempt before this time.
    Waiting {
        until: Instant,
        error: Option<Arc<ConnectError>>,
    },
}

impl Pool {
    /// A pool without connections.
    #[must_use]
    pub fn new(config: PoolConfig) -> Self {
        Self(Arc::new(Shared {
            config,
            slots: Mutex::new(HashMap::new()),
        }))
    }

    /// Sends a request to `addr`, an `ip:port`, connecting first if need be, and waits for its
    /// reply, whatever its result code.
    ///
    /// # Errors
    /// When there is no reply within `deadline`, at once when the server could not be reached a
    /// moment ago; see [`PoolError::is_sent`].
    pub async fn request(
        &self,
        addr: &str,
        code: CommandCode,
        write: impl FnOnce(&mut BytesMut),
        deadline: Duration,
    ) -> Result<Frame, PoolError> {
        let until = Instant::now() + deadline.min(DEADLINE_MAX);
        let client = self.client(addr, until).await?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(PoolError::Deadline);
        }
        Ok(client.request(code, write, left).await?)
    }

    /// How many addresses are known now.
    #[must_use]
    pub fn addresses(&self) -> usize {
        self.slots().len()
    }

    async fn client(&self, addr: &str, until: Instant) -> Result<Client, PoolError> {
        let slot = self.slot(addr)?;
        // Set when the attempt that was waited for has ended: its error is news then.
        let mut tried = false;
        loop {
            let mut attempt = match slot.look(&self.0.config) {
                Look::Client(client) => return Ok(client),
                Look::Wait(attempt) => attempt,
                Look::BackingOff(Some(error)) if tried => return Err(PoolError::Connect(error)),
                Look::BackingOff(Some(error)) => return Err(PoolError::BackingOff(error)),
                Look::BackingOff(None) => return Err(PoolError::Unanswered),
            };
            // The end of the attempt drops the sender, which is no error here.
            if timeout_at(until, attempt.changed()).await.is_err() {
                return Err(PoolError::Deadline);
            }
            tried = true;
        }
    }

    fn slot(&self, addr: &str) -> Result<Arc<Slot>, PoolError> {
        let mut slots = self.slots();
        if let Some(slot) = slots.get(addr) {
            return Ok(Arc::clone(slot));
        }
        let limit = self.0.config.addresses_max;
        // Now and then, so that addresses of the past do not stay until the limit is reached.
        if slots.len() >= limit || slots.len().is_power_of_two() {
            slots.retain(|_, slot| slot.is_used());
        }
        if slots.len() >= limit {
            return Err(PoolError::TooManyAddresses(limit));
        }
        let state = State {
            link: LinkState::Free,
            failures: 0,
        };
        let slot = Arc::new(Slot {
            addr: addr.to_owned(),
            state: Mutex::new(state),
        });
        slots.insert(addr.to_owned(), Arc::clone(&slot));
        Ok(slot)
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<String, Arc<Slot>>> {
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Look {
    Client(Client),
    Wait(watch::Receiver<()>),
    BackingOff(Option<Arc<ConnectError>>),
}

impl Slot {
    /// What there is; starts an attempt to connect when there is nothing.
    fn look(self: &Arc<Self>, config: &PoolConfig) -> Look {
        let mut state = self.state();
        if let LinkState::Connected(client) = &state.link {
            if !client.is_closed() {
                return Look::Client(client.clone());
            }
            let replies = client.replies();
            state.lost(replies, config);
        }
        match &state.link {
            // Without its sender the attempt has ended in a panic.
            LinkState::Connecting(attempt) if attempt.has_changed().is_ok() => {
                return Look::Wait(attempt.clone());
            }
            LinkState::Waiting { until, error } if Instant::now() < *until => {
                return Look::BackingOff(error.clone());
            }
            _ => {}
        }
        let (ended, attempt) = watch::channel(());
        state.link = LinkState::Connecting(attempt.clone());
        let (slot, config) = (Arc::clone(self), config.clone());
        // A task of its own, so that the attempt does not end with the request that started it.
        tokio::spawn(async move {
            let connected = Client::connect(slot.addr.as_str(), config.client.clone()).await;
            slot.state().attempted(connected, &config);
            drop(ended);
        });
        Look::Wait(attempt)
    }

    /// Whether there is anything to remember about the address.
    fn is_used(&self) -> bool {
        match &self.state().link {
            LinkState::Free => false,
            LinkState::Connecting(_) => true,
            LinkState::Connected(client) => !client.is_closed(),
            LinkState::Waiting { until, .. } => Instant::now() < *until,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn attempted(&mut self, connected: Result<Client, ConnectError>, config: &PoolConfig) {
        match connected {
            Ok(client) => self.link = LinkState::Connected(client),
            Err(error) => {
                debug!(%error, failures = self.failures + 1, "attempt to connect failed");
                self.failed(Some(Arc::new(error)), config);
            }
        }
    }

    /// A connection that served is opened again at once; one that was closed unanswered counts as
    /// a failed attempt, or a server that is full would be connected to without end.
    fn lost(&mut self, replies: u64, config: &PoolConfig) {
        if replies > 0 {
            self.failures = 0;
            self.link = LinkState::Free;
        } else {
            self.failed(None, config);
        }
    }

    fn failed(&mut self, error: Option<Arc<ConnectError>>, config: &PoolConfig) {
        let pause = back_off(self.failures, config);
        self.failures = self.failures.saturating_add(1);
        let pause = pause.mul_f64(rand::rng().random_range(0.5..=1.0));
        self.link = LinkState::Waiting {
            until: Instant::now() + pause,
            error,
        };
    }
}

/// Longest pause after this many failures before.
fn back_off(failures: u32, config: &PoolConfig) -> Duration {
    let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
    config
        .back_off_min
        .saturating_mul(factor)
        .min(config.back_off_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let config = PoolConfig::default();
        let pauses: Vec<u128> = [0, 1, 2, 6, 7, 31, 32, u32::MAX]
            .map(|failures| back_off(failures, &config).as_millis())
            .into();
        assert_eq!(pauses, [50, 100, 200, 3200, 5000, 5000, 5000, 5000]);
    }
}
