//! One server process: start, wait until ready, stop, `kill -9`, start again.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::usage::Usage;
use crate::{ports, programs, wait};

/// Long enough for a recovery on a busy machine; a process that died ends the wait at once.
const READY_MAX: Duration = Duration::from_secs(120);
/// Longer than a server's own deadline for draining.
const STOP_MAX: Duration = Duration::from_secs(120);
const HTTP_MAX: Duration = Duration::from_secs(30);
/// This much of a log is shown when something went wrong.
const LOG_TAIL_BYTES: u64 = 16 * 1024;

/// One server with a folder of its own. Dropping it kills the process.
#[derive(Debug)]
pub struct Server {
    name: &'static str,
    folder: PathBuf,
    /// Where in the file of ports the port with `/readyz` stands.
    ready_key: &'static str,
    /// Passed with `-c`, so that no file of this machine is found instead.
    config: PathBuf,
    settings: Vec<(String, String)>,
    process: Option<Child>,
}

impl Server {
    /// A server that is not started yet, with the configuration file `config` and with `settings`
    /// as `--set key=value`.
    #[must_use]
    pub fn new(
        name: &'static str,
        folder: PathBuf,
        ready_key: &'static str,
        config: PathBuf,
        settings: Vec<(String, String)>,
    ) -> Self {
        Self {
            name,
            folder,
            ready_key,
            config,
            settings,
            process: None,
        }
    }

    /// Starts the process and waits until it answers `/readyz`.
    ///
    /// # Errors
    /// With the end of its log when it dies or is not ready in time.
    pub fn start(&mut self) -> Result<()> {
        self.launch()?;
        self.await_ready()
    }

    /// Starts the process without waiting.
    ///
    /// # Errors
    /// When it runs already or cannot be started.
    pub fn launch(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("{} runs already", self.name);
        }
        std::fs::create_dir_all(&self.folder)?;
        // Ports of the last start must not be taken for those of this one.
        match std::fs::remove_file(self.ports_file()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())?;
        let mut command = Command::new(programs::path(self.name)?);
        command
            .current_dir(&self.folder)
            .env_remove("QMQ_CONF")
            .env_remove("QMQ_HOME");
        command.arg("-c").arg(&self.config);
        command
            .arg("--set")
            .arg(format!("ports.file={}", self.ports_file().display()));
        for (key, value) in &self.settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        self.process = Some(child);
        Ok(())
    }

    /// Waits until the process answers `/readyz`.
    ///
    /// # Errors
    /// With the end of its log when it dies or is not ready in time.
    pub fn await_ready(&mut self) -> Result<()> {
        let what = format!("{} is ready", self.name);
        let ready = wait::until(&what, READY_MAX, || {
            if let Some(status) = self.exited()? {
                bail!("{} ended while it started: {status}", self.name);
            }
            let Some(address) = self.address_now(self.ready_key)? else {
                return Ok(None);
            };
            // Refused while it is still starting.
            let answer = get(address, "/readyz").ok();
            Ok(answer.filter(|(status, _)| *status == 200).map(|_| ()))
        });
        ready.with_context(|| self.log_tail())
    }

    /// Writes its settings file anew. What is dynamic in it counts within 10 s.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn change_settings(&self, text: &str) -> Result<()> {
        Ok(std::fs::write(&self.config, text)?)
    }

    /// Where the server listens: `http`, `tcp` or `admin`.
    ///
    /// # Errors
    /// When the server wrote no such address.
    pub fn address(&self, key: &str) -> Result<SocketAddr> {
        self.address_now(key)?.with_context(|| {
            format!(
                "{} wrote no address {key:?}; {}",
                self.name,
                self.log_tail()
            )
        })
    }

    /// Kills the process as `kill -9` does; it is gone on return.
    ///
    /// # Errors
    /// When there is no process.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.take_process()?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Asks the process to end with SIGTERM and waits until it has.
    ///
    /// # Errors
    /// When it does not end in time or reports a failure.
    pub fn stop(&mut self) -> Result<()> {
        let pid = self
            .pid()
            .with_context(|| format!("{} does not run", self.name))?;
        let signalled = Command::new("sh")
            .args(["-c", &format!("kill -TERM {pid}")])
            .status()?;
        if !signalled.success() {
            bail!("cannot signal {} ({pid})", self.name);
        }
        let what = format!("{} ends after SIGTERM", self.name);
        let status =
            wait::until(&what, STOP_MAX, || self.exited()).with_context(|| self.log_tail())?;
        self.process = None;
        if !status.success() {
            bail!("{} ended with {status}; {}", self.name, self.log_tail());
        }
        Ok(())
    }

    /// Waits until the process ends by itself, as one does that cannot start.
    ///
    /// # Errors
    /// When it does not.
    pub fn await_end(&mut self) -> Result<ExitStatus> {
        let what = format!("{} ends by itself", self.name);
        let status = wait::until(&what, READY_MAX, || self.exited())?;
        self.process = None;
        Ok(status)
    }

    /// Status and body of `GET path` on the port named `key`.
    ///
    /// # Errors
    /// When there is no such port or no answer.
    pub fn get(&self, key: &str, path: &str) -> Result<(u16, String)> {
        get(self.address(key)?, path)
    }

    /// Status and body of `POST path` with this form and token on the port named `key`.
    ///
    /// # Errors
    /// When there is no such port or no answer.
    pub fn post(
        &self,
        key: &str,
        path: &str,
        token: &str,
        form: &[(&str, &str)],
    ) -> Result<(u16, String)> {
        post(self.address(key)?, path, token, form)
    }

    /// What its process uses.
    ///
    /// # Errors
    /// When it does not run.
    pub fn usage(&self) -> Result<Usage> {
        let pid = self.pid();
        Usage::of(pid.with_context(|| format!("{} does not run", self.name))?)
    }

    /// The last lines it logged.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let path = self.log_file();
        let tail = read_tail(&path).unwrap_or_else(|error| error.to_string());
        format!("log of {}:\n{tail}", self.name)
    }

    fn address_now(&self, key: &str) -> Result<Option<SocketAddr>> {
        ports::read(&self.ports_file(), key)
    }

    fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    fn exited(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.process {
            Some(child) => Ok(child.try_wait()?),
            None => bail!("{} does not run", self.name),
        }
    }

    fn take_process(&mut self) -> Result<Child> {
        self.process
            .take()
            .with_context(|| format!("{} does not run", self.name))
    }

    fn ports_file(&self) -> PathBuf {
        self.folder.join("ports.properties")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("server.out")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.process.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
    }
}

/// Status and body of one HTTP request.
/// Status and body of `GET path`.
///
/// # Errors
/// When there is no answer.
pub fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n");
    exchange(address, &format!("{head}Connection: close\r\n\r\n"))
}

/// Status and body of one HTTP request with a form and a token.
///
/// # Errors
/// When there is no answer.
pub fn post(
    address: SocketAddr,
    path: &str,
    token: &str,
    form: &[(&str, &str)],
) -> Result<(u16, String)> {
    let mut body = form_urlencoded::Serializer::new(String::new());
    let body = body.extend_pairs(form).finish();
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nX-Api-Token: {token}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n"
    );
    exchange(address, &format!("{head}Connection: close\r\n\r\n{body}"))
}

fn exchange(address: SocketAddr, request: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, HTTP_MAX)?;
    stream.set_read_timeout(Some(HTTP_MAX))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("answer without an end of headers")?;
    let status = head
        .split(' ')
        .nth(1)
        .context("answer without a status")?
        .parse()?;
    Ok((status, body.to_owned()))
}

fn read_tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
