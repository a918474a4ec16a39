//! Delay server: keeps messages until they are due, then sends them to realtime brokers.
//!
//! What is here decides when a message leaves and to whom, without IO and without a clock: the
//! same inputs give the same outputs, so the rules are tested by simulation.

pub mod clock_watch;
pub mod dispatch;
pub mod wheel;
pub mod window;
