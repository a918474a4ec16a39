//! Tests of a metaserver over its ports, on a database of its own.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on may as well panic"
)]

#[macro_use]
mod node;

mod adoption;
mod broker;
mod brokers;
mod client;
mod conf;
mod expiry;
mod hanging;
mod legacy;
mod management;
mod mariadb_down;
mod offsets;
mod outage;
mod process;
mod race;
mod readonly;
mod routes;
mod scale;
mod strangers;
mod switches;
