//! Fills a new delay store with messages that come from elsewhere, past the write-ahead log.

use std::path::Path;
use std::sync::Arc;

use bytes::BytesMut;
use qmq_model::{Clock, UnixMillis};

use crate::delay::DelayStore;
use crate::delay::config::DelayConfig;
use crate::delay::entry::{DelaySubject, Key, NewDelayed};
use crate::delay::message_log::{self, RecordView};
use crate::delay::run::DelayRun;
use crate::delay::run::builder::{DelayRunBuilder, Sizes};
use crate::delay::slots::slot_of;
use crate::delay::writer::DelayWriter;
use crate::error::Error;
use crate::fs::FileSystem;

/// Records of a run are collected up to this size, in memory.
const RUN_BYTES: usize = 256 << 20;

/// A message that waits for its run.
struct Waiting {
    key: Key,
    subject: DelaySubject,
    hash: u64,
    bytes: usize,
}

/// Messages of one slot that become a run together.
#[derive(Default)]
struct Batch {
    records: BytesMut,
    waiting: Vec<Waiting>,
}

impl DelayStore {
    /// Creates the store in folder `root` with these messages, which come in the order they are
    /// due, and closes it. For moving messages from another store, and for measurements. Returns
    /// how many there are. If it is interrupted, the folder is to be removed.
    ///
    /// # Errors
    /// As [`Self::open`]; when the store holds something already, or a message can never be
    /// stored, or does not come in order.
    pub fn import(
        fs: Arc<dyn FileSystem>,
        root: &Path,
        config: DelayConfig,
        clock: Arc<dyn Clock>,
        messages: impl IntoIterator<Item = NewDelayed>,
    ) -> Result<u64, Error> {
        let now = clock.now();
        let opened = Self::open(fs, root, config, clock)?;
        let mut writer = opened.writer;
        let refuse = |what| Error::Corrupt {
            path: root.to_owned(),
            what,
        };
        if writer.shared.read().book.next > 1 {
            return Err(refuse("not a new store: nothing can be imported"));
        }
        let (mut runs, mut batch, mut slot) = (Vec::new(), Batch::default(), None);
        let mut last = UnixMillis(0);
        for message in messages {
            if message.due < last {
                return Err(refuse(
                    "imported messages are not in the order they are due",
                ));
            }
            last = message.due;
            if let Some(what) = message_log::flaw(&message.subject, message.due, &message.payload) {
                return Err(refuse(what));
            }
            let here = slot_of(message.due.0, now.0);
            let is_full = batch.records.len() >= RUN_BYTES;
            if let Some(slot) = slot.filter(|slot| is_full || *slot != here) {
                runs.push((writer.write_run(&mut batch)?, slot));
            }
            slot = Some(here);
            writer.collect(&message, now, &mut batch);
        }
        if let Some(slot) = slot {
            runs.push((writer.write_run(&mut batch)?, slot));
        }
        let count = writer.shared.read().book.pending_count();
        writer.chores.keeper.add(runs)?;
        writer.close()?;
        Ok(count)
    }
}

impl DelayWriter {
    fn collect(&mut self, message: &NewDelayed, now: UnixMillis, batch: &mut Batch) {
        let state = &mut *self.shared.write();
        let sequence = state.book.next;
        let due = message.due.0;
        let view = RecordView {
            key: Key { due, sequence },
            stored_at: now,
            replaces: None,
            subject: message.subject.as_str(),
            crc: message.crc,
            payload: &message.payload,
        };
        let begin = batch.records.len();
        view.put(&mut batch.records);
        batch.waiting.push(Waiting {
            key: view.key,
            subject: state.subjects.intern(&message.subject),
            hash: message_log::id_hash(&message.payload),
            bytes: batch.records.len() - begin,
        });
        state.book.accept(view.key, None);
    }

    fn write_run(&mut self, batch: &mut Batch) -> Result<Arc<DelayRun>, Error> {
        let sizes = Sizes {
            messages: batch.waiting.len() as u64,
            record_bytes: batch.records.len() as u64,
        };
        let keeper = &self.chores.keeper;
        let mut builder = DelayRunBuilder::new(keeper.place(), keeper.next_number(), sizes)?;
        let mut at = 0;
        for message in &batch.waiting {
            let record = &batch.records[at..at + message.bytes];
            builder.add(message.key, message.subject, record)?;
            at += message.bytes;
        }
        let mut ids: Vec<(u64, Key)> = batch.waiting.iter().map(|of| (of.hash, of.key)).collect();
        ids.sort_unstable();
        for (hash, key) in ids {
            builder.add_id(hash, key)?;
        }
        batch.waiting.clear();
        batch.records.clear();
        Ok(Arc::new(builder.finish()?))
    }
}
