//! The metaserver process.

use std::process::ExitCode;

use clap::Parser;
use qmq_daemon::SettingsArgs;
use qmq_daemon::process::Server;
use qmq_metaserver::{MetaserverConfig, start};

/// Metaserver: knows the brokers and tells clients which of them serve a subject.
#[derive(Parser)]
#[command(name = "qmq-metaserver", version)]
struct Args {
    #[command(flatten)]
    settings: SettingsArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let server = Server {
        name: "metaserver",
        companions: &["datasource"],
    };
    server.run(&args.settings, MetaserverConfig::from_settings, start)
}
