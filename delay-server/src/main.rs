//! The delay server process.

use std::process::ExitCode;

use clap::Parser;
use qmq_daemon::SettingsArgs;
use qmq_daemon::process::Server;
use qmq_delay_server::config::DelayServerConfig;
use qmq_delay_server::start::start;

/// Delay server: keeps messages until they are due, then sends them to brokers.
#[derive(Parser)]
#[command(name = "qmq-delay-server", version)]
struct Args {
    #[command(flatten)]
    settings: SettingsArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let server = Server {
        name: "delay",
        companions: &[],
    };
    server.run(&args.settings, DelayServerConfig::from_settings, start)
}
