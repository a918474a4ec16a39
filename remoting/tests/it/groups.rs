//! Requests that are handed over together.

use qmq_protocol::Header;
use qmq_remoting::{CloseReason, ServerConfig};

use crate::raw::{Raw, request, until};
use crate::service::{ECHO, GATE, GROUPED, Running};

#[tokio::test]
async fn requests_that_arrive_together_are_answered_together_and_in_order() {
    let server = Running::start(ServerConfig::default()).await;
    let mut client = Raw::connect(server.addr).await;
    // While the first call is awaited nothing is read: the others wait in the socket.
    client.send(GATE, 1, b"").await;
    until("it waits", || server.stats.requests() == 1).await;
    let rest = [
        request(GROUPED, 2, b"a"),
        request(GROUPED, 3, b"b"),
        request(ECHO, 4, b"c"),
        request(GROUPED, 5, b"d"),
    ];
    client.write(&rest.concat()).await;
    server.gate.add_permits(1);
    for (opaque, body) in [(1, ""), (2, "\x02a"), (3, "\x02b"), (4, "c"), (5, "\x01d")] {
        let frame = client.frame().await.expect("a reply");
        assert_eq!(
            (frame.header.opaque, &frame.body[..]),
            (opaque, body.as_bytes())
        );
    }
    assert_eq!(server.stats.requests(), 5);
}

#[tokio::test]
async fn frames_in_front_of_a_bad_one_are_answered() {
    let server = Running::start(ServerConfig::default()).await;
    let mut client = Raw::connect(server.addr).await;
    let mut bytes = request(GROUPED, 1, b"good").to_vec();
    let bad = bytes.len();
    bytes.extend_from_slice(&request(GROUPED, 2, b"bad"));
    bytes[bad + 6] ^= 1;
    client.write(&bytes).await;
    assert_eq!(client.frame().await.expect("a reply").body[1..], *b"good");
    assert_eq!(client.frame().await, None);
    until("it is counted", || {
        server.stats.connections_closed(CloseReason::BadFrame) == 1
    })
    .await;
}

#[tokio::test]
async fn who_wants_no_answer_gets_none() {
    let server = Running::start(ServerConfig::default()).await;
    let mut client = Raw::connect(server.addr).await;
    let one_way = Header {
        flag: 2,
        ..Header::request(GROUPED, 1)
    };
    let mut bytes = bytes::BytesMut::new();
    one_way.put_frame(&mut bytes, |_| {});
    client.write(&bytes).await;
    let answered = client.ask(GROUPED, 2, b"x").await;
    assert_eq!(answered.body[1..], *b"x");
}
