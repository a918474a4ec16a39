//! `qmq-ceiling`: what the machine allows, as a server, as the bare disk and as the bare memory.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use qmq_benches::ceiling::{
    Ceiling, Flush, FsyncPlan, Log, PagesPlan, measure_fsync, measure_pages,
};

/// Measures what this machine allows a durable message server.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Takes messages from `qmq-tools bench produce --no-check` and acknowledges them.
    Serve {
        /// Address to listen on; port 0 takes a free one.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// The log. It must not be there.
        #[arg(long)]
        file: PathBuf,
        /// Size of the log; it is filled with zeros first and written round and round.
        #[arg(long = "file-bytes", default_value_t = 1 << 32)]
        file_bytes: u64,
        /// Acknowledges when the system has the messages, not when the disk has them.
        #[arg(long)]
        r#async: bool,
        /// Gets `tcp=PORT` once messages are taken.
        #[arg(long = "ports-file")]
        ports_file: Option<PathBuf>,
    },
    /// Writes and syncs at a rate; prints the times in microseconds as JSON.
    Fsync {
        /// The file. It must not be there.
        #[arg(long)]
        file: PathBuf,
        /// Size of the file.
        #[arg(long = "file-bytes", default_value_t = 1 << 26)]
        file_bytes: u64,
        /// Bytes of one write.
        #[arg(long, default_value_t = 1200)]
        bytes: usize,
        /// Writes per second.
        #[arg(long, default_value_t = 1000.0)]
        rate: f64,
        /// How long.
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
    },
    /// Writes to files without a sync; prints microseconds per KiB as JSON: into pages that are
    /// new, in memory already, freed a moment ago, and freed some time ago.
    Pages {
        /// The file. It must not be there.
        #[arg(long)]
        file: PathBuf,
        /// MiB that are written each time.
        #[arg(long, default_value_t = 512)]
        mebibytes: usize,
        /// How long memory lies free before it is used again.
        #[arg(long, default_value_t = 10.0)]
        pause: f64,
    },
}

fn main() -> Result<()> {
    match Cli::parse().what {
        What::Serve {
            listen,
            file,
            file_bytes,
            r#async,
            ports_file,
        } => {
            let flush = if r#async { Flush::Async } else { Flush::Sync };
            let log = Log::create(&file, file_bytes)
                .with_context(|| format!("cannot create {}", file.display()))?;
            let ceiling = Ceiling::bind(listen, log, flush)?;
            let address = ceiling.address()?;
            println!("ceiling on {address}, {flush:?}");
            if let Some(path) = ports_file {
                std::fs::write(&path, format!("tcp={}\n", address.port()))
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
            ceiling.run()
        }
        What::Fsync {
            file,
            file_bytes,
            bytes,
            rate,
            seconds,
        } => {
            let plan = FsyncPlan {
                bytes,
                rate,
                duration: Duration::try_from_secs_f64(seconds).context("--seconds")?,
                file_bytes,
            };
            println!("{}", measure_fsync(&file, plan)?);
            Ok(())
        }
        What::Pages {
            file,
            mebibytes,
            pause,
        } => {
            let plan = PagesPlan {
                pieces: mebibytes,
                pause: Duration::try_from_secs_f64(pause).context("--pause")?,
            };
            println!("{}", measure_pages(&file, plan)?);
            Ok(())
        }
    }
}
