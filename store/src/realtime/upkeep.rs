//! What a writer does beside appending: flushes that are due, idle records, seals, checkpoints,
//! closing.

use std::time::Duration;

use qmq_model::UnixMillis;

use crate::checkpoint::{self, Checkpoint};
use crate::config::Sabotage;
use crate::error::{Doing, Error};
use crate::flush::{self, CHECKPOINT_INTERVAL, Plan};
use crate::format::ABORT;
use crate::log::pair::put_off;
use crate::realtime::writer::StoreWriter;

const BOTH: Plan = Plan {
    messages: true,
    actions: true,
};
/// Runs behind the newest checkpoint: a start cannot use them, so there is a checkpoint sooner.
const RUNS_UNCERTAIN_MAX: u64 = 8;
/// Time between two checkpoints, however much there is to do.
const CHECKPOINT_INTERVAL_MIN: Duration = Duration::from_secs(1);

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
        if flush::due_in(mode, self.logs.dirty_since(), now).is_some_and(|left| left.is_zero()) {
            self.logs.write_commit_records()?;
            self.sync(self.logs.dirty())?;
        }
        let idle_in = self.logs.idle_in(now);
        if idle_in.is_some_and(|left| left.is_zero()) {
            self.logs.state_durable()?;
        }
        if self.logs.ring.is_half_used() {
            put_off(self.seal())?;
        }
        let durable = self.logs.messages.durable();
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
            flush::due_in(mode, self.logs.dirty_since(), now),
            self.logs.idle_in(now).filter(|left| !left.is_zero()),
            self.checkpoint_in(now),
        ];
        Ok(waits.into_iter().flatten().min())
    }

    fn checkpoint_in(&self, now: UnixMillis) -> Option<Duration> {
        let positions = self.logs.written();
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

    /// Allows the ring to be overwritten: everything is synced, and its checksums are durable.
    pub(super) fn seal(&mut self) -> Result<(), Error> {
        self.sync_all()?;
        self.logs.seal()
    }

    fn sync_all(&mut self) -> Result<(), Error> {
        self.end_sync()?;
        self.logs.write_commit_records()?;
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
        self.logs.write_sums()?;
        let subjects = self
            .subjects
            .iter()
            .map(|state| (state.name.clone(), state.next))
            .collect();
        let mut checkpoint = Checkpoint {
            number: self.checkpoint_number + 1,
            term: self.logs.term,
            positions: self.logs.durable(),
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
        let durable = self.logs.messages.durable();
        self.duplicate_files.wait();
        self.duplicate_files.save(&self.duplicates, durable);
        self.duplicate_files.wait();
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
        let is_published = self.unpublished.is_empty() && self.committing.is_empty();
        let is_quiet = is_published && !self.logs.messages.is_dirty();
        let end = self.logs.messages.durable();
        if is_quiet && self.chores.wants_run(end, now) {
            match self.logs.messages.write_sums() {
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
