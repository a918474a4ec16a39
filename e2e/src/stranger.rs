//! A client that writes what it likes: frames of any version, parts of frames, no frames at all.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context, Result, bail};
use bytes::{BufMut, BytesMut};
use qmq_protocol::frame::BODY_BYTES_MAX;
use qmq_protocol::{CommandCode, Frame, Header, split_frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// Connections come from as many addresses of this machine, so that ports which the kernel still
/// remembers do not run out.
const ADDRESSES: u8 = 16;
static NEXT_ADDRESS: AtomicU8 = AtomicU8::new(0);

/// One socket.
#[derive(Debug)]
pub struct Stranger {
    stream: TcpStream,
    received: BytesMut,
}

impl Stranger {
    /// Connects.
    ///
    /// # Errors
    /// When the server does not take the connection.
    pub async fn connect(server: SocketAddr) -> Result<Self> {
        Self::of(TcpSocket::new_v4()?, server).await
    }

    /// Connects with room for about `bytes` of what the server sends, so that a client that reads
    /// nothing is noticed soon.
    ///
    /// # Errors
    /// When the server does not take the connection.
    pub async fn connect_with_room(server: SocketAddr, bytes: u32) -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(bytes)?;
        Self::of(socket, server).await
    }

    async fn of(socket: TcpSocket, server: SocketAddr) -> Result<Self> {
        let number = NEXT_ADDRESS.fetch_add(1, Ordering::Relaxed) % ADDRESSES;
        socket.bind((Ipv4Addr::new(127, 0, 0, 1 + number), 0).into())?;
        let stream = socket.connect(server).await;
        let stream = stream.with_context(|| format!("cannot connect to {server}"))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            received: BytesMut::new(),
        })
    }

    /// Writes bytes; `false` when the server has closed the connection.
    ///
    /// # Errors
    /// When the connection failed another way.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<bool> {
        closed_is_none(self.stream.write_all(bytes).await).map(|written| written.is_some())
    }

    /// Says that nothing more comes.
    ///
    /// # Errors
    /// When the connection failed another way than by being closed.
    pub async fn finish(&mut self) -> Result<()> {
        closed_is_none(self.stream.shutdown().await).map(drop)
    }

    /// The next frame; `None` when the server has closed the connection.
    ///
    /// # Errors
    /// When what came is no frame, or the connection failed another way.
    pub async fn next(&mut self) -> Result<Option<Frame>> {
        loop {
            if let Some(frame) = split_frame(&mut self.received, BODY_BYTES_MAX)? {
                return Ok(Some(frame));
            }
            let read = self.stream.read_buf(&mut self.received).await;
            match closed_is_none(read)? {
                None | Some(0) => return Ok(None),
                Some(_) => {}
            }
        }
    }

    /// Sends a request of `version`, a frame without surprises.
    ///
    /// # Errors
    /// When the connection failed or was closed.
    pub async fn send(&mut self, version: i16, code: CommandCode, body: &[u8]) -> Result<()> {
        let header = Header {
            version,
            ..Header::request(code.code(), 1)
        };
        let mut bytes = BytesMut::new();
        header.put_frame(&mut bytes, |out| out.put_slice(body));
        if !self.write(&bytes).await? {
            bail!("the server has closed the connection");
        }
        Ok(())
    }

    /// Sends a request of `version` and returns the reply.
    ///
    /// # Errors
    /// When the connection failed or was closed.
    pub async fn ask(&mut self, version: i16, code: CommandCode, body: &[u8]) -> Result<Frame> {
        self.send(version, code, body).await?;
        let reply = self.next().await?;
        reply.context("the server has closed the connection")
    }
}

fn closed_is_none<T>(result: std::io::Result<T>) -> Result<Option<T>> {
    match result {
        Ok(done) => Ok(Some(done)),
        Err(error) => match error.kind() {
            ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::NotConnected => Ok(None),
            _ => Err(error.into()),
        },
    }
}
