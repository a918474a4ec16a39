//! `pub`: sends messages and waits for their confirmations.

use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use qmq_client::{Message, Producer, SendError, SendErrorKind};
use serde_json::json;
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::message::{print, to_json};
use crate::output::{Outcome, pace};
use crate::progress::Progress;
use crate::when::{Moment, duration};

/// Property that holds the text of `--body`.
const BODY: &str = "body";
/// Property that numbers the messages of one run from 0.
const NUMBER: &str = "number";
/// Property that is `0` for a message that is not to be stored.
const RETAIN: &str = "qmq_retain";
/// The largest number of attempts a producer may be given.
const ATTEMPTS_MAX: u32 = 1000;
/// Properties that hold what `--size` asks for, numbered from 0.
const FILLER: &str = "filler";
/// Bytes of one filler: as much as Java clients put into one property.
const FILLER_BYTES_MAX: usize = 8192;
/// Largest `--size`: more does not fit a request.
const SIZE_MAX: usize = 16 * 1024 * 1024;
/// Messages without a result at a time.
const UNANSWERED_MAX: usize = 1000;
/// Failures that are told one by one.
const FAILURES_TOLD: usize = 10;

#[derive(Args, Debug)]
pub(crate) struct Publish {
    #[command(flatten)]
    cluster: Cluster,
    /// Subject to send to.
    #[arg(long)]
    subject: String,
    /// Number of messages.
    #[arg(long, default_value_t = 1)]
    count: usize,
    /// Text of each message, sent as the property `body`.
    #[arg(long)]
    body: Option<String>,
    /// A property of each message; may be given several times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    property: Vec<(String, String)>,
    /// A tag of each message; may be given several times.
    #[arg(long)]
    tag: Vec<String>,
    /// Fills each message up with so many bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 0, value_parser = size)]
    size: usize,
    /// Delivered so long after it is sent, by a delay server: 250ms, 90s, 30m, 1h30m, 2d.
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "at")]
    delay: Option<Duration>,
    /// Delivered at this time, by a delay server: 2026-11-21T18:00:00+08:00, "2026-11-21 18:00"
    /// (local), 1795159757436 (milliseconds).
    #[arg(long, value_name = "TIME")]
    at: Option<Moment>,
    /// How hard it is tried. 0: once, and a broker need not wait for its slave; a message may be
    /// lost. 1: until it is confirmed, by another broker if need be. 2: as 1, but always by the
    /// broker that may have it already, which knows a repeat and stores none.
    #[arg(long, value_name = "0|1|2", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// 0: brokers do not store the message, they keep it in memory until newer ones of its subject
    /// take its room. `sub` and `list` of these tools see it, other consumers do not.
    #[arg(long, value_name = "0|1", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=1))]
    retain: u8,
    /// Only shows the messages, as `sub` would.
    #[arg(long)]
    dry_run: bool,
    /// Prints an object with `confirmed`, `messages` and `seconds`.
    #[arg(long)]
    json: bool,
}

/// Property names of the servers and clients begin with this.
const RESERVED_PREFIX: &str = "qmq_";

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, _)) if key.starts_with(RESERVED_PREFIX) => Err(format!(
            "names that begin with {RESERVED_PREFIX} are reserved"
        )),
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

fn size(text: &str) -> Result<usize, String> {
    let bytes = text.parse().ok().filter(|bytes| *bytes <= SIZE_MAX);
    bytes.ok_or_else(|| format!("expected a number of bytes, at most {SIZE_MAX}"))
}

impl Publish {
    pub(crate) async fn run(self) -> Result<Outcome> {
        let producer = self.producer()?;
        if self.dry_run {
            for number in 0..self.count {
                print(&to_json(&self.message(&producer, number)))?;
            }
            return Ok(Outcome::Done);
        }
        let begun = Instant::now();
        let (mut sends, mut tally) = (JoinSet::new(), Tally::default());
        let progress = Progress::of(self.count, "messages");
        for number in 0..self.count {
            progress.set(tally.confirmed + tally.failed);
            if sends.len() >= UNANSWERED_MAX {
                tally.add(sends.join_next().await);
            }
            if tally.is_hopeless() {
                break;
            }
            let (producer, message) = (producer.clone(), self.message(&producer, number));
            let mut send = Box::pin(async move { producer.send(message).await });
            if number == 0 {
                // Alone, so that those behind it find the route known.
                tally.add(Some(Ok(send.await)));
                continue;
            }
            // Polled in turn, so that messages queue up in the order of their numbers.
            let first = poll_fn(|context| Poll::Ready(Future::poll(send.as_mut(), context))).await;
            match first {
                Poll::Ready(result) => tally.add(Some(Ok(result))),
                Poll::Pending => {
                    sends.spawn(send);
                }
            }
        }
        while !sends.is_empty() {
            tally.add(sends.join_next().await);
            progress.set(tally.confirmed + tally.failed);
        }
        progress.end();
        // Every send has its result: this only ends the connections.
        producer.close(Duration::ZERO).await?;
        if let Some(usage) = tally.usage {
            bail!("{usage}");
        }
        let confirmed = tally.confirmed;
        if self.json {
            let seconds = begun.elapsed().as_secs_f64();
            let said =
                json!({ "confirmed": confirmed, "messages": self.count, "seconds": seconds });
            println!("{said}");
        } else {
            let pace = pace(confirmed, begun.elapsed());
            println!("{confirmed} of {} messages confirmed in {pace}", self.count);
        }
        Ok(Outcome::done_if(confirmed == self.count))
    }

    fn producer(&self) -> Result<Producer> {
        let builder = self.cluster.producer();
        let builder = match self.qos {
            0 => builder.attempts_max(1),
            1 => builder,
            // As many as there are at all.
            _ => builder.same_group_attempts_max(ATTEMPTS_MAX),
        };
        Ok(builder.build()?)
    }

    fn message(&self, producer: &Producer, number: usize) -> Message {
        let mut message = producer.message(&self.subject);
        message.tags.extend(self.tag.iter().cloned());
        message.low_reliability = self.qos == 0;
        message.set_property(NUMBER, number.to_string());
        if self.retain == 0 {
            message.set_property(RETAIN, "0");
        }
        if let Some(body) = &self.body {
            message.set_property(BODY, body);
        }
        for (key, value) in &self.property {
            message.set_property(key, value);
        }
        if let Some(after) = self.delay {
            message.delay(after);
        }
        if let Some(at) = self.at {
            message.at(at.from(message.created));
        }
        let mut left = self.size;
        for part in 0.. {
            if left == 0 {
                break;
            }
            let bytes = left.min(FILLER_BYTES_MAX);
            message.set_property(&format!("{FILLER}{part}"), "x".repeat(bytes));
            left -= bytes;
        }
        message
    }
}

/// What has become of the messages.
#[derive(Debug, Default)]
struct Tally {
    confirmed: usize,
    failed: usize,
    /// Set when no message of this command can be sent, whatever the servers do.
    usage: Option<SendError>,
}

impl Tally {
    fn add(&mut self, sent: Option<Result<Result<(), SendError>, tokio::task::JoinError>>) {
        match sent {
            None => {}
            Some(Ok(Ok(()))) => self.confirmed += 1,
            Some(Ok(Err(error))) if error.kind() == SendErrorKind::Message => {
                self.usage = Some(error);
            }
            Some(Ok(Err(error))) => self.tell(&error.to_string()),
            Some(Err(error)) => self.tell(&error.to_string()),
        }
    }

    fn tell(&mut self, problem: &str) {
        self.failed += 1;
        if self.failed <= FAILURES_TOLD {
            eprintln!("{problem}");
        }
        if self.failed == FAILURES_TOLD {
            eprintln!("further failures are only counted");
        }
    }

    /// Whether the other messages would fail as these did.
    fn is_hopeless(&self) -> bool {
        self.usage.is_some() || (self.confirmed == 0 && self.failed >= UNANSWERED_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bounded() {
        assert_eq!(size("1024"), Ok(1024));
        assert!(size("16777217").is_err() && size("-1").is_err() && size("x").is_err());
    }

    #[test]
    fn properties_are_split_at_the_first_sign() {
        assert_eq!(key_value("k=a=b"), Ok(("k".into(), "a=b".into())));
        assert_eq!(key_value("k="), Ok(("k".into(), String::new())));
        assert!(key_value("k").is_err());
        assert!(key_value("=v").is_err());
        assert!(key_value("qmq_times=9").is_err());
    }
}
