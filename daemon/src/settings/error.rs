//! What can be wrong with settings, in words for the person who wrote them.

use std::path::PathBuf;

use super::Origin;

/// Why settings could not be read. Each text fits one line and names the place to look at.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file was named but is not there.
    #[error("no settings for {name}: {why}; tried {}", join(.tried))]
    NotFound {
        /// The server whose settings were looked for.
        name: String,
        /// Who named the file.
        why: &'static str,
        /// The paths that were tried, in order.
        tried: Vec<PathBuf>,
    },
    /// A file is there but cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is larger than any sensible settings file.
    #[error("{} is larger than {limit} bytes: not a settings file", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Largest size taken.
        limit: u64,
    },
    /// A line is not in the syntax of its file.
    #[error("{}:{line}: {what}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1; 0 when it is not known.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// A value is not what its key needs.
    #[error("{key} = {value:?} ({origin}): {what}")]
    Invalid {
        /// The key.
        key: String,
        /// The value; secrets are masked.
        value: String,
        /// Where it came from.
        origin: Origin,
        /// What is wrong with it.
        what: String,
    },
    /// The layers of settings do not fit together.
    #[error("cannot combine the settings: {source}")]
    Layers {
        /// What is wrong.
        source: config::ConfigError,
    },
    /// A key without a default is not set.
    #[error("{key} is not set in {looked_in}")]
    Missing {
        /// The key.
        key: String,
        /// The file that was read.
        looked_in: String,
    },
}

impl SettingsError {
    /// The key that is wrong, when it is a single one.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::Invalid { key, .. } | Self::Missing { key, .. } => Some(key),
            _ => None,
        }
    }
}

fn join(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    paths.join(", ")
}
