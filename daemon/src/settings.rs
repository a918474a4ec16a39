//! Layered settings: the command line, one settings file, built-in defaults.
//!
//! The first of these that exists is read, the others are not:
//!
//! 1. the file named with `-c FILE`;
//! 2. `QMQ_CONF`: a file, or a folder that holds `NAME.properties` or `NAME.toml`;
//! 3. `$QMQ_HOME/conf/NAME.properties`, or `NAME.toml`;
//! 4. `./conf/NAME.properties`, or `NAME.toml`.
//!
//! `--set key=value` wins over the file, the file over the defaults in the code. A blank value is
//! an absent one. Every value remembers where it came from, and so does every error.

mod args;
mod error;
pub mod file;
mod follow;
mod layers;
mod map_file;
mod origin;
mod properties;
mod report;
mod search;
mod toml_text;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

pub use args::SettingsArgs;
pub use error::SettingsError;
pub use follow::{FOLLOW_PERIOD, follow};
pub use map_file::MapFile;
pub use origin::Origin;
pub use search::Environment;

use follow::{FileStamp, Hooks};
use layers::Layer;
use report::shown;

/// The settings of one process. Getters note what was asked, so that the keys nobody asked for can
/// be reported and the effective values printed.
#[derive(Debug)]
pub struct Settings {
    name: String,
    companions: Vec<&'static str>,
    args: SettingsArgs,
    environment: Environment,
    entries: BTreeMap<String, Entry>,
    /// Files that were read, and what they looked like then.
    files: Vec<(PathBuf, FileStamp)>,
    folder: Option<PathBuf>,
    notes: Vec<String>,
    asked: Mutex<BTreeMap<String, Asked>>,
    /// What is told of changes while the process runs.
    hooks: Hooks,
}

#[derive(Clone, Debug)]
struct Entry {
    value: String,
    origin: Origin,
}

#[derive(Clone, Debug)]
struct Asked {
    value: Option<String>,
    origin: Origin,
}

impl Settings {
    /// Reads the settings of the server `name`: its own file and, where they exist in the same
    /// folder, the files of `companions` (names without `.properties`).
    ///
    /// # Errors
    /// When a file that was named is missing, or a file cannot be read or parsed.
    pub fn load(
        name: &str,
        companions: &[&'static str],
        args: &SettingsArgs,
    ) -> Result<Self, SettingsError> {
        Self::load_in(&Environment::of_process(), name, companions, args)
    }

    /// [`Settings::load`] with the environment as an argument.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn load_in(
        environment: &Environment,
        name: &str,
        companions: &[&'static str],
        args: &SettingsArgs,
    ) -> Result<Self, SettingsError> {
        let place = search::find(
            environment,
            name,
            args.file.as_deref(),
            args.config_fallback,
        )?;
        let mut settings = Self {
            name: name.to_owned(),
            companions: companions.to_vec(),
            args: args.clone(),
            environment: environment.clone(),
            entries: BTreeMap::new(),
            files: Vec::new(),
            folder: place.folder,
            notes: place.notes,
            asked: Mutex::default(),
            hooks: Hooks::default(),
        };
        let mut layers = Vec::new();
        if let Some(file) = place.file {
            settings.read(file, &mut layers)?;
        }
        for companion in companions {
            let path = settings.companion_path(companion);
            if let Some(path) = path.filter(|path| file::is_file(path)) {
                settings.read(path, &mut layers)?;
            }
        }
        layers.push(Layer::of_command_line(&args.set));
        settings.entries =
            layers::merge(&layers).map_err(|source| SettingsError::Layers { source })?;
        Ok(settings)
    }

    /// Settings that come from `pairs` alone, as if each had been given with `--set`.
    #[must_use]
    pub fn of_pairs(name: &str, pairs: &[(&str, &str)]) -> Self {
        let entry = |value: &str| Entry {
            value: value.to_owned(),
            origin: Origin::COMMAND_LINE,
        };
        Self {
            name: name.to_owned(),
            companions: Vec::new(),
            args: SettingsArgs::default(),
            environment: Environment::default(),
            entries: pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), entry(v)))
                .collect(),
            files: Vec::new(),
            folder: None,
            notes: Vec::new(),
            asked: Mutex::default(),
            hooks: Hooks::default(),
        }
    }

    /// Reads a file as the layer above `layers`.
    fn read(&mut self, path: PathBuf, layers: &mut Vec<Layer>) -> Result<(), SettingsError> {
        let stamp = FileStamp::of(&path);
        let layer = Layer::of_file(&path, file::read(&path)?, &mut self.notes);
        layer.note_replaced(layers, &mut self.notes);
        layers.push(layer);
        self.files.push((path, stamp));
        Ok(())
    }

    /// Name of the server these settings are for.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file of a companion, beside the settings file: `NAME.properties`, or `NAME.toml` when
    /// only that exists. `None` when there is no folder of settings at all.
    #[must_use]
    pub fn companion_path(&self, name: &str) -> Option<PathBuf> {
        let folder = self.folder.as_ref()?;
        let missing = || folder.join(format!("{name}.properties"));
        Some(search::named_in(folder, name).unwrap_or_else(missing))
    }

    /// The value of `key`, or `default`.
    ///
    /// # Errors
    /// When the value cannot be read as a `T`.
    pub fn get<T>(&self, key: &str, default: T) -> Result<T, SettingsError>
    where
        T: FromStr + Display,
        T::Err: Display,
    {
        match self.lookup(key, Some(&default)) {
            Some(entry) => parse(key, entry),
            None => Ok(default),
        }
    }

    /// The value of `key`, if it is set.
    ///
    /// # Errors
    /// When the value cannot be read as a `T`.
    pub fn optional<T>(&self, key: &str) -> Result<Option<T>, SettingsError>
    where
        T: FromStr,
        T::Err: Display,
    {
        self.lookup(key, None::<&str>)
            .map(|entry| parse(key, entry))
            .transpose()
    }

    /// The value of `key`, which has no default.
    ///
    /// # Errors
    /// When it is not set, or cannot be read as a `T`.
    pub fn required<T>(&self, key: &str) -> Result<T, SettingsError>
    where
        T: FromStr,
        T::Err: Display,
    {
        self.optional(key)?.ok_or_else(|| SettingsError::Missing {
            key: key.to_owned(),
            looked_in: match self.files.first() {
                Some((path, _)) => path.display().to_string(),
                None => "the command line (no settings file was found)".to_owned(),
            },
        })
    }

    /// A number within `range`, or `default`.
    ///
    /// # Errors
    /// When the value is no number or out of range.
    pub fn number<T>(
        &self,
        key: &str,
        default: T,
        range: RangeInclusive<T>,
    ) -> Result<T, SettingsError>
    where
        T: FromStr + Display + PartialOrd,
        T::Err: Display,
    {
        let value = self.get(key, default)?;
        if range.contains(&value) {
            return Ok(value);
        }
        Err(self.invalid(
            key,
            format!("not within {}..={}", range.start(), range.end()),
        ))
    }

    /// A switch: `true` or `false` in any case.
    ///
    /// # Errors
    /// When the value is anything else. (The Java servers take everything but `true` for `false`;
    /// a typing error in a switch must not pass unseen.)
    pub fn flag(&self, key: &str, default: bool) -> Result<bool, SettingsError> {
        let Some(entry) = self.lookup(key, Some(&default)) else {
            return Ok(default);
        };
        match entry.value.to_ascii_lowercase().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(self.invalid(key, "neither true nor false".to_owned())),
        }
    }

    /// The error for a value that was read but makes no sense.
    #[must_use]
    pub fn invalid(&self, key: &str, what: String) -> SettingsError {
        match self.entries.get(key) {
            Some(entry) => SettingsError::Invalid {
                key: key.to_owned(),
                value: shown(key, &entry.value),
                origin: entry.origin.clone(),
                what,
            },
            None => SettingsError::Invalid {
                key: key.to_owned(),
                value: String::new(),
                origin: Origin::DEFAULT,
                what,
            },
        }
    }

    /// States that these keys are understood but have no effect here, so that they are reported as
    /// such and not as unknown.
    pub fn without_effect(&self, keys: &[&str]) {
        for key in keys {
            if let Some(Entry { origin, .. }) = self.entries.get(*key) {
                self.note_asked(key, None, origin.clone());
            }
        }
    }

    fn lookup(&self, key: &str, default: Option<&(impl Display + ?Sized)>) -> Option<&Entry> {
        let entry = self
            .entries
            .get(key)
            .filter(|entry| !entry.value.is_empty());
        match entry {
            Some(Entry { value, origin }) => {
                self.note_asked(key, Some(shown(key, value)), origin.clone());
            }
            None => {
                let value = default.map(|value| shown(key, &value.to_string()));
                self.note_asked(key, value, Origin::DEFAULT);
            }
        }
        entry
    }

    fn note_asked(&self, key: &str, value: Option<String>, origin: Origin) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.insert(key.to_owned(), Asked { value, origin });
    }
}

fn parse<T>(key: &str, entry: &Entry) -> Result<T, SettingsError>
where
    T: FromStr,
    T::Err: Display,
{
    entry
        .value
        .parse()
        .map_err(|error: T::Err| SettingsError::Invalid {
            key: key.to_owned(),
            value: shown(key, &entry.value),
            origin: entry.origin.clone(),
            what: error.to_string(),
        })
}

#[cfg(test)]
mod tests;
