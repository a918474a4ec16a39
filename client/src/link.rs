//! What all parts of a client share: connections, the metaserver, the names it goes by.

use std::time::Duration;

use bytes::BytesMut;
use qmq_model::{BrokerGroup, BrokerState};
use qmq_protocol::command::client_register::{
    ClientRegisterRequest, ClientRegisterResponse, ClientRequestType, ClientType, OnOfflineState,
};
use qmq_protocol::frame::VERSION;
use qmq_protocol::{CommandCode, Decode, Encode, Frame, ResultCode};
use qmq_remoting::{Pool, PoolConfig, PoolError};

use crate::discovery::{Discovery, is_address};
use crate::error::BuildError;

/// Longest wait for the metaserver to name the brokers of a subject. The reference waits for ever.
const REGISTER_WAIT: Duration = Duration::from_secs(3);

/// Longest pause between two attempts to connect to a broker. Short, because all attempts of a send
/// have to fit into a few seconds.
const RECONNECT_WAIT_MAX: Duration = Duration::from_secs(1);

/// Why a request brought no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CallError {
    /// There is no connection: nothing was sent.
    NotSent(String),
    /// No reply in time, or the connection broke: the peer may have acted on the request.
    NoReply(String),
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::NotSent(text) | Self::NoReply(text)) = self;
        f.write_str(text)
    }
}

/// Where a client learns which brokers serve a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cluster {
    /// From the metaserver that this URL names.
    Meta(String),
    /// Nowhere: it is this one, `host:port`, for every subject.
    Broker(String),
}

#[derive(Debug)]
enum Directory {
    Meta(Discovery),
    Broker(String),
}

/// Connections and identity of a producer, or of the consumers of one builder.
#[derive(Debug)]
pub(crate) struct Link {
    pool: Pool,
    directory: Directory,
    app_code: String,
}

/// The question for the brokers of a subject.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RouteKey {
    /// What the client does with the subject.
    pub client_type: ClientType,
    /// Real, retry or dead-letter subject.
    pub subject: String,
    /// Empty for producers.
    pub group: String,
    /// Id of the client.
    pub client_id: String,
}

impl Link {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// When the URL or address cannot be used.
    pub(crate) fn new(cluster: &Cluster, app_code: &str) -> Result<Self, BuildError> {
        let directory = match cluster {
            Cluster::Meta(url) => Directory::Meta(Discovery::new(url)?),
            Cluster::Broker(address) if is_address(address) => Directory::Broker(address.clone()),
            Cluster::Broker(address) => {
                return Err(BuildError::Address(address.clone()));
            }
        };
        let pool = PoolConfig {
            back_off_max: RECONNECT_WAIT_MAX,
            ..PoolConfig::default()
        };
        Ok(Self {
            pool: Pool::new(pool),
            directory,
            app_code: app_code.to_owned(),
        })
    }

    /// Sends one request to a broker or metaserver and waits for its reply.
    ///
    /// # Errors
    /// When there is no reply within `wait`.
    pub(crate) async fn call(
        &self,
        address: &str,
        code: CommandCode,
        write: impl FnOnce(&mut BytesMut),
        wait: Duration,
    ) -> Result<Frame, CallError> {
        self.pool
            .request(address, code, write, wait)
            .await
            .map_err(|error| call_error(&error))
    }

    /// Asks the metaserver who serves a subject and hands the reply to `digest`.
    ///
    /// # Errors
    /// The reason why there is no readable reply.
    pub(crate) async fn register(
        &self,
        key: &RouteKey,
        request_type: ClientRequestType,
        digest: impl FnOnce(&ClientRegisterResponse<'_>),
    ) -> Result<(), String> {
        let discovery = match &self.directory {
            Directory::Meta(discovery) => discovery,
            Directory::Broker(address) => {
                digest(&only_broker(address, key));
                return Ok(());
            }
        };
        let address = discovery.address().await?;
        let request = ClientRegisterRequest {
            subject: &key.subject,
            client_type_code: key.client_type.code().into(),
            request_type,
            client_id: &key.client_id,
            app_code: &self.app_code,
            consumer_group: &key.group,
            ldc: "",
        };
        let write = |out: &mut BytesMut| request.encode(VERSION, out);
        let reply = self
            .call(&address, CommandCode::ClientRegister, write, REGISTER_WAIT)
            .await;
        let problem = match reply {
            Ok(frame) if frame.header.code == ResultCode::Success.code() => {
                match ClientRegisterResponse::decode(frame.header.version, &frame.body) {
                    Ok(response) => {
                        digest(&response);
                        return Ok(());
                    }
                    Err(error) => error.to_string(),
                }
            }
            Ok(frame) => format!("reply code {}", frame.header.code),
            Err(error) => error.to_string(),
        };
        discovery.suspect().await;
        Err(format!("metaserver {address}: {problem}"))
    }
}

/// What a metaserver would say that knows this broker only. Its group has the name of its address.
fn only_broker<'a>(address: &str, key: &'a RouteKey) -> ClientRegisterResponse<'a> {
    ClientRegisterResponse {
        timestamp_ms: 0,
        subject: &key.subject,
        consumer_group: &key.group,
        state: OnOfflineState::Online,
        client_type_code: key.client_type.code(),
        groups: vec![BrokerGroup {
            name: address.to_owned(),
            master: address.to_owned(),
            updated_ms: 0,
            state: BrokerState::ReadWrite,
        }],
    }
}

fn call_error(error: &PoolError) -> CallError {
    let text = error.to_string();
    if error.is_sent() {
        CallError::NoReply(text)
    } else {
        CallError::NotSent(text)
    }
}
