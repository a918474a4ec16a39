//! The golden frames of the protocol crate, as bytes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

/// Where the version stands in a frame.
const VERSION_AT: usize = 12;

/// One golden frame.
#[derive(Clone, Debug)]
pub struct Golden {
    /// Name of its file.
    pub name: String,
    /// The frame.
    pub bytes: Vec<u8>,
    /// For malformed frames: what was sent behind it.
    pub next: Option<Vec<u8>>,
}

impl Golden {
    /// All whose names begin with `prefix`, sorted by name.
    ///
    /// # Errors
    /// When they cannot be read, or there are none.
    pub fn starting_with(prefix: &str) -> Result<Vec<Self>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/tests/fixtures");
        let entries = std::fs::read_dir(&folder)
            .with_context(|| format!("cannot read {}", folder.display()))?;
        let mut paths = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<std::io::Result<Vec<PathBuf>>>()?;
        paths.retain(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(prefix) && name.ends_with(".json")
        });
        paths.sort();
        anyhow::ensure!(!paths.is_empty(), "no golden frame {prefix}*");
        paths.iter().map(|path| Self::read(path)).collect()
    }

    fn read(path: &Path) -> Result<Self> {
        let json: Value = serde_json::from_slice(&std::fs::read(path)?)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let bytes = |key: &str| json[key].as_str().map(from_hex).transpose();
        Ok(Self {
            bytes: bytes("hex")?.context("a frame without bytes")?,
            next: bytes("nextFrameSent")?,
            name: name.into_owned(),
        })
    }

    /// The frame with another version in its header.
    #[must_use]
    pub fn in_version(mut self, version: i16) -> Self {
        self.bytes[VERSION_AT..VERSION_AT + 2].copy_from_slice(&version.to_be_bytes());
        self
    }
}

fn from_hex(hex: &str) -> Result<Vec<u8>> {
    let digits = hex.as_bytes().chunks(2);
    let byte = |digits: &[u8]| Ok(u8::from_str_radix(std::str::from_utf8(digits)?, 16)?);
    digits.map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_frame_and_changes_its_version() {
        let frames = Golden::starting_with("heartbeat_request.json").unwrap();
        let [heartbeat] = &frames[..] else {
            panic!("{frames:?}")
        };
        assert_eq!((heartbeat.bytes.len(), &heartbeat.next), (24, &None));
        assert_eq!(heartbeat.clone().in_version(3).bytes[12..14], [0, 3]);
        assert!(
            Golden::starting_with("malformed_").unwrap()[0]
                .next
                .is_some()
        );
        assert!(Golden::starting_with("no such frame").is_err());
    }
}
