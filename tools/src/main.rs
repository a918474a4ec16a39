//! Runs one command; its outcome is the exit code.

mod action;
mod admin;
mod bench;
mod cli;
mod cluster;
mod command;
mod consumed;
mod delay;
mod listing;
mod memory;
mod message;
mod output;
mod progress;
mod site;
mod spelling;
mod table;
mod when;

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;

use cli::Cli;
use output::Outcome;

fn main() -> ExitCode {
    let cli = cli::read();
    log_to_stderr();
    match run(cli) {
        Ok(outcome) => outcome.exit_code(),
        Err(error) => {
            eprintln!("{error:#}");
            output::exit_code_of(&error)
        }
    }
}

fn run(cli: Cli) -> Result<Outcome> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(command::run(cli.command))
}

/// What the client library has to say, from warnings on; `RUST_LOG` chooses otherwise.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}
