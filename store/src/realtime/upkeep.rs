//! What a writer does beside appending: flushes that are due, idle records, seals, checkpoints,
//! closing.

use std::time::Duration;

use qmq_model::UnixMillis;

use crate::checkpoint::Checkpoint;
use crate::config::Sabotage;
use crate::error::{Doing, Error};
use crate::flush::{self, CHECKPOINT_INTERVAL, Plan};
use crate::format::ABORT;
use crate::log::pair::put_off;
use crate::realtime::settle::{Settled, Work};
use crate::realtime::writer::StoreWriter;

const BOTH: Plan = Plan {
    messages: true,
    actions: true,
};
/// Runs behind the newest checkpoint: a start cannot use them, so there is a checkpoint sooner.
const RUNS_UNCERTAIN_MAX: u64 = 8;
/// How soon is looked again whether the disk is done.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
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
        if self.awaits_sync {
            // The caller is between the halves of a commit.
            return Ok(Some(Duration::ZERO));
        }
        let mode = self.config.flush;
        self.poll_sync()?;
        if flush::due_in(mode, self.logs.dirty_since(), now).is_some_and(|left| left.is_zero()) {
            self.flush()?;
        }
        let idle_in = self.logs.idle_in(now);
        if idle_in.is_some_and(|left| left.is_zero()) && !self.logs.is_syncing() {
            self.logs.state_durable()?;
        }
        let durable = self.logs.messages.durable();
        if self.duplicate_files.is_due(&self.duplicates, durable) {
            self.duplicate_files.save(&self.duplicates, durable);
        }
        self.tend_chores(now);
        self.settle(now)?;
        let is_pending = self.logs.is_syncing() || self.settler.is_busy();
        let waits = [
            flush::due_in(mode, self.logs.dirty_since(), now),
            self.logs.idle_in(now).filter(|left| !left.is_zero()),
            self.checkpoint_in(now),
        ];
        // What is due cannot be done before what is under way; another thread may just have made
        // something due.
        let pending = is_pending.then_some(LOOK_AGAIN);
        let waits = waits.into_iter().chain([pending]).flatten();
        Ok(waits.min().map(|wait| wait.max(LOOK_AGAIN)))
    }

    /// Begins to make everything durable, unless the disk is at it.
    fn flush(&mut self) -> Result<(), Error> {
        if !self.logs.is_syncing() {
            self.begin_flush()?;
            self.poll_sync()?;
        }
        Ok(())
    }

    /// Seals the ring and writes checkpoints, step by step as the disk gets on.
    fn settle(&mut self, now: UnixMillis) -> Result<(), Error> {
        self.take_settled()?;
        if self.settler.is_busy() {
            return Ok(());
        }
        let is_due = self.checkpoint_in(now).is_some_and(|left| left.is_zero());
        if is_due && self.prepared.is_none() {
            // Also after a full disk: the next attempt is one interval away.
            self.checkpoint_at = now;
            self.prepared = Some(self.prepare_checkpoint()?);
        }
        let is_full = self.logs.ring.is_half_used() && !self.logs.ring.is_sealing();
        if self.prepared.is_none() && !is_full {
            return Ok(());
        }
        let work = match self.work_at_hand(is_full) {
            Some(work) => work,
            None => {
                self.flush()?;
                match self.work_at_hand(is_full) {
                    Some(work) => work,
                    None => return Ok(()),
                }
            }
        };
        let sums = [&mut self.logs.messages, &mut self.logs.actions];
        let sums = sums.map(|log| log.hand_over_sums().1);
        self.settler.give(sums, work);
        self.take_settled()
    }

    /// What can be settled of what is durable.
    fn work_at_hand(&mut self, is_full: bool) -> Option<Work> {
        let durable = self.logs.durable();
        let is_included = |checkpoint: &mut Box<Checkpoint>| {
            checkpoint.positions[0] <= durable[0] && checkpoint.positions[1] <= durable[1]
        };
        if let Some(checkpoint) = self.prepared.take_if(is_included) {
            let retain = self.chores.expiry.kept().checkpoints;
            return Some(Work::Checkpoint(checkpoint, retain));
        }
        let settled = self.logs.settled();
        let is_worth = is_full && self.logs.ring.is_worth_sealing(settled);
        is_worth.then_some(Work::Seal(settled))
    }

    /// Takes over what the settler has done.
    fn take_settled(&mut self) -> Result<(), Error> {
        match self.settler.take() {
            None => Ok(()),
            Some(Ok(Settled::Seal(serial))) => {
                self.logs.ring.announce(serial);
                Ok(())
            }
            Some(Ok(Settled::Checkpoint {
                checkpoint,
                controls,
            })) => self.note_checkpoint(&checkpoint, controls),
            // Also of a thread that is gone: without checkpoints the store would only seem to work.
            Some(Err(error)) => put_off(Err(error)),
        }
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
        self.settler.wait();
        self.take_settled()?;
        self.duplicate_files.wait();
        self.prepared = None;
        self.sync_all()?;
        let checkpoint = self.prepare_checkpoint()?;
        let sums = [&mut self.logs.messages, &mut self.logs.actions];
        let sums = sums.map(|log| log.hand_over_sums().1);
        let work = Work::Checkpoint(checkpoint, self.chores.expiry.kept().checkpoints);
        self.settler.give(sums, work);
        self.settler.wait();
        match self.settler.take() {
            Some(Ok(Settled::Checkpoint {
                checkpoint,
                controls,
            })) => self.note_checkpoint(&checkpoint, controls)?,
            Some(Err(error)) => return Err(error),
            Some(Ok(Settled::Seal(_))) | None => unreachable!("a checkpoint was given to it"),
        }
        self.duplicate_files.wait();
        Ok(())
    }

    /// The state that everything appended so far adds up to.
    fn prepare_checkpoint(&mut self) -> Result<Box<Checkpoint>, Error> {
        self.logs.write_commit_records()?;
        self.logs.messages.close_sums();
        self.logs.actions.close_sums();
        let subjects = self.subjects.iter();
        let mut checkpoint = Checkpoint {
            number: self.checkpoint_number + 1,
            term: self.logs.term,
            positions: self.logs.written(),
            time: self.clock.now(),
            control: self.controls.last(),
            subjects: subjects
                .map(|state| (state.name.clone(), state.next))
                .collect(),
            progress: self.progress.clone(),
        };
        if self.config.sabotage == Sabotage::ForgetUnacked {
            checkpoint.progress.forget_first_unacked();
        }
        Ok(Box::new(checkpoint))
    }

    /// A checkpoint is durable.
    fn note_checkpoint(&mut self, checkpoint: &Checkpoint, controls: u64) -> Result<(), Error> {
        self.checkpoint_number = checkpoint.number;
        self.checkpoint_positions = checkpoint.positions;
        self.checkpoint_control = checkpoint.control;
        self.checkpoint_at = checkpoint.time;
        let retain = self.chores.expiry.kept().checkpoints;
        self.chores
            .keeper
            .set_checkpointed(checkpoint.positions, retain);
        let durable = self.logs.messages.durable();
        self.duplicate_files
            .save_with_names(&self.duplicates, durable);
        if self.controls.has_files() {
            self.controls.checkpointed(controls)?;
        }
        Ok(())
    }

    /// Begins what is due in the background.
    fn tend_chores(&mut self, now: UnixMillis) {
        let is_published = self.unpublished.is_empty() && self.committing.is_empty();
        let end = self.logs.messages.durable();
        if is_published && self.chores.wants_run(end, now) {
            // The start must find checksums of what it does not read.
            let (summed, sums) = self.logs.messages.hand_over_sums();
            // Nothing is half done there: visible and durable, between two records.
            if summed == end {
                self.chores.cut(end, sums, now);
            }
        }
        self.chores.tend(now);
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
