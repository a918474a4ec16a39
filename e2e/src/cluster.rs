//! A metaserver and its brokers, each in a folder below one temporary folder.

use std::process::Command;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::ports;
use crate::programs;
use crate::server::Server;

/// Token that the metaserver of a test accepts.
pub const TOKEN: &str = "e2e-token";
/// Clients and servers of a test share this machine.
const IP: &str = "127.0.0.1";

/// A broker and what it is registered as.
#[derive(Debug)]
pub struct Broker {
    /// Its process.
    pub server: Server,
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
    brokers: Vec<Broker>,
    folder: TempDir,
}

impl Cluster {
    /// Starts a metaserver on an empty database.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("qmq-e2e-").tempdir()?;
        let home = folder.path().join("metaserver");
        std::fs::create_dir_all(&home)?;
        let config = home.join("metaserver.properties");
        std::fs::write(&config, "")?;
        std::fs::write(
            home.join("valid-api-tokens.properties"),
            format!("{TOKEN}=end to end\n"),
        )?;
        let settings = vec![
            pair("meta.server.discover.port", "0"),
            pair("meta.server.port", "0"),
            pair("qmq.ip", IP),
            pair(
                "jdbc.url",
                &format!("sqlite:{}", home.join("meta.db").display()),
            ),
        ];
        let mut metaserver = Server::new("qmq-metaserver", home, "http", config, settings);
        metaserver.start()?;
        Ok(Self {
            metaserver,
            brokers: Vec::new(),
            folder,
        })
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

    /// A broker that nobody has registered or started.
    ///
    /// # Errors
    /// When there is no free port or folder for it.
    pub fn new_broker(&self, group: &str, settings: &[(&str, &str)]) -> Result<Broker> {
        let port = ports::free()?;
        let home = self.folder.path().join(group);
        std::fs::create_dir_all(&home)?;
        let config = home.join("broker.properties");
        std::fs::write(&config, "")?;
        let mut all = vec![
            pair("meta.server.endpoint", &self.meta_address()?),
            pair("store.root", &home.join("data").display()),
            pair("broker.port", &port),
            pair("sync.port", "0"),
            pair("admin.port", "0"),
            pair("qmq.host", &hostname(group)),
            pair("qmq.ip", IP),
        ];
        all.extend(settings.iter().map(|(key, value)| pair(key, *value)));
        let server = Server::new("qmq-broker", home, "admin", config, all);
        Ok(Broker {
            server,
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
            "--role=0",
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

    /// Ends every broker, then the metaserver, in an orderly way.
    ///
    /// # Errors
    /// When one of them does not end in time or reports a failure.
    pub fn stop(&mut self) -> Result<()> {
        for broker in &mut self.brokers {
            broker.server.stop()?;
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

fn hostname(group: &str) -> String {
    format!("host-of-{group}")
}

fn pair(key: &str, value: &(impl ToString + ?Sized)) -> (String, String) {
    (key.to_owned(), value.to_string())
}
