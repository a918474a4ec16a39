//! A port on which a test in another process asks for servers of the cluster to be killed and started.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cluster::Cluster;

/// A caller that connects and says nothing is given up after this.
const COMMAND_MAX: Duration = Duration::from_secs(60);

/// Serves the port until the process ends, without keeping the cluster: it goes with its owner. One
/// command per connection, answered with `ok` or the reason why not: `kill-broker`, `start-broker`,
/// `kill-metaserver`, `stop-database`, `start-database`.
///
/// # Errors
/// When the port cannot be opened.
pub fn serve(cluster: &Arc<Mutex<Cluster>>) -> Result<SocketAddr> {
    let cluster = Arc::downgrade(cluster);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            // The caller sees a closed connection and fails its test.
            let _ = answer(&cluster, &connection);
        }
    });
    Ok(address)
}

fn answer(cluster: &Weak<Mutex<Cluster>>, mut connection: &TcpStream) -> Result<()> {
    connection.set_read_timeout(Some(COMMAND_MAX))?;
    let mut line = String::new();
    BufReader::new(connection).read_line(&mut line)?;
    let cluster = cluster.upgrade().context("the cluster is gone")?;
    match obey(lock(&cluster), line.trim()) {
        Ok(()) => writeln!(connection, "ok")?,
        Err(error) => writeln!(connection, "{}", format!("{error:#}").replace('\n', " | "))?,
    }
    Ok(())
}

fn obey(mut cluster: MutexGuard<'_, Cluster>, command: &str) -> Result<()> {
    match command {
        "kill-broker" => cluster.broker().server.kill(),
        "start-broker" => cluster.broker().server.start(),
        "kill-metaserver" => cluster.metaserver.kill(),
        "stop-database" => cluster.stop_database(),
        "start-database" => cluster.start_database(),
        _ => bail!("unknown command {command:?}"),
    }
}

fn lock(cluster: &Mutex<Cluster>) -> MutexGuard<'_, Cluster> {
    cluster.lock().unwrap_or_else(PoisonError::into_inner)
}
