//! The files that operators look for under `store.root/config/`: subjects, groups and where these
//! stand. They are written for people and scripts, and never read back: what counts is in the store.
//!
//! ```text
//! consumerOffset.json     {"offsetTable": {"SUBJECT@GROUP": {"0": NEXT}, ...}}
//! topics.json             {"topicConfigTable": {"SUBJECT": {"topicName": "SUBJECT"}, ...}}
//! subscriptionGroup.json  {"subscriptionGroupTable": {"GROUP": {"groupName": "GROUP",
//!                          "consumeEnable": true, "consumeBroadcastEnable": false}, ...}}
//! ```
//!
//! `NEXT` is the sequence of the next message of the group; there are no partitions, so all stands
//! under "queue" 0. A file of which something was left out for its size also has
//! `"complete": false`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use qmq_store::{StoreReader, SubjectId};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::shard::{Shards, Standing};

/// Folder of the files, below `store.root`.
pub const FOLDER: &str = "config";
/// Entries in one file; further ones are left out.
pub const ENTRIES_MAX: usize = 100_000;
/// At most one part in so many of the time is spent on writing.
const PAUSE_FACTOR: u32 = 50;

/// Writes the files.
pub struct Exporter {
    folder: PathBuf,
    shards: Shards,
    reader: StoreReader,
    /// What was written last, by hash: what has not changed is not written again.
    written: [Option<u64>; 3],
}

impl Exporter {
    /// Writes to `folder` what `shards` and `reader` know.
    #[must_use]
    pub fn new(folder: PathBuf, shards: Shards, reader: StoreReader) -> Self {
        Self {
            folder,
            shards,
            reader,
            written: [None; 3],
        }
    }

    /// Writes at once, then every `period` and a last time at `stop`. A large export makes the
    /// pause longer.
    pub async fn run(mut self, period: Duration, stop: CancellationToken) {
        let mut is_failing = false;
        loop {
            let is_last = stop.is_cancelled();
            let begin = Instant::now();
            let exported = self.export().await;
            match exported {
                Err(error) if !is_failing => {
                    is_failing = true;
                    let folder = self.folder.display();
                    warn!(%folder, %error, "cannot export offsets, topics and groups");
                }
                Ok(()) if is_failing => {
                    is_failing = false;
                    info!("offsets, topics and groups are exported again");
                }
                _ => {}
            }
            if is_last {
                return;
            }
            let pause = period.max(begin.elapsed() * PAUSE_FACTOR);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Writes what has changed.
    ///
    /// # Errors
    /// When a file cannot be written; the old one is still there.
    pub async fn export(&mut self) -> io::Result<()> {
        let (standings, is_cut) = self.shards.standings(ENTRIES_MAX).await;
        let (folder, reader, before) = (self.folder.clone(), self.reader.clone(), self.written);
        let write = move || {
            let mut written = before;
            let result = write_all(&folder, &standings, is_cut, &reader, &mut written);
            (written, result)
        };
        let (written, result) = tokio::task::spawn_blocking(write).await?;
        self.written = written;
        result
    }
}

fn write_all(
    folder: &Path,
    standings: &[Standing],
    is_cut: bool,
    reader: &StoreReader,
    written: &mut [Option<u64>; 3],
) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let count = reader.subject_count();
    let files = [
        ("consumerOffset.json", offsets(standings, is_cut)),
        ("topics.json", topics(reader, count)),
        ("subscriptionGroup.json", groups(standings, is_cut)),
    ];
    for ((name, content), written) in files.into_iter().zip(written) {
        let mut text = serde_json::to_string_pretty(&content)?;
        text.push('\n');
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let hash = hasher.finish();
        if *written != Some(hash) {
            replace(&folder.join(name), text.as_bytes())?;
            *written = Some(hash);
        }
    }
    Ok(())
}

fn offsets(standings: &[Standing], is_cut: bool) -> Value {
    let offset = |standing: &Standing| {
        let (key, next) = (&standing.key, standing.next.0);
        let name = format!("{}@{}", key.subject, key.group);
        (name, json!({ "0": next }))
    };
    let table: BTreeMap<String, Value> = standings.iter().map(offset).collect();
    content("offsetTable", &table, is_cut)
}

fn groups(standings: &[Standing], is_cut: bool) -> Value {
    let mut broadcast: BTreeMap<String, bool> = BTreeMap::new();
    for standing in standings {
        *broadcast.entry(standing.key.group.to_string()).or_default() |= standing.broadcast;
    }
    let group = |(name, broadcast): (String, bool)| {
        let group = json!({
            "groupName": name, "consumeEnable": true, "consumeBroadcastEnable": broadcast,
        });
        (name, group)
    };
    let table = broadcast.into_iter().map(group).collect();
    content("subscriptionGroupTable", &table, is_cut)
}

fn topics(reader: &StoreReader, count: usize) -> Value {
    let ids = (0..count.min(ENTRIES_MAX)).filter_map(|id| u32::try_from(id).ok());
    let names = ids.filter_map(|id| reader.name(SubjectId(id)));
    let topic =
        |name: qmq_model::Subject| (name.to_string(), json!({ "topicName": name.as_str() }));
    content(
        "topicConfigTable",
        &names.map(topic).collect(),
        count > ENTRIES_MAX,
    )
}

fn content(table: &str, entries: &BTreeMap<String, Value>, is_cut: bool) -> Value {
    if is_cut {
        json!({ table: entries, "complete": false })
    } else {
        json!({ table: entries })
    }
}

/// Puts `bytes` in the place of a file; what was there is `.bak` then. A crash leaves the old file
/// or the new one, never a part.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = |ending: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let (new, copy) = (beside(".tmp"), beside(".bak.tmp"));
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    if path.try_exists()? {
        fs::copy(path, &copy)?;
        fs::rename(&copy, beside(".bak"))?;
    }
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use qmq_model::{ConsumerGroup, MessageSequence, Subject};

    use super::*;
    use crate::shard::SubscriptionKey;

    fn standing(subject: &str, group: &str, broadcast: bool, next: i64) -> Standing {
        Standing {
            key: SubscriptionKey {
                subject: Subject::new(subject).unwrap(),
                group: ConsumerGroup::new(group).unwrap(),
            },
            broadcast,
            next: MessageSequence(next),
        }
    }

    #[test]
    fn offsets_and_groups_have_the_usual_shape() {
        let standings = [
            standing("order.changed", "stock", false, 7),
            standing("order.changed", "mail", false, 3),
            standing("price", "mail", true, 0),
        ];
        let expected = json!({ "offsetTable": {
            "order.changed@mail": { "0": 3 }, "order.changed@stock": { "0": 7 },
            "price@mail": { "0": 0 },
        }});
        assert_eq!(offsets(&standings, false), expected);
        assert_eq!(offsets(&standings, true)["complete"], json!(false));
        let groups = groups(&standings, false);
        let broadcast = |name: &str| {
            groups["subscriptionGroupTable"][name]["consumeBroadcastEnable"]
                .as_bool()
                .unwrap()
        };
        assert!(broadcast("mail") && !broadcast("stock"), "{groups}");
    }

    #[test]
    fn a_file_is_replaced_whole_and_the_old_one_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("topics.json");
        let read = |ending: &str| {
            fs::read_to_string(folder.path().join(format!("topics.json{ending}"))).ok()
        };
        replace(&path, b"one").unwrap();
        assert_eq!((read("").as_deref(), read(".bak")), (Some("one"), None));
        replace(&path, b"two").unwrap();
        // What a crash left behind is in nobody's way.
        fs::write(folder.path().join("topics.json.tmp"), "a long torn text").unwrap();
        replace(&path, b"three").unwrap();
        assert_eq!(read("").as_deref(), Some("three"));
        assert_eq!(read(".bak").as_deref(), Some("two"));
        assert_eq!((read(".tmp"), read(".bak.tmp")), (None, None));
    }
}
