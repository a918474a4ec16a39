//! Keys that are documented as dynamic: files are looked at while the process runs.

use std::path::Path;
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Settings, SettingsError};

/// What tells one version of a file from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileStamp(Option<(SystemTime, u64)>);

impl FileStamp {
    pub(super) fn of(path: &Path) -> Self {
        let metadata = std::fs::metadata(path).ok();
        Self(metadata.and_then(|m| Some((m.modified().ok()?, m.len()))))
    }
}

/// Looks at the files of `settings` every `period` and hands changed settings to `apply`. A file
/// that cannot be read or a value that `apply` refuses is logged, and the old values stay. Ends
/// with `stop`.
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
        if !settings.files_changed() {
            continue;
        }
        match settings.read_again() {
            Ok(changed) => settings = changed,
            Err(error) => {
                warn!(%error, "settings changed but cannot be read: the old values stay");
                settings.note_files();
                continue;
            }
        }
        match apply(&settings) {
            Ok(()) => info!("settings read again"),
            Err(error) => warn!(%error, "settings changed but are refused: the old values stay"),
        }
    }
}

impl Settings {
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
        Self::load_in(&self.environment, &self.name, &self.companions, &self.args)
    }
}
