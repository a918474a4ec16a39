//! One module per command.

pub(crate) mod add_broker;
pub(crate) mod bench;
pub(crate) mod delay;
pub(crate) mod list_brokers;
pub(crate) mod publish;
pub(crate) mod subscribe;

use anyhow::Result;

use crate::cli::Command;
use crate::output::Outcome;

/// Runs a command to its end.
///
/// # Errors
/// When it cannot be run at all.
pub(crate) async fn run(command: Command) -> Result<Outcome> {
    match command {
        Command::AddBroker(command) => command.run().await,
        Command::ListBrokers(command) => command.run().await,
        Command::Bench(command) => command.run().await,
        Command::Delay(command) => command.run().await,
        Command::Publish(command) => command.run().await,
        Command::Subscribe(command) => command.run().await,
    }
}
