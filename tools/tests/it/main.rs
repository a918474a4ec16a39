//! The tools as a user runs them: arguments, what is printed, exit codes.
#![expect(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod actions;
mod admin;
mod bench;
mod cluster;
mod delay;
mod http;
mod looks;
mod messages;
mod tables;

use std::process::{Command, Output};

/// Runs the program to its end.
fn tools(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_qmq-tools"))
        .args(arguments)
        .env_remove("RUST_LOG")
        .env_remove("QMQ_META")
        .env_remove("QMQ_TOKEN")
        // A proxy must not be asked for the way to the metaserver.
        .env("http_proxy", "http://127.0.0.1:9")
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
