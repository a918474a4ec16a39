//! `ResetOffset`: moves a consumer group on all brokers of its subject.

use anyhow::{Result, bail};
use clap::Args;
use qmq_model::{Clock, SystemClock};

use crate::action::{Action, Parameter};
use crate::when::Moment;

#[derive(Args, Debug)]
pub(crate) struct ResetOffset {
    /// The subject it consumes.
    #[arg(long)]
    subject: String,
    /// The consumer group.
    #[arg(long, alias = "consumer-group")]
    group: String,
    /// Where it goes on: 1 or `latest` behind the newest message, 2 or `earliest` at the oldest that
    /// is kept, 3 or `time` at the time of --time.
    // The metaserver calls it `code`: `action` is taken there.
    #[arg(long, alias = "code", value_parser = place)]
    action: u8,
    /// With --action=3: the first message that was stored then or later. Written as for `pub --at`.
    #[arg(long, value_name = "TIME")]
    time: Option<Moment>,
}

/// The action that needs a time.
const TIME: u8 = 3;

fn place(text: &str) -> Result<u8, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "latest" => Ok(1),
        "2" | "earliest" => Ok(2),
        "3" | "time" => Ok(TIME),
        _ => Err("expected 1 (latest), 2 (earliest) or 3 (time)".to_owned()),
    }
}

impl Action for ResetOffset {
    const NAME: &'static str = "ResetOffset";

    fn parameters(self) -> Result<Vec<Parameter>> {
        if self.time.is_some() != (self.action == TIME) {
            bail!("ResetOffset needs --time with --action={TIME}, and only there");
        }
        let time = self.time.map(|time| time.from(SystemClock.now()));
        let mut parameters = vec![
            ("subject", self.subject),
            ("group", self.group),
            ("code", self.action.to_string()),
        ];
        parameters.extend(time.map(|time| ("time", time.to_string())));
        Ok(parameters)
    }
}
