//! Signals: the first asks for an orderly end, the second forces it.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The signals that end a server: `SIGTERM` and `SIGINT`.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Takes the signals over from their default action, which is to kill the process.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Cancels `stop` at the first signal and returns at the second.
    pub async fn watch(mut self, stop: CancellationToken) {
        let name = self.next().await;
        info!(signal = name, "stopping; a second signal stops at once");
        stop.cancel();
        let name = self.next().await;
        warn!(
            signal = name,
            "second signal: not waiting for what is in progress"
        );
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
