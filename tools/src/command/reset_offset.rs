//! `ResetOffset`: moves a consumer group on all brokers of its subject.

use anyhow::Result;
use clap::Args;

use crate::action::{Action, Parameter};

#[derive(Args, Debug)]
pub(crate) struct ResetOffset {
    /// The subject it consumes.
    #[arg(long)]
    subject: String,
    /// The consumer group.
    #[arg(long, alias = "consumerGroup", alias = "consumer-group")]
    group: String,
    /// Where it goes on: 1 or `latest` behind the newest message, 2 or `earliest` at the oldest that
    /// is kept.
    // The metaserver calls it `code`: `action` is taken there.
    #[arg(long, alias = "code", value_parser = place)]
    action: u8,
}

fn place(text: &str) -> Result<u8, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "latest" => Ok(1),
        "2" | "earliest" => Ok(2),
        _ => Err("expected 1 (latest) or 2 (earliest)".to_owned()),
    }
}

impl Action for ResetOffset {
    const NAME: &'static str = "ResetOffset";

    fn parameters(self) -> Result<Vec<Parameter>> {
        Ok(vec![
            ("subject", self.subject),
            ("group", self.group),
            ("code", self.action.to_string()),
        ])
    }
}
