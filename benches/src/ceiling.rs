//! A server that does the least a durable message server can do: frames in, checksums compared,
//! one log, acknowledgements out. It has no subjects and no index, and hands out nothing.
//!
//! ```text
//! sockets -> one thread: frames, checksums -> batch -> one thread: write, fdatasync, answers
//! ```
//!
//! While one batch is being synced the next one collects: nothing waits for a timer. Without sync
//! the first thread writes and answers by itself.
//!
//! The log is one file of fixed size, written once before anything is measured, because blocks
//! that were written before sync faster; at its end it begins again. So this is what the machine
//! allows, not a place to keep messages.

mod batch;
mod fsync;
mod link;
mod log;
mod pages;
mod serve;

pub use fsync::{FsyncPlan, measure_fsync};
pub use log::Log;
pub use pages::{PagesPlan, measure_pages};
pub use serve::{Ceiling, Flush};
