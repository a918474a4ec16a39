//! Which messages were consumed before: a file of their ids, for `--qos 2`.
//!
//! One line for each id, as a JSON string. A line is written after its message is out and before it is
//! acknowledged, so what was printed is not printed again, and only the last one may be when the
//! machine stops in between.

use std::collections::{HashSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};

/// Ids that are remembered; the oldest are forgotten first.
const IDS_MAX: usize = 200_000;
/// Lines of the file before it is written anew with the ids that are remembered.
const LINES_MAX: usize = 2 * IDS_MAX;

/// The ids, in memory and in their file.
#[derive(Debug)]
pub(crate) struct ConsumedIds {
    path: PathBuf,
    file: File,
    lines: usize,
    known: HashSet<Arc<str>>,
    order: VecDeque<Arc<str>>,
    /// Held for as long as this lives: a second run with this file would consume twice.
    _lock: File,
}

impl ConsumedIds {
    /// The file of a group when none is named: in `XDG_STATE_HOME`, or `.local/state` at home.
    ///
    /// # Errors
    /// When there is no home.
    pub(crate) fn default_path(subject: &str, group: &str) -> Result<PathBuf> {
        let folder = |key: &str| std::env::var_os(key).filter(|value| !value.is_empty());
        let state = folder("XDG_STATE_HOME").map(PathBuf::from);
        let home = || folder("HOME").map(|home| Path::new(&home).join(".local/state"));
        let state = state.or_else(home);
        let state = state.context("--qos 2 needs --consumed FILE where there is no HOME")?;
        Ok(state
            .join("qmq-tools/consumed")
            .join(format!("{subject}@{group}")))
    }

    /// Reads what is there, and goes on behind it.
    ///
    /// # Errors
    /// When the file cannot be used, or another run uses it.
    pub(crate) fn open(path: PathBuf) -> Result<Self> {
        let context = || format!("consumed ids in {}", path.display());
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(context)?;
        }
        let mut lock = path.clone().into_os_string();
        lock.push(".lock");
        let lock = File::create(lock).with_context(context)?;
        if lock.try_lock().is_err() {
            bail!("{}: another run uses it", context());
        }
        let text = match fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(context),
        };
        let mut file = append_to(&path).with_context(context)?;
        if !text.is_empty() && !text.ends_with('\n') {
            // What a crash tore is no id; the next line is to begin as one.
            file.write_all(b"\n").with_context(context)?;
        }
        let mut ids = Self {
            path,
            file,
            lines: 0,
            known: HashSet::new(),
            order: VecDeque::new(),
            _lock: lock,
        };
        for line in text.lines() {
            ids.lines += 1;
            if let Ok(id) = serde_json::from_str::<String>(line) {
                ids.remember(&id);
            }
        }
        Ok(ids)
    }

    /// Whether a message with this id was consumed.
    pub(crate) fn contains(&self, id: &str) -> bool {
        self.known.contains(id)
    }

    /// Notes that a message was consumed.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub(crate) fn add(&mut self, id: &str) -> Result<()> {
        let problem = || format!("cannot note an id in {}", self.path.display());
        let line = format!("{}\n", serde_json::Value::from(id));
        self.file.write_all(line.as_bytes()).with_context(problem)?;
        self.lines += 1;
        self.remember(id);
        if self.lines > LINES_MAX {
            self.write_anew()?;
        }
        Ok(())
    }

    fn remember(&mut self, id: &str) {
        let id: Arc<str> = id.into();
        if !self.known.insert(Arc::clone(&id)) {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > IDS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    fn write_anew(&mut self) -> Result<()> {
        let context = || format!("cannot shorten {}", self.path.display());
        let mut other = self.path.clone().into_os_string();
        other.push(".new");
        let lines = self.order.iter();
        let text: String = lines
            .map(|id| format!("{}\n", serde_json::Value::from(&**id)))
            .collect();
        let mut file = File::create(&other).with_context(context)?;
        file.write_all(text.as_bytes()).with_context(context)?;
        file.sync_all().with_context(context)?;
        fs::rename(&other, &self.path).with_context(context)?;
        self.file = append_to(&self.path).with_context(context)?;
        self.lines = self.order.len();
        Ok(())
    }
}

fn append_to(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_known_in_the_next_run_and_a_torn_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/s@g");
        let mut ids = ConsumedIds::open(path.clone()).unwrap();
        assert!(ConsumedIds::open(path.clone()).is_err(), "it is in use");
        ids.add("one").unwrap();
        ids.add("two\nlines \"and\" quotes").unwrap();
        drop(ids);
        let torn = fs::read_to_string(&path).unwrap() + "\"tor";
        fs::write(&path, torn).unwrap();
        let mut ids = ConsumedIds::open(path.clone()).unwrap();
        assert!(ids.contains("one") && ids.contains("two\nlines \"and\" quotes"));
        assert!(!ids.contains("tor"));
        ids.add("three").unwrap();
        drop(ids);
        let ids = ConsumedIds::open(path).unwrap();
        assert!(ids.contains("one") && ids.contains("three"));
    }

    #[test]
    fn the_oldest_are_forgotten_and_the_file_stays_short() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s@g");
        let lines: String = (0..LINES_MAX).map(|n| format!("\"{n}\"\n")).collect();
        fs::write(&path, lines).unwrap();
        let mut ids = ConsumedIds::open(path.clone()).unwrap();
        ids.add("last").unwrap();
        assert!(!ids.contains("0") && ids.contains("last"));
        let newest = (LINES_MAX - 1).to_string();
        assert!(ids.contains(&newest));
        drop(ids);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), IDS_MAX);
        let ids = ConsumedIds::open(path).unwrap();
        assert!(ids.contains(&newest) && ids.contains("last"));
    }
}
