//! Which settings file is read.

use std::path::{Path, PathBuf};

use super::SettingsError;
use super::file::{ENDINGS, is_file};

const FILE_MISSING: &str = "the file named with -c is missing";
const CONF_MISSING: &str = "the environment variable QMQ_CONF points elsewhere";

/// The parts of the environment that settings depend on.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `QMQ_CONF`: a file, or a folder of files.
    pub qmq_conf: Option<PathBuf>,
    /// `QMQ_HOME`: the folder of the installation.
    pub qmq_home: Option<PathBuf>,
    /// The current folder.
    pub current: PathBuf,
}

impl Environment {
    /// The environment of this process. A variable set to nothing counts as absent.
    #[must_use]
    pub fn of_process() -> Self {
        let path = |name| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        Self {
            qmq_conf: path("QMQ_CONF"),
            qmq_home: path("QMQ_HOME"),
            current: PathBuf::from("."),
        }
    }
}

/// What the search found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// The file to read; `None` means built-in defaults.
    pub(super) file: Option<PathBuf>,
    /// Where the files of companions are.
    pub(super) folder: Option<PathBuf>,
    /// What the operator should hear about the search.
    pub(super) notes: Vec<String>,
}

impl Place {
    fn of(file: PathBuf) -> Self {
        let parent = file
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let folder = parent.unwrap_or(Path::new(".")).to_owned();
        Self {
            notes: beside(&folder, &file),
            folder: Some(folder),
            file: Some(file),
        }
    }
}

/// Files of the same name with another ending, which are not read.
fn beside(folder: &Path, file: &Path) -> Vec<String> {
    let other = |ending| {
        let other = folder.join(file.file_name()?).with_extension(ending);
        (other != file && is_file(&other)).then(|| {
            let (file, other) = (file.display(), other.display());
            format!("{other} is not read: {file} is")
        })
    };
    ENDINGS.into_iter().filter_map(other).collect()
}

/// The file of `name` in `folder`: `NAME.properties`, else `NAME.toml`.
pub(super) fn named_in(folder: &Path, name: &str) -> Option<PathBuf> {
    files_of(folder, name)
        .into_iter()
        .find(|path| is_file(path))
}

/// Finds the settings of `name`. With `fall_back` a named file that is missing is only noted, and
/// the next place is tried.
///
/// # Errors
/// When `-c` or `QMQ_CONF` names something that is not there.
pub(super) fn find(
    environment: &Environment,
    name: &str,
    file: Option<&Path>,
    fall_back: bool,
) -> Result<Place, SettingsError> {
    let mut notes = Vec::new();
    let conf = environment.qmq_conf.as_deref();
    for (named, why) in [
        (file.map(|file| vec![file.to_owned()]), FILE_MISSING),
        (conf.map(|conf| candidates(conf, name)), CONF_MISSING),
    ] {
        let Some(tried) = named else { continue };
        if let Some(found) = tried.iter().find(|path| is_file(path)) {
            return Ok(with_notes(Place::of(found.clone()), notes));
        }
        let error = SettingsError::NotFound {
            name: name.to_owned(),
            why,
            tried,
        };
        if !fall_back {
            return Err(error);
        }
        notes.push(format!("{error}; going on (--config-fallback)"));
    }
    let home = environment.qmq_home.as_ref().map(|home| home.join("conf"));
    let folders: Vec<PathBuf> = home
        .into_iter()
        .chain([environment.current.join("conf")])
        .collect();
    if let Some(found) = folders.iter().find_map(|folder| named_in(folder, name)) {
        return Ok(with_notes(Place::of(found), notes));
    }
    let folder = folders.into_iter().find(|folder| folder.is_dir());
    let file = None;
    Ok(Place {
        file,
        folder,
        notes,
    })
}

fn with_notes(place: Place, mut notes: Vec<String>) -> Place {
    notes.extend(place.notes);
    Place { notes, ..place }
}

/// `QMQ_CONF` is a file, or a folder of files.
fn candidates(conf: &Path, name: &str) -> Vec<PathBuf> {
    if conf.is_dir() {
        files_of(conf, name).into()
    } else {
        vec![conf.to_owned()]
    }
}

fn files_of(folder: &Path, name: &str) -> [PathBuf; 2] {
    ENDINGS.map(|ending| folder.join(format!("{name}.{ending}")))
}
