//! Async client: a [`Producer`] that sends messages, a [`Consumer`] that consumes them.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//!
//! use qmq_client::{Consumer, Producer};
//!
//! let meta = "http://127.0.0.1:8080/meta/address";
//! let producer = Producer::builder(meta, "shop").build()?;
//! let mut message = producer.message("order.changed");
//! message.set_property("orderId", "12");
//! producer.send(message).await?;
//!
//! let consumer = Consumer::builder(meta, "billing").subscribe("order.changed", "billing")?;
//! for delivery in consumer.pull(10, Duration::from_secs(5)).await {
//!     println!("{:?}", delivery.message().property("orderId"));
//!     delivery.ack();
//! }
//! consumer.close(Duration::from_secs(5)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! What is promised, and what is not, stands in `docs/client.md`.

/// The examples of `docs/client.md`, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../docs/client.md")]
struct Examples;

mod balance;
mod browse;
mod consumer;
mod discovery;
mod error;
mod identity;
mod link;
mod producer;
mod retry;
mod route;

pub use browse::{BrowseError, Browsed, Browser, From, Place, Portion};
pub use consumer::{
    Consumer, ConsumerBuilder, Deliveries, Delivery, Failure, Leftovers, NackError, Redelivery,
    TagMatch,
};
pub use error::{BuildError, DrainError, SendError, SendErrorKind};
pub use identity::default_client_id;
pub use producer::{Producer, ProducerBuilder};
pub use qmq_model::property::ValueError;
pub use qmq_model::{Message, UnixMillis};
pub use route::cache::RouteGroup;
pub use route::finder::{FoundRoute, RouteFinder};
