//! Realtime broker: stores every message once and hands it to consumer groups without partitions.
//!
//! ```text
//! connections --sends--------------------> desk --> writer --> logs, index
//!      \--pulls, acks--> shards --actions-/           |
//!                          ^---- waiting (subjects) ---/
//! ```
//!
//! A send is answered by the writer once its messages are durable; a pull is answered by its shard
//! from the visible part of the store; an ack is answered by the writer once it is in the actionlog.

pub mod broker;
pub mod config;
pub mod copy;
pub mod deliver;
pub mod desk;
pub mod env_rules;
pub mod export;
pub mod filter;
pub mod handler;
pub mod http;
pub mod inbox;
pub mod metrics;
pub mod portion;
pub mod serving;
pub mod shard;
pub mod start;
pub mod subscription;
pub mod turns;
pub mod unacked;
pub mod unretained;
pub mod waiting;
mod writer;
