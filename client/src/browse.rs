//! Looks at messages without consuming them.

use std::time::Duration;

use bytes::BytesMut;
use qmq_model::Message;
use qmq_protocol::command::browse::{BrowseRequest, BrowseResponse};
pub use qmq_protocol::command::browse::{From, Place};
use qmq_protocol::command::client_register::{ClientRequestType, ClientType};
use qmq_protocol::frame::VERSION;
use qmq_protocol::{CommandCode, Decode, Encode, ResultCode};

use crate::error::BuildError;
use crate::link::{Cluster, Link, RouteKey};
use crate::route::cache::{RouteGroup, usable};

/// Longest wait for a portion: a broker may have to read it from its disk.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// Shows messages. No group moves, and nothing is noted anywhere.
#[derive(Debug)]
pub struct Browser {
    link: Link,
}

/// Messages of one broker group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Portion {
    /// Where to go on.
    pub next: i64,
    /// Behind the newest message: all have been seen when `next` is there.
    pub end: i64,
    /// In the order of their sequences.
    pub messages: Vec<Browsed>,
}

/// A message and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Browsed {
    /// Sequence within its subject and broker group.
    pub sequence: i64,
    /// The message, as it was sent.
    pub message: Message,
}

/// Why a broker shows nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrowseError {
    /// It does not know how: a Java broker, or an older one.
    #[error("{broker} cannot show messages: it is no broker of this kind")]
    NotSupported {
        /// Its address.
        broker: String,
    },
    /// It refuses the question, or cannot read its messages.
    #[error("{broker} answers with code {code}")]
    Refused {
        /// Its address.
        broker: String,
        /// The reply code.
        code: i16,
    },
    /// There is no answer, or none that can be read.
    #[error("{broker}: {reason}")]
    NoAnswer {
        /// Its address.
        broker: String,
        /// What happened.
        reason: String,
    },
}

impl Browser {
    /// For the cluster whose metaserver answers at `meta_url`.
    ///
    /// # Errors
    /// When the URL cannot be used.
    pub fn new(meta_url: impl Into<String>, app_code: &str) -> Result<Self, BuildError> {
        let link = Link::new(&Cluster::Meta(meta_url.into()), app_code)?;
        Ok(Self { link })
    }

    /// For one broker, `host:port`, without a metaserver.
    ///
    /// # Errors
    /// When the address cannot be used.
    pub fn direct(broker: impl Into<String>, app_code: &str) -> Result<Self, BuildError> {
        let link = Link::new(&Cluster::Broker(broker.into()), app_code)?;
        Ok(Self { link })
    }

    /// The groups that consumers of a subject get now. Asks as a consumer does; nobody is listed as one
    /// by this.
    ///
    /// # Errors
    /// The reason why there is no answer.
    pub async fn groups(&self, subject: &str) -> Result<Vec<RouteGroup>, String> {
        let key = RouteKey {
            client_type: ClientType::Consumer,
            subject: subject.to_owned(),
            group: String::new(),
            client_id: String::new(),
        };
        let mut found = Err("the metaserver refuses the subject or failed".to_owned());
        // Who comes with a heartbeat is not listed.
        self.link
            .register(&key, ClientRequestType::Heartbeat, |reply| {
                if !reply.is_refusal() {
                    found = Ok(usable(ClientType::Consumer, &reply.groups));
                }
            })
            .await?;
        found
    }

    /// A portion of what a group has of a subject, at most `count` messages; there may be fewer.
    ///
    /// # Errors
    /// When the broker shows none.
    pub async fn portion(
        &self,
        group: &RouteGroup,
        subject: &str,
        place: Place,
        from: From,
        count: usize,
    ) -> Result<Portion, BrowseError> {
        let broker = group.master.to_string();
        let request = BrowseRequest {
            subject,
            place,
            from,
            count: i32::try_from(count).unwrap_or(i32::MAX),
        };
        let write = |out: &mut BytesMut| request.encode(VERSION, out);
        let code = CommandCode::Browse;
        let frame = match self.link.call(&broker, code, write, ANSWER_WAIT).await {
            Ok(frame) => frame,
            Err(error) => {
                let reason = error.to_string();
                return Err(BrowseError::NoAnswer { broker, reason });
            }
        };
        match ResultCode::from_code(frame.header.code) {
            Some(ResultCode::Success) => {}
            Some(ResultCode::UnknownCode) => return Err(BrowseError::NotSupported { broker }),
            _ => {
                let code = frame.header.code;
                return Err(BrowseError::Refused { broker, code });
            }
        }
        let read = BrowseResponse::decode(VERSION, &frame.body);
        let read = read.map_err(|error| BrowseError::NoAnswer {
            broker,
            reason: error.to_string(),
        })?;
        let browsed = |(sequence, payload): &(i64, qmq_model::Payload<'_>)| Browsed {
            sequence: *sequence,
            message: Message::from_payload(payload),
        };
        Ok(Portion {
            next: read.next,
            end: read.end,
            messages: read.messages.iter().map(browsed).collect(),
        })
    }
}
