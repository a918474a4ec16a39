//! The client against a metaserver and brokers made for the tests, over real sockets.

#![expect(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod consumer;
mod fake;
mod listener;
mod producer;
mod route;
mod stress;
