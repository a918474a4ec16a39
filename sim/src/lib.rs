//! Drives the pure cores and the faulty store together, with a seed and a manual clock.
//!
//! A [`World`] is one broker without sockets and threads: the real store on a file system that can
//! lose everything not synced, the real rules of pull, ack, retry and filter, clients that survive
//! the broker's crashes, fail at messages and die, a clock that moves by milliseconds or days, and
//! [`Promises`], a plain model of what users were promised. Every step is drawn from one seed, so a
//! failure is repeated by its seed.
//!
//! A [`DelayWorld`] is the same for a delay server: its store, its rules of loading and dispatch, a
//! link that loses and delays, and broker groups that fail.

pub mod client;
pub mod delay;
pub mod letter;
pub mod promises;
pub mod sabotage;
pub mod stream;
pub mod world;

pub use delay::{DelaySabotage, DelaySettings, DelaySummary, DelayWorld};
pub use promises::{Broken, Promises};
pub use sabotage::Sabotage;
pub use world::{Settings, Summary, World};
