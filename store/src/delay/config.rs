//! Options of a delay store, with their bounds.

use std::time::Duration;

use crate::config::{
    Background, COMMIT_SLOTS_MAX, COMMIT_SLOTS_MIN, FlushMode, INDEX_CACHE_BYTES_MIN,
    SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, check_group_name,
};
use crate::error::Error;
use crate::format::{CHECKPOINTS, DELAY_RUNS, LogKind};
use crate::identity::Shape;

/// Breaks a promise on purpose, so that tests can show that they would notice.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DelaySabotage {
    /// Nothing is broken.
    #[default]
    None,
    /// Syncs of data and commit records are skipped and reported as done.
    SkipSync,
    /// The end of a sync counts for what was appended while it ran, too.
    ClaimUnsynced,
    /// What is begun is not written: a restart takes it for pending.
    BeginNotDurable,
    /// Confirmations are not written: a restart takes what is delivered for begun.
    ForgetConfirmation,
    /// Cancellations are acknowledged but not written.
    ForgetCancel,
}

/// Options of a [`DelayStore`](crate::DelayStore).
#[derive(Clone, Debug)]
pub struct DelayConfig {
    /// Name of the broker group; a folder that belongs to another one is refused. No default.
    pub group_name: String,
    /// When accepted messages are synced. Default: [`FlushMode::Sync`].
    pub flush: FlushMode,
    /// Size of a segment of the write-ahead log, fixed when the store is created; no record is
    /// larger. Unit: bytes. Default: 128 MiB.
    pub message_segment_bytes: u64,
    /// Size of a segment of the dispatch log, fixed when the store is created. Unit: bytes.
    /// Default: 32 MiB.
    pub dispatch_segment_bytes: u64,
    /// Step in which zeros are written ahead of each log. Unit: bytes. Default: 16 MiB.
    pub zero_ahead_bytes: u64,
    /// Length of the ring of commit records, fixed when the store is created. Default: 16 384.
    pub commit_slots: u32,
    /// How many checkpoints are kept. Default: 3.
    pub checkpoint_retain: usize,
    /// How many bytes the write-ahead log grows until the table of that stretch is full. Default:
    /// 64 MiB.
    pub run_bytes: u64,
    /// How many messages fill a table sooner. Each needs 48 bytes of memory. Default: 65 536.
    pub run_messages: usize,
    /// How many full tables stay in memory: what is done by the time a table has to leave is never
    /// written to a run. Four more may wait for that, then who appends waits too; a start reads
    /// what all of them, and the one that grows, stand for. Default: 12, which is 768 MiB of the
    /// write-ahead log, or 786 432 messages.
    pub tables_kept: usize,
    /// Memory for blocks of runs. Unit: bytes. Default: 32 MiB.
    pub cache_bytes: usize,
    /// Messages that are overdue for longer than this are dropped and counted. Default: never.
    pub drop_overdue_after: Option<Duration>,
    /// Who zeroes ahead, syncs and merges. Default: [`Background::Threads`].
    pub background: Background,
    /// For tests only.
    #[doc(hidden)]
    pub sabotage: DelaySabotage,
}

impl Default for DelayConfig {
    fn default() -> Self {
        Self {
            group_name: String::new(),
            flush: FlushMode::Sync,
            message_segment_bytes: 128 << 20,
            dispatch_segment_bytes: 32 << 20,
            zero_ahead_bytes: 16 << 20,
            commit_slots: 16_384,
            checkpoint_retain: 3,
            run_bytes: 64 << 20,
            run_messages: 65_536,
            tables_kept: 12,
            cache_bytes: 32 << 20,
            drop_overdue_after: None,
            background: Background::Threads,
            sabotage: DelaySabotage::None,
        }
    }
}

impl DelayConfig {
    /// What of this is fixed when the store is created.
    pub(crate) fn shape(&self) -> Shape {
        Shape {
            title: "qmq-delay-store",
            logs: LogKind::DELAY,
            folders: &[CHECKPOINTS, DELAY_RUNS],
            group: self.group_name.clone(),
            size_names: ["message_segment_bytes", "dispatch_segment_bytes"],
            segment_bytes: [self.message_segment_bytes, self.dispatch_segment_bytes],
            commit_slots: self.commit_slots,
        }
    }

    /// Checks every bound.
    ///
    /// # Errors
    /// A sentence for the person who wrote the configuration.
    pub fn validate(&self) -> Result<(), Error> {
        check_group_name(&self.group_name)?;
        let refuse = |what: String| Err(Error::Config(what));
        for (what, bytes) in [
            ("message_segment_bytes", self.message_segment_bytes),
            ("dispatch_segment_bytes", self.dispatch_segment_bytes),
        ] {
            if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes) {
                return refuse(format!(
                    "{what} must be {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}, not {bytes}"
                ));
            }
        }
        if !(COMMIT_SLOTS_MIN..=COMMIT_SLOTS_MAX).contains(&self.commit_slots) {
            return refuse(format!(
                "commit_slots must be {COMMIT_SLOTS_MIN} to {COMMIT_SLOTS_MAX}, not {}",
                self.commit_slots
            ));
        }
        for (what, value) in [
            ("zero_ahead_bytes", self.zero_ahead_bytes),
            ("run_bytes", self.run_bytes),
            ("run_messages", self.run_messages as u64),
            ("checkpoint_retain", self.checkpoint_retain as u64),
        ] {
            if value == 0 {
                return refuse(format!("{what} must be above 0"));
            }
        }
        if self.cache_bytes < INDEX_CACHE_BYTES_MIN {
            return refuse(format!(
                "cache_bytes must be at least {INDEX_CACHE_BYTES_MIN}"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named() -> DelayConfig {
        DelayConfig {
            group_name: "g".into(),
            ..DelayConfig::default()
        }
    }

    #[test]
    fn defaults_need_only_a_name() {
        assert!(DelayConfig::default().validate().is_err());
        assert!(named().validate().is_ok());
    }

    #[test]
    fn refuses_values_out_of_bounds() {
        let breaks: [fn(&mut DelayConfig); 9] = [
            |config| config.group_name = "a\nb".into(),
            |config| config.message_segment_bytes = 1023,
            |config| config.dispatch_segment_bytes = (1 << 30) + 1,
            |config| config.zero_ahead_bytes = 0,
            |config| config.commit_slots = 63,
            |config| config.checkpoint_retain = 0,
            |config| config.run_bytes = 0,
            |config| config.run_messages = 0,
            |config| config.cache_bytes = INDEX_CACHE_BYTES_MIN - 1,
        ];
        for (number, breaks) in breaks.into_iter().enumerate() {
            let mut config = named();
            breaks(&mut config);
            assert!(
                matches!(config.validate(), Err(Error::Config(_))),
                "{number}"
            );
        }
    }
}
