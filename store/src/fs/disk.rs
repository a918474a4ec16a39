//! A disk in memory: what the kernel shows, what would survive a power cut, and the difference.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::path::{Path, PathBuf};

/// What an interrupted write can tear.
pub(super) const SECTOR_BYTES: usize = 512;

/// A small generator of random numbers (splitmix64), so that a seed says everything.
#[derive(Clone, Debug)]
pub(super) struct Chance(pub(super) u64);

impl Chance {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is above 0.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(super) fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    File(usize),
    Dir,
}

#[derive(Clone, Debug)]
enum Change {
    Link(PathBuf, Node),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf, Node),
}

#[derive(Clone, Debug)]
struct NameChange {
    folder: PathBuf,
    change: Change,
}

type Names = BTreeMap<PathBuf, Node>;

impl NameChange {
    fn apply(&self, names: &mut Names) {
        match &self.change {
            Change::Link(path, node) => {
                names.insert(path.clone(), *node);
            }
            Change::Unlink(path) => {
                names.remove(path);
            }
            Change::Rename(from, to, node) => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
        }
    }
}

/// Content of one file, kernel's view and disk's view.
#[derive(Clone, Debug, Default)]
struct Inode {
    cache: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

impl Inode {
    fn touch(&mut self, begin: usize, end: usize) {
        if begin < end {
            self.dirty
                .extend(begin / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES);
        }
    }

    fn write(&mut self, bytes: &[u8], at: usize) {
        let end = at + bytes.len();
        if self.cache.len() < end {
            self.cache.resize(end, 0);
        }
        self.cache[at..end].copy_from_slice(bytes);
        self.touch(at, end);
    }

    fn set_len(&mut self, len: usize) {
        let old = self.cache.len();
        self.cache.resize(len, 0);
        self.touch(old.min(len), old.max(len));
    }

    fn sync(&mut self) {
        self.durable.resize(self.cache.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            let (begin, end) = sector_range(sector, self.cache.len());
            self.durable[begin..end].copy_from_slice(&self.cache[begin..end]);
        }
    }

    /// A failed sync: dirty sectors are forgotten; some still look written until the power goes.
    fn lose_dirty(&mut self, chance: &mut Chance) {
        for sector in std::mem::take(&mut self.dirty) {
            if chance.coin() {
                continue;
            }
            let (begin, end) = sector_range(sector, self.cache.len());
            for at in begin..end {
                self.cache[at] = self.durable.get(at).copied().unwrap_or(0);
            }
        }
    }

    fn power_cut(&mut self, chance: &mut Chance) {
        let (short, long) = (self.durable.len(), self.cache.len());
        let len = match chance.below(3) {
            0 => short,
            1 => long,
            _ => short.min(long) + below(chance, short.abs_diff(long) + 1),
        };
        let mut left = self.durable.clone();
        left.resize(len, 0);
        for sector in std::mem::take(&mut self.dirty) {
            let (begin, end) = sector_range(sector, len.min(self.cache.len()));
            match chance.below(3) {
                0 => {}
                1 if begin < end => left[begin..end].copy_from_slice(&self.cache[begin..end]),
                _ => (begin..end)
                    .filter(|_| chance.coin())
                    .for_each(|at| left[at] = self.cache[at]),
            }
        }
        self.cache.clone_from(&left);
        self.durable = left;
    }
}

fn below(chance: &mut Chance, end: usize) -> usize {
    usize::try_from(chance.below(end as u64)).expect("below a usize")
}

fn sector_range(sector: usize, len: usize) -> (usize, usize) {
    (
        (sector * SECTOR_BYTES).min(len),
        ((sector + 1) * SECTOR_BYTES).min(len),
    )
}

/// Files, names, and the changes of names that are not durable yet.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    inodes: Vec<Inode>,
    shown: Names,
    durable: Names,
    pending: Vec<NameChange>,
}

impl Disk {
    pub(super) fn new() -> Self {
        let root = Names::from([(PathBuf::from("/"), Node::Dir)]);
        Self {
            inodes: Vec::new(),
            shown: root.clone(),
            durable: root,
            pending: Vec::new(),
        }
    }

    fn change(&mut self, path: &Path, change: Change) {
        let folder = parent(path);
        let change = NameChange { folder, change };
        change.apply(&mut self.shown);
        self.pending.push(change);
    }

    pub(super) fn find(&self, path: &Path) -> io::Result<usize> {
        match self.shown.get(path) {
            Some(Node::File(inode)) => Ok(*inode),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<usize> {
        if self.shown.get(&parent(path)) != Some(&Node::Dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.inodes.push(Inode::default());
        let inode = self.inodes.len() - 1;
        self.change(path, Change::Link(path.to_owned(), Node::File(inode)));
        Ok(inode)
    }

    pub(super) fn create_dir(&mut self, path: &Path) {
        let missing = path
            .ancestors()
            .filter(|dir| !self.shown.contains_key(*dir));
        let mut missing: Vec<PathBuf> = missing.map(Path::to_owned).collect();
        missing.reverse();
        for dir in missing {
            self.change(&dir.clone(), Change::Link(dir, Node::Dir));
        }
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = *self.shown.get(from).ok_or(io::ErrorKind::NotFound)?;
        self.change(from, Change::Rename(from.to_owned(), to.to_owned(), node));
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.find(path)?;
        self.change(path, Change::Unlink(path.to_owned()));
        Ok(())
    }

    /// Name and whether it is a folder, sorted.
    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<(String, bool)>> {
        if self.shown.get(dir) != Some(&Node::Dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = self
            .shown
            .iter()
            .filter(|(path, _)| path.parent() == Some(dir));
        let named = inside.filter_map(|(path, node)| {
            Some((
                path.file_name()?.to_string_lossy().into_owned(),
                *node == Node::Dir,
            ))
        });
        Ok(named.collect())
    }

    pub(super) fn sync_dir(&mut self, dir: &Path) {
        let durable = &mut self.durable;
        self.pending.retain(|change| {
            let is_here = change.folder == dir;
            if is_here {
                change.apply(durable);
            }
            !is_here
        });
    }

    pub(super) fn read(&self, inode: usize, bytes: &mut [u8], at: usize) -> usize {
        let cache = &self.inodes[inode].cache;
        let from = &cache[at.min(cache.len())..];
        let len = from.len().min(bytes.len());
        bytes[..len].copy_from_slice(&from[..len]);
        len
    }

    pub(super) fn write(&mut self, inode: usize, bytes: &[u8], at: usize) {
        self.inodes[inode].write(bytes, at);
    }

    pub(super) fn set_len(&mut self, inode: usize, len: usize) {
        self.inodes[inode].set_len(len);
    }

    pub(super) fn len(&self, inode: usize) -> usize {
        self.inodes[inode].cache.len()
    }

    pub(super) fn sync(&mut self, inode: usize) {
        self.inodes[inode].sync();
    }

    pub(super) fn lose_dirty(&mut self, inode: usize, chance: &mut Chance) {
        self.inodes[inode].lose_dirty(chance);
    }

    /// Changes bytes both in the cache and on the disk: rot.
    pub(super) fn rot(&mut self, inode: usize, at: usize, mask: u8) -> bool {
        let inode = &mut self.inodes[inode];
        let Some(byte) = inode.cache.get_mut(at) else {
            return false;
        };
        *byte ^= mask;
        if let Some(byte) = inode.durable.get_mut(at) {
            *byte ^= mask;
        }
        true
    }

    /// Bytes of all files that have a name.
    pub(super) fn used(&self) -> usize {
        named_files(&self.shown)
            .into_iter()
            .map(|inode| self.len(inode))
            .sum()
    }

    pub(super) fn power_cut(&mut self, chance: &mut Chance) {
        for change in std::mem::take(&mut self.pending) {
            if chance.coin() {
                change.apply(&mut self.durable);
            }
        }
        // What lies in a folder that did not survive is gone with it; a folder sorts before its
        // content.
        let mut left = Names::from([(PathBuf::from("/"), Node::Dir)]);
        for (path, node) in std::mem::take(&mut self.durable) {
            if left.get(&parent(&path)) == Some(&Node::Dir) {
                left.insert(path, node);
            }
        }
        for inode in &mut self.inodes {
            inode.power_cut(chance);
        }
        self.shown.clone_from(&left);
        self.durable = left;
        self.forget_nameless();
    }

    fn forget_nameless(&mut self) {
        let named = named_files(&self.shown);
        for (number, inode) in self.inodes.iter_mut().enumerate() {
            if !named.contains(&number) {
                *inode = Inode::default();
            }
        }
    }
}

fn named_files(names: &Names) -> HashSet<usize> {
    let files = names.values().filter_map(|node| match node {
        Node::File(inode) => Some(*inode),
        Node::Dir => None,
    });
    files.collect()
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or_else(|| Path::new("/")).to_owned()
}
