//! Both logs of a store with their commit records: appended to, synced and sealed together.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use qmq_model::UnixMillis;

use crate::config::Background;
use crate::error::{Doing, Error};
use crate::flush::{self, IDLE_AFTER, Plan};
use crate::format::LogKind;
use crate::fs::File;
use crate::log::Log;
use crate::log::commit::{CommitRecord, Kind, Ring, SLOTS_RESERVED};
use crate::log::sync::Syncer;

/// Slots that must be free for an append: its commit, an idle record and a seal.
const SLOTS_FOR_APPEND: u64 = SLOTS_RESERVED + 8;
/// Slots that must be free for an idle record that is not part of a seal.
const SLOTS_FOR_IDLE: u64 = SLOTS_RESERVED + 4;
/// Everything.
const BOTH: Plan = Plan {
    messages: true,
    actions: true,
};

/// Whether syncs are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Syncing {
    /// They are.
    Done,
    /// They are skipped and reported as done: a broken promise, for tests.
    Skipped,
}

/// A sync between its begin and its end.
struct UnderWay {
    files: Vec<Arc<dyn File>>,
    /// Others are at it; else it is done at its end.
    is_started: bool,
    /// All that records up to this one speak of is durable afterwards, and checksums end there.
    settles: Option<u64>,
    /// What the newest record seals.
    carried: u64,
}

/// The log of messages, the log of what was done with them, and the ring.
pub(crate) struct LogPair {
    pub(crate) messages: Log,
    pub(crate) actions: Log,
    pub(crate) ring: Ring,
    pub(crate) term: u64,
    /// Folder of the store, for errors.
    root: PathBuf,
    syncer: Syncer,
    syncing: Syncing,
    /// The sync that was begun.
    under_way: Option<UnderWay>,
    /// All that records up to this one speak of is durable.
    settled: u64,
    /// Since when each log has unsynced bytes.
    dirty_since: [Option<UnixMillis>; 2],
    /// When something was last appended.
    busy_at: UnixMillis,
    /// Durable positions as the newest commit record states them.
    stated: [u64; 2],
}

impl LogPair {
    /// Both logs are recovered: all of them is durable and stated to be.
    pub(crate) fn new(
        [messages, actions]: [Log; 2],
        ring: Ring,
        term: u64,
        root: PathBuf,
        (background, syncing): (Background, Syncing),
        now: UnixMillis,
    ) -> io::Result<Self> {
        let stated = [messages.durable(), actions.durable()];
        Ok(Self {
            messages,
            actions,
            ring,
            term,
            root,
            syncer: Syncer::start(background)?,
            syncing,
            under_way: None,
            settled: 0,
            dirty_since: [None; 2],
            busy_at: now,
            stated,
        })
    }

    /// Durable position of each log.
    pub(crate) fn durable(&self) -> [u64; 2] {
        [self.messages.durable(), self.actions.durable()]
    }

    /// Written position of each log.
    pub(crate) fn written(&self) -> [u64; 2] {
        [self.messages.written(), self.actions.written()]
    }

    /// Which logs have unsynced bytes.
    pub(crate) fn dirty(&self) -> Plan {
        Plan {
            messages: self.messages.is_dirty(),
            actions: self.actions.is_dirty(),
        }
    }

    /// Since when the oldest unsynced byte is there.
    pub(crate) fn dirty_since(&self) -> Option<UnixMillis> {
        self.dirty_since.into_iter().flatten().min()
    }

    /// Notes that one log was appended to.
    pub(crate) fn touched(&mut self, kind: LogKind, now: UnixMillis) {
        self.busy_at = now;
        // A batch of repeats leaves nothing to sync.
        if [&self.messages, &self.actions][kind.index()].wants_sync() {
            self.dirty_since[kind.index()].get_or_insert(now);
        }
    }

    /// Writes the commit records of what was appended since the last ones. Not synced.
    pub(crate) fn write_commit_records(&mut self) -> Result<(), Error> {
        let durable = self.durable();
        for log in [&mut self.messages, &mut self.actions] {
            let kind = Kind::Batch(log.kind());
            let Some(batch) = log.take_batch() else {
                continue;
            };
            let record = CommitRecord::of(kind, self.term, &batch.range, batch.crc, durable);
            self.ring.write(record)?;
            self.stated = durable;
        }
        Ok(())
    }

    /// Syncs the logs of `plan` and the commit records, after what is under way.
    pub(crate) fn sync(&mut self, plan: Plan) -> Result<(), Error> {
        self.end_sync()?;
        self.begin_sync(plan);
        self.end_sync()
    }

    /// Begins to sync the logs of `plan` and the commit records, in so far as they are written now.
    /// Nothing else may be under way. It is done at the end, unless it is started before.
    pub(crate) fn begin_sync(&mut self, plan: Plan) {
        assert!(self.under_way.is_none(), "one sync at a time");
        let mut files = Vec::new();
        if plan.messages {
            files.extend(self.messages.begin_sync());
            self.dirty_since[0] = None;
        }
        if plan.actions {
            files.extend(self.actions.begin_sync());
            self.dirty_since[1] = None;
        }
        if plan.messages || plan.actions {
            files.push(self.ring.file().clone());
            self.under_way = Some(UnderWay {
                files,
                is_started: false,
                settles: None,
                carried: self.ring.carried(),
            });
        }
    }

    /// Whether a sync was begun and not ended.
    pub(crate) fn is_syncing(&self) -> bool {
        self.under_way.is_some()
    }

    /// Whether the end of the sync that was started, if one was, would not wait.
    pub(crate) fn is_sync_done(&mut self) -> bool {
        let is_started = self.under_way.as_ref().is_some_and(|sync| sync.is_started);
        !is_started || self.syncer.is_done()
    }

    /// Begins and starts a sync of everything, checksums ending there. Nothing else may be under
    /// way.
    pub(crate) fn begin_flush(&mut self) -> Result<(), Error> {
        self.write_commit_records()?;
        self.messages.close_sums();
        self.actions.close_sums();
        self.begin_sync(self.dirty());
        if let Some(under_way) = &mut self.under_way {
            under_way.settles = Some(self.ring.next_serial() - 1);
        }
        self.start_sync()
    }

    /// Ends the sync that was begun, if that needs no waiting for others.
    pub(crate) fn poll_sync(&mut self) -> Result<(), Error> {
        if self.is_sync_done() {
            self.end_sync()?;
        }
        Ok(())
    }

    /// Serial of a commit record: everything that it and those before it speak of is durable, and
    /// has checksums when they are handed over.
    pub(crate) fn settled(&self) -> u64 {
        let is_all = self.dirty() == Plan::default()
            && !self.messages.has_batch()
            && !self.actions.has_batch();
        if is_all {
            self.ring.next_serial() - 1
        } else {
            self.settled
        }
    }

    /// Has others do the sync that was begun.
    pub(crate) fn start_sync(&mut self) -> Result<(), Error> {
        if let Some(under_way) = &mut self.under_way
            && !under_way.is_started
            && self.syncing == Syncing::Done
        {
            let started = self.syncer.begin(&under_way.files);
            started.doing_for_good("sync the logs of", &self.root)?;
            under_way.is_started = true;
        }
        Ok(())
    }

    /// Ends the sync that was begun, if there is one; waits for the disk.
    pub(crate) fn end_sync(&mut self) -> Result<(), Error> {
        let Some(under_way) = self.under_way.take() else {
            return Ok(());
        };
        let done = match self.syncing {
            Syncing::Skipped => Ok(()),
            Syncing::Done if under_way.is_started => self.syncer.wait(),
            Syncing::Done => self.syncer.sync(&under_way.files),
        };
        done.doing_for_good("sync the logs of", &self.root)?;
        self.messages.end_sync();
        self.actions.end_sync();
        self.settled = under_way.settles.unwrap_or(self.settled);
        self.ring.confirm(under_way.carried);
        Ok(())
    }

    /// Makes everything durable.
    pub(crate) fn sync_all(&mut self) -> Result<(), Error> {
        self.end_sync()?;
        self.write_commit_records()?;
        self.sync(BOTH)
    }

    /// Writes the checksums of both logs, all of which must be durable.
    pub(crate) fn write_sums(&mut self) -> Result<(), Error> {
        self.messages.write_sums()?;
        self.actions.write_sums()
    }

    /// Allows the ring to be overwritten: everything is synced, and its checksums are durable.
    pub(crate) fn seal(&mut self) -> Result<(), Error> {
        self.sync_all()?;
        self.write_sums()?;
        self.ring
            .seal(CommitRecord::idle(self.term, self.durable()))?;
        self.stated = self.durable();
        Ok(())
    }

    /// Whether the ring has room for another batch; if not, it is to be sealed first.
    pub(crate) fn has_slots(&self) -> bool {
        self.ring.free() >= SLOTS_FOR_APPEND
    }

    /// Writes an idle record that states the durable positions, durably.
    pub(crate) fn state_durable(&mut self) -> Result<(), Error> {
        if self.ring.free() > SLOTS_FOR_IDLE {
            self.ring
                .write(CommitRecord::idle(self.term, self.durable()))?;
            self.ring.sync()?;
            self.stated = self.durable();
        }
        Ok(())
    }

    /// Time until an idle record is written; `None` when there is nothing to state.
    pub(crate) fn idle_in(&self, now: UnixMillis) -> Option<Duration> {
        let is_news = self.stated != self.durable();
        is_news.then(|| flush::left(IDLE_AFTER, self.busy_at, now))
    }
}

/// A full disk is no reason to stop: what was not possible is tried again later.
pub(crate) fn put_off(done: Result<(), Error>) -> Result<(), Error> {
    match done {
        Err(error @ Error::NoSpace { .. }) => {
            tracing::warn!(%error, "put off until there is room");
            Ok(())
        }
        done => done,
    }
}
