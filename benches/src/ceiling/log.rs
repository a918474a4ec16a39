//! The file of the ceiling: prepared once, written round and round.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Zeros are written in steps of this.
const STEP_BYTES: usize = 1024 * 1024;

/// A file of fixed size whose blocks have all been written before.
#[derive(Debug)]
pub struct Log {
    file: File,
    bytes: u64,
    at: u64,
}

impl Log {
    /// Creates the file and fills it with zeros, synced.
    ///
    /// # Errors
    /// When the file is there already, or the disk has no room.
    pub fn create(path: &Path, bytes: u64) -> io::Result<Self> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        let zeros = vec![0; STEP_BYTES];
        let mut left = bytes;
        while left > 0 {
            let step = usize::try_from(left).map_or(STEP_BYTES, |left| left.min(STEP_BYTES));
            file.write_all(&zeros[..step])?;
            left -= step as u64;
        }
        file.sync_all()?;
        Ok(Self { file, bytes, at: 0 })
    }

    /// Writes behind what was written last; begins again when it does not fit any more.
    ///
    /// # Errors
    /// When it is longer than the whole file, or the disk fails.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = bytes.len() as u64;
        if length > self.bytes {
            let what = "a batch is longer than the prepared log";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        if self.at + length > self.bytes {
            self.at = 0;
        }
        self.file.write_all_at(bytes, self.at)?;
        self.at += length;
        Ok(())
    }

    /// Waits until everything written is on the disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_again_at_the_end_and_keeps_its_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = Log::create(&path, 10).unwrap();
        log.append(b"abcdef").unwrap();
        log.append(b"ghi").unwrap();
        log.sync().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"abcdefghi\0");
        log.append(b"xy").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"xycdefghi\0");
        assert!(log.append(b"longer than all").is_err());
        assert!(Log::create(&path, 10).is_err(), "never over another file");
    }
}
