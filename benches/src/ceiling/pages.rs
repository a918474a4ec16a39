//! The bare memory: what it costs to write to a file as far as the page cache.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Bytes of one write.
const PIECE_BYTES: usize = 1 << 20;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct PagesPlan {
    /// How much is written each time, in pieces of a MiB.
    pub pieces: usize,
    /// How long memory lies free before it is used again. Longer than the host of a virtual machine
    /// takes to take it back, if it does.
    pub pause: Duration,
}

/// Writes a file that is new, one whose pages are in memory, one that gets pages which were freed a
/// moment ago, and one that gets pages which were freed a pause ago. Microseconds per KiB of each;
/// nothing is synced.
///
/// # Errors
/// When the file cannot be written.
pub fn measure_pages(path: &Path, plan: PagesPlan) -> Result<Value> {
    let doing = || format!("cannot write {}", path.display());
    let piece = vec![b'x'; PIECE_BYTES];
    let mut file = create(path).with_context(doing)?;
    let new = write(&mut file, &piece, plan.pieces).with_context(doing)?;
    let again = write(&mut file, &piece, plan.pieces).with_context(doing)?;
    file = replace(path, file).with_context(doing)?;
    let freed_now = write(&mut file, &piece, plan.pieces).with_context(doing)?;
    drop(file);
    std::fs::remove_file(path).with_context(doing)?;
    std::thread::sleep(plan.pause);
    file = create(path).with_context(doing)?;
    let freed_before = write(&mut file, &piece, plan.pieces).with_context(doing)?;
    drop(file);
    std::fs::remove_file(path).with_context(doing)?;
    Ok(json!({
        "pieces": plan.pieces,
        "pause_seconds": plan.pause.as_secs_f64(),
        "new": new,
        "again": again,
        "freed_now": freed_now,
        "freed_before": freed_before,
    }))
}

fn create(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Lets the pages of a file go, and begins anew.
fn replace(path: &Path, file: File) -> std::io::Result<File> {
    drop(file);
    std::fs::remove_file(path)?;
    create(path)
}

/// Writes all pieces from the beginning; returns microseconds per KiB.
fn write(file: &mut File, piece: &[u8], pieces: usize) -> std::io::Result<f64> {
    file.seek(SeekFrom::Start(0))?;
    let begin = Instant::now();
    for _ in 0..pieces {
        file.write_all(piece)?;
    }
    let micros = begin.elapsed().as_secs_f64() * 1e6;
    Ok(micros / (pieces * piece.len() / 1024) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pages");
        let plan = PagesPlan {
            pieces: 2,
            pause: Duration::ZERO,
        };
        let costs = measure_pages(&path, plan).unwrap();
        for name in ["new", "again", "freed_now", "freed_before"] {
            assert!(costs[name].as_f64() > Some(0.0), "{costs}");
        }
        assert!(!path.try_exists().unwrap());
    }
}
