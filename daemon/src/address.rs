//! What this machine is called and which address others reach it at.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};

use tracing::warn;

use crate::settings::{Settings, SettingsError};

/// An address of documentation that nothing is ever sent to: asking the system which local address
/// it would use on the way there finds the address of the default route.
const ELSEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

/// Name and address of this machine as the metaserver and clients know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostIdentity {
    /// `qmq.host`, else `qmq.ip`, else the host name of the system. Brokers are looked up by it.
    pub hostname: String,
    /// `qmq.ip`, else the first address of [`local_ipv4`].
    pub ip: Ipv4Addr,
}

impl HostIdentity {
    /// Reads `qmq.host` and `qmq.ip`.
    ///
    /// # Errors
    /// When `qmq.ip` is no dotted IPv4 address: every client splits addresses at the first colon.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingsError> {
        let (host, ip) = Self::read(settings)?;
        let hostname = host
            .or_else(|| ip.map(|ip| ip.to_string()))
            .unwrap_or_else(os_hostname);
        let ip = ip.unwrap_or_else(local_ipv4);
        Ok(Self { hostname, ip })
    }

    /// Reads the settings without asking the system.
    ///
    /// # Errors
    /// As [`HostIdentity::from_settings`].
    pub fn check(settings: &Settings) -> Result<(), SettingsError> {
        Self::read(settings).map(drop)
    }

    fn read(settings: &Settings) -> Result<(Option<String>, Option<Ipv4Addr>), SettingsError> {
        Ok((settings.optional("qmq.host")?, settings.optional("qmq.ip")?))
    }
}

/// The host name of the system.
#[must_use]
pub fn os_hostname() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// The IPv4 address of the default route; without one, the first address of the host name that is
/// not a loopback; without that, 127.0.0.1. The address of the default route is asked for first
/// because a machine may have others that nobody outside can reach, like those of containers.
#[must_use]
pub fn local_ipv4() -> Ipv4Addr {
    let found = default_route_ipv4().or_else(|| hostname_ipv4(&os_hostname()));
    found.unwrap_or_else(|| {
        warn!("no address but 127.0.0.1: others cannot reach this server; set qmq.ip");
        Ipv4Addr::LOCALHOST
    })
}

fn default_route_ipv4() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(ELSEWHERE).ok()?;
    usable(socket.local_addr().ok()?.ip())
}

fn hostname_ipv4(hostname: &str) -> Option<Ipv4Addr> {
    (hostname, 0)
        .to_socket_addrs()
        .ok()?
        .find_map(|address| usable(address.ip()))
}

fn usable(ip: IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(ip) if !ip.is_loopback() && !ip.is_unspecified() => Some(ip),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(pairs: &[(&str, &str)]) -> Result<HostIdentity, SettingsError> {
        HostIdentity::from_settings(&Settings::of_pairs("broker", pairs))
    }

    #[test]
    fn the_host_setting_wins_over_the_address_over_the_system() {
        let both = identity(&[("qmq.host", "h"), ("qmq.ip", "10.0.0.1")]).unwrap();
        assert_eq!(
            both,
            HostIdentity {
                hostname: "h".into(),
                ip: Ipv4Addr::new(10, 0, 0, 1)
            }
        );
        let ip = identity(&[("qmq.ip", "10.0.0.1")]).unwrap();
        assert_eq!(ip.hostname, "10.0.0.1");
        let system = identity(&[]).unwrap();
        assert_eq!(system.hostname, os_hostname());
        assert!(!system.hostname.is_empty());
        assert!(!system.ip.is_unspecified());
    }

    #[test]
    fn refuses_an_address_that_clients_cannot_parse() {
        assert!(identity(&[("qmq.ip", "::1")]).is_err());
        assert!(identity(&[("qmq.ip", "127.1")]).is_err());
    }
}
