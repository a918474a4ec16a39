//! The client against a metaserver and brokers made for the tests, over real sockets.

#![expect(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod consumer;
mod delayed;
mod fake;
mod leftovers;
mod listener;
mod producer;
mod redelivery;
mod route;
mod selection;
mod stress;
