//! The segment files of one log: which there are, reading and writing across them.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use crate::error::{Doing, Error};
use crate::format::{LogKind, segment_base, segment_name, sums_name};
use crate::fs::{DIRECT_BYTES, File, FileSystem, OpenMode};

/// Zeros are written in pieces of this size.
const ZERO_BYTES: usize = 256 << 10;
static ZEROS: Zeros = Zeros([0; ZERO_BYTES]);

/// Aligned as writes past the page cache must be.
#[repr(align(4096))]
struct Zeros([u8; ZERO_BYTES]);

const _: () = assert!(align_of::<Zeros>() as u64 == DIRECT_BYTES);

/// The segments of one log, shared by its writer, its readers and who zeroes ahead. The lock is
/// held for a look-up only, never during IO.
pub(crate) struct Segments {
    fs: Arc<dyn FileSystem>,
    kind: LogKind,
    dir: PathBuf,
    segment_bytes: u64,
    files: RwLock<BTreeMap<u64, Arc<dyn File>>>,
}

impl Segments {
    /// Opens every segment in the folder `dir`.
    pub(crate) fn open(
        fs: Arc<dyn FileSystem>,
        kind: LogKind,
        dir: PathBuf,
        segment_bytes: u64,
    ) -> Result<Self, Error> {
        let mut files = BTreeMap::new();
        for entry in fs.list(&dir).doing("list", &dir)? {
            if entry.name.starts_with('.') {
                continue;
            }
            let path = dir.join(&entry.name);
            let base = segment_base(&entry.name).filter(|base| base % segment_bytes == 0);
            let Some(base) = base.filter(|_| !entry.is_dir) else {
                return Err(Error::Corrupt {
                    path,
                    what: "not the name of a segment",
                });
            };
            files.insert(
                base,
                fs.open(&path, OpenMode::Existing).doing("open", &path)?,
            );
        }
        Ok(Self {
            fs,
            kind,
            dir,
            segment_bytes,
            files: RwLock::new(files),
        })
    }

    pub(crate) fn kind(&self) -> LogKind {
        self.kind
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn fs(&self) -> &Arc<dyn FileSystem> {
        &self.fs
    }

    pub(crate) fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// First byte of the segment that holds `offset`.
    pub(crate) fn base_of(&self, offset: u64) -> u64 {
        offset - offset % self.segment_bytes
    }

    pub(crate) fn path_of(&self, base: u64) -> PathBuf {
        self.dir.join(segment_name(base))
    }

    /// Bases of all segment files, ascending.
    pub(crate) fn bases(&self) -> Vec<u64> {
        self.files
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .copied()
            .collect()
    }

    /// The file of a segment, if there is one.
    pub(crate) fn file(&self, base: u64) -> Option<Arc<dyn File>> {
        self.files
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&base)
            .cloned()
    }

    /// The file of a segment, created with a durable name if there is none.
    pub(crate) fn file_or_create(&self, base: u64) -> Result<Arc<dyn File>, Error> {
        if let Some(file) = self.file(base) {
            return Ok(file);
        }
        let path = self.path_of(base);
        let file = self
            .fs
            .open(&path, OpenMode::Create)
            .doing("create", &path)?;
        self.fs
            .sync_dir(&self.dir)
            .doing_for_good("sync folder", &self.dir)?;
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        files.insert(base, file.clone());
        Ok(file)
    }

    /// Removes the segments that end at or before `offset`, oldest first, with their checksums. Who
    /// has one open keeps it until done.
    pub(crate) fn drop_before(&self, offset: u64) -> Result<u64, Error> {
        let ends_before = |base: &u64| base + self.segment_bytes <= offset;
        let expired: Vec<u64> = self.bases().into_iter().filter(ends_before).collect();
        for base in &expired {
            self.files
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(base);
            for name in [segment_name(*base), sums_name(*base)] {
                let path = self.dir.join(name);
                match self.fs.remove(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(Error::io("remove", &path, error));
                    }
                    _ => {}
                }
            }
        }
        if !expired.is_empty() {
            self.fs
                .sync_dir(&self.dir)
                .doing("sync folder", &self.dir)?;
        }
        Ok(expired.len() as u64)
    }

    /// A second handle of a segment, for zeros: it learns of failed syncs on its own, and writes
    /// past the page cache where that can be done.
    pub(crate) fn open_for_zeros(&self, base: u64) -> Result<Arc<dyn File>, Error> {
        let path = self.path_of(base);
        match self.fs.open(&path, OpenMode::Direct) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
                ) =>
            {
                self.fs.open(&path, OpenMode::Existing).doing("open", &path)
            }
            opened => opened.doing("open", &path),
        }
    }

    /// Writes zeros over a range of one segment through `file`, which [`Self::open_for_zeros`] gave.
    pub(crate) fn write_zeros_to(
        &self,
        file: &dyn File,
        base: u64,
        range: Range<u64>,
    ) -> Result<(), Error> {
        let mut begin = range.start;
        while begin < range.end {
            // From one multiple to the next; what remains at the ends goes through the cache.
            let next = (begin / DIRECT_BYTES + 1) * DIRECT_BYTES;
            let whole = (range.end - begin) / DIRECT_BYTES * DIRECT_BYTES;
            let offset = begin - base;
            let is_aligned =
                begin.is_multiple_of(DIRECT_BYTES) && offset.is_multiple_of(DIRECT_BYTES);
            if !is_aligned || whole == 0 {
                let end = next.min(range.end);
                self.write_zeros(begin..end, |_, _| {})?;
                begin = end;
                continue;
            }
            let len = whole.min(ZERO_BYTES as u64);
            let zeros = &ZEROS.0[..usize::try_from(len).expect("at most ZERO_BYTES")];
            match file.write_at(zeros, begin - base) {
                // Opened past the page cache, but not to be written so: a disk with larger blocks.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    self.write_zeros(begin..begin + len, |_, _| {})?;
                }
                written => written
                    .map_err(|error| Error::io("write zeros to", &self.path_of(base), error))?,
            }
            begin += len;
        }
        Ok(())
    }

    /// `range` cut at the ends of segments: base of the segment and part of the range.
    pub(crate) fn split(
        &self,
        range: Range<u64>,
    ) -> impl Iterator<Item = (u64, Range<u64>)> + use<> {
        let segment_bytes = self.segment_bytes;
        let mut begin = range.start;
        std::iter::from_fn(move || {
            if begin >= range.end {
                return None;
            }
            let base = begin - begin % segment_bytes;
            let part = begin..range.end.min(base + segment_bytes);
            begin = part.end;
            Some((base, part))
        })
    }

    /// Reads what is on disk; missing files and missing ends of files read as zeros.
    pub(crate) fn read_or_zeros(&self, bytes: &mut [u8], offset: u64) -> Result<(), Error> {
        let end = offset + bytes.len() as u64;
        let mut rest = bytes;
        for (base, part) in self.split(offset..end) {
            let (piece, after) = rest.split_at_mut(len_of(&part));
            let read = match self.file(base) {
                Some(file) => {
                    let read = file.read_at(piece, part.start - base);
                    read.map_err(|error| Error::io("read", &self.path_of(base), error))?
                }
                None => 0,
            };
            piece[read..].fill(0);
            rest = after;
        }
        Ok(())
    }

    /// Reads exactly these bytes of one segment; `None` when the segment is not there.
    pub(crate) fn read_exact(&self, bytes: &mut [u8], offset: u64) -> Option<io::Result<()>> {
        let base = self.base_of(offset);
        let file = self.file(base)?;
        let read = file.read_at(bytes, offset - base);
        Some(whole(read, bytes.len()))
    }

    /// As [`Self::read_exact`], but an error of kind `WouldBlock` when the disk would have to be
    /// asked.
    pub(crate) fn read_exact_cached(
        &self,
        bytes: &mut [u8],
        offset: u64,
    ) -> Option<io::Result<()>> {
        let base = self.base_of(offset);
        let file = self.file(base)?;
        let read = file.read_cached_at(bytes, offset - base);
        Some(whole(read, bytes.len()))
    }

    /// Writes `bytes` at `offset`, one write per segment, creating segments as needed. Calls
    /// `touched` with each file before it is written.
    pub(crate) fn write(
        &self,
        bytes: &[u8],
        offset: u64,
        mut touched: impl FnMut(u64, &Arc<dyn File>),
    ) -> Result<(), Error> {
        let mut rest = bytes;
        for (base, part) in self.split(offset..offset + bytes.len() as u64) {
            let (piece, after) = rest.split_at(len_of(&part));
            let file = self.file_or_create(base)?;
            touched(base, &file);
            let written = file.write_at(piece, part.start - base);
            written.map_err(|error| Error::io("write", &self.path_of(base), error))?;
            rest = after;
        }
        Ok(())
    }

    /// Writes zeros over a range.
    pub(crate) fn write_zeros(
        &self,
        range: Range<u64>,
        mut touched: impl FnMut(u64, &Arc<dyn File>),
    ) -> Result<(), Error> {
        let mut begin = range.start;
        while begin < range.end {
            let len = range.end.min(begin + ZERO_BYTES as u64) - begin;
            let zeros = &ZEROS.0[..usize::try_from(len).expect("at most ZERO_BYTES")];
            self.write(zeros, begin, &mut touched)?;
            begin += len;
        }
        Ok(())
    }

    /// Makes sure that there is room on the disk for a range; what was never written there reads as
    /// zeros.
    pub(crate) fn allocate(&self, range: Range<u64>) -> Result<(), Error> {
        for (base, part) in self.split(range) {
            let file = self.file_or_create(base)?;
            match file.allocate(part.start - base..part.end - base) {
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    self.write_zeros(part, |_, _| {})?;
                }
                allocated => allocated
                    .map_err(|error| Error::io("make room in", &self.path_of(base), error))?,
            }
        }
        Ok(())
    }

    /// End of the last segment file on disk; 0 when there is none.
    pub(crate) fn end_on_disk(&self) -> Result<u64, Error> {
        let last = self.bases().last().copied();
        last.map_or(Ok(0), |base| Ok(base + self.len_on_disk(base)?))
    }

    /// Bytes of a segment file that are on disk.
    pub(crate) fn len_on_disk(&self, base: u64) -> Result<u64, Error> {
        let Some(file) = self.file(base) else {
            return Ok(0);
        };
        let len = file.len();
        let len = len.map_err(|error| Error::io("read the length of", &self.path_of(base), error));
        Ok(len?.min(self.segment_bytes))
    }
}

fn whole(read: io::Result<usize>, wanted: usize) -> io::Result<()> {
    match read? {
        read if read < wanted => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

fn len_of(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).expect("a part of a slice in memory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::faulty::FaultyFs;

    const SEGMENT: u64 = 64 << 10;

    /// Two segments full of ones.
    fn segments() -> (FaultyFs, Segments) {
        let fs = FaultyFs::new(1);
        let dir = PathBuf::from("/log");
        fs.create_dir(&dir).unwrap();
        let shared: Arc<dyn FileSystem> = Arc::new(fs.clone());
        let segments = Segments::open(shared, LogKind::Message, dir, SEGMENT).unwrap();
        let ones = vec![1; usize::try_from(2 * SEGMENT).unwrap()];
        segments.write(&ones, 0, |_, _| {}).unwrap();
        (fs, segments)
    }

    fn zeros_in(segments: &Segments) -> Vec<u64> {
        let mut bytes = vec![9; usize::try_from(2 * SEGMENT).unwrap()];
        segments.read_or_zeros(&mut bytes, 0).unwrap();
        let zeros = (0..).zip(bytes).filter(|(_, byte)| *byte == 0);
        zeros.map(|(at, _)| at).collect()
    }

    #[test]
    fn zeros_go_where_they_are_asked_for_however_they_lie() {
        for range in [
            SEGMENT..SEGMENT + 1,
            SEGMENT..SEGMENT + 4096,
            SEGMENT + 1..SEGMENT + 4097,
            SEGMENT + 100..SEGMENT + 20_000,
            SEGMENT + 4096..2 * SEGMENT,
        ] {
            let (_, segments) = segments();
            let file = segments.open_for_zeros(SEGMENT).unwrap();
            segments
                .write_zeros_to(file.as_ref(), SEGMENT, range.clone())
                .unwrap();
            assert_eq!(zeros_in(&segments), range.collect::<Vec<_>>());
        }
    }

    #[test]
    fn room_changes_nothing_that_is_there_and_reads_as_zeros() {
        let (fs, segments) = segments();
        segments.allocate(SEGMENT / 2..3 * SEGMENT).unwrap();
        assert!(zeros_in(&segments).is_empty());
        assert_eq!(segments.end_on_disk().unwrap(), 3 * SEGMENT);
        let mut bytes = [9; 100];
        segments.read_or_zeros(&mut bytes, 2 * SEGMENT).unwrap();
        assert_eq!(bytes, [0; 100]);
        fs.limit_space(Some(fs.used() + 10));
        let refused = segments.allocate(3 * SEGMENT..4 * SEGMENT);
        assert!(matches!(refused, Err(Error::NoSpace { .. })));
    }
}
