//! Measures what pending messages cost a delay store: fills one straight into its runs, or opens
//! one and says how long that took and how much memory it needs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::{BufMut, Bytes, BytesMut};
use clap::{Parser, Subcommand};
use qmq_model::payload::{FLAG_DELAY, put_str};
use qmq_model::{Clock, Subject, SystemClock, UnixMillis};
use qmq_store::{DelayConfig, DelayOpened, DelayStore, NewDelayed, RealFs};
use serde_json::json;

/// Messages are spread over this time from now on.
const SPREAD: Duration = Duration::from_secs(2 * 365 * 24 * 3600);
/// How far ahead a delay server loads.
const WINDOW: Duration = Duration::from_secs(60);
/// Look-ups that are timed.
const LOOK_UPS: u64 = 1000;
const GROUP: &str = "delay-bench";

/// Memory and start-up time of a delay store with many pending messages.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Creates a store with so many messages, due over the next two years.
    Fill {
        /// Its folder; empty, or not there yet.
        folder: PathBuf,
        /// How many messages.
        messages: u64,
        /// Bytes of body of each.
        #[arg(long, default_value_t = 100)]
        body: usize,
    },
    /// Opens a store that was filled and prints what that took, as one line of JSON.
    Open {
        /// Its folder.
        folder: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Fill {
            folder,
            messages,
            body,
        } => fill(&folder, messages, body),
        Command::Open { folder } => open(&folder),
    }
}

fn config() -> DelayConfig {
    DelayConfig {
        group_name: GROUP.into(),
        ..DelayConfig::default()
    }
}

fn subject() -> anyhow::Result<Subject> {
    Subject::new("bench.delayed").context("the subject of the messages")
}

fn message_id(number: u64) -> String {
    format!("bench-{number:012}")
}

fn fill(folder: &Path, messages: u64, body: usize) -> anyhow::Result<()> {
    let (subject, now) = (subject()?, SystemClock.now());
    let spread = SPREAD.as_millis();
    let message = |number: u64| {
        let ahead = spread * u128::from(number) / u128::from(messages);
        let due = now.plus(Duration::from_millis(
            u64::try_from(ahead).unwrap_or(u64::MAX),
        ));
        let payload = payload(&subject, number, (now, due), body);
        NewDelayed {
            subject: subject.clone(),
            due,
            crc: u32::try_from(number % 1_000_000_007).unwrap_or(0),
            payload,
        }
    };
    let begun = Instant::now();
    let clock = Arc::new(SystemClock);
    let count = DelayStore::import(
        Arc::new(RealFs),
        folder,
        config(),
        clock,
        (0..messages).map(message),
    )?;
    let seconds = begun.elapsed().as_secs_f64();
    println!("{}", json!({ "filled": count, "seconds": seconds }));
    Ok(())
}

fn payload(
    subject: &Subject,
    number: u64,
    (created, due): (UnixMillis, UnixMillis),
    body: usize,
) -> Bytes {
    let mut out = BytesMut::with_capacity(body + 80);
    out.put_u8(FLAG_DELAY);
    out.put_i64(created.0);
    out.put_i64(due.0);
    put_str(&mut out, subject.as_str().as_bytes());
    put_str(&mut out, message_id(number).as_bytes());
    out.put_u32(u32::try_from(body).unwrap_or(u32::MAX));
    out.put_bytes(b'x', body);
    out.freeze()
}

fn open(folder: &Path) -> anyhow::Result<()> {
    let begun = Instant::now();
    let clock = Arc::new(SystemClock);
    let opened = DelayStore::open(Arc::new(RealFs), folder, config(), clock)?;
    let start = begun.elapsed();
    let DelayOpened { writer, reader, .. } = opened;
    let resident_at_start = resident_bytes()?;

    let (now, begun) = (SystemClock.now(), Instant::now());
    let mut loaded = Vec::new();
    reader.load(now, now.plus(WINDOW), None, usize::MAX, &mut loaded)?;
    let load = begun.elapsed();

    let stats = reader.stats();
    let (subject, begun) = (subject()?, Instant::now());
    for number in 0..LOOK_UPS {
        let number = stats.pending * number / LOOK_UPS;
        let found = reader.find(&subject, message_id(number).as_bytes())?;
        anyhow::ensure!(
            found.len() == 1,
            "message {number} was found {} times",
            found.len()
        );
    }
    let look_up = begun.elapsed() / u32::try_from(LOOK_UPS)?;
    let begun = Instant::now();
    let counted = reader.count(None, UnixMillis(0)..UnixMillis(i64::MAX))?;
    let count = begun.elapsed();
    anyhow::ensure!(
        counted == stats.pending,
        "{counted} counted of {}",
        stats.pending
    );
    let line = json!({
        "pending": stats.pending,
        "runs": stats.runs,
        "start_ms": millis(start),
        "load_minute_ms": millis(load),
        "loaded": loaded.len(),
        "look_up_ms": millis(look_up),
        "count_all_ms": millis(count),
        "resident_at_start_mib": mib(resident_at_start),
        "resident_mib": mib(resident_bytes()?),
    });
    println!("{line}");
    writer.close()?;
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

/// Memory of this process that is in use, as the kernel counts it.
fn resident_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("read own status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    let kib: u64 = kib.context("no VmRSS in own status")?.parse()?;
    Ok(kib << 10)
}
