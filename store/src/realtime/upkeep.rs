//! What a writer does beside appending: flushes that are due, idle records, seals, checkpoints,
//! closing.

use std::time::Duration;

use qmq_model::UnixMillis;

use crate::checkpoint::{self, Checkpoint};
use crate::config::Sabotage;
use crate::error::{Doing, Error};
use crate::flush::{self, CHECKPOINT_INTERVAL, IDLE_AFTER, Plan};
use crate::format::ABORT;
use crate::log::commit::{CommitRecord, SLOTS_RESERVED};
use crate::realtime::writer::StoreWriter;

const BOTH: Plan = Plan {
    messages: true,
    actions: true,
};
/// Runs behind the newest checkpoint: a start cannot use them, so there is a checkpoint sooner.
const RUNS_UNCERTAIN_MAX: u64 = 8;
/// Time between two checkpoints, however much there is to do.
const CHECKPOINT_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Slots that must be free for an idle record that is not part of a seal.
const SLOTS_FOR_IDLE: u64 = SLOTS_RESERVED + 4;

impl StoreWriter {
    /// Does what is due at `now`: syncs what was written without a sync, states the durable
    /// positions when nothing happens, makes room in the ring, writes a checkpoint. Says when it
    /// wants to be called again; `None` when not before something was appended.
    ///
    /// # Errors
    /// Any error poisons the store. A full disk only puts things off.
    pub fn tick(&mut self, now: UnixMillis) -> Result<Option<Duration>, Error> {
        self.poison_on_error(|writer| writer.try_tick(now))
    }

    fn try_tick(&mut self, now: UnixMillis) -> Result<Option<Duration>, Error> {
        let mode = self.config.flush;
        if flush::due_in(mode, self.dirty_since(), now).is_some_and(|left| left.is_zero()) {
            self.write_commit_records()?;
            self.sync(self.dirty())?;
        }
        let idle_in = self.idle_in(now);
        if idle_in.is_some_and(|left| left.is_zero()) {
            self.state_durable()?;
        }
        if self.ring.is_half_used() {
            put_off(self.seal())?;
        }
        let durable = self.messages.durable();
        if self.duplicate_files.is_due(&self.duplicates, durable) {
            self.duplicate_files.save(&self.duplicates, durable);
        }
        self.tend_chores(now)?;
        if self.checkpoint_in(now).is_some_and(|left| left.is_zero()) {
            // Also after a full disk: the next attempt is one interval away.
            self.checkpoint_at = now;
            put_off(self.try_checkpoint())?;
        }
        let waits = [
            flush::due_in(mode, self.dirty_since(), now),
            self.idle_in(now).filter(|left| !left.is_zero()),
            self.checkpoint_in(now),
        ];
        Ok(waits.into_iter().flatten().min())
    }

    fn dirty(&self) -> Plan {
        Plan {
            messages: self.messages.is_dirty(),
            actions: self.actions.is_dirty(),
        }
    }

    /// Time until an idle record is written; `None` when there is nothing to state.
    fn idle_in(&self, now: UnixMillis) -> Option<Duration> {
        let is_news = self.stated != self.durable();
        is_news.then(|| flush::left(IDLE_AFTER, self.busy_at, now))
    }

    fn checkpoint_in(&self, now: UnixMillis) -> Option<Duration> {
        let positions = [self.messages.written(), self.actions.written()];
        let uncertain = self
            .shared
            .index
            .covered()
            .saturating_sub(self.checkpoint_positions[0]);
        if uncertain > RUNS_UNCERTAIN_MAX * self.config.index_run_bytes {
            return Some(flush::left(
                CHECKPOINT_INTERVAL_MIN,
                self.checkpoint_at,
                now,
            ));
        }
        let is_changed = self.checkpoint_positions != positions
            || self.checkpoint_control != self.controls.last()
            || self.chores.expiry.wants_checkpoint();
        is_changed.then(|| flush::left(CHECKPOINT_INTERVAL, self.checkpoint_at, now))
    }

    /// Writes an idle record that states the durable positions, durably.
    fn state_durable(&mut self) -> Result<(), Error> {
        if self.ring.free() > SLOTS_FOR_IDLE {
            self.ring
                .write(CommitRecord::idle(self.term, self.durable()))?;
            self.ring.sync()?;
            self.stated = self.durable();
        }
        Ok(())
    }

    /// Allows the ring to be overwritten: everything is synced, and its checksums are durable.
    pub(super) fn seal(&mut self) -> Result<(), Error> {
        self.sync_all()?;
        self.messages.write_sums()?;
        self.actions.write_sums()?;
        self.ring
            .seal(CommitRecord::idle(self.term, self.durable()))?;
        self.stated = self.durable();
        Ok(())
    }

    fn sync_all(&mut self) -> Result<(), Error> {
        self.write_commit_records()?;
        self.sync(BOTH)
    }

    /// Syncs both logs and writes a durable checkpoint of the state they add up to.
    ///
    /// # Errors
    /// [`Error::NoSpace`] leaves the store usable; any other error poisons it.
    pub fn checkpoint(&mut self) -> Result<(), Error> {
        self.poison_unless_full(Self::try_checkpoint)
    }

    pub(super) fn try_checkpoint(&mut self) -> Result<(), Error> {
        self.sync_all()?;
        // What a checkpoint includes is not read by the next start.
        self.messages.write_sums()?;
        self.actions.write_sums()?;
        let subjects = self
            .subjects
            .iter()
            .map(|state| (state.name.clone(), state.next))
            .collect();
        let mut checkpoint = Checkpoint {
            number: self.checkpoint_number + 1,
            term: self.term,
            positions: self.durable(),
            time: self.clock.now(),
            control: self.controls.last(),
            subjects,
            progress: std::mem::take(&mut self.progress),
        };
        let saved = if self.config.sabotage == Sabotage::ForgetUnacked {
            let mut without = checkpoint.clone();
            without.progress.forget_first_unacked();
            without.save(self.fs.as_ref(), &self.root, self.store)
        } else {
            checkpoint.save(self.fs.as_ref(), &self.root, self.store)
        };
        self.progress = std::mem::take(&mut checkpoint.progress);
        saved?;
        self.checkpoint_number = checkpoint.number;
        self.checkpoint_positions = checkpoint.positions;
        self.checkpoint_control = checkpoint.control;
        self.checkpoint_at = checkpoint.time;
        let retain = self.config.checkpoint_retain;
        self.chores
            .keeper
            .set_checkpointed(checkpoint.positions, retain);
        let durable = self.messages.durable();
        self.duplicate_files.save(&self.duplicates, durable);
        self.duplicate_files.sync_names();
        checkpoint::tidy(self.fs.as_ref(), &self.root, self.config.checkpoint_retain)?;
        if !self.controls.has_files() {
            return Ok(());
        }
        let oldest = checkpoint::controls_included(self.fs.as_ref(), &self.root, self.store)?;
        self.controls.checkpointed(oldest)
    }

    /// Begins what is due in the background.
    fn tend_chores(&mut self, now: UnixMillis) -> Result<(), Error> {
        // Nothing is half done: the log ends here, visible and durable, between two records.
        let is_quiet = self.unpublished.is_empty() && !self.messages.is_dirty();
        let end = self.messages.durable();
        if is_quiet && self.chores.wants_run(end, now) {
            match self.messages.write_sums() {
                // Later: the start must find checksums of what it does not read.
                Err(Error::NoSpace { .. }) => {}
                written => {
                    written?;
                    self.chores.cut(end, now);
                }
            }
        }
        self.chores.tend(now);
        Ok(())
    }

    /// Makes everything durable, writes a checkpoint, and marks the store as closed in order.
    ///
    /// # Errors
    /// When any of that fails; the next opening then recovers.
    pub fn close(mut self) -> Result<(), Error> {
        self.poison_on_error(|writer| {
            writer.sync_all()?;
            writer.state_durable()?;
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

/// A full disk is no reason to stop: what was not possible is tried again later.
fn put_off(done: Result<(), Error>) -> Result<(), Error> {
    match done {
        Err(error @ Error::NoSpace { .. }) => {
            tracing::warn!(%error, "put off until there is room");
            Ok(())
        }
        done => done,
    }
}
