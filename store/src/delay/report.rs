//! What opening a delay store found and did.

use crate::format::LogKind;
use crate::report::{Damage, Findings, LogReport};

/// What opening a delay store found and did. Positions are bytes of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DelayReport {
    /// The store is new.
    pub is_created: bool,
    /// The store was closed in order the last time.
    pub was_clean: bool,
    /// The write-ahead log.
    pub messages: LogReport,
    /// The dispatch log.
    pub dispatch: LogReport,
    /// Number of the checkpoint that was loaded.
    pub checkpoint: Option<u64>,
    /// Checkpoints that could not be read and were passed over.
    pub checkpoints_damaged: Vec<String>,
    /// Live runs.
    pub runs: u64,
    /// Runs that cannot be read; their messages are lost until somebody repairs them.
    pub runs_damaged: Vec<String>,
    /// Messages that are not done.
    pub pending: u64,
    /// Those of them that were being sent when the store stopped.
    pub begun: u64,
    /// Messages that were about to be sent when the power failed, and of which neither sending nor
    /// accepting had been answered; they are not there.
    pub begun_lost: u64,
    /// Accept sequences were raised by this much behind damage, so that none is used twice.
    pub sequences_raised: u64,
    /// Damage in front of the durable end: quarantined, not cut. At most
    /// [`DAMAGES_LISTED_MAX`](crate::DAMAGES_LISTED_MAX).
    pub damages: Vec<Damage>,
    /// How many damages there are.
    pub damage_count: u64,
}

impl Findings for DelayReport {
    fn damages_mut(&mut self) -> (&mut Vec<Damage>, &mut u64) {
        (&mut self.damages, &mut self.damage_count)
    }

    fn log_mut(&mut self, kind: LogKind) -> &mut LogReport {
        match kind.index() {
            0 => &mut self.messages,
            _ => &mut self.dispatch,
        }
    }
}
