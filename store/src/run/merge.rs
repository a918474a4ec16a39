//! Merges neighbouring runs, entry by entry, in bounded memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;
use crate::run::builder::RunBuilder;
use crate::run::{Entry, Run, Walk};

/// Adds everything of `runs`, which are neighbours in the order of the log, to `out`; entries of
/// messages in front of `oldest` are left out. Gives up when `is_stopped`. An error comes
/// with the number of the run that was being read.
pub(crate) fn merge(
    runs: &[Arc<Run>],
    oldest: u64,
    is_stopped: &AtomicBool,
    out: &mut RunBuilder,
) -> Result<(), (u64, Error)> {
    let mut walks: Vec<Walk<'_>> = runs.iter().map(|run| Walk::new(run)).collect();
    let mut heads = Vec::with_capacity(walks.len());
    for walk in &mut walks {
        heads.push(next(walk)?);
    }
    // Sequences rise with the log: all of a subject in one run come before those in the next.
    while let Some(subject) = heads.iter().flatten().map(|(subject, _, _)| *subject).min() {
        for (head, walk) in heads.iter_mut().zip(&mut walks) {
            while let Some((_, sequence, entry)) = head.filter(|head| head.0 == subject) {
                if is_stopped.load(Ordering::Relaxed) {
                    return Err((walk.run().number(), Error::Stopped));
                }
                if entry.offset.0 >= oldest {
                    let added = out.add(subject, sequence, &entry);
                    added.map_err(|error| (walk.run().number(), error))?;
                }
                *head = next(walk)?;
            }
        }
    }
    Ok(())
}

type Head = Option<(u32, i64, Entry)>;

fn next(walk: &mut Walk<'_>) -> Result<Head, (u64, Error)> {
    let entry = walk.next_entry();
    entry.map_err(|error| (walk.run().number(), error))
}
