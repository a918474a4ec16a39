//! `sub`: consumes messages, prints and acknowledges them.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use qmq_client::{Browsed, Consumer, Leftovers, Message, TagMatch, default_client_id};
use tokio::sync::mpsc;

use super::list::interrupted;
use crate::cluster::Cluster;
use crate::consumed::ConsumedIds;
use crate::memory;
use crate::message::{print, to_json};
use crate::output::{Outcome, pace};
use crate::progress::Progress;

/// Most messages taken at once.
const PULL_MAX: usize = 50;
/// Longest wait for messages before the limits are looked at again.
const PULL_WAIT: Duration = Duration::from_secs(5);
/// How long a broker holds a request of a run that gives back at its end: so long the end may take,
/// because what the broker hands out meanwhile is given back too.
const GIVE_BACK_PULL_WAIT: Duration = Duration::from_secs(1);
/// How long the confirmations may take at the end.
const CLOSE_WAIT: Duration = Duration::from_secs(10);

#[derive(Args, Debug)]
pub(crate) struct Subscribe {
    #[command(flatten)]
    cluster: Cluster,
    /// Subject to consume.
    #[arg(long)]
    subject: String,
    /// Consumer group. Its members share the messages; a new group begins with what is new.
    #[arg(long, required_unless_present = "broadcast")]
    group: Option<String>,
    /// Gets every message, whoever else does: the client id takes the place of the group, so what
    /// is sent before its first run does not come.
    #[arg(long, conflicts_with = "group")]
    broadcast: bool,
    /// Only messages with one of these tags.
    #[arg(long, value_name = "TAG,...", value_delimiter = ',')]
    tags: Vec<String>,
    /// Only messages with all tags of --tags.
    #[arg(long, requires = "tags")]
    tags_all: bool,
    /// Ends after so many messages. Without it: at Ctrl-C.
    #[arg(long, value_name = "N")]
    count: Option<usize>,
    /// Identity within the group, never used twice at once. A later run with the same identity gets
    /// what this one received and did not acknowledge. Default: a new one for each run, so that two
    /// runs share the messages. Such a run puts what it received and did not print into the retry
    /// subject at its end; what a killed one held goes there when its broker takes it for dead, after
    /// three minutes.
    #[arg(long = "client-id", value_name = "ID")]
    client_id: Option<String>,
    /// Ends after so many seconds, with exit code 1 if fewer than --count messages came.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// How sure it is that each message is printed once. 0: it is acknowledged when it comes, and
    /// may be lost. 1: at least once. 2: what was printed before, by its id, is not printed again;
    /// the ids are in a file.
    #[arg(long, value_name = "0|1|2", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// The file of --qos 2. Default: qmq-tools/consumed/SUBJECT@GROUP in XDG_STATE_HOME, or in
    /// .local/state at home.
    #[arg(long, value_name = "FILE")]
    consumed: Option<PathBuf>,
    /// Leaves out what brokers keep in memory only (`pub --retain 0`). Such messages are shown to
    /// every `sub`, those that are still there first, and need no acknowledgement.
    #[arg(long)]
    no_memory: bool,
}

/// Messages from the memory of brokers that wait to be printed.
const MEMORY_MAX: usize = 100;

impl Subscribe {
    pub(crate) async fn run(self) -> Result<Outcome> {
        let mut printer = self.printer()?;
        let consumer = self.open()?;
        let (listener, memory) = mpsc::channel(MEMORY_MAX);
        let follows = if self.no_memory {
            None
        } else {
            let follows = memory::follow(self.cluster.browser()?, self.subject.clone(), listener);
            // Ends with the listener at the latest; without it only what is in memory is missing.
            Some(tokio::spawn(follows))
        };
        let begun = Instant::now();
        // Where the messages themselves are seen they are progress enough.
        let is_seen = std::io::stdout().is_terminal();
        let progress = (!is_seen).then(|| Progress::counting("messages"));
        let consumed = tokio::select! {
            consumed = self.consume(&consumer, memory, &mut printer, progress.as_ref()) => consumed,
            signal = interrupted() => signal.context("cannot wait for signals"),
        };
        if let Some(follows) = follows {
            follows.abort();
        }
        let closed = consumer.close(CLOSE_WAIT).await;
        drop(progress);
        let received = printer.received;
        eprintln!(
            "{received} messages received in {}",
            pace(received, begun.elapsed())
        );
        consumed?;
        if let Err(error) = &closed {
            eprintln!("{error}");
        }
        let is_complete = self.count.is_none_or(|count| received >= count);
        Ok(Outcome::done_if(is_complete && closed.is_ok()))
    }

    fn printer(&self) -> Result<Printer> {
        let consumed = if self.qos == 2 {
            let group = self.group.as_deref().unwrap_or_default();
            let path = match &self.consumed {
                Some(path) => path.clone(),
                None => ConsumedIds::default_path(&self.subject, group)?,
            };
            Some(ConsumedIds::open(path)?)
        } else {
            None
        };
        Ok(Printer {
            received: 0,
            consumed,
        })
    }

    fn open(&self) -> Result<Consumer> {
        let mut builder = self.cluster.consumer();
        if self.qos == 0 {
            builder = builder.consume_most_once();
        }
        builder = match &self.client_id {
            Some(id) => builder.client_id(id),
            None => {
                // Two runs at once must not share an id, so the default is not the one of the
                // library.
                let own = format!("{}-{}", default_client_id(), std::process::id());
                builder
                    .client_id(own)
                    .on_close(Leftovers::GiveBack)
                    .pull_wait(GIVE_BACK_PULL_WAIT)
            }
        };
        if !self.tags.is_empty() {
            let tag_match = if self.tags_all {
                TagMatch::All
            } else {
                TagMatch::Any
            };
            builder = builder.tags(tag_match, &self.tags);
        }
        Ok(match &self.group {
            Some(group) => builder.subscribe(&self.subject, group)?,
            None => builder.subscribe_broadcast(&self.subject)?,
        })
    }

    async fn consume(
        &self,
        consumer: &Consumer,
        mut memory: mpsc::Receiver<Browsed>,
        printer: &mut Printer,
        progress: Option<&Progress>,
    ) -> Result<()> {
        let limit = self.timeout.map(Duration::from_secs);
        let begun = Instant::now();
        let mut hears = !self.no_memory;
        loop {
            let missing = self
                .count
                .map_or(PULL_MAX, |count| count.saturating_sub(printer.received));
            let left = limit.map(|limit| limit.saturating_sub(begun.elapsed()));
            if missing == 0 || left.is_some_and(|left| left.is_zero()) {
                return Ok(());
            }
            let wait = left.unwrap_or(PULL_WAIT).min(PULL_WAIT);
            // What a pull took that is given up here stays with the consumer for the next one.
            tokio::select! {
                deliveries = consumer.pull(missing.min(PULL_MAX), wait) => {
                    for delivery in deliveries {
                        printer.print(delivery.message())?;
                        delivery.ack();
                    }
                }
                browsed = memory.recv(), if hears => match browsed {
                    Some(browsed) if self.is_wanted(&browsed.message) => {
                        printer.print(&browsed.message)?;
                    }
                    Some(_) => {}
                    None => hears = false,
                },
            }
            if let Some(progress) = progress {
                progress.set(printer.received);
            }
        }
    }

    /// Whether the tags of a message are those asked for. Brokers choose what they have stored.
    fn is_wanted(&self, message: &Message) -> bool {
        let has = |tag: &String| message.tags.contains(tag);
        match (self.tags.is_empty(), self.tags_all) {
            (true, _) => true,
            (false, true) => self.tags.iter().all(has),
            (false, false) => self.tags.iter().any(has),
        }
    }
}

/// Prints messages, each once if that is wanted.
struct Printer {
    received: usize,
    consumed: Option<ConsumedIds>,
}

impl Printer {
    fn print(&mut self, message: &Message) -> Result<()> {
        let id = &message.message_id;
        if self.consumed.as_ref().is_some_and(|ids| ids.contains(id)) {
            return Ok(());
        }
        print(&to_json(message))?;
        self.received += 1;
        match &mut self.consumed {
            Some(ids) => ids.add(id),
            None => Ok(()),
        }
    }
}
