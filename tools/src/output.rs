//! What a command says, and the exit codes.

use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

/// Wrong usage, or nobody answers. The same number as for errors that the argument parser finds.
const FAILED: u8 = 2;
const REFUSED: u8 = 1;

/// How a command that got answers ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything was done.
    Done,
    /// The server said no, or a part of the work was not done.
    Refused,
}

impl Outcome {
    /// `Done` if `is_done`.
    pub(crate) fn done_if(is_done: bool) -> Self {
        if is_done { Self::Done } else { Self::Refused }
    }

    pub(crate) fn exit_code(self) -> ExitCode {
        match self {
            Self::Done => ExitCode::SUCCESS,
            Self::Refused => REFUSED.into(),
        }
    }
}

/// A server said no where the rest of a command depends on a yes.
#[derive(Debug)]
pub(crate) struct NotAgreed(pub(crate) String);

impl fmt::Display for NotAgreed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server says no: {}", self.0)
    }
}

impl std::error::Error for NotAgreed {}

/// The exit code of a command that ended early.
pub(crate) fn exit_code_of(error: &anyhow::Error) -> ExitCode {
    if error.is::<NotAgreed>() {
        Outcome::Refused.exit_code()
    } else {
        FAILED.into()
    }
}

/// `count` things in `elapsed`, with the rate: `"1.250 s, 800 per second"`.
pub(crate) fn pace(count: usize, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let rate = if seconds > 0.0 {
        f64::from(count) / seconds
    } else {
        0.0
    };
    format!("{seconds:.3} s, {rate:.0} per second")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pace_has_no_division_by_zero() {
        assert_eq!(
            pace(1000, Duration::from_millis(1250)),
            "1.250 s, 800 per second"
        );
        assert_eq!(pace(0, Duration::ZERO), "0.000 s, 0 per second");
    }
}
