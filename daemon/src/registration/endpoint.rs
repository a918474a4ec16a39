//! The HTTP endpoint that names a metaserver.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::str::FromStr;
use std::time::Duration;

use reqwest::{Client, StatusCode, Url};

use super::RegistrationError;

/// Longest answer looked at: `255.255.255.255:65535` and some white space.
const ANSWER_BYTES_MAX: usize = 64;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The setting `meta.server.endpoint`: a full URL, normally `http://host:8080/meta/address`. A GET
/// is answered with the `ip:port` of a metaserver's TCP port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaEndpoint(Url);

impl MetaEndpoint {
    /// Host and port as a person would write them: where the management API is.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        format!(
            "{host}:{}",
            self.0.port_or_known_default().unwrap_or_default()
        )
    }

    /// Asks for the address of a metaserver.
    pub(super) async fn resolve(&self, client: &Client) -> Result<SocketAddrV4, RegistrationError> {
        let failed = |error: reqwest::Error| self.failed(describe(&error));
        let mut response = client.get(self.0.clone()).send().await.map_err(failed)?;
        if response.status() != StatusCode::OK {
            return Err(self.failed(format!("it answered {}", response.status())));
        }
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            answer.extend_from_slice(&chunk);
            if answer.len() > ANSWER_BYTES_MAX {
                return Err(self.failed("the answer is no ip:port".to_owned()));
            }
        }
        let answer = String::from_utf8_lossy(&answer);
        let address = answer.trim().parse::<SocketAddrV4>();
        address.map_err(|_| self.failed(format!("it answered {answer:?}, which is no ip:port")))
    }

    fn failed(&self, what: String) -> RegistrationError {
        RegistrationError::Discovery {
            endpoint: self.to_string(),
            what,
        }
    }
}

/// A client for [`MetaEndpoint::resolve`]. Proxies of the environment are not for servers that talk
/// to their neighbours.
pub(super) fn http_client(deadline: Duration) -> reqwest::Result<Client> {
    Client::builder()
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(deadline)
        .build()
}

/// The innermost cause: the outer ones only repeat the URL.
fn describe(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

impl FromStr for MetaEndpoint {
    type Err = RegistrationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = |what: &str| RegistrationError::Endpoint {
            endpoint: text.to_owned(),
            what: format!("{what}; expected http://HOST:8080/meta/address"),
        };
        let url = Url::parse(text).map_err(|error| bad(&error.to_string()))?;
        if url.scheme() != "http" {
            return Err(bad("not an http URL"));
        }
        if url.path() == "/" {
            return Err(bad("the path is missing"));
        }
        Ok(Self(url))
    }
}

impl fmt::Display for MetaEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The address clients use for a broker or metaserver at `ip` and `port`.
#[must_use]
pub fn address(ip: Ipv4Addr, port: u16) -> String {
    SocketAddrV4::new(ip, port).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_no_endpoint() {
        for text in [
            "10.0.0.1:20880",
            "https://h/meta/address",
            "http://h:8080",
            "http://",
        ] {
            let error = text.parse::<MetaEndpoint>().unwrap_err().to_string();
            assert!(error.contains("/meta/address"), "{error}");
        }
        let endpoint: MetaEndpoint = "http://meta:8080/meta/address".parse().unwrap();
        assert_eq!(endpoint.authority(), "meta:8080");
        let endpoint: MetaEndpoint = "http://meta/meta/address".parse().unwrap();
        assert_eq!(endpoint.authority(), "meta:80");
    }
}
