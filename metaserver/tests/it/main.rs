//! Tests of a metaserver over its ports, on a database of its own.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on may as well panic"
)]

#[macro_use]
mod node;

mod broker;
mod client;
mod conf;
mod hanging;
mod legacy;
mod management;
mod outage;
mod process;
mod race;
