//! Options of a store, with their bounds.

use std::fmt;
use std::time::Duration;

use crate::error::Error;
use crate::format::{CHECKPOINTS, CONTROLS, DUPLICATES, LogKind};
use crate::identity::Shape;

/// Smallest segment: has room for a record of the longest subject.
pub(crate) const SEGMENT_BYTES_MIN: u64 = 1024;
/// Largest segment: positions inside one are signed 32-bit numbers in the Java servers.
pub(crate) const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Shortest ring: four times what appends leave to recovery.
pub(crate) const COMMIT_SLOTS_MIN: u32 = 64;
/// Longest ring: it is read whole at start.
pub(crate) const COMMIT_SLOTS_MAX: u32 = 1 << 20;
/// Smallest block cache: one look-up needs a block of each run and reads 16 ahead.
pub(crate) const INDEX_CACHE_BYTES_MIN: usize = 512 << 10;
/// Longest name of a broker group in bytes.
pub(crate) const GROUP_NAME_BYTES_MAX: usize = 255;

/// When appended bytes are synced, and so what an answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushMode {
    /// A commit returns after the messages are on disk. Survives a power cut.
    Sync,
    /// A commit returns after the messages were handed to the kernel. Survives the death of the
    /// process; a power cut loses up to `interval` of the end.
    Async {
        /// Longest time written bytes stay unsynced. The reference uses 500 ms.
        interval: Duration,
    },
}

impl fmt::Display for FlushMode {
    /// What it means for whoever gets an answer.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sync => f.write_str("sync: acknowledged means on disk"),
            Self::Async { interval } => {
                let millis = interval.as_millis();
                write!(
                    f,
                    "ASYNC: a power cut may lose the last {millis} ms of acknowledged messages"
                )
            }
        }
    }
}

/// Who zeroes ahead, and who syncs the second and third file of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Background {
    /// Helper threads owned by the writer.
    Threads,
    /// The calling thread, one file after the other: slower, and every run makes the same calls.
    Inline,
}

/// Breaks a promise on purpose, so that tests can show that they would notice.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sabotage {
    /// Nothing is broken.
    #[default]
    None,
    /// Syncs of data and commit records are skipped and reported as done.
    SkipSync,
    /// Every n-th message is answered but not stored.
    DropMessage(u32),
    /// A batch is written only when the next one comes.
    AnswerBeforeWrite,
    /// The end of a sync counts for what was appended while it ran, too.
    ClaimUnsynced,
    /// The first unacked range of every group is left out of checkpoints.
    ForgetUnacked,
    /// Control entries are acknowledged before they are synced.
    SkipControlSync,
    /// Messages that were rolled back still count as stored.
    KeepRolledBack,
    /// A restart forgets which messages were stored lately.
    ForgetDuplicates,
}

/// How long things are kept. Only whole segments go, and never the last one of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Age of messages, by the time in their record.
    pub messages: Duration,
    /// Age of actions. They also stay until every checkpoint that is kept includes them.
    pub actions: Duration,
    /// How often something is looked for that may go.
    pub check_interval: Duration,
}

/// Options of a [`RealtimeStore`](crate::RealtimeStore).
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Name of the broker group; a folder that belongs to another one is refused. No default.
    pub group_name: String,
    /// When appended bytes are synced. Default: [`FlushMode::Sync`].
    pub flush: FlushMode,
    /// Size of a messagelog segment, fixed when the store is created. Unit: bytes. Default: 1 GiB,
    /// the only size that Java peers understand.
    pub message_segment_bytes: u64,
    /// Size of an actionlog segment, fixed when the store is created. Unit: bytes. Default:
    /// 100 MiB, the only size that Java peers understand.
    pub action_segment_bytes: u64,
    /// Step in which zeros are written ahead of each log. Unit: bytes. Default: 64 MiB.
    pub zero_ahead_bytes: u64,
    /// Length of the ring of commit records, fixed when the store is created. When half of it is
    /// used everything is synced, in async mode too. Default: 16 384.
    pub commit_slots: u32,
    /// How many checkpoints are kept. Default: 5.
    pub checkpoint_retain: usize,
    /// How many bytes of recent appends readers can get without IO. Default: 64 MiB.
    pub recent_bytes_max: usize,
    /// How long a message is remembered so that a repeat of it is not stored again; zero: not at
    /// all. Default: 10 minutes.
    pub duplicate_window: Duration,
    /// Memory for what is remembered; when it is used up the oldest go first. Unit: bytes.
    /// Default: 256 MiB, enough for about 5 million messages.
    pub duplicate_bytes_max: usize,
    /// How many bytes the messagelog grows until the index of that stretch leaves memory for a run.
    /// Default: 128 MiB.
    pub index_run_bytes: u64,
    /// Memory for blocks of index runs. Unit: bytes. Default: 64 MiB.
    pub index_cache_bytes: usize,
    /// What is dropped when; `None`: nothing ever. Default: none.
    pub retention: Option<Retention>,
    /// How fast durable bytes are compared with their checksums in the background. Unit: bytes per
    /// second; 0: never. Default: 16 MiB.
    pub scrub_bytes_per_second: u64,
    /// Who zeroes ahead and syncs. Default: [`Background::Threads`].
    pub background: Background,
    /// For tests only.
    #[doc(hidden)]
    pub sabotage: Sabotage,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            group_name: String::new(),
            flush: FlushMode::Sync,
            message_segment_bytes: 1 << 30,
            action_segment_bytes: 100 << 20,
            zero_ahead_bytes: 64 << 20,
            commit_slots: 16_384,
            checkpoint_retain: 5,
            recent_bytes_max: 64 << 20,
            duplicate_window: Duration::from_secs(600),
            duplicate_bytes_max: 256 << 20,
            index_run_bytes: 128 << 20,
            index_cache_bytes: 64 << 20,
            retention: None,
            scrub_bytes_per_second: 16 << 20,
            background: Background::Threads,
            sabotage: Sabotage::None,
        }
    }
}

impl StoreConfig {
    /// What of this is fixed when the store is created.
    pub(crate) fn shape(&self) -> Shape {
        Shape {
            title: "qmq-store",
            logs: LogKind::ALL,
            folders: &[CHECKPOINTS, CONTROLS, DUPLICATES],
            group: self.group_name.clone(),
            size_names: ["message_segment_bytes", "action_segment_bytes"],
            segment_bytes: [self.message_segment_bytes, self.action_segment_bytes],
            commit_slots: self.commit_slots,
        }
    }

    /// Checks every bound.
    ///
    /// # Errors
    /// A sentence for the person who wrote the configuration.
    pub fn validate(&self) -> Result<(), Error> {
        check_group_name(&self.group_name)?;
        for (what, bytes) in [
            ("message_segment_bytes", self.message_segment_bytes),
            ("action_segment_bytes", self.action_segment_bytes),
        ] {
            if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes) {
                return Err(Error::Config(format!(
                    "{what} must be {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}, not {bytes}"
                )));
            }
        }
        if self.zero_ahead_bytes == 0 {
            return Err(Error::Config("zero_ahead_bytes must be above 0".into()));
        }
        if !(COMMIT_SLOTS_MIN..=COMMIT_SLOTS_MAX).contains(&self.commit_slots) {
            return Err(Error::Config(format!(
                "commit_slots must be {COMMIT_SLOTS_MIN} to {COMMIT_SLOTS_MAX}, not {}",
                self.commit_slots
            )));
        }
        if self.index_run_bytes == 0 {
            return Err(Error::Config("index_run_bytes must be above 0".into()));
        }
        if self.index_cache_bytes < INDEX_CACHE_BYTES_MIN {
            return Err(Error::Config(format!(
                "index_cache_bytes must be at least {INDEX_CACHE_BYTES_MIN}"
            )));
        }
        if self.checkpoint_retain == 0 {
            return Err(Error::Config("checkpoint_retain must be above 0".into()));
        }
        Ok(())
    }
}

/// Whether this can be the name of a broker group.
pub(crate) fn check_group_name(name: &str) -> Result<(), Error> {
    let is_good = !name.is_empty()
        && name.len() <= GROUP_NAME_BYTES_MAX
        && !name.chars().any(char::is_control);
    if is_good {
        return Ok(());
    }
    Err(Error::Config(
        "group_name must have 1 to 255 bytes and no control characters".into(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named() -> StoreConfig {
        StoreConfig {
            group_name: "g".into(),
            ..StoreConfig::default()
        }
    }

    #[test]
    fn defaults_need_only_a_name() {
        assert!(StoreConfig::default().validate().is_err());
        assert!(named().validate().is_ok());
    }

    #[test]
    fn refuses_values_out_of_bounds() {
        for broken in [
            StoreConfig {
                group_name: "a\nb".into(),
                ..named()
            },
            StoreConfig {
                message_segment_bytes: 1023,
                ..named()
            },
            StoreConfig {
                action_segment_bytes: (1 << 30) + 1,
                ..named()
            },
            StoreConfig {
                zero_ahead_bytes: 0,
                ..named()
            },
            StoreConfig {
                commit_slots: 63,
                ..named()
            },
            StoreConfig {
                index_run_bytes: 0,
                ..named()
            },
            StoreConfig {
                index_cache_bytes: INDEX_CACHE_BYTES_MIN - 1,
                ..named()
            },
            StoreConfig {
                checkpoint_retain: 0,
                ..named()
            },
        ] {
            assert!(
                matches!(broken.validate(), Err(Error::Config(_))),
                "{broken:?}"
            );
        }
    }
}
