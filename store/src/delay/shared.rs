//! What the writer and all readers of a delay store share.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use qmq_model::Subject;

use crate::delay::book::Book;
use crate::delay::entry::{DelaySubject, Key};
use crate::delay::table::{Spot, Table};
use crate::log::segment::Segments;

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
    /// Visible messages that only the write-ahead log holds.
    pub(crate) table: Table,
}

impl State {
    /// Where the record of a message stands in the write-ahead log, if only that holds it.
    pub(crate) fn spot(&self, key: Key) -> Option<Spot> {
        self.table.get(key)
    }
}

/// What the writer and all readers share. The lock is held for look-ups and small changes in
/// memory, never during IO.
pub(crate) struct Shared {
    /// The write-ahead log.
    pub(crate) segments: Arc<Segments>,
    state: RwLock<State>,
}

impl Shared {
    pub(crate) fn new(segments: Arc<Segments>, state: State) -> Self {
        Self {
            segments,
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
