//! Notes clients in the database, behind everything else: no answer waits for it, and a database
//! that is away costs nothing but the notes.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::db::Db;
use crate::db::client_meta_info::{ClientRow, ROOM_MAX};
use crate::metrics::Counters;

/// Clients that wait to be noted; one more is dropped and comes again with its next question.
const WAITING_MAX: usize = 10_000;
/// Clients remembered as noted. Beyond it everything is forgotten, and noted clients cost one
/// refused insert each. 16 bytes per client.
const NOTED_MAX: usize = 500_000;
/// Length of most columns of the table, in characters.
const COLUMN_MAX: usize = 100;

/// The way into [`Clients::write_down`].
#[derive(Debug)]
pub struct Clients {
    queue: mpsc::Sender<(u64, ClientRow)>,
    noted: Mutex<HashSet<u64>>,
    hasher: RandomState,
    counters: Counters,
}

impl Clients {
    /// The queue's two ends.
    #[must_use]
    pub fn new(counters: Counters) -> (Self, mpsc::Receiver<(u64, ClientRow)>) {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        (
            Self {
                queue,
                noted: Mutex::default(),
                hasher: RandomState::new(),
                counters,
            },
            waiting,
        )
    }

    /// Notes a client unless it was noted before. Java clients repeat themselves every 60 s.
    pub fn note(&self, client: ClientRow) {
        if !fits(&client) {
            return;
        }
        let key = self.hasher.hash_one(&client);
        {
            let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
            if noted.len() >= NOTED_MAX {
                noted.clear();
            }
            if !noted.insert(key) {
                return;
            }
        }
        if self.queue.try_send((key, client)).is_err() {
            self.forget(key);
            self.counters.clients_dropped.inc();
        }
    }

    fn forget(&self, key: u64) {
        self.noted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&key);
    }

    /// Writes clients down one after another until `stop`.
    pub async fn write_down(
        &self,
        db: Db,
        mut waiting: mpsc::Receiver<(u64, ClientRow)>,
        stop: CancellationToken,
    ) {
        loop {
            let (key, client) = tokio::select! {
                () = stop.cancelled() => return,
                next = waiting.recv() => match next {
                    Some(next) => next,
                    None => return,
                },
            };
            if let Err(error) = db.add_client(&client).await {
                warn!(client = client.client_id, %error, "cannot note a client");
                self.forget(key);
            }
        }
    }
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
        clients.note(client("a"));
        clients.note(client("a"));
        clients.note(client("b"));
        clients.note(client(&"x".repeat(101)));
        let ids: Vec<String> =
            std::iter::from_fn(|| waiting.try_recv().ok().map(|(_, row)| row.client_id)).collect();
        assert_eq!(ids, ["a", "b"]);
    }

    #[test]
    fn a_full_queue_drops_and_takes_the_client_later() {
        let (clients, mut waiting) = Clients::new(Counters::new(&Metrics::default()));
        (0..WAITING_MAX).for_each(|n| clients.note(client(&n.to_string())));
        clients.note(client("late"));
        assert_eq!(clients.counters.clients_dropped.get(), 1);
        waiting.try_recv().unwrap();
        clients.note(client("late"));
        assert_eq!(clients.counters.clients_dropped.get(), 1);
    }
}
