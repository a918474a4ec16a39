//! The source of the workspace: where it is and which files belong to it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Folders with what builds and runs leave behind.
const NOT_SOURCE: [&str; 6] = [".git", "target", "data", "logs", "pid", "node_modules"];

/// The folder of the workspace.
///
/// # Panics
/// Never: this crate's folder is inside the workspace.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate's folder is inside the workspace")
        .to_path_buf()
}

/// Path below [`root`] and text of every source file, sorted by path. Files that are not UTF-8
/// are left out.
///
/// # Errors
/// When a folder or file cannot be read.
pub fn texts() -> Result<Vec<(String, String)>> {
    let root = root();
    let mut texts = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            let path = entry.path();
            let kind = entry.file_type()?;
            if kind.is_dir() {
                if !NOT_SOURCE.iter().any(|name| path.ends_with(name)) {
                    folders.push(path);
                }
            } else if kind.is_file() {
                let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
                let below = path.strip_prefix(&root)?.to_string_lossy().into_owned();
                texts.extend(String::from_utf8(bytes).ok().map(|text| (below, text)));
            }
        }
    }
    texts.sort_unstable();
    Ok(texts)
}
