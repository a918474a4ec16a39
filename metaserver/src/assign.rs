//! Assignment of groups to subjects: decides on the snapshot, writes by compare-and-set.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::config::Rules;
use crate::db::{Db, DbError, DbResult};
use crate::routing::{Decision, Route, Wanted};
use crate::snapshot::Snapshots;

/// How often a write may lose against another metaserver before what was read is taken as it is.
const ROUNDS_MAX: usize = 5;
/// Subjects are assigned one at a time within a stripe, so that a hundred clients of a new subject
/// cause one write and not a hundred.
const STRIPES: usize = 64;

/// Brings routes up to their number of groups.
#[derive(Debug)]
pub struct Assigner {
    db: Db,
    snapshots: Arc<Snapshots>,
    rules: Arc<Rules>,
    stripes: Vec<Mutex<()>>,
    hasher: RandomState,
}

impl Assigner {
    /// An assigner that learns into `snapshots`.
    #[must_use]
    pub fn new(db: Db, snapshots: Arc<Snapshots>, rules: Arc<Rules>) -> Self {
        let stripes = (0..STRIPES).map(|_| Mutex::default()).collect();
        Self {
            db,
            snapshots,
            rules,
            stripes,
            hasher: RandomState::new(),
        }
    }

    /// Whether [`Assigner::settle`] would write now. A route that is there is served as it is while
    /// the database is away.
    #[must_use]
    pub fn is_unsettled(&self, subject: &str) -> bool {
        let route = self.snapshots.route(subject);
        let may_write = route.is_none() || self.snapshots.is_healthy();
        let view = &self.snapshots.current().view;
        // Most questions end here: looking through all groups is not for each of them.
        if !may_write || view.missing(route.as_deref(), self.rules.group_num_min()) == 0 {
            return false;
        }
        let removed = self.snapshots.removed(subject);
        self.decide(subject, route.as_deref(), removed.as_deref()) != Decision::Keep
    }

    /// Adds groups to the route of a real subject if it needs some and there are some, and returns
    /// the route; `None` when there is none to be had.
    ///
    /// # Errors
    /// When the subject has no route that is known here and the database is away. Without a route
    /// nothing can be answered; a route that is only short of groups is served as it is.
    pub async fn settle(&self, subject: &str) -> DbResult<Option<Arc<Route>>> {
        let stripe = self.hasher.hash_one(subject) % STRIPES as u64;
        let stripe = usize::try_from(stripe).unwrap_or(0);
        let _turn = self.stripes[stripe].lock().await;
        if !self.is_unsettled(subject) {
            return Ok(self.snapshots.route(subject));
        }
        let known = self.snapshots.route(subject);
        match (self.assign(subject, known.clone()).await, known) {
            (Ok(route), _) => Ok(route),
            (Err(error), Some(known)) => {
                warn!(subject, %error, "cannot add groups to a route: it is served as it is");
                Ok(Some(known))
            }
            (Err(error), None) => Err(error),
        }
    }

    async fn assign(
        &self,
        subject: &str,
        mut route: Option<Arc<Route>>,
    ) -> Result<Option<Arc<Route>>, DbError> {
        for _ in 0..ROUNDS_MAX {
            // Whoever takes a group away notes that first: with a route that lacks it, the note is
            // there, although this metaserver may not have seen it yet.
            let removed: HashSet<String> = match &route {
                Some(_) => {
                    let removed = self.db.groups_removed_from(subject).await?;
                    removed.into_iter().collect()
                }
                None => HashSet::new(),
            };
            if !removed.is_empty() {
                self.snapshots.learn_removed(subject, removed.clone());
            }
            let decision = self.decide(subject, route.as_deref(), Some(&removed));
            let Decision::Add(added) = decision else {
                break;
            };
            if let Some(written) = self.write(subject, route.as_deref(), added).await? {
                info!(subject, groups = ?written.groups, version = written.version, "route changed");
                route = Some(self.learn(subject, written));
                break;
            }
            let read = self.db.stored_route(subject).await?;
            route = read.map(|(stored, read)| {
                self.snapshots.learn_stored(subject, &stored, read.clone());
                Arc::new(read)
            });
        }
        Ok(route)
    }

    /// The route as written, or `None` when another metaserver was faster.
    async fn write(
        &self,
        subject: &str,
        route: Option<&Route>,
        added: Vec<String>,
    ) -> DbResult<Option<Route>> {
        let (written, route) = match route {
            None => {
                let written = self.db.insert_route(subject, &added).await?;
                (
                    written,
                    Route {
                        groups: added,
                        version: 1,
                    },
                )
            }
            Some(Route { groups, version }) => {
                let groups = [groups.as_slice(), &added].concat();
                let written = self.db.update_route(subject, &groups, *version).await?;
                (
                    written,
                    Route {
                        groups,
                        version: version + 1,
                    },
                )
            }
        };
        Ok(written.then_some(route))
    }

    fn decide(
        &self,
        subject: &str,
        route: Option<&Route>,
        removed: Option<&HashSet<String>>,
    ) -> Decision {
        let tag = self.snapshots.tag(subject);
        let wanted = Wanted {
            subject,
            tag: tag.as_ref().map(|tag| &***tag),
            route,
            removed,
            group_num_min: self.rules.group_num_min(),
        };
        let snapshot = self.snapshots.current();
        snapshot.view.decide(&wanted, &mut rand::rng())
    }

    fn learn(&self, subject: &str, route: Route) -> Arc<Route> {
        self.snapshots.learn(subject, route.clone());
        Arc::new(route)
    }
}
