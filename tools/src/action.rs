//! Management actions of the metaserver as commands: one POST each, its answer on one line.

use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value, json};

use crate::admin;
use crate::output::Outcome;
use crate::site::{Reads, Writes};

/// Name and value of a form field.
pub(crate) type Parameter = (&'static str, String);

/// Form fields whose values are shown to nobody.
const SECRETS: [&str; 1] = ["password"];

/// What one action needs to know.
pub(crate) trait Action {
    /// Its name at the metaserver, which is not always that of the command.
    const NAME: &'static str;

    /// Its form fields, in order.
    ///
    /// # Errors
    /// When what was given does not fit together, or cannot be read.
    fn parameters(self) -> Result<Vec<Parameter>>;
}

/// A command that asks for a list and prints it as the metaserver says it.
#[derive(Args, Debug)]
pub(crate) struct Look<A: Args> {
    #[command(flatten)]
    site: Reads,
    #[command(flatten)]
    action: A,
    /// Prints an object with `status`, `message` and `data` always. Without it the answer is printed
    /// as it came, and the metaserver answers in three styles.
    #[arg(long)]
    json: bool,
}

/// A command that changes something.
#[derive(Args, Debug)]
pub(crate) struct Change<A: Args> {
    #[command(flatten)]
    site: Writes,
    #[command(flatten)]
    action: A,
    /// Prints an object with `status`, `message` and `data` always. Without it the answer is printed
    /// as it came, and the metaserver answers in three styles.
    #[arg(long)]
    json: bool,
}

impl<A: Action + Args> Look<A> {
    pub(crate) async fn run(self) -> Result<Outcome> {
        let parameters = self.action.parameters()?;
        let Reads { metaserver, token } = self.site;
        let answer = admin::ask(&metaserver, &token, A::NAME, &parameters).await?;
        Ok(answer.tell(self.json))
    }
}

impl<A: Action + Args> Change<A> {
    pub(crate) async fn run(self) -> Result<Outcome> {
        let parameters = self.action.parameters()?;
        let Writes {
            metaserver,
            token,
            dry_run,
        } = self.site;
        if dry_run {
            println!(
                "{}",
                shown(&metaserver.url(admin::PATH), A::NAME, &parameters)
            );
            return Ok(Outcome::Done);
        }
        let answer = admin::ask(&metaserver, &token, A::NAME, &parameters).await?;
        Ok(answer.tell(self.json))
    }
}

/// What would be sent, without secrets.
fn shown(url: &str, action: &str, parameters: &[Parameter]) -> Value {
    let field = |(name, value): &Parameter| {
        let is_secret = SECRETS.contains(name);
        let value = if is_secret { "***" } else { value };
        ((*name).to_owned(), Value::from(value))
    };
    let fields: Map<_, _> = parameters.iter().map(field).collect();
    json!({ "dryRun": true, "url": url, "action": action, "parameters": fields })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let parameters = [
            ("host", "db-1".to_owned()),
            ("password", "hidden".to_owned()),
        ];
        let text = shown("http://m:8080/management", "AddDb", &parameters).to_string();
        assert!(
            text.contains("db-1") && !text.contains("hidden") && text.contains("***"),
            "{text}"
        );
    }
}
