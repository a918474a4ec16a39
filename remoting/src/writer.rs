//! Empties an outbox into its socket, one write per wake-up, and notices a peer that takes nothing.

use std::time::Duration;

use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::outbox::{Flush, Outbox};

/// How long a peer may take nothing while the memory for waiting bytes is spent.
const PRESSED_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a peer may take nothing of what waits for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Normally.
    pub(crate) timeout: Duration,
    /// With more bytes than this waiting on all connections together, it is one second.
    pub(crate) total_bytes_max: usize,
}

/// Why nothing more will be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteEnd {
    /// The connection was closed elsewhere.
    Closed,
    /// The peer took nothing for too long.
    Stalled,
    /// The socket failed.
    Failed,
}

/// Runs until the connection ends; `flushed` is called whenever something may have left.
pub(crate) async fn write_out(
    outbox: &Outbox,
    socket: OwnedWriteHalf,
    closed: &CancellationToken,
    patience: Patience,
    flushed: impl Fn(),
) -> WriteEnd {
    loop {
        tokio::select! {
            biased;
            () = closed.cancelled() => return WriteEnd::Closed,
            () = outbox.ready() => {}
        }
        loop {
            let flush = outbox.flush(socket.as_ref());
            flushed();
            match flush {
                Ok(Flush::Done) => break,
                Ok(Flush::Blocked) => {}
                Err(_) => return WriteEnd::Failed,
            }
            if let Err(end) = wait_writable(outbox, &socket, closed, patience).await {
                return end;
            }
        }
    }
}

/// A socket becomes writable when a good part of its buffer is free, so a peer cannot hold a
/// connection by taking single bytes.
async fn wait_writable(
    outbox: &Outbox,
    socket: &OwnedWriteHalf,
    closed: &CancellationToken,
    patience: Patience,
) -> Result<(), WriteEnd> {
    let since = Instant::now();
    let given_up = since + patience.timeout;
    let mut look = since + PRESSED_TIMEOUT;
    loop {
        tokio::select! {
            biased;
            () = closed.cancelled() => return Err(WriteEnd::Closed),
            ready = socket.writable() => return ready.map_err(|_| WriteEnd::Failed),
            () = sleep_until(look.min(given_up)) => {}
        }
        if Instant::now() >= given_up || outbox.total() > patience.total_bytes_max {
            return Err(WriteEnd::Stalled);
        }
        look += PRESSED_TIMEOUT;
    }
}
