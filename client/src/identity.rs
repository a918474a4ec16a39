//! Who this client is: its default client id, and the ids of its messages.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

use chrono::{DateTime, Local, TimeZone};
use qmq_model::{ConsumerId, UnixMillis};

use crate::error::BuildError;

/// The default client id: `<hostname>@@<hash of the path of this program>`.
///
/// Brokers keep progress per client id, so it has to be the same after a restart and different for
/// every live process. Two processes of one program on one host share this default: give each an id
/// of its own then.
#[must_use]
pub fn default_client_id() -> String {
    let program = std::env::current_exe().unwrap_or_default();
    client_id(&hostname(), program.as_os_str().as_encoded_bytes())
}

/// Checks an id that somebody chose.
pub(crate) fn check_client_id(id: &str) -> Result<(), BuildError> {
    let name_error = |source| BuildError::Name {
        what: "client id",
        name: id.to_owned(),
        source,
    };
    ConsumerId::new(id).map(|_| ()).map_err(name_error)
}

fn client_id(host: &str, program: &[u8]) -> String {
    format!("{host}@@{:08x}", crc32fast::hash(program))
}

/// The name of this machine, its IP address if it has none. Characters that names must not have are
/// replaced.
fn hostname() -> String {
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    if name.is_empty() {
        return local_ip().to_string();
    }
    name.replace(
        |c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '.' | '_'),
        "-",
    )
}

/// The address this machine would use towards other networks; the loopback address without one.
fn local_ip() -> Ipv4Addr {
    // Connecting a UDP socket sends nothing; it only looks up a route. The peer is an address that
    // is reserved for documentation.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
    let address = socket.and_then(|socket| {
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    });
    match address.map(|address| address.ip()) {
        Ok(std::net::IpAddr::V4(ip)) if !ip.is_unspecified() => ip,
        _ => Ipv4Addr::LOCALHOST,
    }
}

/// Makes message ids: `yyMMdd.HHmmss.<ip>.<pid>.<n>` in local time.
#[derive(Debug)]
pub(crate) struct MessageIds {
    ip: Ipv4Addr,
    process: u32,
    next: AtomicU32,
}

impl MessageIds {
    /// Ids of this machine and process. `random` is where the count starts: a program that is
    /// restarted within a second under the same process id, or has two producers, would otherwise
    /// repeat its ids.
    pub(crate) fn starting_at(random: u32) -> Self {
        Self {
            ip: local_ip(),
            process: std::process::id(),
            next: AtomicU32::new(random),
        }
    }

    /// The next id.
    pub(crate) fn next(&self, now: UnixMillis) -> String {
        // Readers of the reference print the count as a signed number.
        let count = self.next.fetch_add(1, Ordering::Relaxed) & 0x7FFF_FFFF;
        let time = Local
            .timestamp_millis_opt(now.0)
            .single()
            .unwrap_or_default();
        self.format(&time, count)
    }

    fn format<Tz: TimeZone<Offset: std::fmt::Display>>(
        &self,
        time: &DateTime<Tz>,
        count: u32,
    ) -> String {
        format!(
            "{}.{}.{}.{count}",
            time.format("%y%m%d.%H%M%S"),
            self.ip,
            self.process
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use chrono::Utc;
    use qmq_model::payload::MESSAGE_ID_UNITS_MAX;

    use super::*;

    #[test]
    fn ids_look_like_those_of_the_java_client() {
        let ids = MessageIds {
            ip: Ipv4Addr::new(192, 168, 1, 10),
            process: 4242,
            next: 0.into(),
        };
        let time = Utc.with_ymd_and_hms(2023, 11, 14, 22, 13, 20).unwrap();
        assert_eq!(ids.format(&time, 41), "231114.221320.192.168.1.10.4242.41");
    }

    #[test]
    fn ids_are_unique_and_short_even_when_the_count_wraps() {
        let ids = MessageIds::starting_at(u32::MAX - 10);
        let made: HashSet<_> = (0..1000).map(|_| ids.next(UnixMillis(0))).collect();
        assert_eq!(made.len(), 1000);
        assert!(
            made.iter()
                .all(|id| id.len() <= MESSAGE_ID_UNITS_MAX && !id.contains('-'))
        );
    }

    #[test]
    fn client_id_is_stable_and_a_valid_name() {
        assert_eq!(
            client_id("web-1", b"/opt/app/bin/app"),
            client_id("web-1", b"/opt/app/bin/app")
        );
        assert_ne!(
            client_id("web-1", b"/opt/a/app"),
            client_id("web-1", b"/opt/b/app")
        );
        assert_eq!(default_client_id(), default_client_id());
        assert!(ConsumerId::new(&default_client_id()).is_ok());
    }
}
