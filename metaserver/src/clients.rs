//! Notes clients in the database, and that they are still alive, behind everything else: no answer
//! waits for it, and a database that is away costs nothing but the notes. Those that were silent
//! for long are dropped.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::db::client_meta_info::{ClientRow, ROOM_MAX};
use crate::db::{Db, DbResult};
use crate::metrics::Counters;

/// Clients that wait to be noted; one more is dropped and comes again with its next question.
const WAITING_MAX: usize = 10_000;
/// Clients remembered as noted. Beyond it everything is forgotten, and noted clients cost one
/// refused insert each. 32 bytes per client.
const NOTED_MAX: usize = 500_000;
/// How often it is written down that a client is alive. The shortest silence is a day.
const TOUCH_PERIOD: Duration = Duration::from_secs(3_600);
/// Clients that are touched by one statement.
const TOUCH_TOGETHER_MAX: usize = 100;
/// Clients that are dropped by one statement.
const DROP_TOGETHER_MAX: usize = 100;
/// Longest time without any metaserver after which silence of clients still counts, 1 day: one is
/// restarted now and then. Unit: ms.
const ABSENCE_MS_MAX: i64 = 24 * 3_600 * 1_000;
/// Length of most columns of the table, in characters.
const COLUMN_MAX: usize = 100;

/// The way into [`Clients::write_down`].
#[derive(Debug)]
pub struct Clients {
    queue: mpsc::Sender<Note>,
    noted: Mutex<HashMap<u64, Noted>>,
    /// Whether a client was not written down since silent ones were last dropped: it may be alive.
    has_missed: AtomicBool,
    hasher: RandomState,
    counters: Counters,
}

/// A client on its way into the database.
#[derive(Debug)]
pub struct Note {
    key: u64,
    client: ClientRow,
    /// It may be new; else it is touched only.
    is_new: bool,
}

#[derive(Clone, Copy, Debug)]
struct Noted {
    at: Instant,
    /// It came online here.
    is_online: bool,
}

impl Clients {
    /// The queue's two ends.
    #[must_use]
    pub fn new(counters: Counters) -> (Self, mpsc::Receiver<Note>) {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        (
            Self {
                queue,
                noted: Mutex::default(),
                has_missed: AtomicBool::new(false),
                hasher: RandomState::new(),
                counters,
            },
            waiting,
        )
    }

    /// Notes a client, one that came online or one that is still there, unless it was noted a short
    /// while ago. Java clients repeat themselves every 60 s.
    pub fn note(&self, client: ClientRow, is_online: bool, now: Instant) {
        if !fits(&client) {
            return;
        }
        let key = self.hasher.hash_one(&client);
        let Some(is_new) = self.is_due(key, is_online, now) else {
            return;
        };
        let note = Note {
            key,
            client,
            is_new,
        };
        if self.queue.try_send(note).is_err() {
            self.missed(key);
            self.counters.clients_dropped.inc();
        }
    }

    /// Whether the client may be new; none when there is nothing to write down.
    fn is_due(&self, key: u64, is_online: bool, now: Instant) -> Option<bool> {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let before = noted.get(&key).copied();
        let was_online = before.is_some_and(|noted| noted.is_online);
        let is_new = is_online && !was_online;
        let is_fresh = before.is_some_and(|noted| now < noted.at + TOUCH_PERIOD);
        if is_fresh && !is_new {
            return None;
        }
        if noted.len() >= NOTED_MAX {
            noted.clear();
        }
        let is_online = is_online || was_online;
        noted.insert(key, Noted { at: now, is_online });
        Some(is_new)
    }

    /// It comes again with its next question.
    fn missed(&self, key: u64) {
        self.has_missed.store(true, Ordering::Relaxed);
        self.noted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&key);
    }

    /// Writes clients down, some at a time, until `stop`.
    pub async fn write_down(
        &self,
        db: Db,
        mut waiting: mpsc::Receiver<Note>,
        stop: CancellationToken,
    ) {
        loop {
            let mut notes = Vec::new();
            let next = waiting.recv_many(&mut notes, TOUCH_TOGETHER_MAX);
            if !matches!(stop.run_until_cancelled(next).await, Some(1..)) {
                return;
            }
            let mut failed = HashSet::new();
            for note in notes.iter().filter(|note| note.is_new) {
                if stop.is_cancelled() {
                    return;
                }
                if let Err(error) = db.add_client(&note.client).await {
                    warn!(client = note.client.client_id, %error, "cannot note a client");
                    self.missed(note.key);
                    failed.insert(note.key);
                }
            }
            // New ones as well: only those that are noted as heard are ever dropped.
            let heard = notes.iter().filter(|note| !failed.contains(&note.key));
            let rows: Vec<&ClientRow> = heard.map(|note| &note.client).collect();
            if let Err(error) = note_heard(&db, &rows).await {
                let clients = rows.len();
                warn!(clients, %error, "cannot note that clients are alive");
                notes.iter().for_each(|note| self.missed(note.key));
            }
        }
    }

    /// Drops clients that were silent for `silence_max`, in rounds until `stop`. The first comes
    /// after one `round`: those that are alive have been heard by then. A round is left out when
    /// somebody who was heard could not be noted.
    ///
    /// Only clients that one of our metaservers heard are dropped, and none whose silence began while
    /// no metaserver of ours was running: meanwhile a Java metaserver may have heard them.
    pub async fn expire(&self, db: Db, expiry: Expiry, stop: CancellationToken) {
        let mut absence_ends = expiry.absence_ends_ms;
        loop {
            let pause = tokio::time::sleep(expiry.round);
            if stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
            if self.has_missed.swap(false, Ordering::Relaxed) {
                continue;
            }
            let dropping = drop_silent(&db, expiry.silence_max, &mut absence_ends);
            if let Some(Err(error)) = stop.run_until_cancelled(dropping).await {
                warn!(%error, "cannot drop silent clients: trying again");
            }
        }
    }
}

/// When clients are dropped.
#[derive(Clone, Copy, Debug)]
pub struct Expiry {
    /// After so long a silence.
    pub silence_max: Duration,
    /// How often they are looked for.
    pub round: Duration,
    /// Silence that began before this time of the database, ms, does not count: no metaserver of
    /// ours ran then.
    pub absence_ends_ms: Option<i64>,
}

impl Expiry {
    /// Finds out whether one ran lately. To be called before anybody is heard.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn new(db: &Db, silence_max: Duration, round: Duration) -> DbResult<Self> {
        let last_ms = db.last_heard_ms().await?;
        let now_ms = db.now_ms().await?;
        let has_been_absent = last_ms.is_some_and(|last_ms| now_ms - last_ms > ABSENCE_MS_MAX);
        if has_been_absent {
            info!("no metaserver ran for long: silence of clients is counted anew");
        }
        Ok(Self {
            silence_max,
            round,
            absence_ends_ms: has_been_absent.then_some(now_ms),
        })
    }
}

async fn note_heard(db: &Db, clients: &[&ClientRow]) -> DbResult<()> {
    db.note_clients_heard(&db.client_ids(clients).await?).await
}

async fn drop_silent(
    db: &Db,
    silence_max: Duration,
    absence_ends_ms: &mut Option<i64>,
) -> DbResult<()> {
    if let Some(ends_ms) = *absence_ends_ms {
        let mut last = 0;
        while let Some((id, ids)) = next_silent(db, ends_ms, last).await? {
            db.forget_heard_clients(ends_ms, &ids).await?;
            last = id;
        }
        *absence_ends_ms = None;
    }
    db.note_metaserver_heard().await?;
    let silence_ms = i64::try_from(silence_max.as_millis()).unwrap_or(i64::MAX);
    let since_ms = db.now_ms().await?.saturating_sub(silence_ms);
    let mut last = 0;
    while let Some((id, ids)) = next_silent(db, since_ms, last).await? {
        db.drop_silent_clients(since_ms, &ids).await?;
        last = id;
        info!(last, "clients that were silent for long are dropped");
    }
    Ok(())
}

/// The next clients that were not heard since `since_ms`, and the id of the last of them.
async fn next_silent(db: &Db, since_ms: i64, last: i64) -> DbResult<Option<(i64, Vec<i64>)>> {
    let ids = db.silent_clients(since_ms, last, DROP_TOGETHER_MAX).await?;
    Ok(ids.last().copied().map(|last| (last, ids)))
}

/// Whether every column can hold its value. Nothing is cut: what does not fit is not noted.
fn fits(client: &ClientRow) -> bool {
    let columns = [
        &client.subject,
        &client.consumer_group,
        &client.client_id,
        &client.app_code,
    ];
    let is_short = |text: &str, max: usize| text.len() <= max || text.chars().count() <= max;
    columns.iter().all(|text| is_short(text, COLUMN_MAX)) && is_short(&client.room, ROOM_MAX)
}

#[cfg(test)]
mod tests {
    use qmq_daemon::metrics::Metrics;

    use super::*;

    fn client(client_id: &str) -> ClientRow {
        ClientRow {
            subject: "s".into(),
            client_type: 2,
            consumer_group: "g".into(),
            client_id: client_id.into(),
            app_code: "app".into(),
            room: String::new(),
        }
    }

    #[test]
    fn a_client_is_queued_once() {
        let (clients, mut waiting) = Clients::new(Counters::new(&Metrics::default()));
        let now = Instant::now();
        for id in ["a", "a", "b", &"x".repeat(101)] {
            clients.note(client(id), true, now);
        }
        let ids: Vec<String> =
            std::iter::from_fn(|| waiting.try_recv().ok().map(|note| note.client.client_id))
                .collect();
        assert_eq!(ids, ["a", "b"]);
    }

    #[test]
    fn a_client_is_touched_once_in_a_period() {
        let (clients, mut waiting) = Clients::new(Counters::new(&Metrics::default()));
        let now = Instant::now();
        let short = TOUCH_PERIOD - Duration::from_millis(1);
        // When it asks, whether it came online, and what is done: is it written down as new?
        for (after, is_online, is_new) in [
            (Duration::ZERO, false, Some(false)),
            (Duration::ZERO, false, None),
            (Duration::ZERO, true, Some(true)),
            (short, false, None),
            (short, true, None),
            (TOUCH_PERIOD, false, Some(false)),
            (TOUCH_PERIOD, true, None),
            (TOUCH_PERIOD * 2, true, Some(false)),
        ] {
            clients.note(client("a"), is_online, now + after);
            let queued = waiting.try_recv().ok().map(|note| note.is_new);
            assert_eq!(queued, is_new, "{after:?} {is_online}");
        }
    }

    #[test]
    fn a_full_queue_drops_and_takes_the_client_later() {
        let (clients, mut waiting) = Clients::new(Counters::new(&Metrics::default()));
        let now = Instant::now();
        (0..WAITING_MAX).for_each(|n| clients.note(client(&n.to_string()), true, now));
        clients.note(client("late"), true, now);
        assert_eq!(clients.counters.clients_dropped.get(), 1);
        assert!(clients.has_missed.load(Ordering::Relaxed));
        waiting.try_recv().unwrap();
        clients.note(client("late"), true, now);
        assert_eq!(clients.counters.clients_dropped.get(), 1);
    }
}
