//! Shows on a terminal that something takes its time; anywhere else, and within a second, nothing.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;

/// What is done sooner needs no sign of life.
const SILENT_FOR: Duration = Duration::from_secs(1);
/// How often the time that has passed is drawn.
const DRAWN_EVERY: Duration = Duration::from_millis(200);

/// One line on the standard error that is drawn over and gone at the end.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    /// Makes it visible after a while.
    shows: JoinHandle<()>,
}

impl Progress {
    /// For something without parts.
    pub(crate) fn waiting(what: &str) -> Self {
        Self::start(ProgressBar::hidden(), "{spinner} {elapsed} {msg}", what)
    }

    /// For `total` things.
    pub(crate) fn of(total: usize, what: &str) -> Self {
        let bar = ProgressBar::hidden();
        bar.set_length(total as u64);
        Self::start(
            bar,
            "{spinner} {elapsed} {pos} of {len} {msg}, {per_sec}, {eta} left",
            what,
        )
    }

    /// For things of which nobody knows how many come.
    pub(crate) fn counting(what: &str) -> Self {
        let template = "{spinner} {elapsed} {pos} {msg}, {per_sec}";
        Self::start(ProgressBar::hidden(), template, what)
    }

    fn start(bar: ProgressBar, template: &str, what: &str) -> Self {
        let style = ProgressStyle::with_template(template).expect("the templates are constant");
        bar.set_style(style);
        bar.set_message(what.to_owned());
        let shown = bar.clone();
        let shows = tokio::spawn(async move {
            tokio::time::sleep(SILENT_FOR).await;
            // Draws nothing where the standard error is no terminal.
            shown.set_draw_target(ProgressDrawTarget::stderr());
            shown.enable_steady_tick(DRAWN_EVERY);
        });
        Self { bar, shows }
    }

    /// So many are done.
    pub(crate) fn set(&self, done: usize) {
        self.bar.set_position(done as u64);
    }

    /// Takes the line away.
    pub(crate) fn end(self) {
        drop(self);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.shows.abort();
        self.bar.finish_and_clear();
    }
}
