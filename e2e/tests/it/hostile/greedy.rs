//! Clients that ask for much and read nothing of it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use bytes::{BufMut, BytesMut};
use qmq_e2e::{Stranger, wait};
use qmq_model::Message;
use qmq_model::payload::put_str;
use qmq_protocol::command::pull::PullRequest;
use qmq_protocol::command::send::put_message;
use qmq_protocol::{CommandCode, Encode, Header};
use tokio::time::timeout;

use super::{BROKER_RESIDENT_MAX, METASERVER_RESIDENT_MAX, MIB, Scene, Target};

/// Clients that never read.
const GREEDY: u64 = 3;
/// Replies that may wait for one client of a broker. Its own limit (`outbox_bytes_max`).
const OUTBOX: u64 = 64 * MIB;
/// The same of a metaserver.
const METASERVER_OUTBOX: u64 = 8 * MIB;
/// What a greedy client asks for: some 300 times 4 MiB, far beyond any bound.
const PULLS: usize = 300;
const BIG_MESSAGES: usize = 8;
const BIG_BYTES: usize = 512 * 1024;
/// What the kernel keeps for a greedy client.
const SOCKET_BYTES: u32 = 64 * 1024;
/// A server that takes nothing for so long has stopped reading.
const STALLED: Duration = Duration::from_secs(5);
/// Until replies have been made. They are, in milliseconds.
const REPLIES_MAX: Duration = Duration::from_secs(60);
/// Longest property value.
const VALUE_BYTES: usize = 32_000;

fn pull(client: &str) -> BytesMut {
    let request = PullRequest {
        subject: "big",
        group: client,
        consumer_id: client,
        request_num: 2_000_000_000,
        offset: -1,
        pull_begin: -1,
        pull_last: -1,
        timeout_ms: -1,
        is_broadcast: false,
        filters: Vec::new(),
    };
    let mut body = BytesMut::new();
    request.encode(9, &mut body);
    body
}

fn big_message(number: usize) -> Result<BytesMut> {
    let mut message = Message {
        subject: "big".into(),
        message_id: format!("big-{number}"),
        ..Message::default()
    };
    for part in 0..BIG_BYTES / VALUE_BYTES {
        message.set_property(&format!("part{part}"), "x".repeat(VALUE_BYTES));
    }
    let mut body = BytesMut::new();
    put_message(&message.to_payload()?, &mut body);
    Ok(body)
}

async fn store_big_messages(server: SocketAddr) -> Result<()> {
    let mut sender = Stranger::connect(server).await?;
    for number in 0..BIG_MESSAGES {
        let body = big_message(number)?;
        let reply = sender.ask(9, CommandCode::SendMessage, &body).await?;
        ensure!(reply.header.code == 0 && reply.body.is_empty(), "{reply:?}");
    }
    Ok(())
}

/// A client that the broker has messages for, with nothing read after its first contact.
async fn make_first_contact(server: SocketAddr, client: &str) -> Result<Stranger> {
    let mut greedy = Stranger::connect_with_room(server, SOCKET_BYTES).await?;
    let reply = greedy
        .ask(9, CommandCode::PullMessage, &pull(client))
        .await?;
    ensure!(reply.header.code == 4, "{reply:?}");
    Ok(greedy)
}

fn resident_peak(scene: &mut Scene) -> u64 {
    scene.server(Target::Broker).usage().unwrap().resident_peak
}

#[test]
fn a_client_that_never_reads_its_messages_fills_its_own_share_only() {
    let mut scene = Scene::new();
    let server = scene.broker;
    let before = resident_peak(&mut scene);
    let names: Vec<String> = (0..GREEDY)
        .map(|number| format!("greedy{number}"))
        .collect();
    let clients = scene.run(async {
        let mut clients = Vec::new();
        for name in &names {
            clients.push(make_first_contact(server, name).await?);
        }
        store_big_messages(server).await?;
        for (client, name) in clients.iter_mut().zip(&names) {
            // The same messages come again each time, since none is ever confirmed.
            for _ in 0..PULLS {
                client
                    .send(9, CommandCode::PullMessage, &pull(name))
                    .await?;
            }
        }
        Ok(clients)
    });
    scene.good_goes_on();
    // They were served as far as their share goes; one that asks for more then is closed.
    wait::until("replies wait for the greedy clients", REPLIES_MAX, || {
        let waiting = resident_peak(&mut scene).saturating_sub(before);
        Ok((waiting > OUTBOX / 2).then_some(()))
    })
    .unwrap();
    scene.good_goes_on();
    drop(clients);
    // Twice: buffers of replies are rounded up.
    let broker_max = BROKER_RESIDENT_MAX + 2 * GREEDY * OUTBOX;
    scene.end_within(broker_max, METASERVER_RESIDENT_MAX);
}

/// A question whose answer repeats 30 000 bytes of it.
fn long_question() -> BytesMut {
    let mut frame = BytesMut::new();
    let header = Header::request(CommandCode::ClientRegister.code(), 1);
    header.put_frame(&mut frame, |out| {
        out.put_i16(2);
        for text in ["subject", &"x/".repeat(15_000), "clientTypeCode", "1"] {
            put_str(out, text.as_bytes());
        }
    });
    frame
}

#[test]
fn a_client_that_never_reads_its_routes_is_not_read_any_more() {
    let mut scene = Scene::new();
    let server = scene.metaserver;
    let frame = long_question();
    let (greedy, written) = scene.run(async {
        let mut greedy = Stranger::connect_with_room(server, SOCKET_BYTES).await?;
        let mut written = 0;
        loop {
            match timeout(STALLED, greedy.write(&frame)).await {
                Err(_) => return Ok((greedy, written)),
                Ok(taken) => ensure!(taken?, "closed after {written} bytes"),
            }
            written += frame.len() as u64;
            if written > 8 * METASERVER_OUTBOX {
                bail!("the metaserver takes and takes: {written} bytes");
            }
        }
    });
    println!("{} MiB of questions were taken", written / MIB);
    // What was taken is what its answers may take up, and what the kernel holds of both.
    assert!(
        written > MIB && written < 4 * METASERVER_OUTBOX,
        "{written}"
    );
    scene.good_goes_on();
    drop(greedy);
    scene.end();
}
