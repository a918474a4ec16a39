//! `AddDb`, `ListDbs`: databases of applications that send transactional messages.

use anyhow::{Context, Result};
use clap::Args;

use super::paging::Page;
use crate::action::{Action, Parameter};
use crate::site::secret_from_stdin;

#[derive(Args, Debug)]
pub(crate) struct AddDb {
    /// Kind of database.
    #[arg(long = "type", default_value = "mmm")]
    kind: String,
    /// Its host.
    #[arg(long)]
    host: String,
    /// Its port.
    #[arg(long)]
    port: u16,
    /// The user the watchdog logs in as.
    #[arg(long, alias = "user-name")]
    username: String,
    /// The user's password. Other users of this machine can see it in the list of processes.
    #[arg(
        long,
        required_unless_present = "password_stdin",
        conflicts_with = "password_stdin"
    )]
    password: Option<String>,
    /// Reads the password from standard input.
    #[arg(long)]
    password_stdin: bool,
    /// Watchdogs of this name look after it.
    #[arg(long, default_value = "default")]
    room: String,
    /// Changes user and password of a database that is known. Without it they stay as they are.
    #[arg(long)]
    update: bool,
}

impl Action for AddDb {
    const NAME: &'static str = "AddDb";

    fn parameters(self) -> Result<Vec<Parameter>> {
        let password = match self.password {
            Some(password) => password,
            None => secret_from_stdin().context("the password")?,
        };
        let mut parameters = vec![
            ("type", self.kind),
            ("host", self.host),
            ("port", self.port.to_string()),
            ("username", self.username),
            ("password", password),
            ("room", self.room),
        ];
        if self.update {
            parameters.push(("update", "true".to_owned()));
        }
        Ok(parameters)
    }
}

#[derive(Args, Debug)]
pub(crate) struct ListDbs {
    #[command(flatten)]
    page: Page,
}

impl Action for ListDbs {
    const NAME: &'static str = "ListDbs";

    fn parameters(self) -> Result<Vec<Parameter>> {
        Ok(self.page.parameters())
    }
}
