//! The compiled servers and tools.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

/// Folder with the compiled programs, as in the scripts of `bin/`; they are then not built here.
pub const FOLDER_VARIABLE: &str = "QMQ_BIN_DIR";

/// Path of one of `qmq-metaserver`, `qmq-broker`, `qmq-delay-server`, `qmq-tools`. The first call builds them beside
/// the test that runs, so that no test looks at yesterday's server.
///
/// # Errors
/// When they cannot be built, or the named folder does not have this one.
pub fn path(program: &str) -> Result<PathBuf> {
    let path = folder()?.join(program);
    if !path.try_exists()? {
        bail!("{} is missing", path.display());
    }
    Ok(path)
}

/// Folder of the compiled programs.
///
/// # Errors
/// When they cannot be built.
pub fn folder() -> Result<&'static Path> {
    static FOLDER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match FOLDER.get_or_init(|| find().map_err(|error| format!("{error:#}"))) {
        Ok(folder) => Ok(folder),
        Err(error) => bail!("{error}"),
    }
}

fn find() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os(FOLDER_VARIABLE) {
        return Ok(std::path::absolute(folder)?);
    }
    let test = std::env::current_exe()?;
    // target/PROFILE/deps/TEST
    let folder = test
        .parent()
        .and_then(Path::parent)
        .context("tests run from target/PROFILE/deps")?;
    let target = folder
        .parent()
        .context("tests run from target/PROFILE/deps")?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(crate::repository::root())
        .env("CARGO_TARGET_DIR", target)
        .args([
            "build",
            "--quiet",
            "--locked",
            "-p",
            "qmq-metaserver",
            "-p",
            "qmq-broker",
            "-p",
            "qmq-delay-server",
            "-p",
            "qmq-tools",
            "-p",
            "qmq-benches",
        ]);
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo
        .status()
        .with_context(|| format!("cannot run {cargo:?}"))?;
    if !status.success() {
        bail!("{cargo:?} failed: {status}");
    }
    Ok(folder.to_path_buf())
}
