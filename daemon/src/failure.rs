//! How a server process ends: one readable line and a distinct exit code.

use std::fmt;
use std::process::ExitCode;

use crate::registration::RegistrationError;
use crate::settings::SettingsError;

/// Exit code of a process that lost work while stopping: the drain deadline passed, or a second
/// signal forced the end.
pub const EXIT_NOT_DRAINED: u8 = 6;

/// What kept a server from starting, or ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// It failed while running. Exit code 1.
    Running,
    /// Settings or command line. Exit code 2.
    Config,
    /// Files, folders or the database. Exit code 3.
    Store,
    /// A port cannot be bound, or a server that is needed cannot be reached. Exit code 4.
    Network,
    /// The metaserver does not know this server or refuses it. Exit code 5.
    Registration,
}

impl FailureKind {
    /// The exit code of the process.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Running => 1,
            Self::Config => 2,
            Self::Store => 3,
            Self::Network => 4,
            Self::Registration => 5,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Running => "failed",
            Self::Config => "settings",
            Self::Store => "store",
            Self::Network => "network",
            Self::Registration => "registration",
        }
    }
}

impl From<FailureKind> for ExitCode {
    fn from(kind: FailureKind) -> Self {
        kind.code().into()
    }
}

/// Why a server did not start. Prints as one line.
#[derive(Debug)]
pub struct StartError {
    kind: FailureKind,
    cause: String,
}

impl StartError {
    /// An error of this kind. `cause` is shown with all its sources.
    #[must_use]
    pub fn new(kind: FailureKind, cause: impl Into<anyhow::Error>) -> Self {
        // A cause may have been written over several lines; a log line is one line.
        let cause = format!("{:#}", cause.into());
        let cause = cause.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        Self { kind, cause }
    }

    /// What kind of failure it was.
    #[must_use]
    pub const fn kind(&self) -> FailureKind {
        self.kind
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.word(), self.cause)
    }
}

impl std::error::Error for StartError {}

impl From<SettingsError> for StartError {
    fn from(error: SettingsError) -> Self {
        Self::new(FailureKind::Config, error)
    }
}

impl From<RegistrationError> for StartError {
    fn from(error: RegistrationError) -> Self {
        let kind = match &error {
            RegistrationError::Endpoint { .. } => FailureKind::Config,
            RegistrationError::Discovery { .. } | RegistrationError::Metaserver { .. } => {
                FailureKind::Network
            }
            RegistrationError::NotRegistered { .. }
            | RegistrationError::Refused { .. }
            | RegistrationError::Reply { .. } => FailureKind::Registration,
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn prints_one_line_with_all_causes() {
        let cause = Err::<(), _>(anyhow::anyhow!("no space\n left")).context("opening /d");
        let error = StartError::new(FailureKind::Store, cause.unwrap_err());
        assert_eq!(error.to_string(), "store: opening /d: no space left");
        assert_eq!(error.kind().code(), 3);
    }
}
