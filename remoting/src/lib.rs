//! The protocol over tokio: server, client, pool of clients.
//!
//! Bodies are bytes here; what they mean is the business of the protocol crate and of the service.
//!
//! What arrives is bounded twice: every byte counts against its connection and against the
//! process from the moment it is read until its request is answered, and a connection is not read
//! while either has no room. Buffers grow with the bytes that arrived, never with a length that a
//! peer announced. What leaves is bounded per connection by its outbox. [`ServerConfig`] and
//! [`ClientConfig`] name every limit of bytes and time.
//!
//! ```text
//! socket -> Inbound -> frames -> Service::call(Request, Responder)
//! socket <- Outbox  <- replies, in any order, from any thread  <- Responder
//! ```

mod budget;
pub mod client;
mod connection;
mod inbound;
mod outbox;
pub mod pool;
pub mod server;
mod service;
mod stats;
mod writer;

pub use client::{Client, ClientConfig, ConnectError, RequestError};
pub use connection::ConnectionHandle;
pub use pool::{Pool, PoolConfig, PoolError};
pub use server::{DrainReport, Server, ServerConfig};
pub use service::{Answers, Group, GroupResponder, Request, Responder, Service, answer_unknown};
pub use stats::{CloseReason, ServerStats};
