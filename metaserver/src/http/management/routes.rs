//! Changes of routes by compare-and-set, of one subject or of all.

use std::collections::BTreeMap;

use tracing::warn;

use super::action::Call;
use crate::db::{DbError, DbResult};
use crate::http::reply::Reply;
use crate::routing::{ANY, Route};

/// How often a change of somebody else may come in between.
const ROUNDS_MAX: usize = 5;
/// Routes that are read at a time when all are looked at.
const PAGE: i64 = 1_000;
/// Subjects that a message names.
const NAMED_MAX: usize = 5;

/// What is to be done to a route.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change<'a> {
    /// A group is added.
    Add(&'a str),
    /// A group is added where another is.
    AddBeside { related: &'a str, added: &'a str },
    /// A group is taken away, and not put back when the route is short of groups.
    Remove(&'a str),
}

/// Why a route is as it was.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// There would be nothing left.
    #[error("its last group cannot be removed")]
    LastGroup,
    /// The column is full.
    #[error("its list of groups would be longer than its column")]
    TooLong,
    /// Five times somebody else was faster.
    #[error("others change it all the time")]
    Contended,
    /// Nothing more is done.
    #[error(transparent)]
    Db(DbError),
}

impl From<DbError> for Refusal {
    fn from(error: DbError) -> Self {
        match error {
            DbError::TooLong { .. } => Self::TooLong,
            error => Self::Db(error),
        }
    }
}

impl Change<'_> {
    /// The groups as they shall be; none when nothing is to be done.
    fn apply(self, groups: &[String]) -> Result<Option<Vec<String>>, Refusal> {
        let holds = |name: &str| groups.iter().any(|group| group == name);
        let changed: Vec<String> = match self {
            Self::Remove(removed) if holds(removed) => {
                let kept = groups.iter().filter(|group| *group != removed);
                kept.cloned().collect()
            }
            Self::AddBeside { related, .. } if !holds(related) => return Ok(None),
            Self::Add(added) | Self::AddBeside { added, .. } if !holds(added) => {
                let added = added.to_owned();
                groups.iter().cloned().chain([added]).collect()
            }
            _ => return Ok(None),
        };
        if changed.is_empty() {
            return Err(Refusal::LastGroup);
        }
        Ok(Some(changed))
    }
}

impl Call {
    /// Changes one route; whether anything was to be done.
    ///
    /// # Errors
    /// When the route is as it was.
    pub(super) async fn change_route(
        &self,
        subject: &str,
        route: Route,
        change: Change<'_>,
    ) -> Result<bool, Refusal> {
        let outcome = self.write_route(subject, route, change).await;
        match (change, &outcome) {
            // The note came first, and stays only with a route that lacks the group.
            (Change::Remove(group), Err(_)) => self.state.db.forget_removed(subject, group).await?,
            (Change::Add(group) | Change::AddBeside { added: group, .. }, Ok(true)) => {
                self.state.db.forget_removed(subject, group).await?;
            }
            _ => {}
        }
        outcome
    }

    async fn write_route(
        &self,
        subject: &str,
        mut route: Route,
        change: Change<'_>,
    ) -> Result<bool, Refusal> {
        let db = &self.state.db;
        for _ in 0..ROUNDS_MAX {
            let Some(groups) = change.apply(&route.groups)? else {
                return Ok(false);
            };
            if let Change::Remove(group) = change {
                db.note_removed(subject, group).await?;
            }
            let version = route.version;
            if db.update_route(subject, &groups, version).await? {
                let version = version + 1;
                let route = Route { groups, version };
                self.state.snapshots.learn(subject, route);
                return Ok(true);
            }
            match db.route(subject).await? {
                Some(read) => route = read,
                None => return Ok(false),
            }
        }
        Err(Refusal::Contended)
    }

    /// Changes the route of `subject`, or of every subject for [`ANY`]. `Ok(None)` when there is no
    /// such route.
    ///
    /// # Errors
    /// When the routes cannot be read.
    pub(super) async fn change_routes(
        &self,
        subject: &str,
        change: Change<'_>,
    ) -> DbResult<Option<Changed>> {
        let mut changed = Changed::default();
        if subject == ANY {
            self.change_all(change, &mut changed).await?;
        } else {
            let Some(route) = self.state.db.route(subject).await? else {
                return Ok(None);
            };
            let outcome = self.change_route(subject, route, change).await;
            changed.note(subject, outcome);
        }
        // Producers and consumers are told at once, by this metaserver at least.
        self.state.snapshots.refreshed().await;
        Ok(Some(changed))
    }

    async fn change_all(&self, change: Change<'_>, changed: &mut Changed) -> DbResult<()> {
        let mut after = String::new();
        loop {
            let page = self.state.db.routes_after(&after, PAGE).await?;
            for row in page.rows {
                let outcome = self.change_route(&row.subject, row.route, change).await;
                if let Err(Refusal::Db(error)) = outcome {
                    return Err(error);
                }
                changed.note(&row.subject, outcome);
            }
            match page.next {
                Some(last) if !self.state.stop.is_cancelled() => after = last,
                Some(_) => return Err(DbError::Timeout),
                None => return Ok(()),
            }
        }
    }
}

/// What became of several routes.
#[derive(Debug, Default)]
pub(super) struct Changed {
    /// Routes that were changed.
    pub(super) count: usize,
    /// Subjects whose routes were not, and why.
    pub(super) refused: BTreeMap<String, String>,
}

impl Changed {
    fn note(&mut self, subject: &str, outcome: Result<bool, Refusal>) {
        match outcome {
            Ok(is_changed) => self.count += usize::from(is_changed),
            Err(refusal) => {
                warn!(subject, %refusal, "route not changed");
                let reason = match refusal {
                    Refusal::Db(_) => "the database did not answer".to_owned(),
                    refusal => refusal.to_string(),
                };
                self.refused.insert(subject.to_owned(), reason);
            }
        }
    }

    /// Refuses, with the reasons by subject as data.
    pub(super) fn refusal(&self) -> Reply {
        let named = self.refused.iter().take(NAMED_MAX);
        let named: Vec<_> = named
            .map(|(subject, reason)| format!("{subject}: {reason}"))
            .collect();
        let more = match self.refused.len() - named.len() {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        Reply::refused_with(format!("{}{more}", named.join("; ")), &self.refused)
    }
}
