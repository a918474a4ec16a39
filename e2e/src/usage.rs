//! What a process uses, and how much this one may use.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a process uses at the moment, as the kernel says.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// The most memory it ever had resident. Unit: bytes.
    pub resident_peak: u64,
    /// Descriptors it has open, sockets included.
    pub open_files: usize,
}

impl Usage {
    /// Of the process `pid`.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: u32) -> Result<Self> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let status = std::fs::read_to_string(folder.join("status"))
            .with_context(|| format!("no process {pid}"))?;
        Ok(Self {
            resident_peak: kilobytes(&status, "VmHWM")? * 1024,
            open_files: std::fs::read_dir(folder.join("fd"))?.count(),
        })
    }
}

fn kilobytes(status: &str, key: &str) -> Result<u64> {
    let lines = status.lines().filter_map(|line| line.split_once(':'));
    let mut values = lines.filter(|(name, _)| *name == key).map(|(_, text)| text);
    let value = values.next().with_context(|| format!("no line {key}"))?;
    let number = value.trim().strip_suffix(" kB").context("no kB")?;
    Ok(number.trim().parse()?)
}

/// Lets this process, and those it starts from now on, open at least `count` files.
///
/// # Errors
/// When the machine does not allow so many.
pub fn allow_open_files(count: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let is_enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= count);
    if is_enough(limit.current) {
        return Ok(());
    }
    if !is_enough(limit.maximum) {
        let most = limit.maximum.unwrap_or_default();
        bail!(
            "this test needs {count} open files in a process, and this machine allows {most}: \
             raise the hard limit (ulimit -Hn)"
        );
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).context("cannot raise the limit of open files")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_this_process_uses() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.resident_peak > 1 << 20 && usage.open_files > 2);
        assert!(Usage::of(u32::MAX).is_err());
    }

    #[test]
    fn says_when_the_machine_allows_too_few_files() {
        allow_open_files(64).unwrap();
        if getrlimit(Resource::Nofile).maximum.is_some() {
            let error = allow_open_files(u64::MAX).unwrap_err().to_string();
            assert!(error.contains("ulimit -Hn"), "{error}");
        }
    }
}
