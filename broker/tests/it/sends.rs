//! What is stored, what is refused, and what the producer is told.

use bytes::BufMut;
use qmq_model::Message;

use qmq_store::fs::faulty::FaultyFs;

use crate::harness::{Pull, Reply, TestBroker, body_of, failures, message, raw_send};

#[tokio::test]
async fn stores_a_batch_and_hands_it_out() {
    let broker = TestBroker::start().await;
    let pull = Pull::new("a.b", "g", "c");
    assert_eq!(broker.pull(pull).await, Reply::nothing());
    broker.store("a.b", &["1", "2", "3"]).await;
    assert_eq!(
        broker.pull(pull).await,
        Reply::messages(0, &["1", "2", "3"])
    );
}

#[tokio::test]
async fn an_empty_request_succeeds() {
    let broker = TestBroker::start().await;
    let reply = broker.send(&[]).await;
    assert_eq!((reply.header.code, reply.body.len()), (0, 0));
}

#[tokio::test]
async fn nothing_of_an_undecodable_request_is_stored() {
    let broker = TestBroker::start().await;
    let pull = Pull::new("a.b", "g", "c");
    broker.pull(pull).await;
    let body = body_of(&[message("a.b", "1"), message("a.b", "2")]);
    for cut in [1, 20, body.len() / 2 + 5] {
        let reply = raw_send(&broker.client, &body[..body.len() - cut]).await;
        assert_eq!(reply.header.code, 51);
    }
    assert_eq!(broker.pull(pull).await, Reply::nothing());
}

#[tokio::test]
async fn an_empty_message_id_refuses_the_request_before_anything_is_stored() {
    let broker = TestBroker::start().await;
    let pull = Pull::new("a.b", "g", "c");
    broker.pull(pull).await;
    let mut body = body_of(&[message("a.b", "1")]);
    let mut nameless = message("a.b", "x").to_payload().unwrap().to_vec();
    let at = nameless.windows(3).position(|w| w == [0, 1, b'x']).unwrap();
    nameless.splice(at..at + 3, [0, 0]);
    qmq_protocol::command::send::put_message(&nameless, &mut body);
    assert_eq!(raw_send(&broker.client, &body).await.header.code, 51);
    assert_eq!(broker.pull(pull).await, Reply::nothing());
}

#[tokio::test]
async fn a_wrong_checksum_refuses_that_message_only() {
    let broker = TestBroker::start().await;
    let pull = Pull::new("a.b", "g", "c");
    broker.pull(pull).await;
    let mut body = body_of(&[message("a.b", "1")]);
    body[7] ^= 1;
    body.extend_from_slice(&body_of(&[message("a.b", "2")]));
    let reply = raw_send(&broker.client, &body).await;
    let listed = failures(&reply);
    assert_eq!(
        (listed.len(), listed[0].0.as_str(), listed[0].1),
        (1, "1", 6)
    );
    assert_eq!(broker.pull(pull).await, Reply::messages(0, &["2"]));
}

/// A message as a careless client would send it, with the subject put in unchecked.
fn with_subject(subject: &[u8], id: &str) -> Vec<u8> {
    let good = message("a.b", id).to_payload().unwrap();
    let at = good
        .windows(5)
        .position(|w| w == [0, 3, b'a', b'.', b'b'])
        .unwrap();
    let mut payload = good[..at].to_vec();
    payload.put_i16(i16::try_from(subject.len()).unwrap());
    payload.extend_from_slice(subject);
    payload.extend_from_slice(&good[at + 5..]);
    payload
}

#[tokio::test]
async fn illegal_subjects_are_refused_with_a_remark() {
    let broker = TestBroker::start().await;
    let long = "x".repeat(300);
    for subject in ["", "..", "a/b", "a b", "a\nb", long.as_str(), "a%b"] {
        let mut body = bytes::BytesMut::new();
        let payload = with_subject(subject.as_bytes(), "1");
        qmq_protocol::command::send::put_message(&payload, &mut body);
        let listed = failures(&raw_send(&broker.client, &body).await);
        assert_eq!((listed.len(), listed[0].1), (1, 5), "{subject:?}");
        assert!(listed[0].2.contains("illegal subject"), "{subject:?}");
    }
    broker.store("a.b", &["still fine"]).await;
}

#[tokio::test]
async fn what_consumers_cannot_read_is_refused() {
    let broker = TestBroker::start().await;
    let tags = |count: usize| (0..count).map(|tag| format!("t{tag}")).collect();
    let ten = Message {
        tags: tags(10),
        ..message("a.b", "ten")
    };
    assert_eq!(failures(&broker.send(&[ten]).await), []);

    // Eleven tags: the client model refuses them, so they are put together by hand.
    let eleven = Message {
        tags: tags(10),
        ..message("a.b", "11")
    }
    .to_payload()
    .unwrap();
    let at = eleven.windows(3).position(|w| w == [10, 0, 2]).unwrap();
    let mut eleven = eleven.to_vec();
    eleven[at] = 11;
    eleven.splice(at + 1..at + 1, [0, 1, b'z']);
    let mut body = bytes::BytesMut::new();
    qmq_protocol::command::send::put_message(&eleven, &mut body);
    let listed = failures(&raw_send(&broker.client, &body).await);
    assert_eq!((listed[0].1, listed[0].2.contains("tags")), (6, true));

    let long_id = Message {
        message_id: "i".repeat(100),
        ..message("a.b", "")
    };
    assert_eq!(failures(&broker.send(&[long_id]).await), []);
}

#[tokio::test]
async fn names_of_retry_subjects_are_taken() {
    let broker = TestBroker::over(FaultyFs::new(1), &[("message.retry.delay.seconds", "0")]).await;
    broker.store("%RETRY%a.b%g", &["1"]).await;
    // A group that never pulled gets all of its retry subject: it was meant for nobody else.
    let pull = Pull::new("%RETRY%a.b%g", "g", "c");
    assert_eq!(broker.pull(pull).await, Reply::messages(0, &["1"]));
}

#[tokio::test]
async fn an_unknown_command_is_answered_with_3() {
    let broker = TestBroker::start().await;
    let reply = broker
        .client
        .request(
            qmq_protocol::CommandCode::ClientRegister,
            |_| {},
            crate::harness::PATIENCE,
        )
        .await
        .unwrap();
    assert_eq!(reply.header.code, 3);
}

/// Sends one payload as it is, with a right checksum; returns its result and remark.
async fn result_of(broker: &TestBroker, payload: &[u8]) -> (i32, String) {
    let mut body = bytes::BytesMut::new();
    qmq_protocol::command::send::put_message(payload, &mut body);
    let listed = failures(&raw_send(&broker.client, &body).await);
    assert_eq!(listed.len(), 1);
    (listed[0].1, listed[0].2.clone())
}

/// `payload` with the first `old` replaced.
fn replaced(payload: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let at = payload
        .windows(old.len())
        .position(|window| window == old)
        .unwrap();
    [&payload[..at], new, &payload[at + old.len()..]].concat()
}

#[tokio::test]
async fn an_empty_tag_is_refused() {
    let broker = TestBroker::start().await;
    let tagged = Message {
        tags: ["t".to_owned()].into(),
        ..message("a.b", "1")
    };
    let payload = replaced(&tagged.to_payload().unwrap(), &[1, 0, 1, b't'], &[1, 0, 0]);
    let (result, remark) = result_of(&broker, &payload).await;
    assert_eq!((result, remark.contains("empty tag")), (6, true));
}

#[tokio::test]
async fn a_message_id_over_100_characters_is_refused() {
    let broker = TestBroker::start().await;
    let payload = message("a.b", "xyz").to_payload().unwrap();
    let long = [&[0, 101][..], "i".repeat(101).as_bytes()].concat();
    let payload = replaced(&payload, b"\0\x03xyz", &long);
    let (result, remark) = result_of(&broker, &payload).await;
    assert_eq!((result, remark.contains("100 characters")), (6, true));
    // 34 characters of three bytes each are 102 bytes and fine.
    let cjk = Message {
        message_id: "订".repeat(34),
        ..message("a.b", "")
    };
    assert_eq!(failures(&broker.send(&[cjk]).await), []);
}

#[tokio::test]
async fn a_property_that_consumers_cannot_read_is_refused() {
    let broker = TestBroker::start().await;
    let mut big = message("a.b", "1");
    big.set_property("k", "x".repeat(32_767));
    let payload = big.to_payload().unwrap();
    // One byte more: the length turns negative for every reader.
    let value = [&[0x7f, 0xff][..], &[b'x'; 32_767]].concat();
    let longer = [&[0x80, 0x00][..], &[b'x'; 32_768]].concat();
    let mut payload = replaced(&payload, &value, &longer);
    let body_len = u32::try_from(payload.len()).unwrap() - 1 - 16 - 5 - 3 - 4;
    let at = 1 + 16 + 5 + 3;
    payload[at..at + 4].copy_from_slice(&body_len.to_be_bytes());
    let (result, remark) = result_of(&broker, &payload).await;
    assert_eq!((result, remark.contains("property")), (6, true));
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused() {
    let fs = FaultyFs::new(1);
    let broker = TestBroker::over(fs, &[("message.bytes.max", "2048")]).await;
    let mut big = message("a.b", "big");
    big.set_property("k", "x".repeat(3_000));
    let listed = failures(&broker.send(&[big, message("a.b", "small")]).await);
    assert_eq!(
        (listed.len(), listed[0].0.as_str(), listed[0].1),
        (1, "big", 6)
    );
    assert!(listed[0].2.contains("message.bytes.max"));
}

#[tokio::test]
async fn the_number_of_subjects_is_bounded() {
    let fs = FaultyFs::new(1);
    let broker = TestBroker::over(fs, &[("subjects.max", "2")]).await;
    broker.store("a", &["1"]).await;
    broker.store("b", &["1"]).await;
    let listed = failures(&broker.send(&[message("c", "1"), message("a", "2")]).await);
    assert_eq!((listed.len(), listed[0].1), (1, 6));
    assert!(listed[0].2.contains("subjects.max"));
    // Those it has go on.
    broker.store("b", &["2"]).await;
}

#[tokio::test]
async fn a_producer_that_got_no_answer_and_sends_again_stores_one_copy() {
    let broker = TestBroker::start().await;
    let pull = Pull::new("a.b", "g", "c");
    broker.pull(pull).await;
    let body = body_of(&[message("a.b", "1"), message("a.b", "2")]);
    {
        // It gives up on a connection before the answer is there, and takes another one.
        let impatient = broker.connect().await;
        let send = raw_send(&impatient, &body);
        let _ = tokio::time::timeout(std::time::Duration::from_millis(1), send).await;
    }
    let other = broker.connect().await;
    for _ in 0..2 {
        let reply = raw_send(&other, &body).await;
        assert_eq!((reply.header.code, failures(&reply)), (0, vec![]));
    }
    broker.store("a.b", &["3"]).await;
    let all = Reply::messages(0, &["1", "2", "3"]);
    assert_eq!(broker.pull(pull).await, all);
}

#[tokio::test]
async fn a_repeat_is_known_by_its_content_and_over_a_restart() {
    let broker = TestBroker::start().await;
    let pull = Pull::new("a.b", "g", "c");
    broker.pull(pull).await;
    let mut changed = message("a.b", "1");
    changed.set_property("k", "other".to_owned());
    broker.store("a.b", &["1"]).await;
    // The same id is not enough: ids of two clients can be equal.
    assert_eq!(failures(&broker.send(&[changed]).await), []);
    let broker = broker.restart().await;
    let mut later = message("a.b", "1");
    later.created = qmq_model::UnixMillis(later.created.0 + 5);
    assert_eq!(failures(&broker.send(&[later]).await), []);
    broker.store("a.b", &["2"]).await;
    assert_eq!(
        broker.pull(pull).await,
        Reply::messages(0, &["1", "1", "2"])
    );
}

#[tokio::test]
async fn retry_subjects_take_the_same_message_twice() {
    let broker = TestBroker::over(FaultyFs::new(1), &[("message.retry.delay.seconds", "0")]).await;
    let subject = "%RETRY%a.b%g";
    let pull = Pull::new(subject, "g", "c");
    broker.pull(pull).await;
    broker.store(subject, &["1"]).await;
    broker.store(subject, &["1"]).await;
    assert_eq!(broker.pull(pull).await, Reply::messages(0, &["1", "1"]));
}

#[tokio::test]
async fn without_a_window_every_message_is_stored() {
    let settings = [("duplicate.window.seconds", "0")];
    let fs = FaultyFs::new(1);
    let broker = TestBroker::over(fs, &settings).await;
    let pull = Pull::new("a.b", "g", "c");
    broker.pull(pull).await;
    broker.store("a.b", &["1", "1"]).await;
    assert_eq!(broker.pull(pull).await, Reply::messages(0, &["1", "1"]));
}
