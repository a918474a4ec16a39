//! Where a value came from.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// `--set key=value`.
    CommandLine,
    /// A line of a file.
    File {
        /// The file.
        path: Arc<Path>,
        /// The line the key stands on, counted from 1.
        line: usize,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::CommandLine => f.write_str("--set"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
        }
    }
}
