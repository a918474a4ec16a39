//! Ports: free ones for servers that must be registered before they start, and the file in which
//! a server writes the ones it listens on.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use anyhow::{Context, Result, bail};
use rand::Rng;

/// Below the range from which the kernel takes the ports of outgoing connections, so that a port
/// that is free now is not taken by one of those before the server binds it.
const FREE_RANGE: std::ops::Range<u16> = 20_000..32_000;
const TRIES: usize = 200;

/// A port of this machine that nobody listens on.
///
/// # Errors
/// When none was found.
pub fn free() -> Result<u16> {
    for _ in 0..TRIES {
        let port = rand::rng().random_range(FREE_RANGE);
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port in {FREE_RANGE:?} after {TRIES} tries");
}

/// The address that a server wrote under `key`; `None` while the file or the line is not there.
///
/// # Errors
/// When the line is no address.
pub fn read(file: &Path, key: &str) -> Result<Option<SocketAddr>> {
    let Ok(text) = std::fs::read_to_string(file) else {
        return Ok(None);
    };
    parse(&text, key).with_context(|| format!("{key} in {}", file.display()))
}

/// Lines are `key=address` or `key=port`; a last line without its end is still being written. An
/// address of all interfaces is reached through the loopback.
fn parse(text: &str, key: &str) -> Result<Option<SocketAddr>> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let Some(value) = whole
        .lines()
        .find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix('='))
        .map(|value| value.trim().replace('\\', ""))
    else {
        return Ok(None);
    };
    if let Ok(port) = value.parse::<u16>() {
        return Ok(Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
    }
    let mut address: SocketAddr = value.parse().with_context(|| format!("{value:?}"))?;
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    Ok(Some(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ports_and_addresses() {
        let text = "# written at start\nhttp=8080\ntcp=0.0.0.0:20880\nadmin=127.0.0.1:5\n";
        let local = |port| Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        assert_eq!(parse(text, "http").unwrap(), local(8080));
        assert_eq!(parse(text, "tcp").unwrap(), local(20880));
        assert_eq!(parse(text, "admin").unwrap(), local(5));
        assert_eq!(parse(text, "sync").unwrap(), None);
        assert!(parse("http=nonsense\n", "http").is_err());
    }

    #[test]
    fn waits_for_the_end_of_the_line() {
        assert_eq!(parse("http=80", "http").unwrap(), None);
    }

    #[test]
    fn finds_a_port_that_can_be_bound() {
        let port = free().unwrap();
        assert!(FREE_RANGE.contains(&port));
    }
}
