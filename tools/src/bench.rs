//! The load generator behind `bench`: senders and receivers that speak the protocol as any client
//! does, and the check that what was acknowledged is received.
//!
//! ```text
//! plan -> senders (threads, each with its connections) -> ledger of what was acknowledged
//!      -> receivers (likewise)                         -> ledger of what came, per group
//!      -> verdict, latencies, use of the server        -> report (text, JSON)
//! ```
//!
//! A generator shares the machine with what it measures, so it is made cheap: few threads, one
//! wake-up for many replies, one write for many requests, no allocation per message.

pub(crate) mod connection;
pub(crate) mod content;
pub(crate) mod delay;
pub(crate) mod discover;
pub(crate) mod isolation;
pub(crate) mod latency;
pub(crate) mod ledger;
pub(crate) mod plan;
pub(crate) mod probe;
pub(crate) mod receiver;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod sender;
pub(crate) mod server;
pub(crate) mod timeline;
pub(crate) mod waiter;
