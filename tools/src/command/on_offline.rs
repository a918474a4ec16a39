//! `OnOffline`: takes consumers offline and back, or tells what they are.

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::admin::{self, TOKEN};
use crate::output::Outcome;
use crate::site::Writes;

/// Where consumers are switched.
const PATH: &str = "/onoffline";

#[derive(Args, Debug)]
pub(crate) struct OnOffline {
    #[command(flatten)]
    site: Writes,
    /// The subject it consumes.
    #[arg(long)]
    subject: String,
    /// Its consumer group.
    #[arg(long, alias = "consumer-group")]
    group: String,
    /// Its client id, or '*' for all of the group. Back online, '*' also forgets what was said of
    /// single ones.
    #[arg(long = "clientId")]
    client_id: String,
    /// What it shall be. Without it: tells what was said of exactly this one.
    #[arg(long, value_enum)]
    state: Option<State>,
    /// Prints an object with `status`, `message` and `data`: so does the metaserver.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum State {
    #[value(alias = "0", alias = "online")]
    On,
    #[value(alias = "1", alias = "offline")]
    Off,
}

impl OnOffline {
    pub(crate) async fn run(self) -> Result<Outcome> {
        let Writes {
            metaserver,
            token,
            dry_run,
        } = &self.site;
        let operation = if self.state.is_some() {
            "update"
        } else {
            "query"
        };
        let state = if self.state == Some(State::Off) {
            "1"
        } else {
            "0"
        };
        let fields = [
            ("operation", operation),
            ("clientId", &self.client_id),
            ("subject", &self.subject),
            ("consumerGroup", &self.group),
            ("state", state),
        ];
        if let Some((name, _)) = fields.iter().find(|(_, value)| value.is_empty()) {
            bail!("{name} is empty");
        }
        let url = metaserver.url(PATH);
        if *dry_run && self.state.is_some() {
            let fields: serde_json::Map<_, _> = fields
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).into()))
                .collect();
            println!(
                "{}",
                json!({ "dryRun": true, "url": url, "parameters": fields })
            );
            return Ok(Outcome::Done);
        }
        let request = admin::http()?.post(url).header(TOKEN, token).form(&fields);
        let what = format!("{operation} of {} at {metaserver}", self.client_id);
        Ok(admin::judged(request, &what).await?.tell(self.json))
    }
}
