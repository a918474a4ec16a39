//! BROWSE: shows messages to whoever looks, without consuming them.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use qmq_model::{MessageSequence, Subject, UnixMillis};
use qmq_protocol::command::browse::{BrowseRequest, From, Place, put_browse_header, put_browsed};
use qmq_protocol::{Decode, ResultCode};
use qmq_remoting::{Request, Responder};
use qmq_store::{ReadError, StoreReader, SubjectId};
use tracing::{debug, warn};

use crate::broker::Broker;
use crate::unretained::Portion;

/// Most messages of one answer.
pub const BROWSED_MAX: usize = 1000;
/// Answers that are read at the same time; whoever else looks waits in line, without being in the
/// way of those who consume.
pub const BROWSES_MAX: usize = 2;
/// How often a portion is looked up again because its first message turned out to be damaged, and is
/// passed over from then on.
const TRIES_MAX: usize = 4;

/// Shows a portion.
pub async fn handle(broker: &Broker, request: Request, responder: Responder) {
    let asked = match BrowseRequest::decode(request.header.version, &request.body) {
        Ok(asked) => asked,
        Err(error) => {
            debug!(peer = %request.peer, %error, "browse cannot be decoded");
            broker.metrics.undecodable.inc();
            return responder.send_empty(ResultCode::BrokerError);
        }
    };
    let count = usize::try_from(asked.count).unwrap_or(0).min(BROWSED_MAX);
    let Some(subject) = Subject::new(asked.subject).ok().filter(|_| count > 0) else {
        return responder.send_empty(ResultCode::ParamError);
    };
    let bytes_max = broker.reply_bytes_max;
    match asked.place {
        Place::Memory => {
            let portion = broker
                .unretained
                .portion(&subject, asked.from, count, bytes_max);
            answer(responder, &portion);
        }
        Place::Stored => {
            let Some(id) = broker.reader.subject(subject.as_str()) else {
                return answer(responder, &Portion::default());
            };
            // The semaphore is never closed, so there always is a permit in the end.
            let permit = Arc::clone(&broker.browses).acquire_owned().await;
            let reader = broker.reader.clone();
            let from = asked.from;
            tokio::task::spawn_blocking(move || {
                let found = stored(&reader, id, from, count, bytes_max);
                drop(permit);
                match found {
                    Ok(portion) => answer(responder, &portion),
                    Err(error) => {
                        warn!(%error, "messages cannot be shown");
                        responder.send_empty(ResultCode::BrokerError);
                    }
                }
            });
        }
    }
}

/// Reads a portion of a subject; blocks.
fn stored(
    reader: &StoreReader,
    id: SubjectId,
    from: From,
    count: usize,
    bytes_max: usize,
) -> Result<Portion, ReadError> {
    let bounds = reader.bounds(id);
    let end = bounds.end;
    let first = match from {
        From::Sequence(sequence) => MessageSequence(sequence),
        From::Time(millis) => reader.sequence_at(id, UnixMillis(millis))?,
        From::Newest(wanted) => MessageSequence(end.0.saturating_sub(wanted.max(0))),
    };
    // Nothing is there below the first, and no more than the end is known.
    let first = first.clamp(bounds.start.min(end), end);
    let mut tries = 0;
    loop {
        let mut located = Vec::new();
        let skipped = reader.locate_blocking(id, first..end, count, bytes_max, &mut located)?;
        let mut payloads: Vec<Bytes> = Vec::with_capacity(located.len());
        let error = reader.read_many(&located, &mut payloads);
        tries += 1;
        match error {
            // The damaged one is known as such now; one that is gone is not found again.
            Some(_) if payloads.is_empty() && tries < TRIES_MAX => continue,
            Some(error) if payloads.is_empty() => return Err(error),
            Some(_) | None => {}
        }
        let next = located
            .get(payloads.len())
            .map_or(skipped.next.0, |unread| unread.sequence.0);
        let sequences = located.iter().map(|at| at.sequence.0);
        return Ok(Portion {
            next,
            end: end.0,
            messages: sequences.zip(payloads).collect(),
        });
    }
}

fn answer(responder: Responder, portion: &Portion) {
    responder.send(ResultCode::Success.code(), |out: &mut BytesMut| {
        put_browse_header(portion.next, portion.end, out);
        for (sequence, payload) in &portion.messages {
            put_browsed(*sequence, payload, out);
        }
    });
}
