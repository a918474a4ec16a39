//! A settings file that is read as a whole: its keys are not known beforehand.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tracing::{info, warn};

use super::follow::FileStamp;
use super::{Settings, file, search};

/// The keys and values of `NAME.properties` (or `NAME.toml`) beside the settings file, read again
/// when it changes, also when it appears later. One that cannot be read, or is gone, keeps its
/// last values. Cheap to clone; all clones are the same.
#[derive(Clone, Debug, Default)]
pub struct MapFile(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    name: String,
    folder: Option<PathBuf>,
    /// What the file looked like when it was last read.
    stamp: Mutex<Option<(PathBuf, FileStamp)>>,
    values: RwLock<Option<Arc<BTreeMap<String, String>>>>,
}

impl MapFile {
    fn new(name: &str, folder: Option<PathBuf>) -> Self {
        let file = Self(Arc::new(Inner {
            name: name.to_owned(),
            folder,
            ..Inner::default()
        }));
        file.look();
        file
    }

    /// A file that holds `pairs` and never changes.
    #[must_use]
    pub fn of_pairs(pairs: &[(&str, &str)]) -> Self {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let values = pairs.iter().map(own).collect();
        Self(Arc::new(Inner {
            values: RwLock::new(Some(Arc::new(values))),
            ..Inner::default()
        }))
    }

    /// What the file holds, values trimmed; `None` while there never was such a file.
    #[must_use]
    pub fn values(&self) -> Option<Arc<BTreeMap<String, String>>> {
        let values = self.0.values.read();
        values.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the file again if it changed.
    pub(super) fn look(&self) {
        let Inner { name, folder, .. } = &*self.0;
        let path = folder.as_ref().and_then(|f| search::named_in(f, name));
        let Some(path) = path else { return };
        let now = Some((path.clone(), FileStamp::of(&path)));
        let mut stamp = self.0.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        if *stamp == now {
            return;
        }
        *stamp = now;
        match file::read(&path) {
            Ok(file) => {
                if let Some(note) = file.note {
                    warn!("{note}");
                }
                let pairs = file.properties.into_iter();
                let values = pairs.map(|p| (p.key, p.value.trim().to_owned())).collect();
                info!(path = %path.display(), "settings read");
                let mut held = self
                    .0
                    .values
                    .write()
                    .unwrap_or_else(PoisonError::into_inner);
                *held = Some(Arc::new(values));
            }
            Err(error) => warn!(%error, "settings cannot be read: the old values stay"),
        }
    }
}

impl Settings {
    /// The file `name` beside the settings file, read as a whole. [`super::follow`] looks at it
    /// again.
    #[must_use]
    pub fn map_file(&mut self, name: &str) -> MapFile {
        let file = MapFile::new(name, self.folder.clone());
        self.hooks.maps.push(file.clone());
        file
    }
}
