//! `GET /slave/meta`: where the slave of a group answers HTTP; asked by backup servers.

use std::path::Path;
use std::sync::Arc;

use axum::extract::{RawQuery, State as Shared};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use qmq_daemon::parameters::Parameters;
use qmq_daemon::settings::file;
use qmq_model::BrokerRole;
use tracing::warn;

use super::openapi::{Parameter, parameter};
use crate::state::State;

/// What is asked for.
pub(super) const PARAMETERS: [Parameter; 1] = [parameter("groupName", "Broker group").optional()];

/// Port of slaves that `broker-http-port-map.properties` does not name.
const PORT_DEFAULT: u16 = 8080;

/// `ip:port` and no line end; nothing when there is no such slave.
pub(super) async fn get(Shared(state): Shared<Arc<State>>, RawQuery(query): RawQuery) -> Response {
    let parameters = Parameters::read(query.as_deref(), &HeaderMap::new(), &[]);
    let brokers = match state.db.brokers_of(parameters.text("groupName")).await {
        Ok(brokers) => brokers,
        Err(error) => {
            // An empty answer would be remembered as "no slave".
            warn!(%error, "cannot look up a slave");
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
    };
    let is_slave = |role| matches!(role, BrokerRole::Slave | BrokerRole::DelaySlave);
    let Some(slave) = brokers.into_iter().rfind(|row| is_slave(row.role)) else {
        return Response::default();
    };
    let key = format!("{}/{}", slave.hostname, slave.serve_port);
    let file = state.slave_ports_file.clone();
    let port = tokio::task::spawn_blocking(move || file.and_then(|file| port_of(&file, &key)));
    let port = port.await.ok().flatten().unwrap_or(PORT_DEFAULT);
    Response::new(format!("{}:{port}", slave.ip).into())
}

/// The port under `key`, which is `HOSTNAME/SERVE_PORT`. Blocks for the time of reading a file.
fn port_of(path: &Path, key: &str) -> Option<u16> {
    if !path.try_exists().unwrap_or(true) {
        return None;
    }
    let read = file::read(path)
        .inspect_err(|error| warn!(%error, "cannot read the http ports of slaves"))
        .ok()?;
    let found = read.properties.into_iter().rfind(|entry| entry.key == key);
    let value = found?.value;
    value
        .trim()
        .parse()
        .inspect_err(|_| warn!(key, value, "the http port of a slave is no port"))
        .ok()
}
