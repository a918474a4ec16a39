//! What is done for a store beside its writing: runs are written and merged, bytes verified,
//! expired segments dropped. Nothing waits for it, and what fails is tried again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use qmq_model::UnixMillis;

use crate::background::Worker;
use crate::config::StoreConfig;
use crate::log::segment::Segments;
use crate::log::sums::SumFiles;
use crate::realtime::consumer_log::ConsumerLog;
use crate::realtime::consumer_log::keeper::RunKeeper;
use crate::realtime::expiry::Expiry;
use crate::realtime::reader::StoreReader;
use crate::realtime::scrub::Scrub;

/// Runs that wait to be written before who appends waits too.
const RUNS_BEHIND_MAX: u64 = 16;

/// The chores of one store and the threads that do them.
pub(super) struct Chores {
    index: Arc<ConsumerLog>,
    pub(super) keeper: Arc<RunKeeper>,
    pub(super) scrub: Arc<Scrub>,
    pub(super) expiry: Arc<Expiry>,
    /// Writes new runs: memory depends on it.
    cutter: Worker,
    /// Does the rest, which may take long.
    helper: Worker,
}

impl Chores {
    pub(super) fn start(
        index: Arc<ConsumerLog>,
        keeper: Arc<RunKeeper>,
        reader: &StoreReader,
        logs: [Arc<Segments>; 2],
        is_stopped: Arc<AtomicBool>,
        config: &StoreConfig,
    ) -> io::Result<Self> {
        let rate = config.scrub_bytes_per_second;
        let scrub = Scrub::new(reader.clone(), logs.clone(), rate);
        let expiry = Expiry::new(keeper.clone(), reader.clone(), logs, config);
        Ok(Self {
            index,
            keeper,
            scrub: Arc::new(scrub),
            expiry: Arc::new(expiry),
            cutter: Worker::start("index-runs", config.background, is_stopped.clone())?,
            helper: Worker::start("store-chores", config.background, is_stopped)?,
        })
    }

    /// Whether what stands in front of `end` should become a run now. Waits for the run that is
    /// being written when too much has gathered: memory is bounded.
    pub(super) fn wants_run(&self, end: u64, now: UnixMillis) -> bool {
        let grown = end - self.index.covered().min(end);
        let run_bytes = self.keeper.run_bytes();
        if grown > RUNS_BEHIND_MAX * run_bytes {
            self.cutter.wait();
        }
        let is_due = grown >= run_bytes || (grown > 0 && self.expiry.wants_run());
        is_due && !self.cutter.is_busy() && !self.keeper.is_resting(now)
    }

    /// Has a run written of what stands in front of `end`, after its checksums.
    pub(super) fn cut(&self, end: u64, sums: Arc<SumFiles>, now: UnixMillis) {
        let keeper = self.keeper.clone();
        self.cutter.offer(move || {
            keeper.attempt(now, |keeper| {
                sums.write()?;
                keeper.cut(end)
            });
        });
    }

    /// Begins whatever else is due.
    pub(super) fn tend(&self, now: UnixMillis) {
        let keeper = &self.keeper;
        if !keeper.is_resting(now) && !self.helper.is_busy() && keeper.has_work() {
            let keeper = keeper.clone();
            self.helper
                .offer(move || keeper.attempt(now, RunKeeper::improve));
        }
        if !keeper.is_resting(now) && !self.helper.is_busy() && self.expiry.is_due(now) {
            let (keeper, expiry) = (keeper.clone(), self.expiry.clone());
            self.helper
                .offer(move || keeper.attempt(now, |_| expiry.run(now).map(|_| ())));
        }
        if !keeper.is_resting(now) && !self.helper.is_busy() && self.scrub.is_due(now) {
            let (keeper, scrub) = (keeper.clone(), self.scrub.clone());
            self.helper
                .offer(move || keeper.attempt(now, |_| scrub.step(now)));
        }
    }
}
