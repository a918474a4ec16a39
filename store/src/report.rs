//! What opening a store found and did.

use std::ops::Range;

use qmq_model::{MessageSequence, Subject};

use crate::format::LogKind;

/// Most damages that are listed one by one; all are counted.
pub const DAMAGES_LISTED_MAX: usize = 1000;

/// What opening a store found and did. Positions are bytes of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The store is new.
    pub is_created: bool,
    /// The store was closed in order the last time.
    pub was_clean: bool,
    /// The messagelog.
    pub messages: LogReport,
    /// The actionlog.
    pub actions: LogReport,
    /// Number of the checkpoint that was loaded.
    pub checkpoint: Option<u64>,
    /// Checkpoints that could not be read and were passed over.
    pub checkpoints_damaged: Vec<String>,
    /// Actions that were replayed on top of it.
    pub actions_replayed: u64,
    /// Control entries that were replayed with them.
    pub controls_replayed: u64,
    /// Bytes of a control entry that was never acknowledged, cut off the end of the controllog.
    pub control_bytes_cut: u64,
    /// Damages of the controllog: stretches that hold no entries, and missing ones.
    pub control_damages: u64,
    /// Pull sequences were raised, so that none is handed out twice.
    pub pull_sequences_raised: bool,
    /// Message sequences were raised by this much behind damage, for the same reason.
    pub message_sequences_raised: u64,
    /// Files of the index that could not be used; what they held was read from the messagelog.
    pub index_damaged: Vec<String>,
    /// Stretches of the messagelog that were read again for that, beside its end.
    pub index_rebuilt: Vec<Range<u64>>,
    /// Damage in front of the durable end: quarantined, not cut. At most
    /// [`DAMAGES_LISTED_MAX`].
    pub damages: Vec<Damage>,
    /// How many damages there are.
    pub damage_count: u64,
}

/// What was found in one log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogReport {
    /// First byte that is kept; what was in front has expired.
    pub begin: u64,
    /// Position that was stated to be durable.
    pub durable: u64,
    /// End of the log: everything before was kept.
    pub end: u64,
    /// What was cut off behind it.
    pub cut: Option<Cut>,
    /// Records read.
    pub records: u64,
    /// Entries of checksum files that are not valid.
    pub sums_broken: u64,
}

/// Bytes that were written but never acknowledged, or did not match their commit record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Zeroed.
    pub range: Range<u64>,
    /// How many bytes from its start were saved aside; the rest was zeros.
    pub saved_bytes: u64,
    /// A crash had interrupted this cut.
    pub is_repeated: bool,
}

/// Damaged bytes in front of the durable end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// In which log.
    pub log: LogKind,
    /// Where.
    pub range: Range<u64>,
    /// What is wrong.
    pub kind: DamageKind,
    /// The message that is lost, when its header can be read.
    pub message: Option<(Subject, MessageSequence)>,
}

/// What is wrong with damaged bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DamageKind {
    /// They do not match the checksum kept of them. Records in them may still be readable.
    Checksum,
    /// Their segment file is not there.
    Missing,
    /// They are no record, or a broken one: not readable.
    Record,
    /// A record that can be read, but not be trusted: its checksum speaks against it.
    Untrusted,
    /// A record whose sequence was there before.
    Sequence,
}

/// Where the recovery of a log notes what it finds.
pub(crate) trait Findings {
    /// The list of damages and their number.
    fn damages_mut(&mut self) -> (&mut Vec<Damage>, &mut u64);

    /// What was found in this log, one of the store's two.
    fn log_mut(&mut self, kind: LogKind) -> &mut LogReport;

    /// Notes a damage.
    fn add(&mut self, damage: Damage) {
        tracing::warn!(
            log = %damage.log, begin = damage.range.start, end = damage.range.end,
            kind = ?damage.kind, "damage in front of the durable end"
        );
        let (damages, count) = self.damages_mut();
        *count += 1;
        if damages.len() < DAMAGES_LISTED_MAX {
            damages.push(damage);
        }
    }
}

impl Findings for RecoveryReport {
    fn damages_mut(&mut self) -> (&mut Vec<Damage>, &mut u64) {
        (&mut self.damages, &mut self.damage_count)
    }

    fn log_mut(&mut self, kind: LogKind) -> &mut LogReport {
        match kind.index() {
            0 => &mut self.messages,
            _ => &mut self.actions,
        }
    }
}
