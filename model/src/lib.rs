//! Words of the domain: names, positions, messages and time. No IO, no async.

pub mod broker;
pub mod message;
pub mod names;
pub mod payload;
pub mod position;
pub mod property;
pub mod time;

pub use broker::{BrokerGroup, BrokerRole, BrokerState};
pub use message::Message;
pub use names::{ConsumerGroup, ConsumerId, NameError, Subject};
pub use payload::{Payload, PayloadError};
pub use position::{ActionOffset, MessageOffset, MessageSequence, PullSequence};
pub use time::{Clock, ManualClock, SystemClock, UnixMillis};
