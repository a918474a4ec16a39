//! Finds the brokers of the subjects, and makes the groups known to them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::BytesMut;
use qmq_protocol::command::client_register::{
    ClientRegisterRequest, ClientRegisterResponse, ClientRequestType, ClientType,
};
use qmq_protocol::frame::VERSION;
use qmq_protocol::{CommandCode, Decode, Encode, ResultCode};
use qmq_remoting::{Client, ClientConfig};

use crate::bench::plan::Common;
use crate::bench::receiver::{Pull, client_id};
use crate::cli::Metaserver;
use crate::cluster::APP_CODE;

/// Longest wait for one answer.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// Longest answer that is read: a host name and a port.
const ADDRESS_BYTES_MAX: u64 = 300;

/// The brokers that serve the subjects.
///
/// # Errors
/// When nobody can be asked, or there are none.
pub(crate) async fn servers(common: &Common, subjects: &[String]) -> Result<Vec<SocketAddr>> {
    match &common.metaserver {
        Some(metaserver) => routed(metaserver, subjects, ClientType::Producer).await,
        None => common.named_servers(),
    }
}

/// The servers that take messages for the subjects from clients of this type.
///
/// # Errors
/// When nobody can be asked, or there are none.
pub(crate) async fn routed(
    metaserver: &Metaserver,
    subjects: &[String],
    client_type: ClientType,
) -> Result<Vec<SocketAddr>> {
    let address = metaserver_address(metaserver).await?;
    let client = Client::connect(address.as_str(), ClientConfig::default()).await?;
    let mut servers = BTreeSet::new();
    for subject in subjects {
        servers.extend(servers_of(&client, subject, client_type).await?);
    }
    let what = match client_type {
        ClientType::DelayProducer => "delay server",
        _ => "broker",
    };
    ensure!(!servers.is_empty(), "no {what} serves these subjects");
    Ok(servers.into_iter().collect())
}

async fn metaserver_address(metaserver: &Metaserver) -> Result<String> {
    let http = reqwest::Client::builder()
        .no_proxy()
        .timeout(ANSWER_WAIT)
        .build()?;
    let url = metaserver.address_url();
    let answer = http.get(&url).send().await;
    let answer = answer.and_then(reqwest::Response::error_for_status);
    let answer = answer.with_context(|| format!("cannot ask {url}"))?;
    let is_short = answer
        .content_length()
        .is_none_or(|bytes| bytes <= ADDRESS_BYTES_MAX);
    ensure!(is_short, "{url} answers with more than an address");
    Ok(answer.text().await?.trim().to_owned())
}

async fn servers_of(
    client: &Client,
    subject: &str,
    client_type: ClientType,
) -> Result<Vec<SocketAddr>> {
    let request = ClientRegisterRequest {
        subject,
        client_type_code: client_type.code().into(),
        request_type: ClientRequestType::Online,
        client_id: APP_CODE,
        app_code: APP_CODE,
        consumer_group: "",
        ldc: "",
    };
    let write = |out: &mut BytesMut| request.encode(VERSION, out);
    let reply = client
        .request(CommandCode::ClientRegister, write, ANSWER_WAIT)
        .await?;
    let code = reply.header.code;
    ensure!(
        code == ResultCode::Success.code(),
        "the metaserver answers {subject} with code {code}"
    );
    let response = ClientRegisterResponse::decode(reply.header.version, &reply.body)?;
    let masters = response.groups.iter().map(|group| {
        let master = group.master.parse();
        master.with_context(|| format!("no address of a broker: {}", group.master))
    });
    masters.collect()
}

/// Pulls once from each subject with each group: a group gets what is sent from its first pull on.
///
/// # Errors
/// When a broker does not answer, or hands out what nobody sent.
pub(crate) async fn create_groups(
    servers: &[SocketAddr],
    subjects: &[String],
    groups: &[String],
    client: &str,
) -> Result<()> {
    if groups.is_empty() {
        return Ok(());
    }
    let consumer = client_id(client, 0);
    for server in servers {
        let connection = Client::connect(*server, ClientConfig::default()).await?;
        for subject in subjects {
            for group in groups {
                let pull = Pull {
                    subject,
                    group,
                    client: &consumer,
                    count: 1,
                    last: -1,
                    wait_ms: 0,
                };
                let write = |out: &mut BytesMut| pull.encode(out);
                let reply = connection
                    .request(CommandCode::PullMessage, write, ANSWER_WAIT)
                    .await;
                let reply = reply.with_context(|| format!("first pull at {server}"))?;
                if reply.header.code != ResultCode::NoMessage.code() {
                    let code = reply.header.code;
                    bail!("{server} answers the first pull of a new group with code {code}");
                }
            }
        }
    }
    Ok(())
}
