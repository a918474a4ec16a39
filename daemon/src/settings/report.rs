//! What operators are told about their settings: findings in the log, all values on request.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use tracing::{info, warn};

use super::{Asked, Origin, Settings};

/// What is printed instead of a secret.
const MASK: &str = "******";

impl Settings {
    /// Keys that are set but that nobody has asked for, with their origin.
    #[must_use]
    pub fn unknown(&self) -> Vec<(String, Origin)> {
        let asked = self.asked();
        let entries = self
            .entries
            .iter()
            .filter(|(key, _)| !asked.contains_key(*key));
        entries
            .map(|(key, entry)| (key.clone(), entry.origin.clone()))
            .collect()
    }

    /// Logs where the settings came from and what is odd about them. To be called once logging
    /// works and the configuration has been built.
    pub fn log_findings(&self) {
        if self.files.is_empty() {
            info!(
                server = self.name,
                "no settings file found: built-in defaults"
            );
        }
        for (path, _) in &self.files {
            info!(path = %path.display(), "settings read");
        }
        for note in &self.notes {
            warn!("{note}");
        }
        for (key, Asked { value, origin }) in self.asked() {
            if value.is_none() && origin != Origin::DEFAULT {
                warn!(key, %origin, "setting has no effect in this server");
            }
        }
        for (key, origin) in self.unknown() {
            warn!(key, %origin, "unknown setting");
        }
    }

    /// Every value that was asked for, as `key = value  # origin`, one per line, sorted by key;
    /// the files that were read, unknown keys and
    /// other findings follow. Secrets are masked.
    #[must_use]
    pub fn report(&self) -> String {
        let values = self.asked().into_iter().map(|(key, asked)| match asked {
            Asked {
                value: Some(value),
                origin,
            } => format!("{key} = {value}  # {origin}\n"),
            Asked {
                value: None,
                origin,
            } if origin == Origin::DEFAULT => format!("# {key} is not set\n"),
            Asked {
                value: None,
                origin,
            } => format!("# {key} ({origin}) has no effect\n"),
        });
        let notes = self.notes.iter().map(|note| format!("# warning: {note}\n"));
        let unknown = self.unknown().into_iter();
        let unknown =
            unknown.map(|(key, origin)| format!("# warning: unknown setting {key} ({origin})\n"));
        let files = self.files.iter();
        let files = files.map(|(path, _)| format!("# read: {}\n", path.display()));
        values.chain(files).chain(notes).chain(unknown).collect()
    }

    pub(super) fn asked(&self) -> BTreeMap<String, Asked> {
        self.asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// A value as it may be printed: passwords and tokens are masked, also inside URLs.
pub(super) fn shown(key: &str, value: &str) -> String {
    let key = key.to_ascii_lowercase();
    if ["password", "secret", "token"]
        .iter()
        .any(|word| key.contains(word))
        && !value.is_empty()
    {
        return MASK.to_owned();
    }
    let value = match (value.find("://"), value.rfind('@')) {
        (Some(scheme), Some(at)) if scheme + 3 < at => {
            format!("{}{MASK}{}", &value[..scheme + 3], &value[at..])
        }
        _ => value.to_owned(),
    };
    match value.to_ascii_lowercase().find("password=") {
        Some(at) => {
            let start = at + "password=".len();
            let end = value[start..]
                .find('&')
                .map_or(value.len(), |length| start + length);
            format!("{}{MASK}{}", &value[..start], &value[end..])
        }
        None => value,
    }
}
