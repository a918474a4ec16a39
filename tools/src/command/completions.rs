//! `completions`: what a shell needs to complete commands and options.

use std::io;

use anyhow::Result;
use clap::Args;
use clap_complete::Shell;

use crate::cli;
use crate::output::Outcome;

#[derive(Args, Debug)]
pub(crate) struct Completions {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
    /// Name under which these tools are called, such as `tools.sh`.
    #[arg(long, value_name = "PROGRAM", default_value = "qmq-tools")]
    name: String,
}

impl Completions {
    pub(crate) fn run(self) -> Result<Outcome> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut cli::definition(), self.name, &mut script);
        io::Write::write_all(&mut io::stdout().lock(), &script)?;
        Ok(Outcome::Done)
    }
}
