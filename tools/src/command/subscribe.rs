//! `sub`: consumes messages, prints and acknowledges them.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use qmq_client::{Consumer, Delivery, Leftovers, Message, TagMatch, default_client_id};
use serde_json::{Map, Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::publish::APP_CODE;
use crate::cli::Metaserver;
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
    /// HTTP side of the metaserver. Default port: 8080.
    #[arg(
        long,
        alias = "meta-server",
        value_name = "HOST[:PORT]",
        env = "QMQ_META"
    )]
    metaserver: Metaserver,
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
}

impl Subscribe {
    pub(crate) async fn run(self) -> Result<Outcome> {
        let consumer = self.open()?;
        let begun = Instant::now();
        let mut received = 0;
        // Where the messages themselves are seen they are progress enough.
        let is_seen = std::io::stdout().is_terminal();
        let progress = (!is_seen).then(|| Progress::counting("messages"));
        let consumed = tokio::select! {
            consumed = self.consume(&consumer, &mut received, progress.as_ref()) => consumed,
            signal = interrupted() => signal.context("cannot wait for signals"),
        };
        let closed = consumer.close(CLOSE_WAIT).await;
        drop(progress);
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

    fn open(&self) -> Result<Consumer> {
        let mut builder = Consumer::builder(self.metaserver.address_url(), APP_CODE);
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
        received: &mut usize,
        progress: Option<&Progress>,
    ) -> Result<()> {
        let limit = self.timeout.map(Duration::from_secs);
        let begun = Instant::now();
        loop {
            let missing = self
                .count
                .map_or(PULL_MAX, |count| count.saturating_sub(*received));
            let left = limit.map(|limit| limit.saturating_sub(begun.elapsed()));
            if missing == 0 || left.is_some_and(|left| left.is_zero()) {
                return Ok(());
            }
            let wait = left.unwrap_or(PULL_WAIT).min(PULL_WAIT);
            for delivery in consumer.pull(missing.min(PULL_MAX), wait).await {
                print(delivery)?;
                *received += 1;
            }
            if let Some(progress) = progress {
                progress.set(*received);
            }
        }
    }
}

/// Waits for Ctrl-C or the signal that asks to end.
async fn interrupted() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

/// Prints a message; acknowledges it once it is out.
fn print(delivery: Delivery) -> Result<()> {
    let line = to_json(delivery.message()).to_string();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .context("cannot print")?;
    delivery.ack();
    Ok(())
}

fn to_json(message: &Message) -> Value {
    let properties: Map<String, Value> = message
        .properties
        .iter()
        .map(|(key, value)| (key.clone(), Value::from(value.as_str())))
        .collect();
    json!({
        "messageId": message.message_id,
        "subject": message.subject,
        "createTime": message.created.0,
        "tags": message.tags,
        "times": message.times(),
        "properties": properties,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line() {
        let mut message = Message {
            subject: "s".into(),
            ..Message::default()
        };
        message.set_property("text", "two\nlines");
        let line = to_json(&message).to_string();
        assert!(
            !line.contains('\n') && line.contains(r#""text":"two\nlines""#),
            "{line}"
        );
    }
}
