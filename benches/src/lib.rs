//! What the servers are measured against, and what their results are made into.
//!
//! - [`ceiling`]: the least that a server with the same promise must do; its throughput is what
//!   the machine allows.
//! - [`steady`]: a broker in this process, to look at its use of memory.
//! - [`results`]: the lines that `bin/bench.sh` collects.
//! - [`tables`], [`picture`]: what `docs/performance.md` shows of them.

pub mod ceiling;
pub mod picture;
pub mod results;
pub mod steady;
pub mod tables;
