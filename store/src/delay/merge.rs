//! Writes several runs anew as one per slot, without what is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use roaring::RoaringTreemap;

use crate::delay::entry::Key;
use crate::delay::run::builder::{DelayRunBuilder, Sizes};
use crate::delay::run::walk::{Entries, Ids, Records};
use crate::delay::run::{DelayRun, Entry};
use crate::delay::slots::{Slot, slot_of};
use crate::error::Error;
use crate::run::builder::Place;

/// What to merge, and by what.
pub(crate) struct Merge<'a> {
    pub(crate) place: &'a Place,
    pub(crate) runs: &'a [Arc<DelayRun>],
    /// What is durably done.
    pub(crate) done: &'a RoaringTreemap,
    /// When, in ms.
    pub(crate) now: i64,
    pub(crate) is_stopped: &'a AtomicBool,
}

/// What came out of it.
#[derive(Debug)]
pub(crate) struct Merged {
    pub(crate) runs: Vec<(Arc<DelayRun>, Slot)>,
    /// Finished messages that are in none of them.
    pub(crate) gone: RoaringTreemap,
}

/// Sources in order, merged.
struct Heap<T, N> {
    sources: Vec<(Option<T>, N)>,
}

impl<T: Copy, N> Heap<T, N> {
    fn new(
        sources: impl Iterator<Item = N>,
        mut next: impl FnMut(&mut N) -> Result<Option<T>, Error>,
    ) -> Result<Self, Error> {
        let sources = sources.map(|mut source| Ok((next(&mut source)?, source)));
        Ok(Self {
            sources: sources.collect::<Result<_, Error>>()?,
        })
    }

    /// The lowest of all heads, and which source it comes from.
    fn pop<K: Ord>(
        &mut self,
        key: impl Fn(&T) -> K,
        mut next: impl FnMut(&mut N) -> Result<Option<T>, Error>,
    ) -> Result<Option<(T, usize)>, Error> {
        let heads = self.sources.iter().enumerate();
        let heads = heads.filter_map(|(at, (head, _))| Some((at, head.as_ref()?)));
        let Some((at, _)) = heads.min_by_key(|(_, head)| key(head)) else {
            return Ok(None);
        };
        let (head, source) = &mut self.sources[at];
        let taken = std::mem::replace(head, next(source)?);
        Ok(taken.map(|taken| (taken, at)))
    }
}

impl Merge<'_> {
    /// Numbers of new runs come from `next_number`. What was written is removed when it fails.
    pub(crate) fn run(&self, mut next_number: impl FnMut() -> u64) -> Result<Merged, Error> {
        let (sizes, gone) = self.measure()?;
        let mut outputs: Vec<(Slot, DelayRunBuilder)> = Vec::with_capacity(sizes.len());
        let mut written = Ok(());
        for (slot, sizes) in sizes {
            match DelayRunBuilder::new(self.place, next_number(), sizes) {
                Ok(builder) => outputs.push((slot, builder)),
                Err(error) => written = Err(error),
            }
        }
        let written = written
            .and_then(|()| self.write_messages(&mut outputs))
            .and_then(|()| self.write_ids(&mut outputs));
        if let Err(error) = written {
            for (_, builder) in outputs {
                builder.discard();
            }
            return Err(error);
        }
        let mut runs = Vec::with_capacity(outputs.len());
        for (slot, builder) in outputs {
            runs.push((Arc::new(builder.finish()?), slot));
        }
        Ok(Merged { runs, gone })
    }

    fn check_stop(&self) -> Result<(), Error> {
        if self.is_stopped.load(Ordering::Relaxed) {
            return Err(Error::Stopped);
        }
        Ok(())
    }

    /// Visits the messages that are kept, in order, with the run each is in; adds the others to
    /// `gone`.
    fn each(
        &self,
        mut gone: Option<&mut RoaringTreemap>,
        mut visit: impl FnMut(&Entry, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let sources = self.runs.iter().map(|run| Entries::new(run, 0));
        let mut heap = Heap::new(sources, Entries::next)?;
        while let Some((entry, at)) = heap.pop(|entry: &Entry| entry.key, Entries::next)? {
            if !self.done.contains(entry.key.sequence) {
                visit(&entry, at)?;
            } else if let Some(gone) = gone.as_mut() {
                gone.insert(entry.key.sequence);
            }
            self.check_stop()?;
        }
        Ok(())
    }

    /// How large the outputs become, and what is left out.
    fn measure(&self) -> Result<(Vec<(Slot, Sizes)>, RoaringTreemap), Error> {
        let mut gone = RoaringTreemap::new();
        let mut sizes: Vec<(Slot, Sizes)> = Vec::new();
        self.each(Some(&mut gone), |entry, _| {
            let slot = slot_of(entry.key.due, self.now);
            if sizes.last().is_none_or(|(last, _)| *last != slot) {
                sizes.push((slot, Sizes::default()));
            }
            let (_, size) = sizes.last_mut().expect("one was just added");
            size.messages += 1;
            size.record_bytes += u64::from(entry.bytes);
            Ok(())
        })?;
        Ok((sizes, gone))
    }

    /// Records are copied as they are: one that is damaged stays damaged, and noticed.
    fn write_messages(&self, outputs: &mut [(Slot, DelayRunBuilder)]) -> Result<(), Error> {
        let mut records: Vec<Records> = self.runs.iter().map(Records::new).collect();
        let mut at = 0;
        self.each(None, |entry, source| {
            let slot = slot_of(entry.key.due, self.now);
            while outputs[at].0 != slot {
                at += 1;
            }
            let record = records[source].read(entry)?;
            outputs[at].1.add(entry.key, entry.subject, record)
        })
    }

    fn write_ids(&self, outputs: &mut [(Slot, DelayRunBuilder)]) -> Result<(), Error> {
        let mut heap = Heap::new(self.runs.iter().map(Ids::new), Ids::next)?;
        while let Some(((hash, key), _)) = heap.pop(|id: &(u64, Key)| *id, Ids::next)? {
            if self.done.contains(key.sequence) {
                continue;
            }
            let slot = slot_of(key.due, self.now);
            let at = outputs.partition_point(|(of, _)| of.rank() < slot.rank());
            outputs[at].1.add_id(hash, key)?;
            self.check_stop()?;
        }
        Ok(())
    }
}
