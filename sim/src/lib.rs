//! Drives the pure cores and the faulty store together, with a seed and a manual clock.
//!
//! A [`World`] is one broker without sockets and threads: the real store on a file system that can
//! lose everything not synced, the real rules of pull and ack, clients that survive the broker's
//! crashes, and [`Promises`], a plain model of what users were promised. Every step is drawn from
//! one seed, so a failure is repeated by its seed.

pub mod client;
pub mod promises;
pub mod sabotage;
pub mod world;

pub use promises::{Broken, Promises};
pub use sabotage::Sabotage;
pub use world::{Settings, Summary, World};
