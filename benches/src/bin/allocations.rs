//! `qmq-allocations`: how often the broker asks the allocator for memory per message, in its steady
//! state. The broker runs in this process; the client that loads it allocates nothing while it is
//! counted.

use std::alloc::System;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Parser;
use qmq_benches::steady::{Client, Served};
use serde_json::{Value, json};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Requests in flight, and messages of a pull.
const WINDOW: usize = 512;
const BATCH: usize = 100;
/// Messages of a large pull: what a message costs, without what a request costs.
const LARGE_BATCH: usize = 1000;
/// Messages before counting begins: buffers and tables have grown by then.
const WARM_UP: usize = 100_000;

/// Counts what the broker allocates per message.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// Where the store is put; it is removed at the end.
    #[arg(long)]
    folder: PathBuf,
    /// Messages that are counted, per path.
    #[arg(long, default_value_t = 200_000)]
    messages: usize,
    /// Exit code 1 when a path allocates more often than this per message.
    #[arg(long)]
    max: Option<f64>,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let report = run(&cli.folder, cli.messages)?;
    println!("{report}");
    let most = ["send", "send_batch", "pull", "pull_large"]
        .iter()
        .filter_map(|path| report[path]["allocations"].as_f64())
        .fold(0.0, f64::max);
    if cli.max.is_some_and(|max| most > max) {
        anyhow::bail!("{most:.3} allocations per message");
    }
    Ok(())
}

fn run(folder: &Path, messages: usize) -> Result<Value> {
    let served = Served::start(folder)?;
    let mut client = Client::connect(served.address())?;
    client.pull(1)?;
    let send = counted(messages, |count| client.send(count, WINDOW, 1))?;
    let send_batch = counted(messages, |count| {
        client.send(count, WINDOW / BATCH + 1, BATCH)
    })?;
    // What was sent is pulled half in small and half in large pulls.
    let mut pull_all = |batch: usize| {
        counted(messages / 2, |count| {
            let mut pulled = 0;
            while pulled < count {
                pulled += client.pull(batch)?;
            }
            Ok(pulled)
        })
    };
    let pull = pull_all(BATCH)?;
    let pull_large = pull_all(LARGE_BATCH)?;
    served.stop()?;
    Ok(json!({
        "send": send,
        "send_batch": send_batch,
        "pull": pull,
        "pull_large": pull_large,
    }))
}

/// Runs `work` with a number of messages to warm up, then counts while it runs again.
fn counted(messages: usize, mut work: impl FnMut(usize) -> Result<usize>) -> Result<Value> {
    work(WARM_UP.min(messages))?;
    let region = Region::new(ALLOCATOR);
    let done = work(messages)? as f64;
    let used = region.change();
    let calls = used.allocations + used.reallocations;
    Ok(json!({
        "allocations": calls as f64 / done,
        "bytes": used.bytes_allocated as f64 / done,
        "messages": done,
    }))
}
