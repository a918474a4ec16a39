//! `Subjects`: subjects and the groups that serve them as a table.

use anyhow::Result;
use clap::Args;
use qmq_model::UnixMillis;

use crate::output::Outcome;
use crate::site::Reads;
use crate::table::{Cell, Rows};
use crate::when::shown;

#[derive(Args, Debug)]
pub(crate) struct ShowSubjects {
    #[command(flatten)]
    site: Reads,
    /// Only subjects that begin with this.
    #[arg(long, default_value = "", hide_default_value = true)]
    subject: String,
    /// Only subjects that this group serves.
    #[arg(long = "brokerGroup")]
    broker_group: Option<String>,
    /// Prints an array of objects.
    #[arg(long)]
    json: bool,
}

const COLUMNS: [(&str, &str); 4] = [
    ("SUBJECT", "subject"),
    ("GROUPS", "brokerGroups"),
    ("VERSION", "version"),
    ("UPDATED", "updateTime"),
];

impl ShowSubjects {
    pub(crate) async fn run(self) -> Result<Outcome> {
        let mut routes = self.site.routes().await?;
        routes.retain(|route| {
            let group = self.broker_group.as_ref();
            route.subject.starts_with(&self.subject)
                && group.is_none_or(|group| route.broker_groups.contains(group))
        });
        routes.sort_by(|a, b| a.subject.cmp(&b.subject));
        let mut rows = Rows::new(&COLUMNS);
        for route in &routes {
            let updated = shown(UnixMillis(route.update_time));
            rows.push(vec![
                route.subject.as_str().into(),
                Cell::shown(route.broker_groups.join(","), route.broker_groups.clone()),
                route.version.into(),
                Cell::shown(updated, route.update_time),
            ]);
        }
        if self.json {
            println!("{}", rows.json());
        } else {
            print!("{}", rows.text());
        }
        Ok(Outcome::Done)
    }
}
