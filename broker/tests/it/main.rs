//! A broker on a real socket, over a file system that can be told to fail.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod acks;
mod browse;
mod exports;
mod faults;
mod filters;
mod harness;
mod hostile;
mod legacy;
mod pulls;
mod raw;
mod resets;
mod retries;
mod sends;
mod writer;
