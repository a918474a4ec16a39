//! Routes and groups held in memory: what clients are answered from, whatever the database does.
//!
//! Everything is read again every few seconds and after local changes. A failed read keeps what
//! there is; a read that succeeds replaces it, also when it finds nothing. One row that cannot be
//! understood is skipped, never the whole table.
//!
//! Routes, tags and groups may be many: a refresh reads those that changed, and goes on with a slow
//! pass over all of them (`follow.rs`). Readonly marks and switches of consumers are set by hand,
//! are few, have no time of change, and must be seen to be gone at once: they are read whole.

mod follow;
mod subject_table;
mod tables;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use qmq_daemon::admin::Readiness;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::db::client_offline_state::OfflineRow;
use crate::db::{Db, DbResult};
use crate::routing::{ANY, Route, View};

use follow::{Effort, Followed};
use subject_table::SubjectTable;
use tables::GroupTable;

/// Longest wait for a refresh that makes a change visible.
const REFRESH_WAIT_MAX: Duration = Duration::from_secs(1);

/// What is not known by subject, as read at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Groups and readonly marks.
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

/// Who is told that the database is away.
#[derive(Clone, Debug)]
pub struct Alarm {
    /// Refreshes that failed.
    pub errors: Counter,
    /// 1 while the last refresh failed.
    pub away: Gauge,
    /// What `/readyz` answers.
    pub readiness: Readiness,
}

impl Alarm {
    const PART: &str = "database";

    fn raise(&self) {
        self.errors.inc();
        self.away.set(1);
        let reason = "does not answer: known subjects are served from memory, new ones are refused";
        self.readiness.waits(Self::PART, reason);
    }

    fn clear(&self) {
        self.away.set(0);
        self.readiness.ready(Self::PART);
    }
}

/// The current snapshot and how it is kept current.
#[derive(Debug)]
pub struct Snapshots {
    db: Db,
    current: watch::Sender<Arc<Snapshot>>,
    routes: Followed<SubjectTable<Route>>,
    tags: Followed<SubjectTable<Box<str>>>,
    removed: Followed<SubjectTable<HashSet<String>>>,
    groups: Followed<GroupTable>,
    /// Refreshes that have begun.
    refreshes: AtomicU64,
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
            routes: Followed::default(),
            tags: Followed::default(),
            removed: Followed::default(),
            groups: Followed::default(),
            refreshes: AtomicU64::new(0),
            healthy: AtomicBool::new(true),
            wanted: Notify::new(),
        };
        snapshots.refresh(Effort::Whole).await?;
        Ok(snapshots)
    }

    /// What is not known by subject.
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
        self.routes.table().get(subject)
    }

    /// The tag of a real subject that has one.
    #[must_use]
    pub fn tag(&self, subject: &str) -> Option<Arc<Box<str>>> {
        self.tags.table().get(subject)
    }

    /// Groups that an operator took from the route of a real subject, as far as is known here.
    #[must_use]
    pub fn removed(&self, subject: &str) -> Option<Arc<HashSet<String>>> {
        self.removed.table().get(subject)
    }

    /// Takes over the groups that were taken from a route, as just read.
    pub fn learn_removed(&self, subject: &str, groups: HashSet<String>) {
        self.removed.table().learn(subject, subject, groups);
    }

    /// Takes over a route that was just read or written; an older version changes nothing.
    pub fn learn(&self, subject: &str, route: Route) {
        self.routes.table().learn(subject, subject, route);
    }

    /// The same for a route whose row has the name `stored`: where a database ignores case, that of
    /// a subject may be another's.
    pub fn learn_stored(&self, subject: &str, stored: &str, route: Route) {
        self.routes.table().learn(subject, stored, route);
    }

    /// Whether the last refresh succeeded and the database answers. While it does not, nothing that
    /// can wait is written.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed) && self.db.answers()
    }

    /// Asks for a refresh soon: something was changed that is held here.
    pub fn refresh_soon(&self) {
        self.wanted.notify_one();
    }

    /// Waits until a refresh has begun and ended: what was written before is seen from now on.
    /// Gives up after a second, because a broker waits for its answer meanwhile.
    pub async fn refreshed(&self) {
        let begun = self.refreshes.load(Ordering::SeqCst);
        let mut changes = self.current.subscribe();
        self.refresh_soon();
        let fresh = changes.wait_for(|snapshot| snapshot.refresh > begun);
        // When it takes longer, the regular refresh will do.
        drop(tokio::time::timeout(REFRESH_WAIT_MAX, fresh).await);
    }

    /// Refreshes every `period` and when asked to, until `stop`.
    pub async fn keep_fresh(&self, period: Duration, alarm: Alarm, stop: CancellationToken) {
        loop {
            let effort = tokio::select! {
                () = stop.cancelled() => return,
                () = self.wanted.notified() => Effort::Least,
                () = tokio::time::sleep(period) => Effort::Regular,
            };
            match self.refresh(effort).await {
                Ok(()) => {
                    alarm.clear();
                    if !self.healthy.swap(true, Ordering::Relaxed) {
                        info!("the database answers again");
                    }
                }
                Err(error) => {
                    alarm.raise();
                    self.healthy.store(false, Ordering::Relaxed);
                    warn!(%error, "cannot refresh routes: answering from memory");
                }
            }
        }
    }

    async fn refresh(&self, effort: Effort) -> DbResult<()> {
        let began = self.refreshes.fetch_add(1, Ordering::SeqCst) + 1;
        let (db, clock_ms) = (&self.db, self.db.now_ms().await?);
        self.groups.refresh(db, clock_ms, effort).await?;
        self.tags.refresh(db, clock_ms, effort).await?;
        self.removed.refresh(db, clock_ms, effort).await?;
        let snapshot = self.read(began, clock_ms).await?;
        self.routes.refresh(db, clock_ms, effort).await?;
        self.current.send_replace(Arc::new(snapshot));
        Ok(())
    }

    /// Reads the small tables.
    async fn read(&self, refresh: u64, clock_ms: i64) -> DbResult<Snapshot> {
        let mut readonly: HashMap<_, HashSet<_>> = HashMap::new();
        for (subject, group) in self.db.readonly_marks().await? {
            readonly.entry(subject).or_default().insert(group);
        }
        let view = View {
            groups: self.groups.table().rows(),
            readonly,
            route_json_max: Some(self.db.widths().route_json),
        };
        let time_ms = clock_ms.max(self.current.borrow().time_ms);
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
