//! Keys that are documented as dynamic: files are looked at while the process runs.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{MapFile, Settings, SettingsError, shown};

/// How often files of settings are looked at, as documented.
pub const FOLLOW_PERIOD: Duration = Duration::from_secs(10);

/// What tells one version of a file from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileStamp(Option<(SystemTime, u64)>);

impl FileStamp {
    pub(super) fn of(path: &Path) -> Self {
        let metadata = std::fs::metadata(path).ok();
        Self(metadata.and_then(|m| Some((m.modified().ok()?, m.len()))))
    }
}

type Apply = dyn Fn(&Settings) -> Result<(), SettingsError> + Send + Sync;

/// Those who are told of changes.
#[derive(Clone, Default)]
pub(super) struct Hooks {
    applies: Vec<Arc<Apply>>,
    pub(super) maps: Vec<MapFile>,
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("applies", &self.applies.len())
            .field("maps", &self.maps)
            .finish()
    }
}

/// Looks at the files of `settings` every `period` and hands changed settings to `apply` and to
/// those named with [`Settings::on_change`]. What changed is logged, old value and new. A file that
/// cannot be read or a value that is refused is logged, and the old values stay. Ends with `stop`.
pub async fn follow(
    mut settings: Settings,
    period: Duration,
    stop: CancellationToken,
    mut apply: impl FnMut(&Settings) -> Result<(), SettingsError>,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(period) => {}
        }
        for map in &settings.hooks.maps {
            map.look();
        }
        if !settings.files_changed() {
            continue;
        }
        match settings.read_again() {
            Ok(changed) => {
                let results = changed.hooks.applies.iter().map(|hook| hook(&changed));
                let mut results: Vec<_> = results.collect();
                results.push(apply(&changed));
                settings.log_changes(&changed, results);
                settings = changed;
            }
            Err(error) => {
                warn!(%error, "settings changed but cannot be read: the old values stay");
                settings.note_files();
            }
        }
    }
}

impl Settings {
    /// [`follow`] tells `apply` of changed settings. What it asks for counts as a key that may
    /// change while the process runs; when it refuses, its old values stay.
    pub fn on_change(
        &mut self,
        apply: impl Fn(&Self) -> Result<(), SettingsError> + Send + Sync + 'static,
    ) {
        self.hooks.applies.push(Arc::new(apply));
    }

    fn files_changed(&self) -> bool {
        // A file that is gone keeps its last values: editors replace files by deleting them.
        self.files.iter().any(|(path, stamp)| {
            let now = FileStamp::of(path);
            now.0.is_some() && now != *stamp
        })
    }

    fn note_files(&mut self) {
        for (path, stamp) in &mut self.files {
            *stamp = FileStamp::of(path);
        }
    }

    fn read_again(&self) -> Result<Self, SettingsError> {
        let (name, companions) = (&self.name, &self.companions);
        let read = Self::load_in(&self.environment, name, companions, &self.args)?;
        Ok(Self {
            hooks: self.hooks.clone(),
            ..read
        })
    }

    fn log_changes(&self, changed: &Self, results: Vec<Result<(), SettingsError>>) {
        let refused: Vec<SettingsError> = results.into_iter().filter_map(Result::err).collect();
        for error in &refused {
            let old = error
                .key()
                .map_or_else(String::new, |key| self.printed(key));
            warn!(%error, old, "settings changed but are refused: the old values stay");
        }
        let asked = changed.asked();
        for key in self.changed_keys(changed) {
            let (old, new) = (self.printed(key), changed.printed(key));
            if !asked.contains_key(key) {
                warn!(
                    key,
                    old, new, "setting changed: it counts from the next start on"
                );
            } else if refused.is_empty() {
                info!(key, old, new, "setting changed");
            }
        }
    }

    fn changed_keys<'a>(&'a self, changed: &'a Self) -> BTreeSet<&'a str> {
        let keys = self.entries.keys().chain(changed.entries.keys());
        let value = |of: &Self, key: &str| of.entries.get(key).map(|entry| entry.value.clone());
        keys.filter(|key| value(self, key) != value(changed, key))
            .map(String::as_str)
            .collect()
    }

    /// The value of `key` as it may be printed; empty when it is not set.
    fn printed(&self, key: &str) -> String {
        let entry = self.entries.get(key);
        entry.map_or_else(String::new, |entry| shown(key, &entry.value))
    }
}
