//! Settings of a metaserver, with their units and defaults.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use qmq_daemon::settings::{Settings, SettingsError};

use crate::db::{DatabaseUrl, DatabaseUrlError};

/// How often silent clients are looked for.
const CLIENT_EXPIRY_ROUND: Duration = Duration::from_secs(3_600);
const CLIENT_EXPIRE_DAYS_DEFAULT: u64 = 30;
const GROUP_NUM_MIN_DEFAULT: usize = 2;
const HEARTBEAT_TIMEOUT_MS_DEFAULT: u64 = 30_000;

/// Keys of the Java metaserver that mean nothing here.
const WITHOUT_EFFECT: [&str; 2] = ["meta.server.load.balance", "jdbc.driverClassName"];

/// Everything a metaserver can be told. Keys are those of `metaserver.properties` and
/// `datasource.properties`.
#[derive(Clone, Debug)]
pub struct MetaserverConfig {
    /// `meta.server.discover.port`: HTTP. 0 takes a free one. Default: 8080.
    pub http_port: u16,
    /// `meta.server.port`: clients and brokers. 0 takes a free one. Default: 20880.
    pub tcp_port: u16,
    /// `server.connections.max`: clients and brokers connected at a time. Default: 20 000.
    pub connections_max: usize,
    /// `meta.server.advertised.address`: what `/meta/address` answers, when clients reach the TCP
    /// port another way than directly. Default: `qmq.ip` and the TCP port.
    pub advertised: Option<SocketAddrV4>,
    /// `qmq.ip`: address of this machine. Default: that of the default route.
    pub ip: Option<Ipv4Addr>,
    /// `jdbc.url`, `jdbc.username`, `jdbc.password`: the database. User and password may also stand
    /// in the URL. Default: `sqlite:data/metaserver.db`.
    pub database: DatabaseUrl,
    /// `pool.size.max`: connections to the database. Default: 10.
    pub database_connections: u32,
    /// `refresh.period.seconds`: how often routes are read again. Default: 5.
    pub refresh_period: Duration,
    /// `first.route.wait.ms`: how long a client is kept waiting while no group is there for it.
    /// The Java client asks again only after 60 s. Unit: ms. Default: 2000.
    pub first_route_wait: Duration,
    /// `client.expire.days`: silence after which a client that was heard is no longer listed; 0,
    /// here none, lists it for ever. Default: 30 days.
    pub client_silence_max: Option<Duration>,
    /// How often such clients are looked for, first after so long. No key: 1 hour.
    pub client_expiry_round: Duration,
    /// `broker.register.open`: take groups and addresses that are not in table `broker`.
    /// Default: false.
    pub open_register: bool,
    /// `onoffline.open`: take changes by GET `/onoffline` without a token, as the Java metaserver
    /// does: anybody on the network can stop any consumer then. Default: false.
    pub open_onoffline: bool,
    /// Values that may change while running.
    pub rules: RuleValues,
    /// `broker-http-port-map.properties` beside the settings file.
    pub slave_ports_file: Option<PathBuf>,
    /// `valid-api-tokens.properties` beside the settings file.
    pub tokens_file: Option<PathBuf>,
    /// `ports.file`: where to write the ports in use, for scripts that let us choose. Default: none.
    pub ports_file: Option<PathBuf>,
}

impl MetaserverConfig {
    /// Reads the settings.
    ///
    /// # Errors
    /// The first value that makes no sense, with its origin.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingsError> {
        settings.without_effect(&WITHOUT_EFFECT);
        let database = read_database(settings)?;
        let seconds = settings.number("refresh.period.seconds", 5, 1..=3600)?;
        let expire_days =
            settings.number("client.expire.days", CLIENT_EXPIRE_DAYS_DEFAULT, 0..=3_650)?;
        let wait_ms = settings.number("first.route.wait.ms", 2_000, 0..=60_000)?;
        Ok(Self {
            http_port: settings.get("meta.server.discover.port", 8080)?,
            tcp_port: settings.get("meta.server.port", 20880)?,
            connections_max: settings.number("server.connections.max", 20_000, 1..=1_000_000)?,
            advertised: settings.optional("meta.server.advertised.address")?,
            ip: settings.optional("qmq.ip")?,
            database,
            database_connections: settings.number("pool.size.max", 10, 2..=1_000)?,
            refresh_period: Duration::from_secs(seconds),
            first_route_wait: Duration::from_millis(wait_ms),
            client_silence_max: (expire_days > 0)
                .then(|| Duration::from_secs(expire_days * 24 * 3_600)),
            client_expiry_round: CLIENT_EXPIRY_ROUND,
            open_register: settings.flag("broker.register.open", false)?,
            open_onoffline: settings.flag("onoffline.open", false)?,
            rules: RuleValues::from_settings(settings)?,
            slave_ports_file: settings.companion_path("broker-http-port-map"),
            tokens_file: settings.companion_path("valid-api-tokens"),
            ports_file: settings.optional("ports.file")?,
        })
    }
}

fn read_database(settings: &Settings) -> Result<DatabaseUrl, SettingsError> {
    let url = settings.get("jdbc.url", "sqlite:data/metaserver.db".to_owned())?;
    let url: DatabaseUrl = url
        .parse()
        .map_err(|error: DatabaseUrlError| settings.invalid("jdbc.url", error.to_string()))?;
    let user: Option<String> = settings.optional("jdbc.username")?;
    let password: Option<String> = settings.optional("jdbc.password")?;
    Ok(url.with_credentials(user.as_deref(), password.as_deref()))
}

/// Values that may change while running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleValues {
    /// `min.group.num`: groups a subject shall have. Default: 2.
    pub group_num_min: usize,
    /// `heartbeat.timeout.ms`: silence after which a group is away. Unit: ms. Default: 30 000.
    pub heartbeat_timeout_ms: u64,
}

impl RuleValues {
    fn from_settings(settings: &Settings) -> Result<Self, SettingsError> {
        Ok(Self {
            group_num_min: settings.number("min.group.num", GROUP_NUM_MIN_DEFAULT, 1..=100)?,
            heartbeat_timeout_ms: settings.number(
                "heartbeat.timeout.ms",
                HEARTBEAT_TIMEOUT_MS_DEFAULT,
                100..=3_600_000,
            )?,
        })
    }
}

/// The current [`RuleValues`], shared.
#[derive(Debug)]
pub struct Rules {
    group_num_min: AtomicUsize,
    heartbeat_timeout_ms: AtomicU64,
}

impl Rules {
    /// Starts with these values.
    #[must_use]
    pub fn new(values: RuleValues) -> Self {
        Self {
            group_num_min: AtomicUsize::new(values.group_num_min),
            heartbeat_timeout_ms: AtomicU64::new(values.heartbeat_timeout_ms),
        }
    }

    /// Takes over what changed settings say.
    ///
    /// # Errors
    /// When a value makes no sense; nothing changes then.
    pub fn follow(&self, settings: &Settings) -> Result<(), SettingsError> {
        let values = RuleValues::from_settings(settings)?;
        self.group_num_min
            .store(values.group_num_min, Ordering::Relaxed);
        self.heartbeat_timeout_ms
            .store(values.heartbeat_timeout_ms, Ordering::Relaxed);
        Ok(())
    }

    /// Groups a subject shall have.
    #[must_use]
    pub fn group_num_min(&self) -> usize {
        self.group_num_min.load(Ordering::Relaxed)
    }

    /// Silence after which a group is away.
    #[must_use]
    pub fn heartbeat_timeout(&self) -> Duration {
        Duration::from_millis(self.heartbeat_timeout_ms.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_makes_no_sense() {
        let read = |key, value| {
            let settings = Settings::of_pairs("metaserver", &[(key, value)]);
            MetaserverConfig::from_settings(&settings).map_err(|error| error.to_string())
        };
        let error = read("jdbc.url", "jdbc:oracle:thin:@h:1521:qmq").unwrap_err();
        assert!(
            error.contains("oracle databases are not supported"),
            "{error}"
        );
        let error = read("min.group.num", "0").unwrap_err();
        assert!(error.contains("not within 1..=100"), "{error}");
        assert!(read("meta.server.advertised.address", "[::1]:1").is_err());
        let kept = read("client.expire.days", "0").unwrap();
        assert_eq!(kept.client_silence_max, None);
        assert!(read("meta.server.advertised.address", "10.0.0.1:20880").is_ok());
    }
}
