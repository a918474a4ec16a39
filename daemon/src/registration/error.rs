//! What can go wrong between a broker and the metaserver.

use qmq_protocol::DecodeError;

use super::{BrokerIdentity, MetaEndpoint};

/// Why a broker could not register. Each text fits one line.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// The setting is not a URL that can be asked.
    #[error("meta.server.endpoint = {endpoint:?}: {what}")]
    Endpoint {
        /// The setting.
        endpoint: String,
        /// What is wrong with it.
        what: String,
    },
    /// The HTTP endpoint did not name a metaserver.
    #[error("cannot get the metaserver's address from {endpoint}: {what}")]
    Discovery {
        /// The URL that was asked.
        endpoint: String,
        /// What happened.
        what: String,
    },
    /// The metaserver's TCP port did not answer.
    #[error("metaserver {address} (named by {endpoint}) does not answer: {what}")]
    Metaserver {
        /// The address that was tried.
        address: String,
        /// The URL that named it.
        endpoint: String,
        /// What happened.
        what: String,
    },
    /// The metaserver has no entry for this broker.
    #[error(
        "{endpoint} knows no broker {hostname}:{port}, or no peer for it to copy from; \
         add it once with: {command}"
    )]
    NotRegistered {
        /// The URL that named the metaserver.
        endpoint: String,
        /// Host name that was looked up.
        hostname: String,
        /// Serve port that was looked up.
        port: u16,
        /// The command that adds a master with this identity.
        command: String,
    },
    /// The metaserver answered with an error code.
    #[error("metaserver {address} refused with code {code}")]
    Refused {
        /// The metaserver.
        address: String,
        /// Its result code.
        code: i16,
    },
    /// The metaserver answered something else.
    #[error("metaserver {address} sent a reply that makes no sense: {source}")]
    Reply {
        /// The metaserver.
        address: String,
        /// What is wrong with the reply.
        source: DecodeError,
    },
}

impl RegistrationError {
    /// The error for a broker without an entry.
    pub(super) fn not_registered(endpoint: &MetaEndpoint, identity: &BrokerIdentity) -> Self {
        let BrokerIdentity {
            hostname,
            ip,
            serve_port,
            sync_port,
            serves,
        } = identity;
        let role = serves.code();
        let command = format!(
            "bin/tools.sh AddBroker --metaserver={} --token=<token> --brokerGroup=<name> --role={role} \
             --hostname={hostname} --ip={ip} --servePort={serve_port} --syncPort={sync_port}",
            endpoint.authority(),
        );
        Self::NotRegistered {
            endpoint: endpoint.to_string(),
            hostname: hostname.clone(),
            port: *serve_port,
            command,
        }
    }

    /// Whether another attempt, perhaps with another metaserver, may succeed.
    #[must_use]
    pub const fn is_transport(&self) -> bool {
        matches!(self, Self::Discovery { .. } | Self::Metaserver { .. })
    }
}
