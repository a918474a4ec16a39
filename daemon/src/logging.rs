//! Logs of a server: one line per event on standard error, as text or as JSON.

use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

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

/// How an event is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// A line for people.
    #[default]
    Text,
    /// A JSON object in one line, for collectors of logs.
    Json,
}

impl LogFormat {
    /// Reads `log.format`: `text` (the default) or `json`.
    ///
    /// # Errors
    /// When it is neither.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingsError> {
        settings.get("log.format", Self::default())
    }
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("neither text nor json"),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Changes what is logged while the process runs.
#[derive(Clone, Debug)]
pub struct LogLevel(reload::Handle<EnvFilter, Registry>);

impl LogLevel {
    /// Takes over what changed settings say.
    ///
    /// # Errors
    /// When the filter cannot be parsed; nothing changes then.
    pub fn follow(&self, settings: &Settings) -> Result<(), SettingsError> {
        let LogFilter(filter) = LogFilter::from_settings(settings)?;
        // Fails only when the subscriber is gone: there is no log to change then.
        let _ = self.0.reload(filter);
        Ok(())
    }
}

/// Sends the events of this process to standard error. A second call changes nothing.
pub fn init(filter: LogFilter, format: LogFormat) -> LogLevel {
    let (filter, handle) = reload::Layer::new(filter.0);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    // Only fails when a subscriber is there already, as in tests.
    drop(subscriber.try_init());
    LogLevel(handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_a_level_or_format_that_is_none() {
        let settings = Settings::of_pairs("broker", &[("log.level", "broker=loud")]);
        let error = LogFilter::from_settings(&settings).unwrap_err().to_string();
        assert!(error.contains("log.level"), "{error}");
        assert!(LogFilter::from_settings(&Settings::of_pairs("broker", &[])).is_ok());
        let format =
            |text| LogFormat::from_settings(&Settings::of_pairs("b", &[("log.format", text)]));
        assert_eq!(format("JSON").unwrap(), LogFormat::Json);
        assert_eq!(format("").unwrap(), LogFormat::Text);
        assert!(format("xml").is_err());
    }

    #[test]
    fn the_level_follows_changed_settings() {
        let (filter, handle) = reload::Layer::<EnvFilter, Registry>::new(EnvFilter::new("info"));
        let level = LogLevel(handle.clone());
        let shown = || handle.with_current(ToString::to_string).unwrap();
        let of = |text| Settings::of_pairs("broker", &[("log.level", text)]);
        level.follow(&of("debug")).unwrap();
        assert_eq!(shown(), "debug");
        assert!(level.follow(&of("a=loud")).is_err());
        assert_eq!(shown(), "debug");
        drop(filter);
    }
}
