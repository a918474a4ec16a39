//! Several layers of settings become one: the later wins, key by key.

use std::collections::BTreeMap;
use std::path::Path;

use config::{ConfigError, Map, Source, Value, ValueKind};

use super::file::Properties;
use super::{Entry, Origin};

/// One layer: a file, or the command line. Keys are flat texts, never paths: `a` and `a.b` are two
/// keys, and one may hold any character.
#[derive(Clone, Debug)]
pub(super) struct Layer(BTreeMap<String, Entry>);

impl Layer {
    /// `--set key=value`, each.
    pub(super) fn of_command_line(pairs: &[(String, String)]) -> Self {
        let pairs = pairs.iter().map(|(key, value)| {
            let entry = Entry {
                value: value.trim().to_owned(),
                origin: Origin::COMMAND_LINE,
            };
            (key.clone(), entry)
        });
        Self(pairs.collect())
    }

    /// The content of a file. The last of a repeated key wins; `notes` gets a line about it.
    pub(super) fn of_file(path: &Path, file: Properties, notes: &mut Vec<String>) -> Self {
        let mut entries = BTreeMap::new();
        notes.extend(file.note);
        for property in file.properties {
            let entry = Entry {
                value: property.value.trim().to_owned(),
                origin: Origin::line(path, property.line),
            };
            note_replaced(&entries, &property.key, &entry.origin, notes);
            entries.insert(property.key, entry);
        }
        Self(entries)
    }

    /// Adds to `notes` which values of the `earlier` layers this one replaces.
    pub(super) fn note_replaced(&self, earlier: &[Self], notes: &mut Vec<String>) {
        for (key, entry) in &self.0 {
            for layer in earlier {
                note_replaced(&layer.0, key, &entry.origin, notes);
            }
        }
    }
}

fn note_replaced(
    entries: &BTreeMap<String, Entry>,
    key: &str,
    origin: &Origin,
    notes: &mut Vec<String>,
) {
    if let Some(earlier) = entries.get(key) {
        let earlier = &earlier.origin;
        notes.push(format!("{origin}: {key} replaces the value of {earlier}"));
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        let value = |entry: &Entry| Value::new(Some(&entry.origin.text()), entry.value.clone());
        let pairs = self.0.iter();
        Ok(pairs.map(|(k, entry)| (k.clone(), value(entry))).collect())
    }

    // As they are: without this a key would be taken for a path into tables.
    fn collect_to(&self, cache: &mut Value) -> Result<(), ConfigError> {
        if let ValueKind::Table(table) = &mut cache.kind {
            table.extend(self.collect()?);
        }
        Ok(())
    }
}

/// What `layers` come to; a later one wins over the earlier.
///
/// # Errors
/// Never for layers made of texts.
pub(super) fn merge(layers: &Vec<Layer>) -> Result<BTreeMap<String, Entry>, ConfigError> {
    // Not through a builder: it takes keys for paths even when the layers do not.
    let merged = layers.collect()?;
    let entry = |(key, value): (String, Value)| {
        let origin = value.origin().map_or(Origin::DEFAULT, Origin::told);
        let value = value.into_string()?;
        Ok((key, Entry { value, origin }))
    };
    merged.into_iter().map(entry).collect()
}
