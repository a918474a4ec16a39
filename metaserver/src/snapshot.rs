//! Routes and groups held in memory: what clients are answered from, whatever the database does.
//!
//! Everything is read again every few seconds and after local changes. A failed read keeps what
//! there is; a read that succeeds replaces it, also when it finds nothing. One row that cannot be
//! understood is skipped, never the whole table.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::db::client_offline_state::OfflineRow;
use crate::db::{Db, DbResult};
use crate::routing::{ANY, Route, View};

/// Longest wait for a refresh that makes a change visible.
const REFRESH_WAIT_MAX: Duration = Duration::from_secs(1);

/// All but the routes, as read at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Groups, tags and readonly marks.
    pub view: View,
    /// Clock of the database when this was read, ms. Never goes back.
    pub time_ms: i64,
    /// Number of the refresh that read this.
    refresh: u64,
    offline: HashMap<(String, String, String), bool>,
}

impl Snapshot {
    /// Whether an operator switched this consumer off. The most specific switch wins: this client,
    /// then every client of the group, then this client in all its groups.
    #[must_use]
    pub fn is_offline(&self, client_id: &str, subject: &str, group: &str) -> bool {
        if self.offline.is_empty() {
            return false;
        }
        let switch = |client: &str, subject: &str, group: &str| {
            let key = (client.to_owned(), subject.to_owned(), group.to_owned());
            self.offline.get(&key).copied()
        };
        switch(client_id, subject, group)
            .or_else(|| switch(ANY, subject, group))
            .or_else(|| switch(client_id, ANY, ANY))
            .unwrap_or(false)
    }
}

/// Routes by subject. Each carries the number of the refresh during which it was learnt, so that a
/// refresh that began earlier does not drop what was assigned meanwhile.
#[derive(Debug, Default)]
struct Routes {
    refreshes: u64,
    by_subject: HashMap<String, (Arc<Route>, u64)>,
}

/// The current snapshot and how it is kept current.
#[derive(Debug)]
pub struct Snapshots {
    db: Db,
    current: watch::Sender<Arc<Snapshot>>,
    routes: RwLock<Routes>,
    healthy: AtomicBool,
    wanted: Notify,
}

impl Snapshots {
    /// Reads everything for the first time.
    ///
    /// # Errors
    /// When the database fails: a metaserver that knows nothing must not answer.
    pub async fn load(db: Db) -> DbResult<Self> {
        let snapshots = Self {
            db,
            current: watch::Sender::default(),
            routes: RwLock::default(),
            healthy: AtomicBool::new(true),
            wanted: Notify::new(),
        };
        snapshots.refresh().await?;
        Ok(snapshots)
    }

    /// Everything but the routes.
    #[must_use]
    pub fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current.borrow())
    }

    /// Tells when a new snapshot is there.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.current.subscribe()
    }

    /// The route of a real subject.
    #[must_use]
    pub fn route(&self, subject: &str) -> Option<Arc<Route>> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        routes
            .by_subject
            .get(subject)
            .map(|(route, _)| Arc::clone(route))
    }

    /// Takes over a route that was just read or written; an older version changes nothing.
    pub fn learn(&self, subject: &str, route: Route) {
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        let refresh = routes.refreshes;
        let known = routes
            .by_subject
            .get(subject)
            .map(|(known, _)| known.version);
        if known.is_none_or(|version| version <= route.version) {
            routes
                .by_subject
                .insert(subject.to_owned(), (Arc::new(route), refresh));
        }
    }

    /// Whether the last refresh succeeded. While it did not, nothing that can wait is written.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// Asks for a refresh soon: something was changed that is held here.
    pub fn refresh_soon(&self) {
        self.wanted.notify_one();
    }

    /// Waits until a refresh has begun and ended: what was written before is seen from now on.
    /// Gives up after a second, because a broker waits for its answer meanwhile.
    pub async fn refreshed(&self) {
        let begun = {
            let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner);
            routes.refreshes
        };
        let mut changes = self.current.subscribe();
        self.refresh_soon();
        let fresh = changes.wait_for(|snapshot| snapshot.refresh > begun);
        // When it takes longer, the regular refresh will do.
        drop(tokio::time::timeout(REFRESH_WAIT_MAX, fresh).await);
    }

    /// Refreshes every `period` and when asked to, until `stop`.
    pub async fn keep_fresh(&self, period: Duration, errors: Counter, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wanted.notified() => {}
                () = tokio::time::sleep(period) => {}
            }
            match self.refresh().await {
                Ok(()) => {
                    if !self.healthy.swap(true, Ordering::Relaxed) {
                        info!("the database answers again");
                    }
                }
                Err(error) => {
                    errors.inc();
                    self.healthy.store(false, Ordering::Relaxed);
                    warn!(%error, "cannot refresh routes: answering from memory");
                }
            }
        }
    }

    async fn refresh(&self) -> DbResult<()> {
        let began = {
            let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
            routes.refreshes += 1;
            routes.refreshes
        };
        let snapshot = self.read(began).await?;
        let read = self.db.routes().await?;
        self.replace_routes(read, began);
        self.current.send_replace(Arc::new(snapshot));
        Ok(())
    }

    async fn read(&self, refresh: u64) -> DbResult<Snapshot> {
        let groups = self.db.groups().await?;
        let tags = self.db.subject_tags().await?;
        let mut readonly: HashMap<_, HashSet<_>> = HashMap::new();
        for (subject, group) in self.db.readonly_marks().await? {
            readonly.entry(subject).or_default().insert(group);
        }
        let mut removed: HashMap<_, HashSet<_>> = HashMap::new();
        for (subject, group) in self.db.removed_groups().await? {
            removed.entry(subject).or_default().insert(group);
        }
        let view = View {
            groups: groups
                .into_iter()
                .map(|group| (group.name.clone(), group))
                .collect(),
            tags: tags.into_iter().collect(),
            readonly,
            removed,
            route_json_max: Some(self.db.widths().route_json),
        };
        let time_ms = self.db.now_ms().await?.max(self.current.borrow().time_ms);
        let offline = self.db.offline_states().await?.into_iter().map(
            |OfflineRow {
                 client_id,
                 subject,
                 consumer_group,
                 offline,
             }| { ((client_id, subject, consumer_group), offline) },
        );
        Ok(Snapshot {
            view,
            time_ms,
            refresh,
            offline: offline.collect(),
        })
    }

    fn replace_routes(&self, read: Vec<(String, Route)>, began: u64) {
        let mut fresh: HashMap<String, (Arc<Route>, u64)> = read
            .into_iter()
            .map(|(name, route)| (name, (Arc::new(route), began)))
            .collect();
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        let learnt = routes
            .by_subject
            .drain()
            .filter(|(_, (_, refresh))| *refresh >= began);
        for (subject, (route, refresh)) in learnt {
            let read = fresh.get(&subject).map(|(read, _)| read.version);
            if read.is_none_or(|version| version < route.version) {
                fresh.insert(subject, (route, refresh));
            }
        }
        routes.by_subject = fresh;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(rows: &[(&str, &str, &str, bool)]) -> Snapshot {
        let rows = rows.iter().map(|(client, subject, group, offline)| {
            (
                ((*client).into(), (*subject).into(), (*group).into()),
                *offline,
            )
        });
        Snapshot {
            offline: rows.collect(),
            ..Snapshot::default()
        }
    }

    #[test]
    fn the_most_specific_switch_wins() {
        let all_off = snapshot(&[("*", "s", "g", true), ("c1", "s", "g", false)]);
        assert!(!all_off.is_offline("c1", "s", "g"));
        assert!(all_off.is_offline("c2", "s", "g"));
        assert!(!all_off.is_offline("c2", "s", "other"));
        let client_off = snapshot(&[("c1", "*", "*", true)]);
        assert!(client_off.is_offline("c1", "any", "any"));
        assert!(!client_off.is_offline("c2", "any", "any"));
        assert!(!snapshot(&[]).is_offline("c1", "s", "g"));
    }
}
