//! One settings file: `.properties` in Java's syntax, or TOML when it is called so.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::{SettingsError, properties, toml_text};

/// Largest file taken: thousands of times a real one, small enough to hold in memory.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// The endings of settings files, in the order in which they are looked for.
pub const ENDINGS: [&str; 2] = ["properties", "toml"];

/// One key with its value, unescaped but not trimmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// The key.
    pub key: String,
    /// The value.
    pub value: String,
    /// The line the key stands on, counted from 1.
    pub line: usize,
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// In the order of the file; a repeated key is repeated here.
    pub properties: Vec<Property>,
    /// Something the operator should hear about, without being an error.
    pub note: Option<String>,
}

/// Reads a file: one that ends with `.toml` as TOML, any other as Java properties.
///
/// # Errors
/// When it cannot be read, is larger than [`FILE_BYTES_MAX`], or is not in its syntax.
pub fn read(path: &Path) -> Result<Properties, SettingsError> {
    let failed = |source| SettingsError::Read {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(SettingsError::TooLarge {
            path: path.to_owned(),
            limit: FILE_BYTES_MAX,
        });
    }
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
    if path.extension().is_some_and(|ending| ending == "toml") {
        toml_text::parse(path, bytes)
    } else {
        properties::parse(path, bytes)
    }
}

/// Also true for pipes and devices, so that `-c <(...)` works.
pub(super) fn is_file(path: &Path) -> bool {
    matches!(path.try_exists(), Ok(true)) && !path.is_dir()
}
