//! One metaserver as a broker sees it: found over HTTP, asked over TCP.

use std::time::Duration;

use qmq_protocol::frame::VERSION;
use qmq_protocol::{CommandCode, DecodeError, Encode, Frame, ResultCode};
use qmq_remoting::{Pool, PoolConfig};
use reqwest::Client;

use super::RegistrationError;
use super::endpoint::{MetaEndpoint, http_client};

pub(super) struct Metaserver {
    endpoint: MetaEndpoint,
    http: Client,
    pool: Pool,
    deadline: Duration,
    /// Kept until [`Metaserver::forget`]: brokers stay with one metaserver.
    address: Option<String>,
}

impl Metaserver {
    pub(super) fn new(
        endpoint: MetaEndpoint,
        deadline: Duration,
    ) -> Result<Self, RegistrationError> {
        let http = http_client(deadline).map_err(|error| RegistrationError::Discovery {
            endpoint: endpoint.to_string(),
            what: error.to_string(),
        })?;
        let pool = Pool::new(PoolConfig::default());
        Ok(Self {
            endpoint,
            http,
            pool,
            deadline,
            address: None,
        })
    }

    pub(super) fn endpoint(&self) -> &MetaEndpoint {
        &self.endpoint
    }

    /// Asks for an address again before the next request.
    pub(super) fn forget(&mut self) {
        self.address = None;
    }

    /// Sends a request and waits for its reply, whatever the result code.
    pub(super) async fn ask(
        &mut self,
        code: CommandCode,
        request: &impl Encode,
    ) -> Result<Frame, RegistrationError> {
        let address = match &self.address {
            Some(address) => address.clone(),
            None => self.endpoint.resolve(&self.http).await?.to_string(),
        };
        let write = |out: &mut _| request.encode(VERSION, out);
        match self
            .pool
            .request(&address, code, write, self.deadline)
            .await
        {
            Ok(reply) => {
                self.address = Some(address);
                Ok(reply)
            }
            Err(error) => {
                self.address = None;
                Err(RegistrationError::Metaserver {
                    address,
                    endpoint: self.endpoint.to_string(),
                    what: error.to_string(),
                })
            }
        }
    }

    /// Takes success and nothing else.
    pub(super) fn check(&self, reply: &Frame) -> Result<(), RegistrationError> {
        if reply.header.code == ResultCode::Success.code() {
            return Ok(());
        }
        Err(RegistrationError::Refused {
            address: self.name(),
            code: reply.header.code,
        })
    }

    pub(super) fn bad_reply(&self, source: DecodeError) -> RegistrationError {
        RegistrationError::Reply {
            address: self.name(),
            source,
        }
    }

    fn name(&self) -> String {
        self.address
            .clone()
            .unwrap_or_else(|| self.endpoint.to_string())
    }
}
