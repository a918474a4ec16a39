//! A metaserver and brokers in this process, whose answers the tests script.

pub(crate) mod broker;
pub(crate) mod meta;

use std::sync::Arc;
use std::time::Duration;

use qmq_remoting::{Server, ServerConfig, Service};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long a test waits for what must happen before it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A server that stops with the test.
pub(crate) struct Serving {
    pub(crate) address: String,
    _stop: DropGuard,
}

/// Serves `service` on `address`, a free port with port 0.
pub(crate) async fn serve<S: Service>(address: &str, service: Arc<S>) -> Serving {
    let address = address.parse().expect("a socket address");
    let server = Server::bind(address, ServerConfig::default())
        .await
        .expect("a free port");
    let address = server.local_addr().to_string();
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move { server.serve(service, stopped, Duration::ZERO).await });
    Serving {
        address,
        _stop: stop.drop_guard(),
    }
}

/// Waits until the state of a fake fulfils `condition`, and returns what `condition` found.
pub(crate) async fn wait_for<S, T>(
    state: &watch::Sender<S>,
    mut condition: impl FnMut(&S) -> Option<T>,
) -> T {
    let mut state = state.subscribe();
    let mut found = None;
    let waited = state.wait_for(|state| {
        found = condition(state);
        found.is_some()
    });
    let outcome = tokio::time::timeout(PATIENCE, waited)
        .await
        .map(|seen| seen.is_ok());
    assert_eq!(outcome, Ok(true), "what the test waits for did not happen");
    found.expect("the condition was fulfilled")
}
