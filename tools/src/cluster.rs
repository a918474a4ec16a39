//! Which brokers messages go to and come from: those a metaserver names, or one.

use anyhow::{Context, Result};
use clap::Args;
use qmq_client::{
    Browser, BuildError, Consumer, ConsumerBuilder, Producer, ProducerBuilder, RouteGroup,
};

use crate::cli::{BrokerAddress, Metaserver};
use crate::site::{INSTEAD, MaybeMetaserver, Reads};

/// Name under which the application shows up at the metaserver.
pub(crate) const APP_CODE: &str = "qmq-tools";
/// State of a group whose messages nobody may read.
const AWAY: [&str; 2] = ["NRW", "W"];
/// Kind of the groups that have messages for consumers.
const NORMAL: &str = "NORMAL";

/// Options of commands that have to do with messages.
#[derive(Args, Debug)]
pub(crate) struct Cluster {
    #[command(flatten)]
    by: MaybeMetaserver,
    /// Talks to this broker only and asks no metaserver, whatever QMQ_META says. Default port:
    /// 20881.
    #[arg(long, value_name = "HOST[:PORT]", group = INSTEAD)]
    connect: Option<BrokerAddress>,
}

/// Who is meant, after all.
enum Whom<'a> {
    Broker(String),
    Metaserver(&'a Metaserver),
}

impl Cluster {
    fn whom(&self) -> Whom<'_> {
        match (&self.connect, &self.by.metaserver) {
            (Some(broker), _) => Whom::Broker(broker.to_string()),
            (None, Some(metaserver)) => Whom::Metaserver(metaserver),
            (None, None) => unreachable!("the command line needs one of them"),
        }
    }

    /// Begins a producer.
    pub(crate) fn producer(&self) -> ProducerBuilder {
        match self.whom() {
            Whom::Broker(broker) => Producer::direct(broker, APP_CODE),
            Whom::Metaserver(metaserver) => Producer::builder(metaserver.address_url(), APP_CODE),
        }
    }

    /// Begins a consumer.
    pub(crate) fn consumer(&self) -> ConsumerBuilder {
        match self.whom() {
            Whom::Broker(broker) => Consumer::direct(broker, APP_CODE),
            Whom::Metaserver(metaserver) => Consumer::builder(metaserver.address_url(), APP_CODE),
        }
    }

    /// Looks at messages.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub(crate) fn browser(&self) -> Result<Browser, BuildError> {
        match self.whom() {
            Whom::Broker(broker) => Browser::direct(broker, APP_CODE),
            Whom::Metaserver(metaserver) => Browser::new(metaserver.address_url(), APP_CODE),
        }
    }

    /// All groups that may have messages, whether they serve a subject now or did so once. Nothing is
    /// assigned by this question.
    ///
    /// # Errors
    /// When the metaserver gives no list.
    pub(crate) async fn readable_groups(&self, token: &str) -> Result<Vec<RouteGroup>> {
        let metaserver = match self.whom() {
            Whom::Broker(broker) => {
                let (name, master) = (broker.as_str().into(), broker.as_str().into());
                return Ok(vec![RouteGroup { name, master }]);
            }
            Whom::Metaserver(metaserver) => metaserver.clone(),
        };
        let site = Reads {
            metaserver,
            token: token.to_owned(),
        };
        let groups = site.groups().await.context("the broker groups")?;
        let is_readable = |group: &crate::listing::Group| {
            group.kind == NORMAL && !AWAY.contains(&group.broker_state.as_str())
        };
        let readable = groups.into_iter().filter(is_readable);
        let route = |group: crate::listing::Group| RouteGroup {
            name: group.group_name.into(),
            master: group.master.into(),
        };
        Ok(readable.map(route).collect())
    }
}
