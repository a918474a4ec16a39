//! Drops the oldest segments of both logs once everything in them is old enough.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qmq_model::{MessageOffset, UnixMillis};

use crate::config::{Retention, StoreConfig};
use crate::error::Error;
use crate::flush;
use crate::format::LogKind;
use crate::log::scan::{Examined, Format, Window};
use crate::log::segment::Segments;
use crate::realtime::action_log::ActionFormat;
use crate::realtime::consumer_log::keeper::RunKeeper;
use crate::realtime::message_log;
use crate::realtime::reader::StoreReader;

/// What was dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Segments of the messagelog.
    pub message_segments: u64,
    /// Segments of the actionlog.
    pub action_segments: u64,
}

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// What is dropped when; `None`: nothing ever.
    pub retention: Option<Retention>,
    /// How many checkpoints are kept, at least one.
    pub checkpoints: usize,
}

/// Changes what an open store keeps. Cheap to clone.
#[derive(Clone)]
pub struct Keeping(Arc<Expiry>);

impl Keeping {
    pub(crate) fn new(expiry: &Arc<Expiry>) -> Self {
        Self(expiry.clone())
    }

    /// Counts from the next look for what is old, and from the next checkpoint on.
    pub fn set(&self, kept: Kept) {
        let checkpoints = kept.checkpoints.max(1);
        *self.0.lock_kept() = Kept {
            checkpoints,
            ..kept
        };
    }

    /// What is kept now.
    #[must_use]
    pub fn get(&self) -> Kept {
        self.0.kept()
    }
}

impl std::fmt::Debug for Keeping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Keeping").field(&self.get()).finish()
    }
}

/// Knows what is too old, and drops it.
pub(crate) struct Expiry {
    keeper: Arc<RunKeeper>,
    reader: StoreReader,
    logs: [Arc<Segments>; 2],
    kept: Mutex<Kept>,
    ran_at: Mutex<Option<UnixMillis>>,
    /// Everything in the messagelog from here on is kept, however old.
    pinned: AtomicU64,
    /// A segment could go if its index was in a run.
    wants_run: AtomicBool,
    /// A segment could go if every checkpoint included it.
    wants_checkpoint: AtomicBool,
}

impl Expiry {
    pub(crate) fn new(
        keeper: Arc<RunKeeper>,
        reader: StoreReader,
        logs: [Arc<Segments>; 2],
        config: &StoreConfig,
    ) -> Self {
        Self {
            keeper,
            reader,
            logs,
            kept: Mutex::new(Kept {
                retention: config.retention,
                checkpoints: config.checkpoint_retain,
            }),
            ran_at: Mutex::default(),
            pinned: AtomicU64::new(u64::MAX),
            wants_run: AtomicBool::new(false),
            wants_checkpoint: AtomicBool::new(false),
        }
    }

    pub(crate) fn keep_from(&self, offset: MessageOffset) {
        self.pinned.store(offset.0, Ordering::Relaxed);
    }

    /// What is kept now.
    pub(crate) fn kept(&self) -> Kept {
        *self.lock_kept()
    }

    fn lock_kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the end of the messagelog should become a run although it is short.
    pub(crate) fn wants_run(&self) -> bool {
        self.wants_run.load(Ordering::Relaxed)
    }

    /// Whether there should be another checkpoint although nothing changed.
    pub(crate) fn wants_checkpoint(&self) -> bool {
        self.wants_checkpoint.load(Ordering::Relaxed)
    }

    /// Whether it is time to look again.
    pub(crate) fn is_due(&self, now: UnixMillis) -> bool {
        let ran_at = *self.ran_at.lock().unwrap_or_else(PoisonError::into_inner);
        self.kept().retention.is_some_and(|retention| {
            ran_at.is_none_or(|ran_at| flush::left(retention.check_interval, ran_at, now).is_zero())
        })
    }

    /// Drops what is older than it must be at `now`. What is gone is stated durably first, so that
    /// no start takes it for lost.
    pub(crate) fn run(&self, now: UnixMillis) -> Result<Dropped, Error> {
        *self.ran_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        let Kept {
            retention,
            checkpoints,
        } = self.kept();
        let Some(retention) = retention else {
            return Ok(Dropped::default());
        };
        let before = self.keeper.oldest();
        let [messages, actions] = &self.logs;
        let pinned = self.pinned.load(Ordering::Relaxed);
        let message_end = self.durable(LogKind::Message).min(pinned);
        let message_end = first_kept(messages, message_end, |base| {
            let time = message_time(messages, base)?;
            Ok(time.map(|time| is_older(time, now, retention.messages)))
        })?;
        let action_end = first_kept(actions, self.durable(LogKind::Action), |base| {
            let time = action_time(actions, base)?;
            Ok(time.map(|time| is_older(time, now, retention.actions)))
        })?;
        // A start needs what a checkpoint does not include: sequences, and numbers of subjects.
        let included = self.keeper.included(checkpoints);
        let covered = self.keeper.covered();
        self.wants_run
            .store(message_end > covered, Ordering::Relaxed);
        let is_ahead = message_end > included[0] || action_end > included[1];
        self.wants_checkpoint.store(is_ahead, Ordering::Relaxed);
        let message_end = messages.base_of(message_end.min(covered).min(included[0]));
        let action_end = actions.base_of(action_end.min(included[1]));
        let oldest = [message_end.max(before[0]), action_end.max(before[1])];
        if oldest == before {
            return Ok(Dropped::default());
        }
        self.keeper.forget_before(oldest)?;
        let dropped = Dropped {
            message_segments: messages.drop_before(oldest[0])?,
            action_segments: actions.drop_before(oldest[1])?,
        };
        tracing::info!(
            messages = dropped.message_segments,
            actions = dropped.action_segments,
            messages_begin = oldest[0],
            actions_begin = oldest[1],
            "expired segments dropped"
        );
        Ok(dropped)
    }

    fn durable(&self, kind: LogKind) -> u64 {
        let positions = self.reader.positions(kind);
        positions.durable.min(positions.visible)
    }
}

/// Base of the first segment to keep: the last one at or before `limit` of which the first record
/// is old enough, as then everything in front of it is. 0 when there is none.
fn first_kept(
    segments: &Segments,
    limit: u64,
    mut is_expired: impl FnMut(u64) -> Result<Option<bool>, Error>,
) -> Result<u64, Error> {
    let mut kept = 0;
    for base in segments.bases().into_iter().filter(|base| *base < limit) {
        // A segment that begins with damage says nothing; the next one may.
        match is_expired(base)? {
            Some(true) => kept = base,
            Some(false) => break,
            None => {}
        }
    }
    Ok(kept)
}

fn is_older(time: UnixMillis, now: UnixMillis, age: Duration) -> bool {
    time <= now && now.since(time) >= age
}

/// When the first record of the segment was appended.
fn message_time(segments: &Segments, base: u64) -> Result<Option<UnixMillis>, Error> {
    let mut header = [0; message_log::TIME_END];
    segments.read_or_zeros(&mut header, base)?;
    Ok(message_log::time_of(&header))
}

fn action_time(segments: &Segments, base: u64) -> Result<Option<UnixMillis>, Error> {
    let end = base + segments.segment_bytes();
    Ok(
        match ActionFormat.examine(&mut Window::new(segments), base, end)? {
            Examined::Record { item, .. } => Some(item.time()),
            _ => None,
        },
    )
}
