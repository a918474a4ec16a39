//! What the writer and all readers of a delay store share.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use qmq_model::Subject;

use crate::delay::book::Book;
use crate::delay::entry::{DelaySubject, Key};
use crate::delay::run::Runs;
use crate::delay::table::{Spot, Table};
use crate::log::segment::Segments;
use crate::run::cache::BlockCache;

/// The subjects of a store by their numbers, which are given in order of arrival.
#[derive(Debug, Default)]
pub(crate) struct Subjects {
    names: Vec<Subject>,
    ids: HashMap<Subject, DelaySubject>,
}

impl Subjects {
    pub(crate) fn new(names: Vec<Subject>) -> Self {
        let mut subjects = Self::default();
        for name in names {
            subjects.intern(&name);
        }
        subjects
    }

    /// The number of a subject, a new one if it has none.
    pub(crate) fn intern(&mut self, name: &Subject) -> DelaySubject {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = u32::try_from(self.names.len()).expect("fewer than 2^32 subjects");
        self.names.push(name.clone());
        self.ids.insert(name.clone(), DelaySubject(id));
        DelaySubject(id)
    }

    /// Forgets all but the first `count`: what brought the others was rolled back.
    pub(crate) fn truncate(&mut self, count: usize) {
        for name in self.names.drain(count..) {
            self.ids.remove(&name);
        }
    }

    pub(crate) fn names(&self) -> &[Subject] {
        &self.names
    }

    pub(crate) fn name(&self, id: DelaySubject) -> Option<&Subject> {
        self.names.get(id.0 as usize)
    }

    pub(crate) fn id(&self, name: &Subject) -> Option<DelaySubject> {
        self.ids.get(name).copied()
    }
}

/// Everything in memory.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) book: Book,
    pub(crate) subjects: Subjects,
    /// Visible messages at the end of the write-ahead log.
    pub(crate) table: Table,
    /// Tables that are full and wait to become runs, oldest first.
    pub(crate) frozen: Vec<Arc<Table>>,
    pub(crate) runs: Runs,
    /// Messages that got another due time since the store was opened.
    pub(crate) moves: u64,
}

impl State {
    /// Where the record of a message stands in the write-ahead log, if only that holds it.
    pub(crate) fn spot(&self, key: Key) -> Option<Spot> {
        self.tables().find_map(|table| table.get(key))
    }

    /// All tables, oldest first.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &Table> {
        let frozen = self.frozen.iter().map(AsRef::as_ref);
        frozen.chain([&self.table])
    }

    /// Puts `full`, which is the table completed, beside those that wait to become runs.
    pub(crate) fn freeze(&mut self, full: Table) {
        self.table = Table::at(full.range.end);
        self.frozen.push(Arc::new(full));
    }
}

/// What the writer and all readers share. The lock is held for look-ups and small changes in
/// memory, never during IO.
pub(crate) struct Shared {
    /// The write-ahead log.
    pub(crate) segments: Arc<Segments>,
    /// Blocks of runs.
    pub(crate) cache: BlockCache,
    state: RwLock<State>,
}

impl Shared {
    pub(crate) fn new(segments: Arc<Segments>, cache_bytes: usize, state: State) -> Self {
        Self {
            segments,
            cache: BlockCache::new(cache_bytes),
            state: RwLock::new(state),
        }
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}
