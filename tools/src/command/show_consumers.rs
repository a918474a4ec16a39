//! `Consumers`: who consumes a subject, and how far, as tables.

use anyhow::{Context, Result, bail};
use clap::Args;
use qmq_model::UnixMillis;
use serde::Deserialize;
use serde_json::json;

use crate::admin::{self, answer_to};
use crate::cli::BrokerAdmin;
use crate::listing::{Consumers, client_of};
use crate::output::Outcome;
use crate::site::Reads;
use crate::table::{Cell, Rows};
use crate::when::shown;

/// Role of the servers that hand out messages.
const ROLE: &str = "MASTER";

#[derive(Args, Debug)]
pub(crate) struct ShowConsumers {
    #[command(flatten)]
    site: Reads,
    /// The subject.
    #[arg(long)]
    subject: String,
    /// Only this consumer group.
    #[arg(long, alias = "consumer-group")]
    group: Option<String>,
    /// Also asks every broker how far the groups have come, and how much they have before them.
    #[arg(long)]
    lag: bool,
    /// Port of the HTTP side (`admin.port`) of the brokers, for --lag.
    #[arg(long, value_name = "PORT", default_value_t = crate::cli::BROKER_ADMIN_PORT_DEFAULT)]
    admin_port: u16,
    /// Prints an object with the arrays `clients` and, with --lag, `progress`.
    #[arg(long)]
    json: bool,
}

const CLIENTS: [(&str, &str); 4] = [
    ("GROUP", "group"),
    ("CLIENT", "clientId"),
    ("APPLICATION", "appCode"),
    ("ROOM", "room"),
];
const PROGRESS: [(&str, &str); 8] = [
    ("GROUP", "group"),
    ("BROKER", "broker"),
    ("NEXT", "next"),
    ("END", "end"),
    ("LAG", "lag"),
    ("CLIENT", "clientId"),
    ("UNACKED", "unacked"),
    ("LAST SEEN", "lastSeen"),
];

/// What a broker says of a consumer group.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reached {
    group: String,
    next: i64,
    end: i64,
    lag: i64,
    members: Vec<Member>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Member {
    consumer_id: String,
    unacked: i64,
    last_seen: i64,
}

impl ShowConsumers {
    pub(crate) async fn run(self) -> Result<Outcome> {
        let clients = self.clients(self.site.consumers(&self.subject).await?);
        let mut silent = Vec::new();
        let progress = if self.lag {
            Some(self.progress(&mut silent).await?)
        } else {
            None
        };
        if self.json {
            let mut all = json!({ "clients": clients.json() });
            if let Some(progress) = &progress {
                all["progress"] = progress.json();
            }
            println!("{all}");
        } else {
            print!("{}", clients.text());
            if let Some(progress) = &progress {
                print!("\n{}", progress.text());
            }
        }
        if silent.is_empty() {
            return Ok(Outcome::Done);
        }
        bail!(
            "the list is not complete, some brokers do not answer: {}",
            silent.join("; ")
        )
    }

    fn is_wanted(&self, group: &str) -> bool {
        self.group.as_deref().is_none_or(|wanted| wanted == group)
    }

    fn clients(&self, listed: Vec<Consumers>) -> Rows {
        let mut rows = Rows::new(&CLIENTS);
        for Consumers {
            consumer_group,
            end_point,
        } in listed
        {
            if !self.is_wanted(&consumer_group) {
                continue;
            }
            for end_point in &end_point {
                let (client, app, room) = client_of(end_point);
                rows.push(vec![
                    consumer_group.as_str().into(),
                    client.into(),
                    app.into(),
                    room.into(),
                ]);
            }
        }
        rows
    }

    /// How far the groups have come on each broker; who gives no answer is noted as `silent`.
    async fn progress(&self, silent: &mut Vec<String>) -> Result<Rows> {
        let mut rows = Rows::new(&PROGRESS);
        let brokers = self.site.brokers("").await?;
        for broker in brokers.into_iter().filter(|broker| broker.role == ROLE) {
            let server = format!("{}:{}", broker.ip, self.admin_port).parse::<BrokerAdmin>();
            let server = server.map_err(anyhow::Error::msg)?;
            match self.reached(&server).await {
                Ok(reached) => {
                    for reached in reached.iter().filter(|one| self.is_wanted(&one.group)) {
                        add(&mut rows, &broker.group, reached);
                    }
                }
                Err(error) => silent.push(format!("{error:#}")),
            }
        }
        Ok(rows)
    }

    async fn reached(&self, server: &BrokerAdmin) -> Result<Vec<Reached>> {
        let request = admin::http()?
            .get(server.url("/consumers"))
            .query(&[("subject", &self.subject)]);
        let answer = answer_to(request).await;
        let (status, text) = answer.with_context(|| server.to_string())?;
        if !status.is_success() {
            bail!("{server}: status {status}: {}", text.trim());
        }
        serde_json::from_str(&text).with_context(|| format!("{server}: no answer of a broker"))
    }
}

/// A row for each consumer of the group, or one for a group without any.
fn add(rows: &mut Rows, broker: &str, reached: &Reached) {
    let of_group = || -> Vec<Cell> {
        vec![
            reached.group.as_str().into(),
            broker.into(),
            reached.next.into(),
            reached.end.into(),
            reached.lag.into(),
        ]
    };
    if reached.members.is_empty() {
        let mut row = of_group();
        row.extend([
            "".into(),
            0.into(),
            Cell::shown("", serde_json::Value::Null),
        ]);
        rows.push(row);
    }
    for member in &reached.members {
        let mut row = of_group();
        row.push(member.consumer_id.as_str().into());
        row.push(member.unacked.into());
        row.push(Cell::shown(
            shown(UnixMillis(member.last_seen)),
            member.last_seen,
        ));
        rows.push(row);
    }
}
