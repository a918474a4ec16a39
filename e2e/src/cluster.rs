//! A metaserver, its brokers and delay servers, each in a folder below one temporary folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use qmq_mariadb::MariaDb;
use tempfile::TempDir;

use crate::ports;
use crate::programs;
use crate::server::Server;
use crate::wait;

/// Token that the metaserver of a test accepts.
pub const TOKEN: &str = "e2e-token";
/// The metaserver looks at its database every five seconds.
const DATABASE_NOTICED_MAX: Duration = Duration::from_secs(60);
/// Clients and servers of a test share this machine.
const IP: &str = "127.0.0.1";

/// What serves a broker group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Takes messages and hands them out.
    Broker,
    /// Takes messages for later and gives them to brokers.
    Delay,
}

impl Kind {
    const fn program(self) -> &'static str {
        match self {
            Self::Broker => "qmq-broker",
            Self::Delay => "qmq-delay-server",
        }
    }

    const fn settings(self) -> &'static str {
        match self {
            Self::Broker => "broker.properties",
            Self::Delay => "delay.properties",
        }
    }

    /// Number of the role, that of a master.
    const fn role(self) -> u8 {
        match self {
            Self::Broker => 0,
            Self::Delay => 5,
        }
    }
}

/// A broker or delay server, and what it is registered as.
#[derive(Debug)]
pub struct Broker {
    /// What it is.
    pub kind: Kind,
    /// Its process.
    pub server: Server,
    /// Folder of what it stores.
    pub data: PathBuf,
    /// Name of its broker group.
    pub group: String,
    /// Port that clients use; the same after every restart.
    pub port: u16,
}

/// Everything that one test started. Dropping it kills the processes and removes the files.
#[derive(Debug)]
pub struct Cluster {
    /// The metaserver.
    pub metaserver: Server,
    /// The database of the metaserver.
    jdbc_url: String,
    brokers: Vec<Broker>,
    delay_servers: Vec<Broker>,
    database: Option<MariaDb>,
    folder: TempDir,
}

impl Cluster {
    /// Starts a metaserver on an empty SQLite database.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start() -> Result<Self> {
        Self::start_on(None)
    }

    /// Starts a metaserver on a MariaDB of its own.
    ///
    /// # Errors
    /// When one of them cannot be started.
    pub fn start_on_mariadb() -> Result<Self> {
        Self::start_on(Some(MariaDb::start()?))
    }

    /// Starts a metaserver on a MariaDB of its own, and one broker.
    ///
    /// # Errors
    /// When one of them cannot be started.
    pub fn with_broker_on_mariadb() -> Result<Self> {
        let mut cluster = Self::start_on_mariadb()?;
        cluster.add_broker("g1", &[])?;
        Ok(cluster)
    }

    fn start_on(database: Option<MariaDb>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("qmq-e2e-").tempdir()?;
        let jdbc_url = match &database {
            None => format!("sqlite:{}", folder.path().join("meta.db").display()),
            Some(server) => server.jdbc_url(&server.create_database()?),
        };
        let mut metaserver = new_metaserver(folder.path(), "metaserver", &jdbc_url)?;
        metaserver.start()?;
        Ok(Self {
            metaserver,
            jdbc_url,
            brokers: Vec::new(),
            delay_servers: Vec::new(),
            database,
            folder,
        })
    }

    /// A metaserver on the database of the first, not started yet.
    ///
    /// # Errors
    /// When there is no folder for it.
    pub fn another_metaserver(&self) -> Result<Server> {
        new_metaserver(self.folder.path(), "metaserver-2", &self.jdbc_url)
    }

    /// Starts a metaserver and one broker.
    ///
    /// # Errors
    /// When one of them cannot be started.
    pub fn with_broker() -> Result<Self> {
        let mut cluster = Self::start()?;
        cluster.add_broker("g1", &[])?;
        Ok(cluster)
    }

    /// Registers a broker with the tools and starts it. `settings` come on top of those it needs.
    ///
    /// # Errors
    /// When it cannot be registered or started.
    pub fn add_broker(&mut self, group: &str, settings: &[(&str, &str)]) -> Result<&mut Broker> {
        let mut broker = self.new_broker(group, settings)?;
        self.register(&broker)?;
        broker.server.start()?;
        self.brokers.push(broker);
        Ok(self.brokers.last_mut().expect("just pushed"))
    }

    /// Registers a delay server with the tools and starts it, as [`Self::add_broker`] does.
    ///
    /// # Errors
    /// When it cannot be registered or started.
    pub fn add_delay_server(
        &mut self,
        group: &str,
        settings: &[(&str, &str)],
    ) -> Result<&mut Broker> {
        let mut server = self.new_server(Kind::Delay, group, settings)?;
        self.register(&server)?;
        server.server.start()?;
        self.delay_servers.push(server);
        Ok(self.delay_servers.last_mut().expect("just pushed"))
    }

    /// A broker that nobody has registered or started.
    ///
    /// # Errors
    /// When there is no free port or folder for it.
    pub fn new_broker(&self, group: &str, settings: &[(&str, &str)]) -> Result<Broker> {
        self.new_server(Kind::Broker, group, settings)
    }

    fn new_server(&self, kind: Kind, group: &str, settings: &[(&str, &str)]) -> Result<Broker> {
        let port = ports::free()?;
        let home = self.folder.path().join(group);
        std::fs::create_dir_all(&home)?;
        let config = home.join(kind.settings());
        std::fs::write(&config, "")?;
        write_tokens(&home)?;
        let data = home.join("data");
        let mut all = vec![
            pair("meta.server.endpoint", &self.meta_address()?),
            pair("store.root", &data.display()),
            pair("broker.port", &port),
            pair("sync.port", "0"),
            pair("admin.port", "0"),
            pair("qmq.host", &hostname(group)),
            pair("qmq.ip", IP),
        ];
        all.extend(settings.iter().map(|(key, value)| pair(key, *value)));
        let server = Server::new(kind.program(), home, "admin", config, all);
        Ok(Broker {
            kind,
            server,
            data,
            group: group.to_owned(),
            port,
        })
    }

    /// Registers a broker as documented, with the tools.
    ///
    /// # Errors
    /// When the metaserver refuses.
    pub fn register(&self, broker: &Broker) -> Result<()> {
        let metaserver = self.http_authority()?;
        self.tools(&[
            "AddBroker",
            &format!("--metaserver={metaserver}"),
            &format!("--token={TOKEN}"),
            &format!("--brokerGroup={}", broker.group),
            &format!("--role={}", broker.kind.role()),
            &format!("--hostname={}", hostname(&broker.group)),
            &format!("--ip={IP}"),
            &format!("--servePort={}", broker.port),
            // Nobody follows this broker; the command wants a port all the same.
            &format!("--syncPort={}", ports::free()?),
        ])?;
        Ok(())
    }

    /// The first broker.
    ///
    /// # Panics
    /// When none was added.
    pub fn broker(&mut self) -> &mut Broker {
        self.brokers.first_mut().expect("a broker was added")
    }

    /// The first delay server.
    ///
    /// # Panics
    /// When none was added.
    pub fn delay_server(&mut self) -> &mut Broker {
        let first = self.delay_servers.first_mut();
        first.expect("a delay server was added")
    }

    /// Kills the database; returns when the metaserver says that it is away.
    ///
    /// # Errors
    /// When there is none of its own, or the metaserver does not notice.
    pub fn stop_database(&self) -> Result<()> {
        self.own_database()?.stop();
        self.await_readiness(503)
    }

    /// Starts the database again; returns when the metaserver says that it is back.
    ///
    /// # Errors
    /// When there is none of its own, it does not start, or the metaserver does not notice.
    pub fn start_database(&self) -> Result<()> {
        self.own_database()?.start_again()?;
        self.await_readiness(200)
    }

    fn own_database(&self) -> Result<&MariaDb> {
        self.database
            .as_ref()
            .context("this cluster has no database that could be stopped")
    }

    fn await_readiness(&self, status: u16) -> Result<()> {
        let what = format!("the metaserver answers {status} to /readyz");
        wait::until(&what, DATABASE_NOTICED_MAX, || {
            let (found, _) = self.metaserver.get("http", "/readyz")?;
            Ok((found == status).then_some(()))
        })
    }

    /// Ends every delay server, then every broker, then the metaserver, in an orderly way.
    ///
    /// # Errors
    /// When one of them does not end in time or reports a failure.
    pub fn stop(&mut self) -> Result<()> {
        for server in self.delay_servers.iter_mut().chain(&mut self.brokers) {
            server.server.stop()?;
        }
        self.metaserver.stop()
    }

    /// `host:port` of the metaserver's HTTP side.
    ///
    /// # Errors
    /// When the metaserver wrote no such address.
    pub fn http_authority(&self) -> Result<String> {
        Ok(self.metaserver.address("http")?.to_string())
    }

    /// What clients are configured with.
    ///
    /// # Errors
    /// When the metaserver wrote no such address.
    pub fn meta_address(&self) -> Result<String> {
        Ok(format!("http://{}/meta/address", self.http_authority()?))
    }

    /// Runs one command of the tools; returns what it printed.
    ///
    /// # Errors
    /// When it fails, with what it printed.
    pub fn tools(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(programs::path("qmq-tools")?);
        command.args(arguments).current_dir(self.folder.path());
        let output = command
            .output()
            .with_context(|| format!("cannot run {command:?}"))?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!(
                "{arguments:?} ended with {}: {printed}{errors}",
                output.status
            );
        }
        Ok(printed)
    }
}

/// A metaserver in a folder of its own.
fn new_metaserver(folder: &Path, name: &str, jdbc_url: &str) -> Result<Server> {
    let home = folder.join(name);
    std::fs::create_dir_all(&home)?;
    let config = home.join("metaserver.properties");
    std::fs::write(&config, "")?;
    write_tokens(&home)?;
    let settings = vec![
        pair("meta.server.discover.port", "0"),
        pair("meta.server.port", "0"),
        pair("qmq.ip", IP),
        pair("jdbc.url", jdbc_url),
        // The embedded database asks for none.
        pair("jdbc.username", qmq_mariadb::USER),
        pair("jdbc.password", qmq_mariadb::PASSWORD),
    ];
    let program = "qmq-metaserver";
    Ok(Server::new(program, home, "http", config, settings))
}

/// Lets callers with [`TOKEN`] use a server whose settings stand in this folder.
fn write_tokens(home: &Path) -> Result<()> {
    let tokens = home.join("valid-api-tokens.properties");
    Ok(std::fs::write(tokens, format!("{TOKEN}=end to end\n"))?)
}

fn hostname(group: &str) -> String {
    format!("host-of-{group}")
}

fn pair(key: &str, value: &(impl ToString + ?Sized)) -> (String, String) {
    (key.to_owned(), value.to_string())
}
