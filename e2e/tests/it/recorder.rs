//! A TCP proxy that keeps every frame that passes, both ways.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use qmq_protocol::frame::{BODY_BYTES_MAX, frame_len};
use qmq_protocol::{Frame, split_frame};

const READ_BYTES: usize = 64 * 1024;

/// A frame as it came.
#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    /// All of its bytes.
    pub(crate) bytes: Bytes,
    /// The same, taken apart.
    pub(crate) frame: Frame,
}

/// Frames in the order in which they came, those of all connections together.
pub(crate) type Record = Arc<Mutex<Vec<Recorded>>>;

/// What is passed on otherwise than it came: another text of the same length.
#[derive(Clone, Default)]
struct Replacement(Option<(String, String)>);

/// A port that stands for `target` until the process ends.
pub(crate) fn forward(target: SocketAddr) -> (SocketAddr, Record) {
    serve(target, &Replacement::default())
}

/// The same, but clients read `now` where the server wrote `before`, which is as long. What is
/// kept is what the server wrote.
pub(crate) fn forward_replacing(
    target: SocketAddr,
    before: SocketAddr,
    now: SocketAddr,
) -> (SocketAddr, Record) {
    let (before, now) = (before.to_string(), now.to_string());
    assert_eq!(before.len(), now.len(), "{before} {now}");
    serve(target, &Replacement(Some((before, now))))
}

/// The URL of a page that names `address`, as `/meta/address` of the metaserver names its own.
pub(crate) fn page_with(address: SocketAddr) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let page = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut request = BufReader::new(&client).lines();
            while request
                .by_ref()
                .next()
                .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
            {}
            let text = address.to_string();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}", text.len());
            // A client that has gone asks again.
            let _ = write!(client, "{head}\r\nConnection: close\r\n\r\n{text}");
        }
    });
    format!("http://{page}/meta/address")
}

fn serve(target: SocketAddr, replacement: &Replacement) -> (SocketAddr, Record) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let record = Record::default();
    let kept = Arc::clone(&record);
    let replacement = replacement.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            // While the server is away clients see a connection that closes.
            let Ok(server) = TcpStream::connect(target) else {
                continue;
            };
            let there = (client.try_clone().unwrap(), server.try_clone().unwrap());
            pass(there, Replacement::default(), Arc::clone(&kept));
            pass((server, client), replacement.clone(), Arc::clone(&kept));
        }
    });
    (address, record)
}

/// One direction of one connection, until one side closes it.
fn pass(streams: (TcpStream, TcpStream), replacement: Replacement, record: Record) {
    std::thread::spawn(move || {
        let (from, to) = streams;
        // The end of a connection is none of the test's business.
        let _ = pass_frames(&from, &to, &replacement, &record);
        let _ = to.shutdown(std::net::Shutdown::Both);
        let _ = from.shutdown(std::net::Shutdown::Both);
    });
}

fn pass_frames(
    mut from: &TcpStream,
    mut to: &TcpStream,
    replacement: &Replacement,
    record: &Mutex<Vec<Recorded>>,
) -> std::io::Result<()> {
    to.set_nodelay(true)?;
    let mut pending = BytesMut::new();
    let mut read = vec![0; READ_BYTES];
    loop {
        let len = from.read(&mut read)?;
        if len == 0 {
            return Ok(());
        }
        pending.extend_from_slice(&read[..len]);
        while let Some(len) = frame_len(&pending, BODY_BYTES_MAX).expect("both sides write frames")
        {
            if pending.len() < len {
                break;
            }
            let bytes = pending.split_to(len).freeze();
            let whole = split_frame(&mut BytesMut::from(&bytes[..]), BODY_BYTES_MAX);
            let frame = whole.expect("checked above").expect("whole");
            // Kept before it is passed on: whoever has seen an answer finds it here.
            let recorded = Recorded {
                bytes: bytes.clone(),
                frame,
            };
            record.lock().unwrap().push(recorded);
            to.write_all(&replacement.apply(bytes))?;
        }
    }
}

impl Replacement {
    fn apply(&self, bytes: Bytes) -> Bytes {
        let Some((before, now)) = &self.0 else {
            return bytes;
        };
        let mut out = bytes.to_vec();
        for at in 0..out.len().saturating_sub(before.len() - 1) {
            if out[at..].starts_with(before.as_bytes()) {
                out[at..at + now.len()].copy_from_slice(now.as_bytes());
            }
        }
        out.into()
    }
}
