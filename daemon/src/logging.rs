//! Logs of a server: one line per event on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::settings::{Settings, SettingsError};

const LEVEL_KEY: &str = "log.level";
/// Shows what starts, stops and fails. Statements of the database are nobody's business.
const LEVEL_DEFAULT: &str = "info,sqlx=warn";

/// Which events are logged.
#[derive(Debug)]
pub struct LogFilter(EnvFilter);

impl LogFilter {
    /// Reads `log.level`, in the syntax of `RUST_LOG` (`info`, `warn,qmq_broker=debug`). The
    /// environment variable `RUST_LOG` wins when it is set.
    ///
    /// # Errors
    /// When the filter cannot be parsed.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingsError> {
        let level = settings.get(LEVEL_KEY, LEVEL_DEFAULT.to_owned())?;
        let invalid = |error: ParseError| settings.invalid(LEVEL_KEY, error.to_string());
        match std::env::var("RUST_LOG") {
            Ok(filter) if !filter.is_empty() => {
                EnvFilter::try_new(&filter).map(Self).map_err(|error| {
                    settings.invalid(LEVEL_KEY, format!("RUST_LOG={filter}: {error}"))
                })
            }
            _ => EnvFilter::try_new(level).map(Self).map_err(invalid),
        }
    }
}

/// Sends the events of this process to standard error. A second call changes nothing.
pub fn init(filter: LogFilter) {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter.0)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // Only fails when a subscriber is there already, as in tests.
    drop(subscriber.try_init());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_level_that_is_none() {
        let settings = Settings::of_pairs("broker", &[("log.level", "broker=loud")]);
        let error = LogFilter::from_settings(&settings).unwrap_err().to_string();
        assert!(error.contains("log.level"), "{error}");
        assert!(LogFilter::from_settings(&Settings::of_pairs("broker", &[])).is_ok());
    }
}
