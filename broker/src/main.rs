//! The broker process.

use std::process::ExitCode;

use clap::Parser;
use qmq_broker::config::BrokerConfig;
use qmq_broker::start::start;
use qmq_daemon::SettingsArgs;
use qmq_daemon::process::Server;

/// Realtime broker: stores messages and hands them to consumer groups.
#[derive(Parser)]
#[command(name = "qmq-broker", version)]
struct Args {
    #[command(flatten)]
    settings: SettingsArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let server = Server {
        name: "broker",
        companions: &[],
    };
    server.run(&args.settings, BrokerConfig::from_settings, start)
}
