//! What the metaserver lists: brokers, groups, routes, consumers.

use anyhow::{Context, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::action::Parameter;
use crate::admin::{self, TOKEN};
use crate::site::Reads;

/// A broker as it was added.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Broker {
    pub(crate) group: String,
    /// `MASTER`, `SLAVE`, `DELAY_MASTER`, …
    pub(crate) role: String,
    #[serde(default)]
    pub(crate) hostname: String,
    pub(crate) ip: String,
    #[serde(default)]
    pub(crate) serve_port: i64,
    #[serde(default)]
    pub(crate) sync_port: i64,
}

/// A broker group as its master registered it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Group {
    pub(crate) group_name: String,
    /// `ip:port`.
    pub(crate) master: String,
    /// ms.
    #[serde(default)]
    pub(crate) update_time: i64,
    /// `RW`, `R`, `W`, `NRW`.
    pub(crate) broker_state: String,
    #[serde(default)]
    pub(crate) tag: Option<String>,
    /// `NORMAL` or `DELAY`.
    #[serde(default)]
    pub(crate) kind: String,
}

/// Which groups serve a subject.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Route {
    pub(crate) subject: String,
    pub(crate) broker_groups: Vec<String>,
    pub(crate) version: i64,
    /// ms.
    #[serde(default)]
    pub(crate) update_time: i64,
}

/// The consumers of a group.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Consumers {
    pub(crate) consumer_group: String,
    /// `qmq://CLIENT?room=ROOM&appCode=APP`, one for each.
    pub(crate) end_point: Vec<String>,
}

impl Reads {
    /// All brokers, or those of a group.
    ///
    /// # Errors
    /// When the metaserver gives no such list; so for the others here.
    pub(crate) async fn brokers(&self, group: &str) -> Result<Vec<Broker>> {
        let parameters = [("brokerGroup", group.to_owned())];
        self.list("ListBrokers", &parameters).await
    }

    /// All broker groups.
    pub(crate) async fn groups(&self) -> Result<Vec<Group>> {
        self.list("ListBrokerGroups", &[]).await
    }

    /// All routes.
    pub(crate) async fn routes(&self) -> Result<Vec<Route>> {
        self.list("ListSubjectRoutes", &[]).await
    }

    /// The consumers of a subject.
    pub(crate) async fn consumers(&self, subject: &str) -> Result<Vec<Consumers>> {
        let what = format!("the consumers of {subject} at {}", self.metaserver);
        let request = admin::http()?
            .get(self.metaserver.url("/subject/consumers"))
            .header(TOKEN, self.token.as_str())
            .query(&[("subject", subject)]);
        let data = admin::judged(request, &what).await?.data()?;
        serde_json::from_value(data).context(what)
    }

    async fn list<T: DeserializeOwned>(
        &self,
        action: &str,
        parameters: &[Parameter],
    ) -> Result<Vec<T>> {
        let answer = admin::ask(&self.metaserver, &self.token, action, parameters).await?;
        let what = || format!("{action} at {}", self.metaserver);
        let data = answer.data().with_context(what)?;
        serde_json::from_value(data).with_context(what)
    }
}

/// Client id, application and room of an end point.
pub(crate) fn client_of(end_point: &str) -> (&str, &str, &str) {
    let rest = end_point.strip_prefix("qmq://").unwrap_or(end_point);
    // A client id may hold anything; what the metaserver adds comes last.
    let (rest, app) = rest.rsplit_once("&appCode=").unwrap_or((rest, ""));
    let (client, room) = rest.rsplit_once("?room=").unwrap_or((rest, ""));
    (client, app, room)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_points_are_taken_apart() {
        assert_eq!(
            client_of("qmq://host@@1?room=r&appCode=shop"),
            ("host@@1", "shop", "r")
        );
        assert_eq!(client_of("qmq://a?b?room=&appCode="), ("a?b", "", ""));
        assert_eq!(client_of("odd"), ("odd", "", ""));
    }
}
