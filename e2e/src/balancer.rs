//! One address for several servers, as a load balancer in front of them: it passes over those that
//! do not answer.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;

/// Longest wait for a server to take a connection; clients wait half a second for an answer.
const CONNECT_MAX: Duration = Duration::from_millis(200);
/// Longest silence of either side.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Which server gets a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The next one.
    InTurn,
    /// The first, as long as it answers.
    FirstThatAnswers,
}

/// Runs until it is dropped.
#[derive(Debug)]
pub struct Balancer {
    address: SocketAddr,
    is_stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Balancer {
    /// Starts one in front of `servers`.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn start(order: Order, servers: Vec<SocketAddr>) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let is_stopped = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&is_stopped);
        let thread = std::thread::spawn(move || serve(&listener, order, &servers, &stopped));
        Ok(Self {
            address,
            is_stopped,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        // Wakes the thread, which then sees that it is to end.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn serve(listener: &TcpListener, order: Order, servers: &[SocketAddr], is_stopped: &AtomicBool) {
    for turn in 0.. {
        let Ok((client, _)) = listener.accept() else {
            return;
        };
        if is_stopped.load(Ordering::Relaxed) {
            return;
        }
        let passed_over = match order {
            Order::InTurn => turn % servers.len(),
            Order::FirstThatAnswers => 0,
        };
        let mut all = (servers.iter().cycle().skip(passed_over)).take(servers.len());
        let server = all.find_map(|server| TcpStream::connect_timeout(server, CONNECT_MAX).ok());
        // Without a server the connection ends, as with a balancer that has none.
        if let Some(server) = server {
            std::thread::spawn(move || pass(&client, &server));
        }
    }
}

/// Copies both ways until one side ends or falls silent.
fn pass(client: &TcpStream, server: &TcpStream) -> io::Result<()> {
    for stream in [client, server] {
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
    }
    std::thread::scope(|scope| {
        scope.spawn(|| copy(client, server));
        copy(server, client);
    });
    Ok(())
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    // An error is the end of the connection, like any other.
    drop(io::copy(&mut from, &mut to));
    for stream in [from, to] {
        drop(stream.shutdown(std::net::Shutdown::Both));
    }
}
