//! A file system in memory that loses power, fails calls, lies after failed syncs and runs full.
//!
//! It models exactly what `docs/store-format.md` assumes of disks: writes stay in the page cache
//! until a sync; a power cut keeps each unsynced sector old, new or torn, and each unsynced name or
//! not. The same seed and the same calls give the same disk.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::disk::{Chance, Disk};
use super::{Entry, File, FileSystem, LockError, LockGuard, OpenMode};

/// How a failing sync leaves the bytes that it should have made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncFailure {
    /// They stay dirty; a later sync writes them.
    KeepDirty,
    /// They are forgotten; a later sync succeeds without them, and some still read as written.
    DropDirty,
}

/// What was asked of the file system so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Calls of any kind, failed ones included.
    pub calls: u64,
    /// Syncs of files and folders among them.
    pub syncs: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
}

#[derive(Debug)]
struct State {
    disk: Disk,
    chance: Chance,
    stats: Stats,
    /// Rises when the process dies; older handles are dead.
    life: u64,
    power_is_off: bool,
    /// Calls until the power goes off.
    cut_in: Option<u64>,
    /// Calls until one fails.
    fail_in: Option<u64>,
    /// Syncs until one fails.
    fail_sync_in: Option<(u64, SyncFailure)>,
    /// Most bytes that all files may have together.
    space: Option<u64>,
    locks: BTreeSet<PathBuf>,
    /// Whether reads that must not wait find everything.
    is_warm: bool,
    /// Whether syncs of files wait.
    holds_syncs: bool,
}

/// The file system; clones share it.
#[derive(Clone, Debug)]
pub struct FaultyFs(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Syncs wait no more.
    released: Condvar,
}

struct FaultyFile {
    fs: FaultyFs,
    inode: usize,
    life: u64,
}

#[derive(Debug)]
struct FaultyLock {
    fs: FaultyFs,
    path: PathBuf,
    life: u64,
}

/// Whether a call may have its effect before the power goes off.
enum Turn {
    Live,
    LastGasp,
}

impl FaultyFs {
    /// An empty file system; `seed` decides what is not decided by the calls.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State {
            disk: Disk::new(),
            chance: Chance(seed),
            stats: Stats::default(),
            life: 0,
            power_is_off: false,
            cut_in: None,
            fail_in: None,
            fail_sync_in: None,
            space: None,
            locks: BTreeSet::new(),
            is_warm: false,
            holds_syncs: false,
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            released: Condvar::new(),
        }))
    }

    /// Lets the power go off at the `calls`-th call from now (0: the next one). That call and all
    /// later ones fail; whether it still has an effect is left to chance.
    pub fn cut_after(&self, calls: u64) {
        self.state().cut_in = Some(calls);
    }

    /// Whether the power went off since the last [`Self::power_cut`].
    #[must_use]
    pub fn power_is_off(&self) -> bool {
        self.state().power_is_off
    }

    /// Takes the power away, if it is not off already, and brings it back: what was not synced is
    /// kept, lost or torn as `seed` says. All open files and locks are gone.
    pub fn power_cut(&self, seed: u64) {
        let mut state = self.state();
        state.disk.power_cut(&mut Chance(seed));
        state.die();
        self.0.released.notify_all();
    }

    /// The process dies, the machine does not: everything written is still there. All open files
    /// and locks are gone.
    pub fn kill(&self) {
        self.state().die();
        self.0.released.notify_all();
    }

    /// Lets the `calls`-th call from now (0: the next one) fail without an effect.
    pub fn fail_after(&self, calls: u64) {
        self.state().fail_in = Some(calls);
    }

    /// Lets the `syncs`-th sync of a file from now (0: the next one) fail.
    pub fn fail_sync_after(&self, syncs: u64, failure: SyncFailure) {
        self.state().fail_sync_in = Some((syncs, failure));
    }

    /// Takes back every fault that has not struck yet, the limit of space excepted.
    pub fn calm(&self) {
        let mut state = self.state();
        state.cut_in = None;
        state.fail_in = None;
        state.fail_sync_in = None;
    }

    /// Lets all files together have at most `bytes`; `None`: no limit.
    pub fn limit_space(&self, bytes: Option<u64>) {
        self.state().space = bytes;
    }

    /// Whether reads that must not wait for the disk find everything in memory, or nothing, as at
    /// first.
    pub fn set_warm(&self, is_warm: bool) {
        self.state().is_warm = is_warm;
    }

    /// Lets syncs of files wait, until [`Self::release_syncs`] or the end of the process. They count
    /// as calls when they go on.
    pub fn hold_syncs(&self) {
        self.state().holds_syncs = true;
    }

    /// Lets syncs go on.
    pub fn release_syncs(&self) {
        self.state().holds_syncs = false;
        self.0.released.notify_all();
    }

    /// Bytes of all files together.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.state().disk.used() as u64
    }

    /// Counters since the file system was made.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.state().stats
    }

    /// Flips the bits of `mask` in one byte of a file, in the cache and on the disk. Says whether
    /// there is such a byte.
    #[must_use]
    pub fn rot(&self, path: &Path, offset: u64, mask: u8) -> bool {
        let mut state = self.state();
        let Ok(inode) = state.disk.find(path) else {
            return false;
        };
        usize::try_from(offset).is_ok_and(|at| state.disk.rot(inode, at, mask))
    }

    /// The bytes of a file as a process would read them, if it is there. Counts no call.
    #[must_use]
    pub fn peek(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        let inode = state.disk.find(path).ok()?;
        let mut bytes = vec![0; state.disk.len(inode)];
        state.disk.read(inode, &mut bytes, 0);
        Some(bytes)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is plain data: a panic of another test thread does not break it.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while_held(&self) {
        let held = |state: &mut State| state.holds_syncs;
        drop(self.0.released.wait_while(self.state(), held));
    }

    fn file(&self, inode: usize, life: u64) -> Arc<dyn File> {
        Arc::new(FaultyFile {
            fs: self.clone(),
            inode,
            life,
        })
    }
}

impl State {
    fn die(&mut self) {
        self.life += 1;
        self.power_is_off = false;
        self.cut_in = None;
        self.locks.clear();
        self.holds_syncs = false;
    }

    /// Counts a call and decides whether it fails.
    fn call(&mut self) -> io::Result<Turn> {
        self.stats.calls += 1;
        if self.power_is_off {
            return Err(power_is_off());
        }
        if let Some(left) = self.cut_in.take() {
            if left == 0 {
                self.power_is_off = true;
                return if self.chance.coin() {
                    Ok(Turn::LastGasp)
                } else {
                    Err(power_is_off())
                };
            }
            self.cut_in = Some(left - 1);
        }
        if let Some(left) = self.fail_in.take() {
            if left == 0 {
                return Err(io::Error::other("this call was told to fail"));
            }
            self.fail_in = Some(left - 1);
        }
        Ok(Turn::Live)
    }

    fn sync(&mut self, inode: usize) -> io::Result<()> {
        if let Some((left, failure)) = self.fail_sync_in.take() {
            if left == 0 {
                if failure == SyncFailure::DropDirty {
                    self.disk.lose_dirty(inode, &mut self.chance);
                }
                return Err(io::Error::other("this sync was told to fail"));
            }
            self.fail_sync_in = Some((left - 1, failure));
        }
        self.disk.sync(inode);
        Ok(())
    }

    /// How many of `len` bytes at `at` there is room for.
    fn room(&self, inode: usize, at: usize, len: usize) -> usize {
        let Some(space) = self.space else { return len };
        let free = space.saturating_sub(self.disk.used() as u64);
        let end = (self.disk.len(inode) as u64).saturating_add(free);
        usize::try_from(end)
            .unwrap_or(usize::MAX)
            .saturating_sub(at)
            .min(len)
    }
}

impl Turn {
    fn end<T>(self, value: T) -> io::Result<T> {
        match self {
            Self::Live => Ok(value),
            Self::LastGasp => Err(power_is_off()),
        }
    }
}

fn power_is_off() -> io::Error {
    io::Error::other("the power is off")
}

fn position(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl LockGuard for FaultyLock {}

impl Drop for FaultyLock {
    fn drop(&mut self) {
        let mut state = self.fs.state();
        if state.life == self.life {
            state.locks.remove(&self.path);
        }
    }
}

impl FileSystem for FaultyFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        let turn = state.call()?;
        let inode = match state.disk.find(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && mode == OpenMode::Create => {
                state.disk.create(path)?
            }
            found => found?,
        };
        turn.end(self.file(inode, state.life))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let turn = state.call()?;
        state.disk.rename(from, to)?;
        turn.end(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let turn = state.call()?;
        state.disk.remove(path)?;
        turn.end(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut state = self.state();
        let turn = state.call()?;
        let names = state.disk.list(dir)?;
        turn.end(
            names
                .into_iter()
                .map(|(name, is_dir)| Entry { name, is_dir })
                .collect(),
        )
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        let turn = state.call()?;
        state.disk.create_dir(dir);
        turn.end(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.stats.syncs += 1;
        let turn = state.call()?;
        state.disk.sync_dir(dir);
        turn.end(())
    }

    fn lock(&self, path: &Path, owner: &str) -> Result<Box<dyn LockGuard>, LockError> {
        let mut state = self.state();
        let turn = state.call().map_err(LockError::Io)?;
        let inode = match state.disk.find(path) {
            Ok(inode) => inode,
            Err(_) => state.disk.create(path).map_err(LockError::Io)?,
        };
        if state.locks.contains(path) {
            let mut bytes = vec![0; state.disk.len(inode)];
            state.disk.read(inode, &mut bytes, 0);
            return Err(LockError::Held(
                String::from_utf8_lossy(&bytes).into_owned(),
            ));
        }
        state.locks.insert(path.to_owned());
        state.disk.set_len(inode, 0);
        state.disk.write(inode, owner.as_bytes(), 0);
        let (fs, path, life) = (self.clone(), path.to_owned(), state.life);
        // Dropping the guard takes this lock, so the state must be let go first.
        drop(state);
        turn.end(()).map_err(LockError::Io)?;
        Ok(Box::new(FaultyLock { fs, path, life }))
    }
}

impl FaultyFile {
    fn call(&self) -> io::Result<(MutexGuard<'_, State>, Turn)> {
        let mut state = self.fs.state();
        if state.life != self.life {
            return Err(io::Error::other(
                "the process that opened this file is dead",
            ));
        }
        let turn = state.call()?;
        Ok((state, turn))
    }
}

impl File for FaultyFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let (mut state, turn) = self.call()?;
        let read = state.disk.read(self.inode, bytes, position(offset)?);
        state.stats.bytes_read += read as u64;
        turn.end(read)
    }

    fn read_cached_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.fs.state().is_warm {
            return self.read_at(bytes, offset);
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (mut state, turn) = self.call()?;
        let at = position(offset)?;
        let room = state.room(self.inode, at, bytes.len());
        state.disk.write(self.inode, &bytes[..room], at);
        state.stats.bytes_written += room as u64;
        if room < bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        turn.end(())
    }

    fn allocate(&self, stretch: Range<u64>) -> io::Result<()> {
        let (mut state, turn) = self.call()?;
        let (old, end) = (state.disk.len(self.inode), position(stretch.end)?);
        if end > old && state.room(self.inode, old, end - old) < end - old {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.disk.set_len(self.inode, end.max(old));
        turn.end(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.fs.wait_while_held();
        let (mut state, turn) = self.call()?;
        state.stats.syncs += 1;
        state.sync(self.inode)?;
        turn.end(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (mut state, turn) = self.call()?;
        let len = position(len)?;
        let old = state.disk.len(self.inode);
        if len > old && state.room(self.inode, old, len - old) < len - old {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.disk.set_len(self.inode, len);
        turn.end(())
    }

    fn len(&self) -> io::Result<u64> {
        let (state, turn) = self.call()?;
        turn.end(state.disk.len(self.inode) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/f";

    fn with_file(seed: u64) -> (FaultyFs, Arc<dyn File>) {
        let fs = FaultyFs::new(seed);
        let file = fs.open(Path::new(PATH), OpenMode::Create).unwrap();
        (fs, file)
    }

    #[test]
    fn synced_bytes_and_names_survive() {
        for seed in 0..50 {
            let (fs, file) = with_file(seed);
            file.write_at(&[7; 2000], 0).unwrap();
            file.sync_data().unwrap();
            fs.sync_dir(Path::new("/")).unwrap();
            file.write_at(&[9; 1000], 500).unwrap();
            fs.power_cut(seed);
            let bytes = fs.peek(Path::new(PATH)).unwrap();
            assert_eq!(bytes[..500], [7; 500]);
            assert_eq!(bytes[1500..], [7; 500]);
            assert!(bytes.iter().all(|b| [7, 9].contains(b)));
        }
    }

    #[test]
    fn unsynced_bytes_and_names_are_kept_lost_or_torn() {
        let (mut kept, mut lost, mut torn, mut nameless) = (0, 0, 0, 0);
        for seed in 0..200 {
            let (fs, file) = with_file(seed);
            file.write_at(&[7; 512], 0).unwrap();
            fs.power_cut(seed);
            match fs.peek(Path::new(PATH)) {
                None => nameless += 1,
                Some(bytes) if bytes == [7; 512] => kept += 1,
                Some(bytes) if !bytes.contains(&7) => lost += 1,
                Some(_) => torn += 1,
            }
        }
        assert!(kept > 5 && lost > 5 && torn > 5 && nameless > 50);
    }

    #[test]
    fn a_failed_sync_can_lose_bytes_for_good() {
        let (fs, file) = with_file(1);
        fs.sync_dir(Path::new("/")).unwrap();
        file.write_at(&[7; 512], 0).unwrap();
        fs.fail_sync_after(0, SyncFailure::DropDirty);
        assert!(file.sync_data().is_err());
        assert!(file.sync_data().is_ok());
        fs.power_cut(1);
        assert!(!fs.peek(Path::new(PATH)).unwrap().contains(&7));
    }

    #[test]
    fn a_rename_is_never_half_done() {
        for seed in 0..50 {
            let (fs, file) = with_file(seed);
            file.sync_data().unwrap();
            fs.sync_dir(Path::new("/")).unwrap();
            fs.rename(Path::new(PATH), Path::new("/g")).unwrap();
            fs.power_cut(seed);
            let names = fs.list(Path::new("/")).unwrap();
            assert_eq!(names.len(), 1, "{names:?}");
        }
    }

    #[test]
    fn old_handles_and_locks_die_with_the_process() {
        let (fs, file) = with_file(1);
        let guard = fs.lock(Path::new("/lock"), "12").unwrap();
        let Err(LockError::Held(owner)) = fs.lock(Path::new("/lock"), "13") else {
            panic!()
        };
        assert_eq!(owner, "12");
        fs.kill();
        assert!(file.write_at(&[1], 0).is_err());
        let second = fs.lock(Path::new("/lock"), "14").unwrap();
        drop(guard);
        assert!(
            fs.lock(Path::new("/lock"), "15").is_err(),
            "the dead process frees nothing"
        );
        drop(second);
        assert!(fs.lock(Path::new("/lock"), "16").is_ok());
    }

    #[test]
    fn a_full_disk_takes_a_part_of_a_write() {
        let (fs, file) = with_file(1);
        fs.limit_space(Some(100));
        let error = file.write_at(&[7; 200], 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(file.len().unwrap(), 100);
        file.write_at(&[8; 100], 0).unwrap();
    }

    #[test]
    fn the_armed_call_and_all_later_ones_fail() {
        let (fs, file) = with_file(1);
        fs.cut_after(1);
        file.write_at(&[1], 0).unwrap();
        assert!(file.write_at(&[2], 0).is_err());
        assert!(file.sync_data().is_err());
        assert!(fs.power_is_off());
        fs.power_cut(3);
        assert!(!fs.power_is_off());
    }
}
