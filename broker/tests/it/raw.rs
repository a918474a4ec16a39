//! A client that writes frames of any version, and bytes that are no frames.

use std::io::{Read, Write};
use std::net::TcpStream;

use bytes::{BufMut, BytesMut};
use qmq_protocol::frame::BODY_BYTES_MAX;
use qmq_protocol::{CommandCode, Frame, Header, split_frame};

use crate::harness::{PATIENCE, TestBroker};

/// A socket of its own. Its calls block: use it in tests with more than one worker.
pub(crate) struct Raw {
    stream: TcpStream,
    buf: BytesMut,
}

impl Raw {
    pub(crate) fn connect(broker: &TestBroker) -> Self {
        let stream = TcpStream::connect(broker.address()).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            buf: BytesMut::new(),
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next frame; `None` when the broker has closed the connection.
    pub(crate) fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = split_frame(&mut self.buf, BODY_BYTES_MAX).unwrap() {
                return Some(frame);
            }
            let mut part = [0; 4096];
            match self.stream.read(&mut part).unwrap() {
                0 => return None,
                read => self.buf.extend_from_slice(&part[..read]),
            }
        }
    }

    /// A request of `version` and the reply to it.
    pub(crate) fn ask(&mut self, version: i16, code: CommandCode, body: &[u8]) -> Frame {
        let header = Header {
            version,
            ..Header::request(code.code(), 77)
        };
        let mut bytes = BytesMut::new();
        header.put_frame(&mut bytes, |out| out.put_slice(body));
        self.write(&bytes);
        let reply = self.frame().unwrap();
        assert_eq!((reply.header.version, reply.header.opaque), (version, 77));
        reply
    }
}
