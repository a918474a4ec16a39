//! Names and options of the commands, as documented for years.

use std::fmt;
use std::str::FromStr;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::action::{Change, Look};
use crate::command::bench::Bench;
use crate::command::brokers::{
    AddBroker, ListBrokerGroups, ListBrokers, ReplaceBroker, SwapBrokers,
};
use crate::command::completions::Completions;
use crate::command::databases::{AddDb, ListDbs};
use crate::command::delay::Delay;
use crate::command::list::List;
use crate::command::on_offline::OnOffline;
use crate::command::publish::Publish;
use crate::command::readonly::{ListReadonly, MarkReadonly, UnMarkReadonly};
use crate::command::reset_offset::ResetOffset;
use crate::command::routes::{
    AddNewSubject, AddSubjectBrokerGroup, ExtendSubjectRoute, ListSubjectRoutes,
    RemoveSubjectBrokerGroup,
};
use crate::command::show_brokers::ShowBrokers;
use crate::command::show_consumers::ShowConsumers;
use crate::command::show_subjects::ShowSubjects;
use crate::command::subscribe::Subscribe;
use crate::spelling;

/// Port of a metaserver's HTTP side when none is given.
const HTTP_PORT_DEFAULT: u16 = 8080;
/// `admin.port` of a delay server that sets none.
pub(crate) const DELAY_ADMIN_PORT_DEFAULT: u16 = 20884;

/// `broker.port` of a broker that sets none.
const BROKER_PORT_DEFAULT: u16 = 20881;
/// `admin.port` of a broker that sets none.
pub(crate) const BROKER_ADMIN_PORT_DEFAULT: u16 = 20883;

/// Tools for a QMQ cluster.
///
/// QMQ_META and QMQ_TOKEN in the environment stand for --metaserver and --token. Every option may
/// be written in camelCase or with dashes, with its value behind `=` or as the next word.
///
/// Exit codes: 0 done, 1 the server or a part of the work said no, 2 wrong usage or nobody answers.
#[derive(Debug, Parser)]
#[command(
    name = "qmq-tools",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Makes a broker known to the metaserver. Do this before the broker is started.
    #[command(name = "AddBroker", alias = "add-broker")]
    AddBroker(Change<AddBroker>),
    /// Gives a role of a group to another machine; prints which one had it.
    #[command(name = "ReplaceBroker", alias = "replace-broker")]
    ReplaceBroker(Change<ReplaceBroker>),
    /// Makes the slave of a group its master and the master its slave, in one step. Stop both
    /// before.
    #[command(name = "SwapBrokers", alias = "swap-brokers")]
    SwapBrokers(Change<SwapBrokers>),
    /// Lists the brokers the metaserver knows, as JSON.
    #[command(name = "ListBrokers", alias = "list-brokers")]
    ListBrokers(Look<ListBrokers>),
    /// Lists the broker groups whose masters registered, as JSON.
    #[command(name = "ListBrokerGroups", alias = "list-broker-groups")]
    ListBrokerGroups(Look<ListBrokerGroups>),
    /// Shows servers and the state of their groups as a table.
    #[command(name = "Brokers", alias = "brokers")]
    ShowBrokers(ShowBrokers),
    /// Lists which groups serve which subject, as JSON.
    #[command(name = "ListSubjectRoutes", alias = "list-subject-routes")]
    ListSubjectRoutes(Look<ListSubjectRoutes>),
    /// Shows subjects and the groups that serve them as a table.
    #[command(name = "Subjects", alias = "subjects")]
    ShowSubjects(ShowSubjects),
    /// Notes the tag of a subject, before it is used for the first time.
    #[command(name = "AddNewSubject", alias = "add-new-subject")]
    AddNewSubject(Change<AddNewSubject>),
    /// Lets one more group serve a subject.
    #[command(name = "AddSubjectBrokerGroup", alias = "add-subject-broker-group")]
    AddSubjectBrokerGroup(Change<AddSubjectBrokerGroup>),
    /// Lets a group serve a subject no more; '*': no subject at all.
    #[command(
        name = "RemoveSubjectBrokerGroup",
        alias = "remove-subject-broker-group"
    )]
    RemoveSubjectBrokerGroup(Change<RemoveSubjectBrokerGroup>),
    /// Lets a new group serve what another one serves.
    #[command(name = "ExtendSubjectRoute", alias = "extend-subject-route")]
    ExtendSubjectRoute(Change<ExtendSubjectRoute>),
    /// Lets producers send to a group no more; consumers go on.
    #[command(name = "MarkReadonly", aliases = ["mark-readonly", "MarkReadonlyBrokerGroup"])]
    MarkReadonly(Change<MarkReadonly>),
    /// Lets producers send to a group again.
    #[command(
        name = "UnMarkReadonly",
        aliases = ["unmark-readonly", "un-mark-readonly", "UnmarkReadonly", "UnMarkReadonlyBrokerGroup"]
    )]
    UnMarkReadonly(Change<UnMarkReadonly>),
    /// Lists what is marked, as JSON.
    #[command(name = "ListReadonly", alias = "list-readonly")]
    ListReadonly(Look<ListReadonly>),
    /// Shows who consumes a subject as a table.
    #[command(name = "Consumers", alias = "consumers")]
    ShowConsumers(ShowConsumers),
    /// Takes consumers offline and back.
    #[command(name = "OnOffline", aliases = ["on-offline", "onoffline"])]
    OnOffline(OnOffline),
    /// Lets a consumer group go on at the newest or the oldest message.
    #[command(name = "ResetOffset", alias = "reset-offset")]
    ResetOffset(Change<ResetOffset>),
    /// Makes a database of transactional messages known to the watchdog.
    #[command(name = "AddDb", alias = "add-db")]
    AddDb(Change<AddDb>),
    /// Lists these databases without passwords, as JSON.
    #[command(name = "ListDbs", alias = "list-dbs")]
    ListDbs(Look<ListDbs>),
    /// Sends messages and waits until each is confirmed.
    #[command(name = "pub")]
    Publish(Publish),
    /// Consumes messages: prints each as one line of JSON and acknowledges it.
    #[command(name = "sub")]
    Subscribe(Subscribe),
    /// Shows messages of a subject without consuming them.
    #[command(name = "list")]
    List(List),
    /// Looks for messages that are to come later, and cancels or moves them.
    Delay(Delay),
    /// Measures a broker with load of its own, and checks what comes back.
    #[command(name = "bench")]
    Bench(Box<Bench>),
    /// Prints a script that lets a shell complete commands and options.
    Completions(Completions),
    /// Prints the version.
    Version,
}

/// What this program was asked for. Ends it with a usage message when that cannot be understood.
pub(crate) fn read() -> Cli {
    let mut matches = definition().get_matches();
    Cli::from_arg_matches_mut(&mut matches).unwrap_or_else(|error| error.exit())
}

/// All commands with all their options.
pub(crate) fn definition() -> clap::Command {
    spelling::either_way(Cli::command())
}

/// `host[:port]` of a broker or delay server, where clients connect.
pub(crate) type BrokerAddress = HostPort<BROKER_PORT_DEFAULT>;
/// `host[:port]` of a metaserver's HTTP side.
pub(crate) type Metaserver = HostPort<HTTP_PORT_DEFAULT>;
/// `host[:port]` of a broker's HTTP side.
pub(crate) type BrokerAdmin = HostPort<BROKER_ADMIN_PORT_DEFAULT>;
/// `host[:port]` of a delay server's HTTP side.
pub(crate) type DelayServer = HostPort<DELAY_ADMIN_PORT_DEFAULT>;

/// `host[:port]` of a server, with its default port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort<const PORT: u16> {
    authority: String,
}

impl<const PORT: u16> HostPort<PORT> {
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

impl<const PORT: u16> FromStr for HostPort<PORT> {
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

impl<const PORT: u16> fmt::Display for HostPort<PORT> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_do_not_contradict_each_other() {
        definition().debug_assert();
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
