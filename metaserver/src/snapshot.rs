//! Routes and groups held in memory: what clients are answered from, whatever the database does.
//!
//! Everything is read again every few seconds and after local changes. A failed read keeps what
//! there is; a read that succeeds replaces it, also when it finds nothing. One row that cannot be
//! understood is skipped, never the whole table.
//!
//! Routes are many. Each refresh reads those that changed, and goes on with a slow pass over all of
//! them, which also sees what was deleted.

mod route_table;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use qmq_daemon::admin::Readiness;
use tokio::sync::{Mutex, Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::db::client_offline_state::OfflineRow;
use crate::db::{Db, DbResult};
use crate::routing::{ANY, Route, View};

use route_table::RouteTable;

/// Longest wait for a refresh that makes a change visible.
const REFRESH_WAIT_MAX: Duration = Duration::from_secs(1);

/// Routes read by one statement of the pass over all of them. Fewer routes are read anew each time.
const STRETCH_ROWS: usize = 1_000;
/// Statements of that pass within one refresh. A million routes are passed in two minutes.
const STRETCHES_MAX: usize = 40;
/// How far back a look for changes goes beyond the last one: a statement is seen later than the
/// time it writes down, and that time may be a whole second.
const CHANGE_OVERLAP_MS: i64 = 10_000;

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

/// How far reading has come.
#[derive(Debug, Default)]
struct Progress {
    /// Clock of the database at the last refresh, ms.
    refreshed_ms: i64,
    /// Number of the query with which the pass over all routes began.
    pass: u64,
    /// The last row of the pass.
    row: i64,
    /// The last pass took more than one statement.
    is_long: bool,
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
    routes: RouteTable,
    progress: Mutex<Progress>,
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
            routes: RouteTable::default(),
            progress: Mutex::default(),
            refreshes: AtomicU64::new(0),
            healthy: AtomicBool::new(true),
            wanted: Notify::new(),
        };
        snapshots.refresh(usize::MAX).await?;
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
        self.routes.get(subject)
    }

    /// Takes over a route that was just read or written; an older version changes nothing.
    pub fn learn(&self, subject: &str, route: Route) {
        self.routes.learn(subject, subject, route);
    }

    /// The same for a route whose row has the name `stored`: where a database ignores case, that of
    /// a subject may be another's.
    pub fn learn_stored(&self, subject: &str, stored: &str, route: Route) {
        self.routes.learn(subject, stored, route);
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
            let stretches_max = tokio::select! {
                () = stop.cancelled() => return,
                () = self.wanted.notified() => 1,
                () = tokio::time::sleep(period) => STRETCHES_MAX,
            };
            match self.refresh(stretches_max).await {
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

    async fn refresh(&self, stretches_max: usize) -> DbResult<()> {
        let began = self.refreshes.fetch_add(1, Ordering::SeqCst) + 1;
        let clock_ms = self.db.now_ms().await?;
        let snapshot = self.read(began, clock_ms).await?;
        self.read_routes(clock_ms, stretches_max).await?;
        self.current.send_replace(Arc::new(snapshot));
        Ok(())
    }

    /// Reads the routes that changed, and a few stretches of all of them.
    async fn read_routes(&self, clock_ms: i64, stretches_max: usize) -> DbResult<()> {
        let mut progress = self.progress.lock().await;
        if progress.is_long || progress.row != 0 {
            let since_ms = progress.refreshed_ms.min(clock_ms) - CHANGE_OVERLAP_MS;
            let query = self.routes.begin_query();
            for (subject, route) in self.db.routes_changed_since(since_ms).await? {
                self.routes.take(&subject, route, query);
            }
        }
        progress.refreshed_ms = clock_ms;
        for _ in 0..stretches_max {
            if self.pass_stretch(&mut progress).await? {
                break;
            }
        }
        Ok(())
    }

    /// Reads the next stretch of all routes; `true` when it was the last of a pass.
    async fn pass_stretch(&self, progress: &mut Progress) -> DbResult<bool> {
        let query = self.routes.begin_query();
        if progress.row == 0 {
            progress.pass = query;
        }
        let rows = self
            .db
            .routes_behind_row(progress.row, STRETCH_ROWS)
            .await?;
        let is_last = rows.len() < STRETCH_ROWS;
        let is_first = progress.row == 0;
        progress.row = rows.last().map_or(0, |(id, _)| *id);
        for (subject, route) in rows.into_iter().filter_map(|(_, row)| row) {
            self.routes.take(&subject, route, query);
        }
        if is_last {
            self.routes.sweep(progress.pass).await;
            progress.row = 0;
            progress.is_long = !is_first;
        }
        Ok(is_last)
    }

    async fn read(&self, refresh: u64, clock_ms: i64) -> DbResult<Snapshot> {
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
