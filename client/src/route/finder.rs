//! Routes for servers that send to brokers by themselves.

use std::sync::Arc;

use qmq_protocol::command::client_register::{ClientRequestType, ClientType};

use super::RouteKey;
use super::cache::{RouteGroup, usable};
use crate::error::BuildError;
use crate::link::{Cluster, Link};

/// The broker groups of a subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundRoute {
    /// Those that take its messages now.
    pub writable: Vec<RouteGroup>,
    /// The names of all that are there, whether they take messages or not.
    pub listed: Vec<Arc<str>>,
}

/// Asks the metaserver which broker groups serve subjects, as a producer without a client id.
/// Clones share their connections.
#[derive(Clone, Debug)]
pub struct RouteFinder {
    link: Arc<Link>,
}

impl RouteFinder {
    /// Will ask the metaserver that `meta_url` names. Asks nothing yet.
    ///
    /// # Errors
    /// When the URL cannot be used.
    pub fn new(meta_url: &str, app_code: &str) -> Result<Self, BuildError> {
        let link = Arc::new(Link::new(&Cluster::Meta(meta_url.to_owned()), app_code)?);
        Ok(Self { link })
    }

    /// The groups of a subject; there may be none. Asks once, and waits at most some seconds. The
    /// first question about a subject is [`ClientRequestType::Online`].
    ///
    /// # Errors
    /// The reason why there is no answer.
    pub async fn ask(
        &self,
        subject: &str,
        request_type: ClientRequestType,
    ) -> Result<FoundRoute, String> {
        let key = RouteKey {
            client_type: ClientType::Producer,
            subject: subject.to_owned(),
            group: String::new(),
            client_id: String::new(),
        };
        let mut found = Err("the metaserver refuses the subject or failed".to_owned());
        self.link
            .register(&key, request_type, |reply| {
                if !reply.is_refusal() {
                    let names = reply.groups.iter().map(|group| group.name.as_str());
                    found = Ok(FoundRoute {
                        writable: usable(ClientType::Producer, &reply.groups),
                        listed: names.map(Arc::from).collect(),
                    });
                }
            })
            .await?;
        found
    }
}
