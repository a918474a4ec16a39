//! Which metaserver a command talks to, as whom, and whether it may change anything.

use std::io::Read;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::cli::Metaserver;

/// Longest secret that is read from standard input, bytes.
const SECRET_BYTES_MAX: u64 = 4096;

/// The group of options that stand in for `--metaserver`: addresses of other servers.
pub(crate) const INSTEAD: &str = "instead-of-metaserver";

/// A metaserver, unless a server is named itself by an option of the group [`INSTEAD`].
#[derive(Args, Debug)]
pub(crate) struct MaybeMetaserver {
    /// HTTP side of the metaserver. Default port: 8080.
    #[arg(
        long,
        alias = "meta-server",
        value_name = "HOST[:PORT]",
        env = "QMQ_META",
        required_unless_present = INSTEAD
    )]
    pub(crate) metaserver: Option<Metaserver>,
}

/// Options of commands that only look.
#[derive(Args, Debug)]
pub(crate) struct Reads {
    /// HTTP side of the metaserver. Default port: 8080.
    #[arg(
        long,
        alias = "meta-server",
        value_name = "HOST[:PORT]",
        env = "QMQ_META"
    )]
    pub(crate) metaserver: Metaserver,
    /// A token of the metaserver's valid-api-tokens.properties, where looking needs one.
    #[arg(long, env = "QMQ_TOKEN", hide_env_values = true, default_value = "")]
    pub(crate) token: String,
}

/// Options of commands that change something.
#[derive(Args, Debug)]
pub(crate) struct Writes {
    /// HTTP side of the metaserver. Default port: 8080.
    #[arg(
        long,
        alias = "meta-server",
        value_name = "HOST[:PORT]",
        env = "QMQ_META"
    )]
    pub(crate) metaserver: Metaserver,
    /// A token of the metaserver's valid-api-tokens.properties.
    #[arg(long, env = "QMQ_TOKEN", hide_env_values = true)]
    pub(crate) token: String,
    /// Only shows what would be asked of the metaserver.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// One line of standard input: a secret that is in no list of processes.
///
/// # Errors
/// When there is none, or it is too long.
pub(crate) fn secret_from_stdin() -> Result<String> {
    let mut text = String::new();
    let read = std::io::stdin()
        .lock()
        .take(SECRET_BYTES_MAX)
        .read_to_string(&mut text);
    let bytes = read.context("cannot read standard input")?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() || bytes as u64 == SECRET_BYTES_MAX {
        bail!("expected one line on standard input, shorter than {SECRET_BYTES_MAX} bytes");
    }
    Ok(line.to_owned())
}
