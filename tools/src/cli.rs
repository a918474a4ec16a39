//! Names and options of the commands, as documented for years.

use std::fmt;
use std::str::FromStr;

use clap::{Parser, Subcommand};

use crate::command::add_broker::AddBroker;
use crate::command::bench::Bench;
use crate::command::delay::Delay;
use crate::command::list_brokers::ListBrokers;
use crate::command::publish::Publish;
use crate::command::subscribe::Subscribe;

/// Port of a metaserver's HTTP side when none is given.
const HTTP_PORT_DEFAULT: u16 = 8080;
/// `admin.port` of a delay server that sets none.
pub(crate) const DELAY_ADMIN_PORT_DEFAULT: u16 = 20884;

/// Tools for a QMQ cluster.
///
/// Exit codes: 0 done, 1 the server or a part of the work said no, 2 wrong usage or nobody answers.
#[derive(Debug, Parser)]
#[command(name = "qmq-tools", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Makes a broker known to the metaserver. Do this before the broker is started.
    #[command(name = "AddBroker", version)]
    AddBroker(AddBroker),
    /// Lists the brokers the metaserver knows.
    #[command(name = "ListBrokers", version)]
    ListBrokers(ListBrokers),
    /// Sends messages and waits until each is confirmed.
    #[command(name = "pub", version)]
    Publish(Publish),
    /// Consumes messages: prints each as one line of JSON and acknowledges it.
    #[command(name = "sub", version)]
    Subscribe(Subscribe),
    /// Looks for messages that are to come later, and cancels or moves them.
    #[command(version)]
    Delay(Delay),
    /// Measures a broker with load of its own, and checks what comes back.
    #[command(name = "bench", version)]
    Bench(Box<Bench>),
}

/// `host[:port]` of a metaserver's HTTP side.
pub(crate) type Metaserver = HttpServer<HTTP_PORT_DEFAULT>;
/// `host[:port]` of a delay server's HTTP side.
pub(crate) type DelayServer = HttpServer<DELAY_ADMIN_PORT_DEFAULT>;

/// `host[:port]` of a server's HTTP side, with its default port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpServer<const PORT: u16> {
    authority: String,
}

impl<const PORT: u16> HttpServer<PORT> {
    /// The URL of `path`, which begins with a slash.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.authority)
    }
}

impl Metaserver {
    /// What clients are configured with.
    pub(crate) fn address_url(&self) -> String {
        self.url("/meta/address")
    }
}

impl<const PORT: u16> FromStr for HttpServer<PORT> {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "expected host or host:port, for example 127.0.0.1:8080";
        let is_stray = |c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '@');
        if text.contains(is_stray) {
            return Err(wrong);
        }
        // The colons of an IPv6 address stand in brackets.
        let host_end = text.rfind(']').map_or(0, |at| at + 1);
        let (host, port) = match text[host_end..].find(':') {
            Some(at) => (
                &text[..host_end + at],
                text[host_end + at + 1..].parse().ok(),
            ),
            None => (text, Some(PORT)),
        };
        match port {
            Some(port) if port > 0 && !host.is_empty() => Ok(Self {
                authority: format!("{host}:{port}"),
            }),
            _ => Err(wrong),
        }
    }
}

impl<const PORT: u16> fmt::Display for HttpServer<PORT> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn definitions_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_documented_port_is_the_default() {
        let url = |text: &str| {
            text.parse::<Metaserver>()
                .map(|server| server.url("/management"))
        };
        assert_eq!(url("10.0.0.1").unwrap(), "http://10.0.0.1:8080/management");
        assert_eq!(
            url("meta.example:80").unwrap(),
            "http://meta.example:80/management"
        );
        assert_eq!(url("[::1]").unwrap(), "http://[::1]:8080/management");
        assert_eq!(url("[::1]:9").unwrap(), "http://[::1]:9/management");
        for bad in [
            "", ":80", "h:", "h:0", "h:x", "h:70000", "http://h", "h/p", "a b", "h:1:2",
        ] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }
}
