//! What every server process does: settings, logging, metrics, the HTTP port, stopping, and
//! registration with the metaserver.
//!
//! [`process::Server`] is the skeleton all servers share: settings, logging, start, wait for a
//! signal, drain. A server brings its configuration and a `start` function.

pub mod address;
pub mod admin;
pub mod failure;
pub mod http;
pub mod lanes;
pub mod logging;
pub mod mailbox;
pub mod member;
pub mod metrics;
mod open_files;
pub mod parameters;
pub mod process;
pub mod receive;
pub mod registration;
pub mod settings;
pub mod shutdown;
pub mod thread;
pub mod tokens;

pub use failure::{FailureKind, StartError};
pub use settings::{Settings, SettingsArgs, SettingsError};
