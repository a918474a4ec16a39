//! The ceiling as a client sees it, and the document of the results.
#![expect(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::{self, JoinHandle};

use bytes::{BufMut, BytesMut};
use qmq_benches::ceiling::{Ceiling, Flush, Log};
use qmq_benches::results::Results;
use qmq_benches::tables;
use qmq_model::Message;
use qmq_protocol::command::send::put_message;
use qmq_protocol::frame::{BODY_BYTES_MAX, PREFIX_BYTES};
use qmq_protocol::{CommandCode, Header, split_frame};
use tempfile::TempDir;

const LOG_BYTES: u64 = 1 << 16;

struct Running {
    folder: TempDir,
    address: SocketAddr,
    thread: JoinHandle<anyhow::Result<()>>,
}

fn start(flush: Flush) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::create(&folder.path().join("log"), LOG_BYTES).unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let ceiling = Ceiling::bind(any, log, flush).unwrap();
    let address = ceiling.address().unwrap();
    let thread = thread::spawn(move || ceiling.run());
    Running {
        folder,
        address,
        thread,
    }
}

/// A request with two messages.
fn request(opaque: i32) -> BytesMut {
    let mut out = BytesMut::new();
    Header::request(CommandCode::SendMessage.code(), opaque).put_frame(&mut out, |out| {
        for id in ["one", "two"] {
            let message = Message {
                subject: "s".to_owned(),
                message_id: id.to_owned(),
                ..Message::default()
            };
            put_message(&message.to_payload().unwrap(), out);
        }
    });
    out
}

#[test]
fn every_request_is_stored_and_answered() {
    for flush in [Flush::Sync, Flush::Async] {
        let running = start(flush);
        let mut clients: Vec<_> = (0..3)
            .map(|_| TcpStream::connect(running.address).unwrap())
            .collect();
        for client in &mut clients {
            (0..50).for_each(|opaque| client.write_all(&request(opaque)).unwrap());
        }
        for client in &mut clients {
            let mut answers = vec![0; 50 * PREFIX_BYTES];
            client.read_exact(&mut answers).unwrap();
            let mut answers = BytesMut::from(&answers[..]);
            for opaque in 0..50 {
                let answer = split_frame(&mut answers, BODY_BYTES_MAX).unwrap().unwrap();
                let expected = Header::request(10, opaque).response(0);
                assert_eq!(
                    answer.header,
                    Header {
                        version: 9,
                        ..expected
                    }
                );
                assert!(answer.body.is_empty());
            }
        }
        let log = std::fs::read(running.folder.path().join("log")).unwrap();
        let body = &request(0)[PREFIX_BYTES..];
        let stored = log
            .windows(body.len())
            .filter(|bytes| *bytes == body)
            .count();
        assert_eq!(stored, 150, "{flush:?}: it all fits the log once");
    }
}

/// No number in the document is typed by hand.
#[test]
fn the_document_is_what_the_results_make_of_it() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let docs = root.join("docs");
    let lines = match std::fs::read_to_string(docs.join("performance/results.jsonl")) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        lines => lines.unwrap(),
    };
    let results = Results::parse(&lines).unwrap();
    for (path, generated) in [
        (docs.join("performance.md"), tables::generate(&results)),
        (root.join("README.md"), tables::generate_short(&results)),
    ] {
        let document = std::fs::read_to_string(&path).unwrap();
        let expected = tables::replace_generated(&document, &generated).unwrap();
        assert_eq!(document, expected, "make it with qmq-bench-report render");
    }
}

#[test]
fn a_wrong_checksum_ends_it() {
    let running = start(Flush::Async);
    let mut bad = request(1);
    // A byte of the first create time, behind checksum and flag.
    bad[PREFIX_BYTES + 8 + 1] ^= 1;
    let mut client = TcpStream::connect(running.address).unwrap();
    client.write_all(&bad).unwrap();
    let error = running.thread.join().unwrap().unwrap_err();
    assert!(error.to_string().contains("checksum"), "{error}");
}

#[test]
fn other_commands_end_it() {
    let running = start(Flush::Sync);
    let mut pull = BytesMut::new();
    Header::request(CommandCode::PullMessage.code(), 1).put_frame(&mut pull, |out| out.put_u8(0));
    let mut client = TcpStream::connect(running.address).unwrap();
    client.write_all(&pull).unwrap();
    assert!(running.thread.join().unwrap().is_err());
}
