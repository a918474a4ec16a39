//! Servers and clients over real sockets. Tests of time limits move the clock.

mod client;
mod drain;
mod frames;
mod groups;
mod limits;
mod load;
mod pool;
mod raw;
mod service;
mod timeouts;
