//! Which settings file is read.

use std::path::{Path, PathBuf};

use super::SettingsError;

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
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The file to read; `None` means built-in defaults.
    pub(super) file: Option<PathBuf>,
    /// Where the files of companions are.
    pub(super) folder: Option<PathBuf>,
}

impl Place {
    fn of(file: PathBuf) -> Self {
        let parent = file
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let folder = Some(parent.unwrap_or(Path::new(".")).to_owned());
        Self {
            file: Some(file),
            folder,
        }
    }
}

/// Finds the settings of `name`.
///
/// # Errors
/// When `-c` or `QMQ_CONF` names something that is not there.
pub(super) fn find(
    environment: &Environment,
    name: &str,
    file: Option<&Path>,
) -> Result<Place, SettingsError> {
    let named = |why, tried: &Path| SettingsError::NotFound {
        name: name.to_owned(),
        why,
        tried: vec![tried.to_owned()],
    };
    if let Some(file) = file {
        return if is_file(file) {
            Ok(Place::of(file.to_owned()))
        } else {
            Err(named("the file named with -c is missing", file))
        };
    }
    let file_name = format!("{name}.properties");
    if let Some(conf) = &environment.qmq_conf {
        let file = if conf.is_dir() {
            conf.join(&file_name)
        } else {
            conf.clone()
        };
        return if is_file(&file) {
            Ok(Place::of(file))
        } else {
            Err(named(
                "the environment variable QMQ_CONF points elsewhere",
                &file,
            ))
        };
    }
    let home = environment.qmq_home.as_ref().map(|home| home.join("conf"));
    let folders: Vec<PathBuf> = home
        .into_iter()
        .chain([environment.current.join("conf")])
        .collect();
    if let Some(folder) = folders
        .iter()
        .find(|folder| is_file(&folder.join(&file_name)))
    {
        return Ok(Place::of(folder.join(&file_name)));
    }
    let folder = folders.into_iter().find(|folder| folder.is_dir());
    Ok(Place { file: None, folder })
}

/// Also true for pipes and devices, so that `-c <(...)` works.
fn is_file(path: &Path) -> bool {
    matches!(path.try_exists(), Ok(true)) && !path.is_dir()
}
