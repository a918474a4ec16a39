//! One request to a broker: reads the messages, sends them byte for byte as they were received, and
//! says what became of each.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use qmq_model::{Clock, Payload, UnixMillis};
use qmq_protocol::command::send::{SendResponse, SendResult};
use qmq_protocol::{CommandCode, Decode, Frame, ResultCode};
use qmq_remoting::{Pool, PoolError};
use qmq_store::{DelayReader, DelayedMessage, Pending};
use tracing::{debug, error};

use crate::dispatch::{Outcome, Reply};
use crate::metrics::Metrics;
use crate::routes::Addresses;

/// Sends requests. Cheap to clone.
#[derive(Clone)]
pub struct Sender {
    /// Reads the messages.
    pub reader: DelayReader,
    /// Connections to brokers.
    pub pool: Pool,
    /// Where brokers are.
    pub addresses: Addresses,
    /// How long a broker may take to answer.
    pub reply_wait: Duration,
    /// Tells how late messages are.
    pub clock: Arc<dyn Clock>,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// What was read, in the order of the request; `None` where a message could not be.
type Messages = Vec<Option<DelayedMessage>>;

impl Sender {
    /// Sends `entries` to the master of a group. A request without messages is never sent: a
    /// broker would answer it with success.
    pub async fn send(&self, group: &str, entries: Arc<[Pending]>) -> Reply {
        let reader = self.reader.clone();
        let wanted = Arc::clone(&entries);
        let read = tokio::task::spawn_blocking(move || read(&reader, &wanted)).await;
        // Reading is not interrupted unless the process ends.
        let Ok(messages) = read else {
            return Reply::All(Outcome::Unreadable);
        };
        let readable = messages.iter().flatten().count();
        if readable < entries.len() {
            let unreadable = (entries.len() - readable) as u64;
            self.metrics.unreadable.inc_by(unreadable);
        }
        if readable == 0 {
            return Reply::All(Outcome::Unreadable);
        }
        let Some(address) = self.addresses.of(group) else {
            return Reply::All(Outcome::TurnedAway);
        };
        let write = |out: &mut BytesMut| {
            for message in messages.iter().flatten() {
                // The checksum of the record was verified, and with it this one.
                out.put_i64(message.crc.into());
                out.put_slice(&message.payload);
            }
        };
        let code = CommandCode::SendMessage;
        let replied = self.pool.request(&address, code, write, self.reply_wait);
        let outcomes = outcomes(&messages, &replied.await, group);
        self.count(&entries, &outcomes);
        outcomes
    }

    fn count(&self, entries: &[Pending], reply: &Reply) {
        let now: UnixMillis = self.clock.now();
        let is_confirmed = |index: usize| match reply {
            Reply::All(outcome) => *outcome == Outcome::Confirmed,
            Reply::Each(each) => each.get(index) == Some(&Outcome::Confirmed),
        };
        for (index, entry) in entries.iter().enumerate() {
            if is_confirmed(index) {
                let late = now.since(entry.due).as_secs_f64();
                self.metrics.lateness_seconds.observe(late);
            }
        }
    }
}

fn read(reader: &DelayReader, wanted: &[Pending]) -> Messages {
    let mut read = Vec::with_capacity(wanted.len());
    reader.read(wanted, &mut read);
    let keep = |message: Result<DelayedMessage, _>| {
        message
            .inspect_err(|error| error!(%error, "a due message cannot be read and stays pending"))
            .ok()
    };
    read.into_iter().map(keep).collect()
}

/// What a reply, or its absence, says about each message.
fn outcomes(messages: &Messages, reply: &Result<Frame, PoolError>, group: &str) -> Reply {
    let frame = match reply {
        Ok(frame) => frame,
        Err(error) => {
            let outcome = if error.is_sent() {
                Outcome::Unknown
            } else {
                Outcome::TurnedAway
            };
            debug!(group, %error, ?outcome, "no reply from a broker");
            return each(messages, |_| outcome);
        }
    };
    if frame.header.code != ResultCode::Success.code() {
        let outcome = of_header(frame.header.code);
        debug!(
            group,
            code = frame.header.code,
            ?outcome,
            "a broker refused"
        );
        return each(messages, |_| outcome);
    }
    let Ok(response) = SendResponse::decode(frame.header.version, &frame.body) else {
        return each(messages, |_| Outcome::Unknown);
    };
    let failures = response
        .failures()
        .map(|failure| (failure.message_id, failure.result));
    let failures: HashMap<&[u8], SendResult> = failures.collect();
    if !failures.is_empty() {
        debug!(
            group,
            failures = failures.len(),
            "a broker refused messages"
        );
    }
    each(messages, |message| {
        let id = Payload::split_first(&message.payload).map(|(payload, _)| payload.message_id);
        id.map_or(Outcome::Unknown, |id| {
            failures
                .get(id)
                .map_or(Outcome::Confirmed, |r| of_result(*r))
        })
    })
}

/// The same for all, as long as all could be read.
fn each(messages: &Messages, outcome: impl Fn(&DelayedMessage) -> Outcome) -> Reply {
    let of =
        |message: &Option<DelayedMessage>| message.as_ref().map_or(Outcome::Unreadable, &outcome);
    let all: Vec<Outcome> = messages.iter().map(of).collect();
    match all.first() {
        Some(first) if all.iter().all(|outcome| outcome == first) => Reply::All(*first),
        _ => Reply::Each(all),
    }
}

/// What a code in the header says about every message of the request.
fn of_header(code: i16) -> Outcome {
    // A broker that is no master answers 52, one that cannot read the request stores nothing of it.
    if code == ResultCode::BrokerReject.code() {
        Outcome::TurnedAway
    } else {
        Outcome::Rejected
    }
}

fn of_result(result: SendResult) -> Outcome {
    match result {
        SendResult::Success | SendResult::MessageDuplicate => Outcome::Confirmed,
        SendResult::BrokerBusy | SendResult::SubjectNotAssigned | SendResult::BrokerReadOnly => {
            Outcome::TurnedAway
        }
        // It may have been appended before whatever went wrong.
        SendResult::StoreError => Outcome::Unknown,
        SendResult::Block | SendResult::Other(_) => Outcome::Rejected,
    }
}
