//! Delay server: keeps messages until they are due, then sends them to realtime brokers.
//!
//! ```text
//! connections --sends--> inbox --> writer thread --> store
//!                          ^            |  accepted, begun
//!                          | orders     v
//!  people --control--------+------- scheduler thread: window, dispatch
//!                          |            |  requests       ^ replies, routes, portions of the store
//!                          '-------- hands ---------------'
//! ```
//!
//! A send is answered by the writer once its messages are durable. The scheduler decides when a
//! message leaves and to whom; the writer writes down that it leaves before it does, so it is the
//! one place where a cancellation comes before or after that.
//!
//! [`window`], [`dispatch`], [`wheel`] and [`due`] work without IO and without a clock: the same
//! inputs give the same outputs, so the rules are tested by simulation.

pub mod clock_watch;
pub mod config;
pub mod control;
pub mod dispatch;
pub mod due;
pub mod handler;
pub mod hands;
pub mod http;
pub mod inbox;
pub mod metrics;
pub mod routes;
pub mod scheduler;
pub mod sender;
pub mod server;
pub mod serving;
pub mod start;
pub mod wheel;
pub mod window;
pub mod writer;
