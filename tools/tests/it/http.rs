//! An HTTP server with made-up answers that notes what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};

/// One request as it came.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Method and path.
    pub(crate) line: String,
    /// Value of `X-Api-Token`.
    pub(crate) token: Option<String>,
    /// Value of `Content-Type`.
    pub(crate) content_type: Option<String>,
    /// Decoded form fields, in order.
    pub(crate) form: Vec<(String, String)>,
}

pub(crate) struct FakeHttp {
    /// `host:port`.
    pub(crate) authority: String,
    pub(crate) asked: Receiver<Asked>,
}

impl FakeHttp {
    /// Answers with this status line and body for as long as the process lives.
    pub(crate) fn start(status: &'static str, body: impl Into<String>) -> Self {
        let body = body.into();
        Self::answering(status, move |_| body.clone())
    }

    /// Answers with what `answer` makes of the request.
    pub(crate) fn answering(
        status: &'static str,
        answer: impl Fn(&Asked) -> String + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let (sender, asked) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let request = read(&mut stream);
                let body = answer(&request);
                let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
                let length = format!("Content-Length: {}\r\n\r\n", body.len());
                // The client may have gone away; the test sees that for itself.
                let _ = stream.write_all(format!("{head}{length}{body}").as_bytes());
                let _ = sender.send(request);
            }
        });
        Self { authority, asked }
    }
}

fn read(stream: &mut impl Read) -> Asked {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let header = |name: &str| {
        lines.iter().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        })
    };
    let length = header("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let line = lines[0].rsplit_once(' ').unwrap().0.to_owned();
    let form = String::from_utf8(body).unwrap();
    let pairs = form.split('&').filter_map(|pair| pair.split_once('='));
    Asked {
        line,
        token: header("x-api-token"),
        content_type: header("content-type"),
        form: pairs
            .map(|(key, value)| (decoded(key), decoded(value)))
            .collect(),
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).unwrap()
}
