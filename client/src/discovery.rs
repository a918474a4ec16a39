//! Finds the metaserver: one GET of the configured URL answers `host:port` of its TCP port.

use std::time::{Duration, Instant};

use reqwest::Url;
use tokio::sync::Mutex;
use tracing::warn;

use crate::error::BuildError;

/// Longest wait for the answer. The reference client waits half as long.
const ANSWER_WAIT: Duration = Duration::from_secs(1);
/// Age at which an address is asked for again: metaservers behind a load balancer take turns.
const ADDRESS_AGE_MAX: Duration = Duration::from_secs(60);
/// Shortest time between two questions.
const ASK_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Longest answer that is read: a host name and a port.
const ANSWER_BYTES_MAX: usize = 300;

/// Knows where the metaserver is.
#[derive(Debug)]
pub(crate) struct Discovery {
    http: reqwest::Client,
    url: Url,
    /// Held while asking, so that many subjects cause one question.
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    address: Option<String>,
    asked: Option<Instant>,
    is_suspect: bool,
    problem: String,
}

impl Discovery {
    /// Will ask `url`. Asks nothing yet.
    ///
    /// # Errors
    /// When `url` is no `http://` URL with a host.
    pub(crate) fn new(url: &str) -> Result<Self, BuildError> {
        let problem = |why: &str| BuildError::Url {
            url: url.to_owned(),
            why: why.to_owned(),
        };
        let parsed = Url::parse(url).map_err(|error| problem(&error.to_string()))?;
        if parsed.scheme() != "http" {
            return Err(problem("only http is supported"));
        }
        // The metaserver is a neighbour: a proxy for the outside world does not lead to it.
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(ANSWER_WAIT)
            .build()
            .map_err(|error| BuildError::Http(error.to_string()))?;
        Ok(Self {
            http,
            url: parsed,
            known: Mutex::default(),
        })
    }

    /// The address of a metaserver, asked for again when it is old or suspect. When nobody answers
    /// the old one stays.
    ///
    /// # Errors
    /// When no address was ever learned, with the reason.
    pub(crate) async fn address(&self) -> Result<String, String> {
        let mut known = self.known.lock().await;
        let age_max = match known.address {
            Some(_) if !known.is_suspect => ADDRESS_AGE_MAX,
            _ => ASK_INTERVAL_MIN,
        };
        if known.asked.is_none_or(|asked| asked.elapsed() >= age_max) {
            let answer = self.ask().await;
            known.asked = Some(Instant::now());
            match answer {
                Ok(address) => {
                    known.address = Some(address);
                    known.is_suspect = false;
                }
                Err(problem) => {
                    warn!(url = %self.url, problem, "cannot ask for the metaserver's address");
                    known.problem = problem;
                }
            }
        }
        known.address.clone().ok_or_else(|| known.problem.clone())
    }

    /// A request to the address failed: ask again before the next one.
    pub(crate) async fn suspect(&self) {
        self.known.lock().await.is_suspect = true;
    }

    async fn ask(&self) -> Result<String, String> {
        let text = |error: reqwest::Error| format!("{}: {}", self.url, root_cause(&error));
        let mut answer = self.http.get(self.url.clone()).send().await.map_err(text)?;
        if !answer.status().is_success() {
            return Err(format!(
                "{} answers with status {}",
                self.url,
                answer.status()
            ));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(text)? {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER_BYTES_MAX {
                return Err(format!("{} answers with more than an address", self.url));
            }
        }
        parse_address(&body).ok_or_else(|| format!("{} does not answer with host:port", self.url))
    }
}

/// `host:port` with white space around it.
fn parse_address(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?.trim();
    is_address(text).then(|| text.to_owned())
}

/// Whether this is `host:port`.
pub(crate) fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let is_host = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c == '/');
    is_host && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// The innermost source says what happened ("connection refused").
fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_trimmed_and_checked() {
        assert_eq!(
            parse_address(b"10.0.0.1:20880\n").as_deref(),
            Some("10.0.0.1:20880")
        );
        assert_eq!(
            parse_address(b" meta.example:1 ").as_deref(),
            Some("meta.example:1")
        );
        for bad in [
            "",
            "10.0.0.1",
            ":20880",
            "h:0",
            "h:65536",
            "h:x",
            "<html>:1/x:80",
            "a b:1",
        ] {
            assert_eq!(parse_address(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn urls_are_checked_before_anything_is_sent() {
        for bad in ["", "10.0.0.1:8080", "https://host/meta/address", "http://"] {
            assert!(
                matches!(Discovery::new(bad), Err(BuildError::Url { .. })),
                "{bad}"
            );
        }
        assert!(Discovery::new("http://10.0.0.1:8080/meta/address").is_ok());
    }
}
