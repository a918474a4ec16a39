//! Clients of version 3: a layout of their own, and silence where an answer would crash them.

use std::io::{Read, Write};
use std::net::TcpStream;

use bytes::{BufMut, BytesMut};
use qmq_model::BrokerState;
use qmq_model::payload::put_str;
use qmq_protocol::command::client_register::{ClientRegisterResponse, ClientType};
use qmq_protocol::frame::BODY_BYTES_MAX;
use qmq_protocol::{CommandCode, Frame, Header, split_frame};

use crate::node::{G1, Node, PATIENCE, Place, question};

on_each_database! {
    a_legacy_producer_is_answered_in_its_layout,
    a_legacy_client_gets_no_answer_rather_than_one_without_groups,
}

const LEGACY: i16 = 3;

/// A socket that speaks version 3. Its calls block.
struct Legacy {
    stream: TcpStream,
    buf: BytesMut,
}

impl Legacy {
    fn connect(node: &Node) -> Self {
        let stream = TcpStream::connect(node.tcp()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            buf: BytesMut::new(),
        }
    }

    fn send(&mut self, code: CommandCode, opaque: i32, write: impl FnOnce(&mut BytesMut)) {
        let header = Header {
            version: LEGACY,
            ..Header::request(code.code(), opaque)
        };
        let mut bytes = BytesMut::new();
        header.put_frame(&mut bytes, write);
        self.stream.write_all(&bytes).unwrap();
    }

    fn frame(&mut self) -> Frame {
        loop {
            if let Some(frame) = split_frame(&mut self.buf, BODY_BYTES_MAX).unwrap() {
                return frame;
            }
            let mut part = [0; 4096];
            let read = self.stream.read(&mut part).unwrap();
            assert_ne!(read, 0, "closed");
            self.buf.extend_from_slice(&part[..read]);
        }
    }

    /// Whether the server kept silent about everything sent so far: a heartbeat is answered first.
    fn assert_silent(&mut self) {
        self.send(CommandCode::Heartbeat, 99, |_| {});
        let reply = self.frame();
        assert_eq!((reply.header.opaque, reply.header.code), (99, 100));
    }
}

/// The map as the C++ client writes it.
fn register(subject: &str, out: &mut BytesMut) {
    let entries = [
        ("subject", subject),
        ("clientTypeCode", "1"),
        ("appCode", "app"),
        ("requestType", "1"),
        ("consumerId", "10.0.0.9@app"),
        ("room", "rm"),
    ];
    out.put_i16(6);
    for text in entries.iter().flat_map(|(key, value)| [key, value]) {
        put_str(out, text.as_bytes());
    }
}

async fn a_legacy_producer_is_answered_in_its_layout(place: Place) {
    let node = place.start().await;
    node.bring_online(G1).await;
    node.ask_until(question("order.paid", ClientType::Producer), |answer| {
        answer.names() == ["g1"]
    })
    .await;
    let mut client = Legacy::connect(&node);
    for subject in ["order.paid", "order.new", "a/b"] {
        client.send(CommandCode::ClientRegister, 1, |out| register(subject, out));
        let reply = client.frame();
        assert_eq!((reply.header.code, reply.header.version), (0, LEGACY));
        let answer = ClientRegisterResponse::decode_version(LEGACY, &reply.body).unwrap();
        assert_eq!((answer.subject, answer.client_type_code), (subject, 1));
        let [group] = &answer.groups[..] else {
            panic!("{answer:?}")
        };
        assert_eq!(
            (group.name.as_str(), group.master.as_str()),
            ("g1", "10.0.0.1:20881")
        );
        assert_eq!(group.state, BrokerState::ReadWrite);
    }
    node.stop().await;
}

/// C++ clients divide by the number of groups, Erlang clients crash on any code but success.
async fn a_legacy_client_gets_no_answer_rather_than_one_without_groups(place: Place) {
    let node = place.start().await;
    let mut client = Legacy::connect(&node);
    // No group is there; a subject that is illegal; a body that makes no sense.
    client.send(CommandCode::ClientRegister, 1, |out| {
        register("order.paid", out)
    });
    client.send(CommandCode::ClientRegister, 2, |out| register("a/b", out));
    client.send(CommandCode::ClientRegister, 3, |out| out.put_slice(&[0, 9]));
    client.assert_silent();
    // Nothing is known about a subject and the database is away.
    node.bring_online(G1).await;
    node.ask_until(question("known", ClientType::Producer), |answer| {
        answer.names() == ["g1"]
    })
    .await;
    node.lose_database().await;
    client.send(CommandCode::ClientRegister, 4, |out| {
        register("unknown", out)
    });
    node.count_until("clientRegisterUnknownCount_total 1").await;
    client.assert_silent();
    client.send(CommandCode::ClientRegister, 5, |out| register("known", out));
    assert_eq!(client.frame().header.opaque, 5);
    node.stop().await;
}
