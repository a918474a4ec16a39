//! What is done for a delay store beside its writing: runs are written and merged, segments
//! dropped. Nothing waits for it, and what fails is tried again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use qmq_model::UnixMillis;

use crate::background::Worker;
use crate::config::Background;
use crate::delay::keeper::DelayKeeper;

/// The chores of one store and the threads that do them.
pub(crate) struct DelayChores {
    pub(crate) keeper: Arc<DelayKeeper>,
    /// Writes new runs: memory depends on it.
    cutter: Worker,
    /// Does the rest, which may take long.
    helper: Worker,
}

impl DelayChores {
    pub(crate) fn start(
        keeper: Arc<DelayKeeper>,
        background: Background,
        is_stopped: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        Ok(Self {
            keeper,
            cutter: Worker::start("delay-runs", background, is_stopped.clone())?,
            helper: Worker::start("delay-chores", background, is_stopped)?,
        })
    }

    /// Waits until no run is being written.
    pub(crate) fn wait_for_run(&self) {
        self.cutter.wait();
    }

    /// Begins what is due.
    pub(crate) fn tend(&self, now: UnixMillis) {
        let keeper = &self.keeper;
        if !keeper.retry.is_resting(now) && !self.cutter.is_busy() && keeper.wants_cut() {
            let keeper = keeper.clone();
            self.cutter
                .offer(move || keeper.retry.attempt(now, || keeper.cut(now)));
        }
        if !keeper.retry.is_resting(now) && !self.helper.is_busy() && keeper.wants_look() {
            let keeper = keeper.clone();
            self.helper
                .offer(move || keeper.retry.attempt(now, || keeper.improve(now)));
        }
    }
}
