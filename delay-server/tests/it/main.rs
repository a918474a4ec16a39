//! A delay server on real sockets, over a file system that can be told to fail, beside a metaserver
//! and brokers whose answers the tests script.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod calls;
mod dispatch;
mod fake;
mod harness;
mod restarts;
mod sends;
