//! `delay`: messages that are to come later, asked of every delay server.

use anyhow::Result;
use clap::{Args, Subcommand};
use qmq_model::{Clock, SystemClock, UnixMillis};
use reqwest::Method;
use serde_json::{Value, json};

use crate::delay::{Answers, Where};
use crate::output::Outcome;
use crate::when::{Moment, duration, shown};

/// Most messages listed: servers tell no more at once.
const LIST_MAX: u64 = 1000;

/// Prints one line of JSON for each copy of the message, with the group of the delay server that has
/// it. Ids need not be unique, and one that is tried again later keeps its id.
///
/// Exit codes: 0 done, 1 not done or unknown to all delay servers, 2 wrong usage or a delay server
/// does not answer.
#[derive(Args, Debug)]
pub(crate) struct Delay {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Prevents the delivery of a message: `cancelled`, `already cancelled`, `dispatching` (it is
    /// on its way and may arrive), `delivered`. Done if a copy is cancelled and none dispatching.
    Cancel(Change),
    /// Gives a message another time: `rescheduled`, or why not. Done if a copy got its time.
    Reschedule(Reschedule),
    /// Tells when a message is due: `pending`, `dispatching`, `delivered`, `cancelled`.
    Find(OneMessage),
    /// Counts messages that are pending.
    Count(Selection),
    /// Lists messages that are pending, the next one first.
    List(List),
}

#[derive(Args, Debug)]
struct OneMessage {
    #[command(flatten)]
    at: Where,
    /// Subject it was sent to.
    #[arg(long)]
    subject: String,
    /// Its id.
    #[arg(long)]
    message_id: String,
}

/// A message that is to be changed.
#[derive(Args, Debug)]
struct Change {
    #[command(flatten)]
    message: OneMessage,
    /// Only shows what would be asked of the delay servers.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args, Debug)]
struct Reschedule {
    #[command(flatten)]
    change: Change,
    /// Due so long from now on: 250ms, 90s, 30m, 1h30m, 2d.
    #[arg(long, value_name = "DURATION", value_parser = after, required_unless_present = "due")]
    delay: Option<Moment>,
    /// Due at this time: 2026-11-21T18:00:00+08:00, "2026-11-21 18:00" (local), 1795159757436
    /// (milliseconds).
    #[arg(long = "at", value_name = "TIME", conflicts_with = "delay")]
    due: Option<Moment>,
}

/// Which pending messages are meant.
#[derive(Args, Debug)]
struct Selection {
    #[command(flatten)]
    at: Where,
    /// Only messages of this subject.
    #[arg(long)]
    subject: Option<String>,
    /// Only messages due from this time on. Written as for `pub --at`, or +30m: from now on.
    #[arg(long, value_name = "TIME")]
    from: Option<Moment>,
    /// Only messages due before this time.
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,
}

#[derive(Args, Debug)]
struct List {
    #[command(flatten)]
    selection: Selection,
    /// Most messages listed.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=LIST_MAX))]
    max: u64,
}

fn after(text: &str) -> Result<Moment, String> {
    duration(text).map(Moment::After)
}

impl Delay {
    pub(crate) async fn run(self) -> Result<Outcome> {
        let now = SystemClock.now();
        match self.what {
            What::Cancel(change) => change.run("/delay/cancel", None, &CANCELLED).await,
            What::Reschedule(Reschedule { change, delay, due }) => {
                let due = delay.or(due).map(|due| due.from(now));
                change.run("/delay/reschedule", due, &["rescheduled"]).await
            }
            What::Find(message) => {
                let parameters = message.parameters();
                let answers = message.at.ask(&Method::GET, "/delay/find", &parameters);
                tell_entries(&answers.await?, |entries| !entries.is_empty())
            }
            What::Count(selection) => {
                let parameters = selection.parameters(now);
                let path = "/delay/count";
                let answers = selection.at.ask(&Method::GET, path, &parameters).await?;
                println!("{}", counted(&answers));
                answers.must_be_complete()?;
                Ok(Outcome::Done)
            }
            What::List(list) => list.run(now).await,
        }
    }
}

/// Answers to a cancel after which nothing is delivered.
const CANCELLED: [&str; 2] = ["cancelled", "already cancelled"];

impl OneMessage {
    fn parameters(&self) -> Vec<(&'static str, String)> {
        vec![
            ("subject", self.subject.clone()),
            ("messageId", self.message_id.clone()),
        ]
    }
}

impl Change {
    /// Done if a copy is answered with one of these.
    async fn run(self, path: &str, due: Option<UnixMillis>, done: &[&str]) -> Result<Outcome> {
        let at = &self.message.at;
        let mut parameters = self.message.parameters();
        parameters.extend(due.map(|due| ("due", due.to_string())));
        if self.dry_run {
            println!("{}", at.planned(path, &parameters));
            return Ok(Outcome::Done);
        }
        let answers = at.ask(&Method::POST, path, &parameters).await?;
        tell_entries(&answers, |entries| is_done(entries, done))
    }
}

impl Selection {
    fn parameters(&self, now: UnixMillis) -> Vec<(&'static str, String)> {
        let time = |moment: Option<Moment>| moment.map(|moment| moment.from(now).to_string());
        let given = [
            ("subject", self.subject.clone()),
            ("from", time(self.from)),
            ("until", time(self.until)),
        ];
        let given = given.into_iter();
        given
            .filter_map(|(name, value)| Some((name, value?)))
            .collect()
    }
}

impl List {
    async fn run(self, now: UnixMillis) -> Result<Outcome> {
        let mut parameters = self.selection.parameters(now);
        parameters.push(("max", self.max.to_string()));
        let path = "/delay/list";
        let at = &self.selection.at;
        let answers = at.ask(&Method::GET, path, &parameters).await?;
        let mut entries = answers.entries();
        entries.sort_by_key(|entry| entry["due"].as_i64());
        entries.truncate(usize::try_from(self.max).unwrap_or(usize::MAX));
        entries.into_iter().for_each(tell);
        answers.must_be_complete()?;
        Ok(Outcome::Done)
    }
}

/// Prints every copy of a message; that there is none can only be said when all have answered.
fn tell_entries(answers: &Answers, is_done: impl Fn(&[Value]) -> bool) -> Result<Outcome> {
    let entries = answers.entries();
    let is_done = is_done(&entries);
    let is_empty = entries.is_empty();
    entries.into_iter().for_each(tell);
    answers.must_be_complete()?;
    if is_empty {
        println!("{}", json!({ "answer": "unknown" }));
    }
    Ok(Outcome::done_if(is_done))
}

/// Whether one copy was answered with one of these, and none is on its way.
fn is_done(entries: &[Value], answers: &[&str]) -> bool {
    let mut said = entries.iter().filter_map(|entry| entry["answer"].as_str());
    let is_under_way = said.clone().any(|answer| answer == "dispatching");
    !is_under_way && said.any(|answer| answers.contains(&answer))
}

/// One line for one message, with its time as people read it.
fn tell(mut entry: Value) {
    let due = entry["due"].as_i64().map(UnixMillis);
    if let (Some(due), Some(fields)) = (due, entry.as_object_mut()) {
        fields.insert("time".to_owned(), shown(due).into());
    }
    println!("{entry}");
}

/// The sum, and what each group has.
fn counted(answers: &Answers) -> Value {
    let of_group = |answer: &crate::delay::Answer| answer.said["pending"].as_u64().unwrap_or(0);
    let groups: serde_json::Map<String, Value> = answers
        .answers
        .iter()
        .map(|answer| (answer.group.clone(), of_group(answer).into()))
        .collect();
    let pending: u64 = answers.answers.iter().map(of_group).sum();
    json!({ "pending": pending, "groups": groups })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_on_its_way_is_not_cancelled() {
        let entries = |answers: &[&str]| -> Vec<Value> {
            let one = |answer: &&str| json!({ "due": 1, "answer": answer });
            answers.iter().map(one).collect()
        };
        let is_cancelled = |answers: &[&str]| is_done(&entries(answers), &CANCELLED);
        assert!(is_cancelled(&["cancelled"]));
        assert!(is_cancelled(&["delivered", "already cancelled"]));
        assert!(!is_cancelled(&["delivered"]));
        assert!(!is_cancelled(&["cancelled", "dispatching"]));
        assert!(!is_cancelled(&[]));
    }
}
