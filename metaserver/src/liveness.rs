//! Which groups are alive: heard by any metaserver within the time-out.
//!
//! Heartbeats are noted in memory and written to the shared table every few seconds; a group that
//! nobody heard is marked as away. A metaserver that could not reach the database, or has just
//! started, first waits for one whole time-out: by then every live broker has been heard again.
//!
//! A Java metaserver on the same database leaves no trace of what it hears. So ours answers only for
//! groups that ours heard: one that it never heard, or that somebody else brought back after it went
//! away, is left to the other until ours hears it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qmq_model::BrokerState;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::Rules;
use crate::db::{Db, DbResult};
use crate::metrics::{Counters, GroupLabel};
use crate::snapshot::Snapshots;

/// Longest pause between two rounds. Heartbeats come every 10 s.
const ROUND_MAX: Duration = Duration::from_secs(3);
/// Rounds within one time-out, so that a silent group is found soon after it.
const ROUNDS_PER_TIMEOUT: u32 = 6;
/// Groups whose heartbeats are written by one statement. Ten thousand groups that report every 10 s
/// take two statements a second, and not a thousand.
const NOTED_TOGETHER_MAX: usize = 500;

/// Longest time from a look at who was heard until a group is marked as away. Unit: ms.
const MARK_MS_MAX: i64 = 10_000;

/// Notes heartbeats and finds silent groups.
#[derive(Debug)]
pub struct Liveness {
    db: Db,
    snapshots: Arc<Snapshots>,
    rules: Arc<Rules>,
    counters: Counters,
    /// Groups heard here. Only groups with a row in the database get in, and those that lost it
    /// are dropped, so that strangers cannot make this grow.
    heard: Mutex<HashMap<String, Heard>>,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    at: Instant,
    is_written: bool,
}

impl Liveness {
    /// Nobody was heard yet.
    #[must_use]
    pub fn new(db: Db, snapshots: Arc<Snapshots>, rules: Arc<Rules>, counters: Counters) -> Self {
        Self {
            db,
            snapshots,
            rules,
            counters,
            heard: Mutex::default(),
        }
    }

    /// Notes a heartbeat of a group that has a row; it is written with the next round.
    pub fn heard(&self, group: &str) {
        let heard = Heard {
            at: Instant::now(),
            is_written: false,
        };
        self.lock().insert(group.to_owned(), heard);
    }

    /// Notes that a group is about to come back, before its state says so: otherwise another
    /// metaserver could find it silent in between.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn comes_back(&self, group: &str) -> DbResult<()> {
        self.db.note_heard(group).await?;
        let heard = Heard {
            at: Instant::now(),
            is_written: true,
        };
        self.lock().insert(group.to_owned(), heard);
        Ok(())
    }

    /// Notes that a group took its leave.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn goes(&self, group: &str) -> DbResult<()> {
        self.lock().remove(group);
        self.db.note_gone(group, 0).await
    }

    /// Writes and looks in rounds until `stop`; what was heard last is still written.
    pub async fn run(&self, stop: CancellationToken) {
        let mut trusted_from = Instant::now() + self.rules.heartbeat_timeout();
        loop {
            let timeout = self.rules.heartbeat_timeout();
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep((timeout / ROUNDS_PER_TIMEOUT).min(ROUND_MAX)) => {}
            }
            let is_written = self.write().await;
            let now = Instant::now();
            if !is_written || !self.snapshots.is_healthy() {
                trusted_from = now + timeout;
            } else if now >= trusted_from {
                self.mark_silent(timeout).await;
            }
        }
        self.write().await;
    }

    /// Writes what was heard since the last round; `false` when the database failed.
    async fn write(&self) -> bool {
        let waiting: Vec<(String, Instant)> = {
            let heard = self.lock();
            let waiting = heard.iter().filter(|(_, heard)| !heard.is_written);
            waiting
                .map(|(group, heard)| (group.clone(), heard.at))
                .collect()
        };
        for waiting in waiting.chunks(NOTED_TOGETHER_MAX) {
            let groups: Vec<&str> = waiting.iter().map(|(group, _)| group.as_str()).collect();
            if let Err(error) = self.db.note_all_heard(&groups).await {
                let groups = groups.len();
                warn!(groups, %error, "cannot write down heartbeats: trying again");
                return false;
            }
            let mut heard = self.lock();
            for (group, at) in waiting {
                if let Some(heard) = heard.get_mut(group) {
                    heard.is_written = heard.at == *at;
                }
            }
        }
        true
    }

    async fn mark_silent(&self, timeout: Duration) {
        let snapshot = self.snapshots.current();
        let groups = &snapshot.view.groups;
        self.lock().retain(|group, _| groups.contains_key(group));
        let is_heard = |name: &String| {
            let heard = self.lock().get(name).map(|heard| heard.at.elapsed());
            heard.is_some_and(|ago| ago < timeout)
        };
        let silent: Vec<&String> = groups
            .values()
            .filter(|group| group.state != BrokerState::Away)
            .map(|group| &group.name)
            .filter(|name| !is_heard(name))
            .collect();
        if silent.is_empty() {
            return;
        }
        let silence_ms = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
        if let Err(error) = self.mark_unheard(&silent, silence_ms).await {
            warn!(%error, "cannot mark silent groups: trying again");
        }
    }

    /// Marks those of these groups that no other metaserver heard.
    async fn mark_unheard(&self, silent: &[&String], silence_ms: i64) -> DbResult<()> {
        let until_ms = self.db.now_ms().await? + MARK_MS_MAX;
        let unheard = self.db.groups_silent_for(silence_ms).await?;
        for &name in silent.iter().filter(|name| unheard.contains(**name)) {
            let marked = self.db.mark_silent_group_away(name, silence_ms, until_ms);
            if !marked.await? {
                continue;
            }
            self.db.note_gone(name, silence_ms).await?;
            warn!(
                group = name,
                "no heartbeat for {silence_ms} ms: group is away"
            );
            let label = GroupLabel {
                groupName: name.clone(),
            };
            let disconnected = &self.counters.broker_disconnected;
            disconnected.get_or_create(&label).inc();
            self.snapshots.refresh_soon();
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
