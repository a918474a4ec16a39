//! Files of a broker: logs that are only appended to, their recovery, and checkpoints.
//!
//! What the store promises after a crash, and every byte it writes, is described in
//! `docs/store-format.md`. In short: in sync mode an acknowledged message survives a power cut, in
//! async mode it survives the death of the process; no sequence is handed out twice; damage in
//! front of the durable end is reported and never cut.
//!
//! The crate is synchronous. One thread owns the [`StoreWriter`]; [`StoreReader`]s are cheap clones
//! that see visible bytes only. [`fs`] is the only caller of the operating system's files, and its
//! twin [`FaultyFs`] loses power on demand.

mod background;
mod checkpoint;
mod config;
mod delay;
mod duplicates;
mod error;
mod flush;
mod folder;
mod format;
pub mod fs;
mod identity;
mod log;
mod realtime;
mod report;
mod run;
mod tag_mask;

pub use config::{Background, FlushMode, Retention, Sabotage, StoreConfig};
pub use delay::config::{DelayConfig, DelaySabotage};
pub use delay::entry::{
    AcceptSequence, CancelAnswer, DelaySubject, DelayedMessage, EntryState, Found, Listed,
    LoadCursor, NewDelayed, Pending, RescheduleAnswer,
};
pub use delay::reader::{DelayReadError, DelayReader, DelayStats};
pub use delay::report::DelayReport;
pub use delay::writer::DelayWriter;
pub use delay::{Begun, DelayOpened, DelayStore};
pub use duplicates::{DUPLICATE_ENTRY_BYTES, DUPLICATE_FIXED_BYTES, DUPLICATE_YOUNG, Fingerprint};
pub use error::{AppendError, Error, ReadError};
pub use format::LogKind;
pub use fs::RealFs;
pub use fs::faulty::FaultyFs;
pub use realtime::action_log::{Action, ConsumerKey};
pub use realtime::append::{Appended, BorrowedMessage, NewMessage, Placed};
pub use realtime::consumer_log::{Located, Skipped, SubjectId};
pub use realtime::control_log::Control;
pub use realtime::expiry::{Dropped, Keeping, Kept};
pub use realtime::progress::{ConsumerProgress, GroupProgress, Progress, Unacked};
pub use realtime::reader::{Positions, StoreReader};
pub use realtime::scrub::ScrubReport;
pub use realtime::writer::{StoreWriter, SyncNeeds};
pub use realtime::{Opened, PULL_SEQUENCE_JUMP, PULL_SEQUENCES_UNSYNCED_MAX, RealtimeStore};
pub use report::{Cut, DAMAGES_LISTED_MAX, Damage, DamageKind, LogReport, RecoveryReport};
pub use tag_mask::TagMask;
