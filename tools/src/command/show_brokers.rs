//! `Brokers`: servers and the state of their groups as a table.

use std::collections::HashMap;

use anyhow::Result;
use clap::Args;
use qmq_model::UnixMillis;

use crate::listing::{Broker, Group};
use crate::output::Outcome;
use crate::site::Reads;
use crate::table::{Cell, Rows};
use crate::when::shown;

#[derive(Args, Debug)]
pub(crate) struct ShowBrokers {
    #[command(flatten)]
    site: Reads,
    /// Only servers of this group.
    #[arg(long = "brokerGroup", default_value = "", hide_default_value = true)]
    broker_group: String,
    /// Prints an array of objects.
    #[arg(long)]
    json: bool,
}

const COLUMNS: [(&str, &str); 9] = [
    ("GROUP", "group"),
    ("ROLE", "role"),
    ("STATE", "state"),
    ("HOST", "hostname"),
    ("ADDRESS", "address"),
    ("SYNC PORT", "syncPort"),
    ("REGISTERED", "registered"),
    ("TAG", "tag"),
    ("SINCE", "since"),
];

impl ShowBrokers {
    pub(crate) async fn run(self) -> Result<Outcome> {
        let brokers = self.site.brokers(&self.broker_group).await?;
        let groups = self.site.groups().await?;
        let rows = rows(brokers, &groups);
        if self.json {
            println!("{}", rows.json());
        } else {
            print!("{}", rows.text());
        }
        Ok(Outcome::Done)
    }
}

/// Only masters register: for the others, and those that never came, there is no state.
fn rows(mut brokers: Vec<Broker>, groups: &[Group]) -> Rows {
    let by_name: HashMap<&str, &Group> = groups
        .iter()
        .map(|group| (group.group_name.as_str(), group))
        .collect();
    brokers.sort_by(|a, b| (&a.group, &a.role).cmp(&(&b.group, &b.role)));
    let mut rows = Rows::new(&COLUMNS);
    for broker in &brokers {
        let is_master = matches!(broker.role.as_str(), "MASTER" | "DELAY_MASTER" | "DELAY");
        let group = by_name.get(broker.group.as_str()).filter(|_| is_master);
        let text = |of: fn(&Group) -> &str| Cell::from(group.map_or("", |group| of(group)));
        let since = group.map_or_else(
            || Cell::from(""),
            |group| Cell::shown(shown(UnixMillis(group.update_time)), group.update_time),
        );
        let address = format!("{}:{}", broker.ip, broker.serve_port);
        let state = if is_master && group.is_none() {
            Cell::from("never came")
        } else {
            text(|group| &group.broker_state)
        };
        rows.push(vec![
            broker.group.as_str().into(),
            broker.role.as_str().into(),
            state,
            broker.hostname.as_str().into(),
            address.as_str().into(),
            broker.sync_port.into(),
            text(|group| &group.master),
            text(|group| group.tag.as_deref().unwrap_or_default()),
            since,
        ]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_have_the_state_of_their_group() {
        let broker = |group: &str, role: &str| Broker {
            group: group.into(),
            role: role.into(),
            hostname: "h".into(),
            ip: "10.0.0.1".into(),
            serve_port: 20881,
            sync_port: 20882,
        };
        let group = Group {
            group_name: "g1".into(),
            master: "10.0.0.9:20881".into(),
            update_time: 1_795_159_757_436,
            broker_state: "RW".into(),
            tag: Some("red".into()),
            kind: "NORMAL".into(),
        };
        let brokers = vec![
            broker("g2", "MASTER"),
            broker("g1", "SLAVE"),
            broker("g1", "MASTER"),
        ];
        let rows = rows(brokers, &[group]).json();
        assert_eq!(rows[0]["role"], "MASTER");
        assert_eq!(rows[0]["state"], "RW");
        assert_eq!(rows[0]["registered"], "10.0.0.9:20881");
        assert_eq!(rows[0]["since"], 1_795_159_757_436_i64);
        assert_eq!(rows[1]["role"], "SLAVE");
        assert_eq!(rows[1]["state"], "");
        assert_eq!(rows[2]["state"], "never came");
    }
}
