//! What every server process does: settings, logging, metrics, the HTTP port, stopping, and
//! registration with the metaserver.
//!
//! [`process::Server`] is the skeleton all servers share: settings, logging, start, wait for a
//! signal, drain. A server brings its configuration and a `start` function.

pub mod address;
pub mod admin;
pub mod failure;
pub mod http;
pub mod logging;
pub mod metrics;
mod open_files;
pub mod process;
pub mod registration;
pub mod settings;
pub mod shutdown;

pub use failure::{FailureKind, StartError};
pub use settings::{Settings, SettingsArgs, SettingsError};
