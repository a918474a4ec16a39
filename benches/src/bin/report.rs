//! `qmq-bench-report`: tables and pictures from the lines that `bin/bench.sh` collected.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use qmq_benches::results::Results;
use qmq_benches::{picture, tables};

/// Makes tables and pictures from results.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Replaces the generated part of a document and the pictures beside the results.
    Render {
        /// Lines of results; pictures go to the same folder.
        results: PathBuf,
        /// The document.
        document: PathBuf,
        /// A document that gets the few most important numbers.
        #[arg(long)]
        short: Option<PathBuf>,
    },
    /// Prints the messages per second of a case, the median of the rounds so far.
    Rate {
        /// Lines of results.
        results: PathBuf,
        /// Case.
        case: String,
        /// Contender.
        contender: String,
    },
}

fn main() -> Result<()> {
    match Cli::parse().what {
        What::Render {
            results,
            document,
            short,
        } => {
            let folder = results.parent().context("results lie in a folder")?;
            let results = read(&results)?;
            fill(&document, &tables::generate(&results))?;
            if let Some(short) = short {
                fill(&short, &tables::generate_short(&results))?;
            }
            if picture::has_windows(&results) {
                write(&folder.join("window.svg"), &picture::window(&results))?;
            }
            write(&folder.join("latency.svg"), &picture::latency(&results))
        }
        What::Rate {
            results,
            case,
            contender,
        } => {
            let rate = read(&results)?.spread(&case, &contender, "/messages_per_second");
            let rate = rate.with_context(|| format!("no valid run of {contender} in {case}"))?;
            println!("{:.0}", rate.median);
            Ok(())
        }
    }
}

/// Replaces the generated part of a document.
fn fill(document: &Path, generated: &str) -> Result<()> {
    let text = fs::read_to_string(document)
        .with_context(|| format!("cannot read {}", document.display()))?;
    write(document, &tables::replace_generated(&text, generated)?)
}

fn read(path: &Path) -> Result<Results> {
    let lines =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Results::parse(&lines).with_context(|| path.display().to_string())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
