//! `list`: shows messages without consuming them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use qmq_client::{BrowseError, Browsed, Browser, From, Place, RouteGroup};
use qmq_model::{Clock, SystemClock, UnixMillis};
use tokio::signal::unix::{SignalKind, signal};

use crate::cluster::Cluster;
use crate::message::{print, to_json};
use crate::output::Outcome;
use crate::progress::Progress;
use crate::when::Start;

/// Messages asked for at a time.
const PORTION: usize = 500;
/// How often brokers are asked for something new.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Shows messages of a subject, one line of JSON each, without consuming them: no consumer group
/// moves. Retry and dead-letter subjects (`%RETRY%subject%group`, `%DEAD_RETRY%subject%group`) are
/// subjects like others here.
#[derive(Args, Debug)]
pub(crate) struct List {
    #[command(flatten)]
    cluster: Cluster,
    /// A token, where the metaserver wants one for lists.
    #[arg(long, env = "QMQ_TOKEN", hide_env_values = true, default_value = "")]
    token: String,
    /// The subject.
    #[arg(long)]
    subject: String,
    /// Where to begin: `earliest`, a sequence, a time as for `pub --at`, or -30m for half an hour
    /// ago. Without it: at the newest messages.
    #[arg(long, value_name = "START", allow_hyphen_values = true)]
    from: Option<Start>,
    /// At most so many messages of each broker group, stored and in memory each.
    #[arg(short = 'n', long = "max", value_name = "N", default_value_t = 100)]
    max: usize,
    /// Goes on with what comes, until Ctrl-C.
    #[arg(short, long)]
    follow: bool,
    /// Ends --follow after so many seconds.
    #[arg(long, value_name = "SECONDS", requires = "follow")]
    timeout: Option<u64>,
    /// Only messages of this broker group.
    #[arg(long = "brokerGroup")]
    broker_group: Option<String>,
}

/// One broker group and one of its places, and how far it has been shown.
struct Cursor {
    group: RouteGroup,
    place: Place,
    from: From,
    /// Told once, until it answers again.
    is_silent: bool,
}

impl List {
    pub(crate) async fn run(self) -> Result<Outcome> {
        let browser = self.cluster.browser()?;
        let mut groups = self.cluster.readable_groups(&self.token).await?;
        groups.retain(|group| {
            let wanted = self.broker_group.as_deref();
            wanted.is_none_or(|wanted| wanted == &*group.name)
        });
        if groups.is_empty() {
            bail!("there is no such broker group, or none that can be read");
        }
        let mut cursors = self.cursors(groups);
        let mut silent = Vec::new();
        for cursor in &mut cursors {
            // Who wants what comes later does not want what nobody showed now.
            match self.show(&browser, cursor, self.max).await {
                Ok(()) => {}
                Err(Shown::Not(error)) => silent.push(error.to_string()),
                Err(Shown::Unprintable(error)) => return Err(error),
            }
        }
        if !silent.is_empty() {
            bail!("not all brokers show their messages: {}", silent.join("; "));
        }
        if !self.follow {
            return Ok(Outcome::Done);
        }
        tokio::select! {
            followed = self.follow(&browser, &mut cursors) => followed,
            signal = interrupted() => signal.context("cannot wait for signals"),
        }?;
        Ok(Outcome::Done)
    }

    fn cursors(&self, groups: Vec<RouteGroup>) -> Vec<Cursor> {
        let newest = From::Newest(i64::try_from(self.max).unwrap_or(i64::MAX));
        let now = SystemClock.now();
        let from = match self.from {
            None => newest,
            Some(Start::Earliest) => From::Sequence(0),
            Some(Start::Sequence(sequence)) => From::Sequence(sequence),
            Some(Start::Time(time)) => From::Time(time.0),
            Some(Start::Ago(ago)) => {
                let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
                From::Time(UnixMillis(now.0.saturating_sub(ago)).0)
            }
        };
        let of_group = |group: RouteGroup| {
            [Place::Stored, Place::Memory].map(|place| Cursor {
                group: group.clone(),
                place,
                from,
                is_silent: false,
            })
        };
        groups.into_iter().flat_map(of_group).collect()
    }

    /// Shows up to `max` messages, and leaves the cursor behind them.
    async fn show(&self, browser: &Browser, cursor: &mut Cursor, max: usize) -> Result<(), Shown> {
        let progress = Progress::waiting(&format!("reading from {}", cursor.group.name));
        let mut left = max;
        while left > 0 {
            let count = left.min(PORTION);
            let portion = browser
                .portion(
                    &cursor.group,
                    &self.subject,
                    cursor.place,
                    cursor.from,
                    count,
                )
                .await?;
            for browsed in &portion.messages {
                tell(browsed, &cursor.group, cursor.place).map_err(Shown::Unprintable)?;
            }
            left = left.saturating_sub(portion.messages.len());
            cursor.from = From::Sequence(portion.next);
            if portion.next >= portion.end {
                break;
            }
        }
        progress.end();
        Ok(())
    }

    async fn follow(&self, browser: &Browser, cursors: &mut [Cursor]) -> Result<()> {
        let limit = self.timeout.map(Duration::from_secs);
        let begun = Instant::now();
        while limit.is_none_or(|limit| begun.elapsed() < limit) {
            let left = limit.map(|limit| limit.saturating_sub(begun.elapsed()));
            tokio::time::sleep(left.unwrap_or(LOOK_EVERY).min(LOOK_EVERY)).await;
            for cursor in &mut *cursors {
                match self.show(browser, cursor, usize::MAX).await {
                    Ok(()) => cursor.is_silent = false,
                    Err(Shown::Unprintable(error)) => return Err(error),
                    Err(Shown::Not(error)) => {
                        if !std::mem::replace(&mut cursor.is_silent, true) {
                            eprintln!("{error}; trying again");
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// Why messages are not seen.
enum Shown {
    /// The broker does not show them.
    Not(BrowseError),
    /// Nobody reads what is printed.
    Unprintable(anyhow::Error),
}

impl std::convert::From<BrowseError> for Shown {
    fn from(error: BrowseError) -> Self {
        Self::Not(error)
    }
}

fn tell(browsed: &Browsed, group: &RouteGroup, place: Place) -> Result<()> {
    let mut line = to_json(&browsed.message);
    line["group"] = (*group.name).into();
    line["sequence"] = browsed.sequence.into();
    if place == Place::Memory {
        line["memory"] = true.into();
    }
    print(&line)
}

/// Waits for Ctrl-C or the signal that asks to end.
pub(crate) async fn interrupted() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}
