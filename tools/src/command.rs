//! One module per command, or per family of them.

pub(crate) mod bench;
pub(crate) mod brokers;
pub(crate) mod completions;
pub(crate) mod databases;
pub(crate) mod delay;
pub(crate) mod list;
pub(crate) mod on_offline;
mod paging;
pub(crate) mod publish;
pub(crate) mod readonly;
pub(crate) mod reset_offset;
pub(crate) mod routes;
pub(crate) mod show_brokers;
pub(crate) mod show_consumers;
pub(crate) mod show_subjects;
pub(crate) mod subscribe;

use anyhow::Result;
use clap::CommandFactory;

use crate::cli::{Cli, Command};
use crate::output::Outcome;

/// Runs a command to its end.
///
/// # Errors
/// When it cannot be run at all.
pub(crate) async fn run(command: Command) -> Result<Outcome> {
    match command {
        Command::AddBroker(command) => command.run().await,
        Command::ReplaceBroker(command) => command.run().await,
        Command::SwapBrokers(command) => command.run().await,
        Command::ListBrokers(command) => command.run().await,
        Command::ListBrokerGroups(command) => command.run().await,
        Command::ShowBrokers(command) => command.run().await,
        Command::ListSubjectRoutes(command) => command.run().await,
        Command::ShowSubjects(command) => command.run().await,
        Command::AddNewSubject(command) => command.run().await,
        Command::AddSubjectBrokerGroup(command) => command.run().await,
        Command::RemoveSubjectBrokerGroup(command) => command.run().await,
        Command::ExtendSubjectRoute(command) => command.run().await,
        Command::MarkReadonly(command) => command.run().await,
        Command::UnMarkReadonly(command) => command.run().await,
        Command::ListReadonly(command) => command.run().await,
        Command::ShowConsumers(command) => command.run().await,
        Command::OnOffline(command) => command.run().await,
        Command::ResetOffset(command) => command.run().await,
        Command::AddDb(command) => command.run().await,
        Command::ListDbs(command) => command.run().await,
        Command::Bench(command) => command.run().await,
        Command::Delay(command) => command.run().await,
        Command::List(command) => command.run().await,
        Command::Publish(command) => command.run().await,
        Command::Subscribe(command) => command.run().await,
        Command::Completions(command) => command.run(),
        Command::Version => {
            print!("{}", Cli::command().render_version());
            Ok(Outcome::Done)
        }
    }
}
