//! The shell between us and the server: it ends the server when we end, in whatever way, because
//! the pipe it reads from is closed then.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

/// Started with the folder, the log and the arguments of the server. Signals from a terminal are
/// for the tests: both live on until the pipe says so.
const SCRIPT: &str = r#"
PATH=$PATH:/usr/sbin:/usr/local/sbin
trap '' INT TERM HUP
folder=$1 log=$2
shift 2
mariadbd "$@" >"$log" 2>&1 </dev/null &
pid=$!
echo "$pid"
exec >/dev/null
read -r word
kill -KILL "$pid" 2>/dev/null
wait "$pid" 2>/dev/null
[ "$word" = keep ] || rm -rf --one-file-system -- "$folder"
"#;

/// One run of a server.
#[derive(Debug)]
pub(crate) struct Guardian {
    shell: Child,
    words: ChildStdin,
    /// Process id of the server.
    pid: u32,
}

impl Guardian {
    /// Starts a server that writes to `log`; `folder` is removed with it.
    pub(crate) fn start(folder: &Path, log: &Path, arguments: &[String]) -> io::Result<Self> {
        let mut shell = Command::new("sh");
        shell.args(["-c", SCRIPT, "guardian"]);
        shell.arg(folder).arg(log).args(arguments);
        shell.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = shell.spawn()?;
        let (Some(words), Some(said)) = (shell.stdin.take(), shell.stdout.take()) else {
            return Err(io::Error::other("a shell without pipes"));
        };
        let mut pid = String::new();
        BufReader::new(said).read_line(&mut pid)?;
        let pid = pid.trim().parse().map_err(io::Error::other)?;
        Ok(Self { shell, words, pid })
    }

    /// Kills the server and leaves its folder.
    pub(crate) fn stop(mut self) {
        // If the shell is gone there is nobody left to be told.
        drop(self.words.write_all(b"keep\n"));
        self.end();
    }

    /// Kills the server and removes its folder.
    pub(crate) fn remove(self) {
        self.end();
    }

    fn end(self) {
        let Self {
            mut shell, words, ..
        } = self;
        drop(words);
        drop(shell.wait());
    }

    /// Sends a signal to the server.
    pub(crate) fn signal(&self, name: &str) -> io::Result<()> {
        // The shell's own `kill`: not every machine has a program of that name.
        let kill = format!("kill -{name} {}", self.pid);
        let status = Command::new("sh").args(["-c", &kill]).status()?;
        if status.success() {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "cannot send {name} to the server"
        )))
    }
}
