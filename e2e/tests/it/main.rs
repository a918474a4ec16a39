//! End-to-end tests: real processes, real sockets, real files; and the rules of the repository.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bench;
mod captures;
mod client;
mod conf;
mod delay;
mod documented;
mod hostile;
mod java;
mod kill9;
mod monitoring;
mod packaging;
mod realtime;
mod recorder;
mod scripts;
mod tidy;
mod traps;
mod two_metaservers;
