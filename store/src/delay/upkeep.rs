//! What the writer of a delay store does beside appending: flushes that are due, idle records,
//! seals, checkpoints, what is overdue for too long, closing.

use std::time::Duration;

use qmq_model::UnixMillis;

use crate::checkpoint;
use crate::delay::checkpoint::{self as delay_checkpoint, CheckpointHead};
use crate::delay::dispatch_log::Verb;
use crate::delay::entry::{Key, Pending};
use crate::delay::table::Table;
use crate::delay::uncut::{Full, WAITING_MAX};
use crate::delay::writer::DelayWriter;
use crate::error::{AppendError, Doing, Error};
use crate::flush::{self, CHECKPOINT_INTERVAL};
use crate::format::ABORT;
use crate::log::pair::put_off;

/// Time between two checkpoints, however much there is to do.
const CHECKPOINT_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Runs that the write-ahead log may grow by before a checkpoint comes sooner.
const CHECKPOINT_RUNS: u64 = 4;
/// Segments that the dispatch log may grow by before a checkpoint comes sooner.
const CHECKPOINT_SEGMENTS: u64 = 2;
/// How often overdue messages are looked for that are to be dropped.
const EXPIRE_INTERVAL: Duration = Duration::from_secs(10);
/// Most messages that are dropped at a time.
const EXPIRE_MAX: usize = 4096;

impl DelayWriter {
    /// Does what is due at `now`: syncs what was written without a sync, states the durable
    /// positions when nothing happens, makes room in the ring, writes a checkpoint, drops what is
    /// overdue for too long. Says when it wants to be called again; `None` when not before
    /// something was appended.
    ///
    /// # Errors
    /// Any error poisons the store. A full disk only puts things off.
    pub fn tick(&mut self, now: UnixMillis) -> Result<Option<Duration>, Error> {
        self.poison_on_error(|writer| writer.try_tick(now))
    }

    fn try_tick(&mut self, now: UnixMillis) -> Result<Option<Duration>, Error> {
        let mode = self.config.flush;
        let is_due = |left: Option<Duration>| left.is_some_and(|left| left.is_zero());
        if is_due(flush::due_in(mode, self.logs.dirty_since(), now)) {
            self.logs.sync_all()?;
        }
        if is_due(self.logs.idle_in(now)) {
            self.logs.state_durable()?;
        }
        if self.logs.ring.is_half_used() {
            put_off(self.logs.seal())?;
        }
        let expire_in = self.expire(now)?;
        self.tend_chores(now)?;
        if is_due(self.checkpoint_in(now)) {
            // Also after a full disk: the next attempt is one interval away.
            self.checkpoint_at = now;
            put_off(self.try_checkpoint())?;
        }
        let waits = [
            flush::due_in(mode, self.logs.dirty_since(), now),
            self.logs.idle_in(now).filter(|left| !left.is_zero()),
            self.checkpoint_in(now),
            expire_in,
        ];
        Ok(waits.into_iter().flatten().min())
    }

    /// A start reads what was written since the checkpoint: when that is much, it comes sooner.
    fn checkpoint_in(&self, now: UnixMillis) -> Option<Duration> {
        let written = self.logs.written();
        let [messages, dispatches] =
            [0, 1].map(|log| written[log] - self.checkpoint_positions[log]);
        if messages == 0 && dispatches == 0 {
            return None;
        }
        let is_much = messages > CHECKPOINT_RUNS * self.config.run_bytes
            || dispatches > CHECKPOINT_SEGMENTS * self.config.dispatch_segment_bytes;
        let interval = if is_much {
            CHECKPOINT_INTERVAL_MIN
        } else {
            CHECKPOINT_INTERVAL
        };
        Some(flush::left(interval, self.checkpoint_at, now))
    }

    /// Drops messages that are overdue for longer than the limit, if there is one.
    fn expire(&mut self, now: UnixMillis) -> Result<Option<Duration>, Error> {
        let Some(limit) = self.config.drop_overdue_after else {
            return Ok(None);
        };
        let rest = self
            .expired_at
            .map(|at| flush::left(EXPIRE_INTERVAL, at, now));
        if let Some(rest) = rest.filter(|rest| !rest.is_zero()) {
            return Ok(Some(rest));
        }
        self.expired_at = Some(now);
        let until = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
        let until = UnixMillis(now.0.saturating_sub(until));
        if until.0 <= 0 || self.shared.read().book.pending_in(0, until.0) == 0 {
            return Ok(Some(EXPIRE_INTERVAL));
        }
        let mut overdue = Vec::new();
        let more = self
            .reader
            .load(UnixMillis(0), until, None, EXPIRE_MAX, &mut overdue)?;
        let keys: Vec<Key> = overdue.iter().map(Pending::key).collect();
        match self.append_verb(Verb::Expire, "", &keys) {
            Ok(()) if keys.is_empty() => {}
            Ok(()) => {
                let count = keys.len();
                tracing::warn!(count, ?limit, "messages were overdue for too long: dropped");
            }
            Err(AppendError::Failed(error)) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "overdue messages are not dropped yet");
                return Ok(Some(EXPIRE_INTERVAL));
            }
        }
        if more.is_some() {
            self.expired_at = None;
            return Ok(Some(Duration::ZERO));
        }
        Ok(Some(EXPIRE_INTERVAL))
    }

    /// Begins what is due in the background.
    fn tend_chores(&mut self, now: UnixMillis) -> Result<(), Error> {
        // Nothing is half done: the log ends here, visible and durable, between two records.
        let is_all_visible = self.unpublished.is_empty() && self.committing.is_empty();
        let is_quiet = is_all_visible && !self.logs.messages.is_dirty();
        let end = self.logs.messages.durable();
        if is_quiet && self.is_table_full(end) {
            match self.logs.messages.write_sums() {
                // Later: the start must find checksums of what it does not read.
                Err(Error::NoSpace { .. }) => {}
                written => {
                    written?;
                    // Nobody else changes it: readers need not wait while it is sorted.
                    let full = self.shared.read().table.completed(end);
                    self.shared.write().freeze(full);
                }
            }
        }
        self.chores.tend(now);
        Ok(())
    }

    /// Whether the table is full, and may be put aside. Waits for the cut that is being made when
    /// too many are: memory and the time of a start are bounded.
    fn is_table_full(&self, end: u64) -> bool {
        let (is_full, frozen) = {
            let state = self.shared.read();
            let is_full = Full::of(&self.config).is_reached(&state.table, end);
            (is_full, state.frozen.len())
        };
        let frozen_max = self.config.tables_kept + WAITING_MAX;
        if is_full && frozen >= frozen_max {
            self.chores.wait_for_run();
        }
        is_full && self.shared.read().frozen.len() < frozen_max
    }

    /// Syncs both logs and writes a durable checkpoint of the state they add up to.
    ///
    /// # Errors
    /// [`Error::NoSpace`] leaves the store usable; any other error poisons it.
    pub fn checkpoint(&mut self) -> Result<(), Error> {
        self.poison_unless_full(Self::try_checkpoint)
    }

    fn try_checkpoint(&mut self) -> Result<(), Error> {
        self.logs.sync_all()?;
        // What a checkpoint includes is not read by the next start.
        self.logs.write_sums()?;
        let head = CheckpointHead {
            number: self.checkpoint_number + 1,
            term: self.logs.term,
            positions: self.logs.durable(),
            time: self.clock.now(),
        };
        self.forget_what_is_gone();
        let (bytes, book) = {
            let state = self.shared.read();
            let bytes = head.encode(self.store, state.subjects.names(), &state.book);
            (bytes, state.book.durable_part())
        };
        delay_checkpoint::save(self.fs.as_ref(), &self.root, head.number, &bytes)?;
        self.chores.keeper.set_checkpointed(head.positions, book);
        self.checkpoint_number = head.number;
        self.checkpoint_positions = head.positions;
        self.checkpoint_at = head.time;
        checkpoint::tidy(self.fs.as_ref(), &self.root, self.config.checkpoint_retain)
    }

    /// Forgets finished messages with lower numbers than anything that is held.
    fn forget_what_is_gone(&self) {
        let state = &mut *self.shared.write();
        let Some(first) = self.chores.keeper.first_sequence(&state.runs) else {
            return;
        };
        let tables = state.tables().map(Table::first_sequence);
        let hidden = self.committing.iter().chain(&self.unpublished);
        let hidden = hidden.map(|row| row.key.sequence);
        let first = tables.chain(hidden).fold(first, u64::min);
        state.book.forget_below(first);
    }

    /// Makes everything durable, writes a checkpoint, and marks the store as closed in order.
    ///
    /// # Errors
    /// When any of that fails; the next opening then recovers.
    pub fn close(mut self) -> Result<(), Error> {
        self.poison_on_error(|writer| {
            writer.logs.sync_all()?;
            writer.logs.state_durable()?;
            writer.try_checkpoint()?;
            let path = writer.root.join(ABORT);
            writer.fs.remove(&path).doing("remove", &path)?;
            writer
                .fs
                .sync_dir(&writer.root)
                .doing("sync folder", &writer.root)
        })
    }
}
