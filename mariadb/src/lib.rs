//! A private MariaDB server for tests: a folder and a port of its own, on this machine only, gone
//! when the process that started it is, however it ends.
//!
//! The programs are those of the machine (`mariadbd`, `mariadb-install-db` and `mariadb`); where
//! they are missing, starting fails and names them.

mod guardian;

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use guardian::Guardian;

/// Who may do everything.
pub const USER: &str = "qmq";
/// The password of [`USER`]; with signs that a URL has to escape.
pub const PASSWORD: &str = "p@ss/w:rd?";

/// Longest wait for a server to come up. It takes two seconds on an idle machine.
const START_MAX: Duration = Duration::from_secs(120);
/// How often one that could not start is started on another port.
const STARTS_MAX: u32 = 5;
/// Pause between two looks at a server that comes up.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A server that was started. Dropping it removes everything.
#[derive(Debug)]
pub struct MariaDb {
    folder: PathBuf,
    port: u16,
    running: Mutex<Option<Guardian>>,
    databases: AtomicU32,
}

impl MariaDb {
    /// The server that the tests of this process share, started at the first call.
    ///
    /// # Errors
    /// When it cannot be started; every later call says the same.
    pub fn shared() -> Result<&'static Self, String> {
        static SHARED: OnceLock<Result<MariaDb, String>> = OnceLock::new();
        let started = SHARED.get_or_init(|| Self::start().map_err(|error| error.to_string()));
        started.as_ref().map_err(Clone::clone)
    }

    /// Starts a server of its own.
    ///
    /// # Errors
    /// When the programs are missing, or it does not come up.
    pub fn start() -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("qmq-mariadb-").tempdir()?;
        install(folder.path())?;
        let mut failure = io::Error::other("never started");
        for _ in 0..STARTS_MAX {
            let port = free_port()?;
            match run(folder.path(), port) {
                // From here on the guardian removes the folder.
                Ok(guardian) => {
                    return Ok(Self {
                        folder: folder.keep(),
                        port,
                        running: Mutex::new(Some(guardian)),
                        databases: AtomicU32::new(0),
                    });
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Makes an empty database and returns its name.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn create_database(&self) -> io::Result<String> {
        let number = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("qmq_{number}");
        self.execute(&format!("CREATE DATABASE {name} CHARACTER SET utf8mb4"))?;
        Ok(name)
    }

    /// Runs statements that need no database, or name it.
    ///
    /// # Errors
    /// What the server says.
    pub fn execute(&self, statements: &str) -> io::Result<()> {
        let mut client = Command::new("mariadb");
        client.args(["--no-defaults", "--protocol=tcp", "--host=127.0.0.1"]);
        client.arg(format!("--port={}", self.port));
        client.arg(format!("--user={USER}"));
        client.args(["--batch", "--execute", statements]);
        succeed("mariadb", client.env("MYSQL_PWD", PASSWORD))
    }

    /// The setting `jdbc.url` of one of its databases, without user and password.
    #[must_use]
    pub fn jdbc_url(&self, database: &str) -> String {
        format!("jdbc:mysql://127.0.0.1:{}/{database}", self.port)
    }

    /// The same for the driver of the tests.
    #[must_use]
    pub fn driver_url(&self, database: &str) -> String {
        format!(
            "mysql://{USER}:p%40ss%2Fw%3Ard%3F@127.0.0.1:{}/{database}",
            self.port
        )
    }

    /// Kills the server; what was committed is kept. Without effect on one that is stopped.
    pub fn stop(&self) {
        if let Some(guardian) = self.running().take() {
            guardian.stop();
        }
    }

    /// Starts it again, on the same port. Without effect on one that runs.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_again(&self) -> io::Result<()> {
        let mut running = self.running();
        if running.is_none() {
            *running = Some(run(&self.folder, self.port)?);
        }
        Ok(())
    }

    /// Lets it hang: connections stay, nothing is answered.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&self) -> io::Result<()> {
        self.signal("STOP")
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&self) -> io::Result<()> {
        self.signal("CONT")
    }

    fn signal(&self, name: &str) -> io::Result<()> {
        match self.running().as_ref() {
            Some(guardian) => guardian.signal(name),
            None => Err(io::Error::other("the server does not run")),
        }
    }

    fn running(&self) -> MutexGuard<'_, Option<Guardian>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        match self.running().take() {
            Some(guardian) => guardian.remove(),
            // Nobody else is left to do it; a folder that stays in the temporary place does no harm.
            None => drop(std::fs::remove_dir_all(&self.folder)),
        }
    }
}

/// Makes the system tables.
fn install(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(temporary(folder))?;
    let mut install = Command::new("mariadb-install-db");
    install
        .env("TMPDIR", temporary(folder))
        .args([
            "--no-defaults",
            "--skip-test-db",
            "--auth-root-authentication-method=normal",
        ])
        .arg(format!("--datadir={}", data(folder).display()))
        .arg(format!("--user={}", user()?));
    succeed("mariadb-install-db", &mut install)?;
    let grant = format!(
        "CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';\n\
         GRANT ALL ON *.* TO '{USER}'@'%';\n"
    );
    std::fs::write(folder.join("grant.sql"), grant)
}

/// Starts the server and waits until it answers.
fn run(folder: &Path, port: u16) -> io::Result<Guardian> {
    let log = folder.join("server.log");
    let arguments = [
        "--no-defaults".to_owned(),
        format!("--datadir={}", data(folder).display()),
        format!("--tmpdir={}", temporary(folder).display()),
        format!("--init-file={}", folder.join("grant.sql").display()),
        format!("--user={}", user()?),
        format!("--port={port}"),
        "--bind-address=127.0.0.1".to_owned(),
        // Relative to its folder: paths of sockets are short.
        "--socket=server.sock".to_owned(),
        "--pid-file=server.pid".to_owned(),
        "--skip-name-resolve".to_owned(),
        "--max-connections=500".to_owned(),
        // Small and quick; a commit survives the end of the process, not of the machine.
        "--innodb-buffer-pool-size=64M".to_owned(),
        "--innodb-flush-log-at-trx-commit=2".to_owned(),
        "--innodb-doublewrite=0".to_owned(),
    ];
    let guardian = Guardian::start(folder, &log, &arguments)?;
    let until = Instant::now() + START_MAX;
    while !answers(port) {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        if text.contains("Aborting") || Instant::now() > until {
            guardian.stop();
            return Err(io::Error::other(format!(
                "mariadbd does not start:\n{text}"
            )));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(guardian)
}

/// Whether a server greets at this port.
fn answers(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let Ok(mut stream) = TcpStream::connect_timeout(&address, LOOK_AGAIN) else {
        return false;
    };
    let mut greeting = [0; 5];
    stream.set_read_timeout(Some(START_MAX)).is_ok() && stream.read_exact(&mut greeting).is_ok()
}

/// Where it puts temporary tables. Of its own: a server that starts removes those of others.
fn temporary(folder: &Path) -> PathBuf {
    folder.join("tmp")
}

fn data(folder: &Path) -> PathBuf {
    folder.join("data")
}

/// Who runs this: a server that root starts must be told that it may run as root.
fn user() -> io::Result<String> {
    let Output { stdout, .. } = Command::new("id").arg("-un").output()?;
    Ok(String::from_utf8_lossy(&stdout).trim().to_owned())
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

/// Runs a program to its end; what it wrote is in the error.
fn succeed(name: &str, command: &mut Command) -> io::Result<()> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| missing(name, &error))?;
    if output.status.success() {
        return Ok(());
    }
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    Err(io::Error::other(format!(
        "{name}: {}\n{out}{err}",
        output.status
    )))
}

fn missing(name: &str, error: &io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!(
            "cannot run {name}: {error}; these tests need MariaDB \
             (Debian: mariadb-server-core and mariadb-client-core)"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_hangs_and_starts_again_with_its_data() {
        let server = MariaDb::start().unwrap();
        let name = server.create_database().unwrap();
        let table = format!("CREATE TABLE {name}.kept (n INT); INSERT INTO {name}.kept VALUES (1)");
        server.execute(&table).unwrap();
        server.stop();
        assert!(!answers(server.port));
        assert!(server.execute("SELECT 1").is_err());
        server.start_again().unwrap();
        server.pause().unwrap();
        server.resume().unwrap();
        let read = format!("SELECT n FROM {name}.kept");
        server.execute(&read).unwrap();
        assert!(server.execute("SELECT n FROM nowhere.kept").is_err());
        let (folder, port) = (server.folder.clone(), server.port);
        drop(server);
        assert!(!folder.try_exists().unwrap());
        assert!(!answers(port));
    }

    #[test]
    fn names_what_is_missing() {
        let error = succeed("no-such-program", &mut Command::new("no-such-program"));
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("no-such-program") && error.contains("need MariaDB"),
            "{error}"
        );
    }
}
