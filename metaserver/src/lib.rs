//! The metaserver: HTTP and TCP over SQL. It knows the brokers, decides which broker groups serve a
//! subject, and tells clients.
//!
//! Clients are answered from a snapshot in memory that is read again every few seconds, so a
//! database that is away empties no answer. Several metaservers may share one database: what they
//! must agree on (routes, liveness of groups) is decided by compare-and-set and by the database's
//! clock.

pub mod assign;
pub mod clients;
pub mod config;
pub mod db;
mod handler;
mod http;
pub mod liveness;
pub mod metrics;
mod register_log;
pub mod routing;
pub mod snapshot;
pub mod start;
mod state;

pub use config::MetaserverConfig;
pub use start::{RunningMetaserver, start};
