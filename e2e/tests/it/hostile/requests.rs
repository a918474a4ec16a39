//! Whole frames with odd values in them: each gets the answer that the protocol names.

use anyhow::{Context, Result, ensure};
use bytes::{BufMut, BytesMut};
use qmq_e2e::Stranger;
use qmq_model::payload::{FLAG_TAGS, put_str};
use qmq_protocol::command::ack::AckRequest;
use qmq_protocol::command::client_register::{
    ClientRegisterRequest, ClientRegisterResponse, ClientRequestType, ClientType,
};
use qmq_protocol::command::pull::{PullRequest, PullResponse};
use qmq_protocol::command::send::{SendResponse, put_message};
use qmq_protocol::{CommandCode, Decode, Encode};

use super::Scene;

const STORE_ERROR: i32 = 6;
const BLOCK: i32 = 5;

/// A message as a careless client writes it.
fn payload(subject: &str, id: &str, tags: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u8(if tags.is_empty() { 0 } else { FLAG_TAGS });
    out.put_i64(1_700_000_000_000);
    out.put_i64(0);
    put_str(&mut out, subject.as_bytes());
    put_str(&mut out, id.as_bytes());
    if !tags.is_empty() {
        out.put_u8(u8::try_from(tags.len()).unwrap());
        tags.iter()
            .for_each(|tag| put_str(&mut out, tag.as_bytes()));
    }
    out.put_i32(6);
    put_str(&mut out, b"k");
    put_str(&mut out, b"v");
    out
}

fn illegal_subjects() -> Vec<String> {
    let fixed = ["..", "a/b", "", "a\nb", "a\r\nb", "line\n"].map(str::to_owned);
    fixed.into_iter().chain(["x".repeat(300)]).collect()
}

fn sent(payload: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    put_message(payload, &mut out);
    out
}

/// Sends one message between two good ones; returns the result of the only one that is refused.
async fn refusal(stranger: &mut Stranger, number: usize, odd: &[u8]) -> Result<i32> {
    let good = |place| sent(&payload("odd.good", &format!("{place}-{number}"), &[]));
    let body = [&good("before")[..], odd, &good("behind")].concat();
    let reply = stranger.ask(9, CommandCode::SendMessage, &body).await?;
    ensure!(reply.header.code == 0, "{reply:?}");
    let response = SendResponse::decode(9, &reply.body)?;
    let failures: Vec<_> = response.failures().collect();
    ensure!(failures.len() == 1, "{failures:?}");
    ensure!(!failures[0].remark.is_empty(), "a refusal says why");
    Ok(failures[0].result.code())
}

#[test]
fn odd_messages_are_refused_one_by_one() {
    let scene = Scene::new();
    scene.run(async {
        let mut stranger = Stranger::connect(scene.broker).await?;
        let mut consumer = Consumer::new("odd.good");
        ensure!(consumer.pull(&mut stranger, 50, -1).await? == NOTHING);
        let good = payload("odd.good", "odd", &[]);
        let mut wrong_checksum = sent(&good);
        wrong_checksum[7] ^= 1;
        let mut odd = vec![(wrong_checksum, STORE_ERROR)];
        for subject in &illegal_subjects() {
            odd.push((sent(&payload(subject, "odd", &[])), BLOCK));
        }
        for tags in [&["t"; 11][..], &["t"; 127], &[""]] {
            odd.push((sent(&payload("odd.good", "odd", tags)), STORE_ERROR));
        }
        for length in [101, 32_767] {
            let id = "i".repeat(length);
            odd.push((sent(&payload("odd.good", &id, &[])), STORE_ERROR));
        }
        for (number, (message, expected)) in odd.iter().enumerate() {
            let result = refusal(&mut stranger, number, message).await?;
            ensure!(result == *expected, "number {number}: {result}");
        }
        // Their good neighbours were stored, all of them.
        let (code, ids) = consumer.pull(&mut stranger, 2_000_000_000, -1).await?;
        ensure!(code == 0 && ids.len() == 2 * odd.len(), "{ids:?}");
        ensure!(!ids.contains(&"odd".to_owned()), "{ids:?}");
        Ok(())
    });
    scene.end();
}

const NOTHING: (i16, Vec<String>) = (4, Vec::new());

/// Pulls and acks of one group.
struct Consumer {
    subject: &'static str,
}

impl Consumer {
    fn new(subject: &'static str) -> Self {
        Self { subject }
    }

    /// Code and message ids.
    async fn pull(
        &mut self,
        stranger: &mut Stranger,
        count: i32,
        pull_last: i64,
    ) -> Result<(i16, Vec<String>)> {
        let request = PullRequest {
            subject: self.subject,
            group: "odd",
            consumer_id: "odd",
            request_num: count,
            offset: -1,
            pull_begin: -1,
            pull_last,
            timeout_ms: -1,
            is_broadcast: false,
            filters: Vec::new(),
        };
        let mut body = BytesMut::new();
        request.encode(9, &mut body);
        let reply = stranger.ask(9, CommandCode::PullMessage, &body).await?;
        if reply.header.code != 0 {
            return Ok((reply.header.code, Vec::new()));
        }
        let pulled = PullResponse::decode(9, &reply.body)?;
        let ids = pulled.messages().map(|message| {
            let id = message.payload.message_id;
            String::from_utf8_lossy(id).into_owned()
        });
        Ok((0, ids.collect()))
    }

    async fn ack(&mut self, stranger: &mut Stranger, first: i64, last: i64) -> Result<i16> {
        let request = AckRequest {
            subject: self.subject,
            group: "odd",
            consumer_id: "odd",
            pull_begin: first,
            pull_last: last,
            is_broadcast: false,
        };
        let mut body = BytesMut::new();
        request.encode(9, &mut body);
        let reply = stranger.ask(9, CommandCode::Ack, &body).await?;
        Ok(reply.header.code)
    }
}

#[test]
fn odd_pulls_and_acks_confirm_nothing_they_do_not_name() {
    let scene = Scene::new();
    scene.run(async {
        let mut stranger = Stranger::connect(scene.broker).await?;
        let mut consumer = Consumer::new("odd.acks");
        ensure!(consumer.pull(&mut stranger, 50, -1).await? == NOTHING);
        let mut body = BytesMut::new();
        let ids = ["1", "2", "3", "4"];
        for id in ids {
            put_message(&payload("odd.acks", id, &[]), &mut body);
        }
        let reply = stranger.ask(9, CommandCode::SendMessage, &body).await?;
        ensure!(reply.header.code == 0 && reply.body.is_empty());
        for count in [-1, 0, i32::MIN] {
            ensure!(consumer.pull(&mut stranger, count, -1).await? == NOTHING);
        }
        let (code, pulled) = consumer.pull(&mut stranger, 2_000_000_000, -1).await?;
        ensure!(code == 0 && pulled == ids, "{pulled:?}");
        // Never pulled, reversed, as long as can be: success, and nothing is confirmed.
        for (first, last) in [
            (1_000, 2_000),
            (3, 0),
            (4, i64::MAX),
            (i64::MAX, i64::MAX),
            (i64::MAX, 0),
            (i64::MIN, i64::MAX),
        ] {
            let code = consumer.ack(&mut stranger, first, last).await?;
            ensure!(code == 0, "[{first}, {last}]: {code}");
        }
        let (_, again) = consumer.pull(&mut stranger, 50, -1).await?;
        ensure!(again == ids, "after odd acks {again:?}");
        // Ranges that overlap, and one that reaches beyond what was pulled.
        for (first, last) in [(0, 1), (1, 2), (0, 2), (2, 500)] {
            ensure!(consumer.ack(&mut stranger, first, last).await? == 0);
        }
        ensure!(consumer.pull(&mut stranger, 50, -1).await? == NOTHING);
        Ok(())
    });
    scene.end();
}

#[test]
fn odd_questions_to_the_metaserver_are_refused() {
    let scene = Scene::new();
    scene.run(async {
        let mut stranger = Stranger::connect(scene.metaserver).await?;
        for subject in &illegal_subjects() {
            for (client_type, groups) in [(ClientType::Producer, 1), (ClientType::Consumer, 0)] {
                let question = ClientRegisterRequest {
                    subject,
                    client_type_code: i32::from(client_type.code()),
                    request_type: ClientRequestType::Online,
                    client_id: "odd",
                    app_code: "odd",
                    consumer_group: "odd",
                    ldc: "",
                };
                let mut body = BytesMut::new();
                question.encode(9, &mut body);
                let reply = stranger.ask(9, CommandCode::ClientRegister, &body).await?;
                let answer = ClientRegisterResponse::decode(9, &reply.body)
                    .with_context(|| format!("{subject:?}"))?;
                ensure!(answer.is_refusal(), "{subject:?}");
                ensure!(answer.groups.len() == groups, "{subject:?} {client_type:?}");
            }
        }
        Ok(())
    });
    scene.end();
}
