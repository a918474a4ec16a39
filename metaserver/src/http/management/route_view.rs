//! How a route looks in JSON.

use serde::Serialize;
use utoipa::ToSchema;

use crate::db::subject_route::RouteRow;

/// A row of table `subject_route`; the order of the fields is part of the API.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SubjectRoute {
    subject: String,
    broker_groups: Vec<String>,
    /// 1 at first, one more with each change.
    version: i64,
    /// Milliseconds since 1970.
    update_time: i64,
}

impl From<RouteRow> for SubjectRoute {
    fn from(row: RouteRow) -> Self {
        Self {
            subject: row.subject,
            broker_groups: row.route.groups,
            version: row.route.version,
            update_time: row.updated_ms,
        }
    }
}
