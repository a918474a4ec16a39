//! How a broker looks in JSON.

use serde::Serialize;
use utoipa::ToSchema;

use crate::db::broker::BrokerRow;

/// A row of table `broker`; the order of the fields is part of the API.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct BrokerMeta {
    group: String,
    role: &'static str,
    hostname: String,
    ip: String,
    serve_port: i32,
    sync_port: i32,
}

impl From<BrokerRow> for BrokerMeta {
    fn from(row: BrokerRow) -> Self {
        Self {
            group: row.group,
            role: row.role.name(),
            hostname: row.hostname,
            ip: row.ip.to_string(),
            serve_port: row.serve_port,
            sync_port: row.sync_port,
        }
    }
}
