//! Where a value came from.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

/// Where a value came from, as it is told to operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(Cow<'static, str>);

impl Origin {
    /// Built in.
    pub const DEFAULT: Self = Self(Cow::Borrowed("default"));
    /// `--set key=value`.
    pub const COMMAND_LINE: Self = Self(Cow::Borrowed("--set"));

    /// A line of a file, counted from 1.
    #[must_use]
    pub fn line(path: &Path, line: usize) -> Self {
        Self(Cow::Owned(format!("{}:{line}", path.display())))
    }

    /// What a layer said about a value; see [`Origin::text`].
    pub(super) fn told(text: &str) -> Self {
        [Self::DEFAULT, Self::COMMAND_LINE]
            .into_iter()
            .find(|known| known.0 == text)
            .unwrap_or_else(|| Self(Cow::Owned(text.to_owned())))
    }

    pub(super) fn text(&self) -> String {
        self.0.to_string()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
