//! Starts the real programs in folders of their own and looks at them from outside.
//!
//! Nothing here knows how a server works inside: it starts processes, kills them, talks to them
//! over their sockets and compares what went in with what came out.

pub mod balancer;
pub mod cluster;
pub mod control;
pub mod golden;
pub mod later;
pub mod ledger;
pub mod load;
pub mod neighbour;
pub mod ports;
pub mod programs;
pub mod repository;
pub mod server;
pub mod stranger;
pub mod usage;
pub mod wait;

pub use balancer::{Balancer, Order};
pub use cluster::{Broker, Cluster, Kind};
pub use golden::Golden;
pub use later::{Later, LaterPlan, LaterRun};
pub use ledger::{Ledger, Problem, Summary};
pub use load::{Load, Plan, Sabotage};
pub use neighbour::Neighbour;
pub use server::Server;
pub use stranger::Stranger;
pub use usage::Usage;
