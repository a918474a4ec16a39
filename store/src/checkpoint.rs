//! Checkpoints: next sequence per subject and progress per group, as of a position of each log.
//!
//! ```text
//! 4 magic  2 version  2 kind (0 base)  16 uuid  8 number  8 term  8 messagelog  8 actionlog  8 time
//! 8 control entries (version 2)
//! 4 subjects: str name, 8 next message
//! 4 groups:   str subject, str group, 1 broadcast, 8 next message,
//!             4 consumers: str id, 8 next pull, 4 ranges: 8 pull, 8 message, 8 count
//! 4 CRC-32C of all before
//! ```

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use qmq_model::{ConsumerGroup, ConsumerId, MessageSequence, PullSequence, Subject, UnixMillis};
use uuid::Uuid;

use crate::error::{Doing, Error};
use crate::format::{
    CHECKPOINT_MAGIC, CHECKPOINT_VERSION, CHECKPOINTS, Fields, TMP_SUFFIX, checked,
    checkpoint_name, checkpoint_number, seal,
};
use crate::fs::{FileSystem, OpenMode, read_file, replace_file};
use crate::realtime::progress::{ConsumerProgress, GroupProgress, Progress, Unacked};

const KIND_BASE: u16 = 0;
/// Bytes up to the subjects.
const HEAD_BYTES: usize = 4 + 2 + 2 + 16 + 6 * 8;

/// State of a store that no log can give back once its oldest segments are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// Rises with every checkpoint of a store.
    pub(crate) number: u64,
    pub(crate) term: u64,
    /// Everything below is included, by [`LogKind::index`](crate::LogKind).
    pub(crate) positions: [u64; 2],
    pub(crate) time: UnixMillis,
    /// Serial of the newest control entry that is included; 0 when none is.
    pub(crate) control: u64,
    /// Subjects by their number, with their next sequence.
    pub(crate) subjects: Vec<(Subject, MessageSequence)>,
    pub(crate) progress: Progress,
}

/// What has a number that rises with every one that is written.
pub(crate) trait Numbered {
    fn number(&self) -> u64;
}

impl Numbered for Checkpoint {
    fn number(&self) -> u64 {
        self.number
    }
}

/// What was found in the folder of checkpoints.
#[derive(Debug)]
pub(crate) struct Found<T> {
    /// The newest one that can be read.
    pub(crate) newest: Option<T>,
    /// Names of newer ones that cannot.
    pub(crate) damaged: Vec<String>,
    /// The highest number in use.
    pub(crate) number_max: u64,
}

/// Looks for the newest valid checkpoint. Older ones are not opened.
pub(crate) fn load_newest<T: Numbered>(
    fs: &dyn FileSystem,
    root: &Path,
    decode: impl Fn(&[u8]) -> Option<T>,
) -> Result<Found<T>, Error> {
    let dir = root.join(CHECKPOINTS);
    let mut found = Found {
        newest: None,
        damaged: Vec::new(),
        number_max: 0,
    };
    let entries = fs.list(&dir).doing("list", &dir)?;
    let numbers = entries
        .iter()
        .filter_map(|entry| checkpoint_number(&entry.name));
    let mut numbers: Vec<u64> = numbers.collect();
    numbers.sort_unstable();
    found.number_max = numbers.last().copied().unwrap_or(0);
    for number in numbers.into_iter().rev() {
        let name = checkpoint_name(number);
        let bytes = read_file(fs, &dir.join(&name))?.unwrap_or_default();
        found.newest = decode(&bytes).filter(|found| found.number() == number);
        if found.newest.is_some() {
            break;
        }
        tracing::warn!(name, "checkpoint cannot be read");
        found.damaged.push(name);
    }
    Ok(found)
}

/// What the checkpoints include that were written since the store was opened and are kept.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<VecDeque<[u64; 2]>>);

impl Recent {
    /// A checkpoint that includes these positions is durable; so many are kept.
    pub(crate) fn push(&self, positions: [u64; 2], retain: usize) {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back(positions);
        while recent.len() > retain {
            recent.pop_front();
        }
    }

    /// Positions of both logs that every checkpoint includes of the `retain` that are kept: any of
    /// them may be the newest that can be read. 0 until all of them were written since the store
    /// was opened.
    pub(crate) fn included(&self, retain: usize) -> [u64; 2] {
        let recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = recent.front().filter(|_| recent.len() >= retain);
        oldest.copied().unwrap_or_default()
    }
}

/// Removes what a crash left incomplete, and all but the newest `retain` checkpoints.
pub(crate) fn tidy(fs: &dyn FileSystem, root: &Path, retain: usize) -> Result<(), Error> {
    let dir = root.join(CHECKPOINTS);
    let entries = fs.list(&dir).doing("list", &dir)?;
    let (mut kept, mut surplus) = (Vec::new(), Vec::new());
    for entry in entries {
        match checkpoint_number(&entry.name) {
            Some(number) => kept.push(number),
            None if entry.name.ends_with(TMP_SUFFIX) => surplus.push(entry.name),
            None => {}
        }
    }
    kept.sort_unstable();
    let old = kept.len().saturating_sub(retain);
    surplus.extend(kept[..old].iter().map(|number| checkpoint_name(*number)));
    for name in surplus {
        let path = dir.join(name);
        fs.remove(&path).doing("remove", &path)?;
    }
    Ok(())
}

impl Checkpoint {
    /// Writes it, durably.
    pub(crate) fn save(&self, fs: &dyn FileSystem, root: &Path, store: Uuid) -> Result<(), Error> {
        let name = checkpoint_name(self.number);
        replace_file(fs, &root.join(CHECKPOINTS), &name, &self.encode(store))
    }

    fn encode(&self, store: Uuid) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&CHECKPOINT_MAGIC.to_be_bytes());
        out.extend_from_slice(&CHECKPOINT_VERSION.to_be_bytes());
        out.extend_from_slice(&KIND_BASE.to_be_bytes());
        out.extend_from_slice(store.as_bytes());
        for field in [self.number, self.term, self.positions[0], self.positions[1]] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        put_i64(&mut out, self.time.0);
        out.extend_from_slice(&self.control.to_be_bytes());
        put_count(&mut out, self.subjects.len());
        for (subject, next) in &self.subjects {
            put_text(&mut out, subject.as_str());
            put_i64(&mut out, next.0);
        }
        let mut groups: Vec<_> = self.progress.groups().collect();
        // Equal state gives equal bytes.
        groups.sort_unstable_by_key(|(subject, group, _)| (*subject, *group));
        put_count(&mut out, groups.len());
        for (subject, group, progress) in groups {
            put_text(&mut out, subject.as_str());
            put_text(&mut out, group.as_str());
            put_group(&mut out, progress);
        }
        seal(&mut out);
        out
    }

    pub(crate) fn decode(bytes: &[u8], store: Uuid) -> Option<Self> {
        let mut fields = Fields(checked(bytes)?);
        let head = take_head(&mut fields, store)?;
        let mut subjects = Vec::new();
        for _ in 0..fields.u32()? {
            let subject = Subject::new(fields.text()?).ok()?;
            subjects.push((subject, MessageSequence(fields.i64()?)));
        }
        let mut progress = Progress::default();
        for _ in 0..fields.u32()? {
            let subject = Subject::new(fields.text()?).ok()?;
            let group = ConsumerGroup::new(fields.text()?).ok()?;
            *progress.group_mut(&subject, &group) = take_group(&mut fields)?;
        }
        let is_whole = fields.rest().is_empty();
        is_whole.then_some(Self {
            subjects,
            progress,
            ..head
        })
    }
}

/// Reads what stands before the subjects.
fn take_head(fields: &mut Fields<'_>, store: Uuid) -> Option<Checkpoint> {
    if fields.u32()? != CHECKPOINT_MAGIC {
        return None;
    }
    let version = fields.u16()?;
    if fields.u16()? != KIND_BASE || fields.uuid()? != store {
        return None;
    }
    let [number, term] = [fields.u64()?, fields.u64()?];
    let positions = [fields.u64()?, fields.u64()?];
    let time = UnixMillis(fields.i64()?);
    let control = match version {
        1 => 0,
        CHECKPOINT_VERSION => fields.u64()?,
        _ => return None,
    };
    Some(Checkpoint {
        number,
        term,
        positions,
        time,
        control,
        subjects: Vec::new(),
        progress: Progress::default(),
    })
}

/// Serial up to which all checkpoints that are kept include the control entries. One that cannot
/// be used needs none.
pub(crate) fn controls_included(
    fs: &dyn FileSystem,
    root: &Path,
    store: Uuid,
) -> Result<u64, Error> {
    let dir = root.join(CHECKPOINTS);
    let entries = fs.list(&dir).doing("list", &dir)?;
    let names = entries.into_iter().map(|entry| entry.name);
    let mut oldest = u64::MAX;
    for name in names.filter(|name| checkpoint_number(name).is_some()) {
        let path = dir.join(name);
        let file = fs.open(&path, OpenMode::Existing).doing("open", &path)?;
        let mut head = [0; HEAD_BYTES];
        let read = file.read_at(&mut head, 0).doing("read", &path)?;
        if let Some(head) = take_head(&mut Fields(&head[..read]), store) {
            oldest = oldest.min(head.control);
        }
    }
    Ok(oldest)
}

fn put_group(out: &mut Vec<u8>, progress: &GroupProgress) {
    out.push(u8::from(progress.broadcast));
    put_i64(out, progress.next.0);
    let mut consumers: Vec<_> = progress.consumers.iter().collect();
    consumers.sort_unstable_by_key(|(id, _)| *id);
    put_count(out, consumers.len());
    for (id, consumer) in consumers {
        put_text(out, id.as_str());
        put_i64(out, consumer.next_pull.0);
        put_count(out, consumer.unacked.len());
        for range in &consumer.unacked {
            for field in [range.pull, range.message, range.count] {
                put_i64(out, field);
            }
        }
    }
}

fn take_group(fields: &mut Fields<'_>) -> Option<GroupProgress> {
    let broadcast = fields.u8()? != 0;
    let next = MessageSequence(fields.i64()?);
    let mut group = GroupProgress {
        next,
        broadcast,
        ..GroupProgress::default()
    };
    for _ in 0..fields.u32()? {
        let id = ConsumerId::new(fields.text()?).ok()?;
        let mut consumer = ConsumerProgress {
            next_pull: PullSequence(fields.i64()?),
            unacked: Vec::new(),
        };
        for _ in 0..fields.u32()? {
            let [pull, message, count] = [fields.i64()?, fields.i64()?, fields.i64()?];
            consumer.unacked.push(Unacked {
                pull,
                message,
                count,
            });
        }
        group.consumers.insert(id, consumer);
    }
    Some(group)
}

fn put_i64(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("fewer than 2^32 of anything");
    out.extend_from_slice(&count.to_be_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let len = i16::try_from(text.len()).expect("names have at most 255 bytes");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::tests::unhex;
    use crate::fs::faulty::FaultyFs;

    const STORE: Uuid = Uuid::from_u128(7);

    fn sample(number: u64, ranges: &[(i64, i64)]) -> Checkpoint {
        let subject = Subject::new("order.changed").unwrap();
        let mut progress = Progress::default();
        for (name, broadcast) in [("g1", false), ("g2", true)] {
            let group = progress.group_mut(&subject, &ConsumerGroup::new(name).unwrap());
            group.next = MessageSequence(9);
            group.broadcast = broadcast;
            let consumer = group
                .consumers
                .entry(ConsumerId::new("c").unwrap())
                .or_default();
            let mut pull = 0;
            for (gap, count) in ranges {
                consumer.unacked.push(Unacked {
                    pull,
                    message: pull + gap,
                    count: *count,
                });
                pull += gap + count;
            }
            consumer.next_pull = PullSequence(pull);
        }
        let subjects = vec![(subject, MessageSequence(12))];
        let time = UnixMillis(5);
        Checkpoint {
            number,
            term: 1,
            positions: [100, 50],
            time,
            control: 4,
            subjects,
            progress,
        }
    }

    /// The sample as of version 1 or 2, with its checksum.
    fn sample_bytes(version: u16, control: &str, crc: &str) -> Vec<u8> {
        unhex(&format!(
            "514d514b {version:04x} 0000 00000000000000000000000000000007 0000000000000003 \
             0000000000000001 0000000000000064 0000000000000032 0000000000000005 {control} \
             00000001 000d 6f726465722e6368616e676564 000000000000000c \
             00000002 000d 6f726465722e6368616e676564 0002 6731 00 0000000000000009 \
             00000001 0001 63 0000000000000003 \
             00000001 0000000000000000 0000000000000001 0000000000000002 \
             000d 6f726465722e6368616e676564 0002 6732 01 0000000000000009 \
             00000001 0001 63 0000000000000003 \
             00000001 0000000000000000 0000000000000001 0000000000000002 {crc}"
        ))
    }

    #[test]
    fn writes_the_bytes_of_the_format_page() {
        let expected = sample_bytes(2, "0000000000000004", "844ebf0b");
        assert_eq!(sample(3, &[(1, 2)]).encode(STORE), expected);
    }

    #[test]
    fn version_1_is_read_too() {
        let old = sample_bytes(1, "", "add6cfa2");
        let wanted = Checkpoint {
            control: 0,
            ..sample(3, &[(1, 2)])
        };
        assert_eq!(Checkpoint::decode(&old, STORE), Some(wanted));
        assert_eq!(
            Checkpoint::decode(&sample_bytes(3, "", "fee64008"), STORE),
            None
        );
    }

    #[test]
    fn what_all_checkpoints_include_is_the_least_of_them() {
        let fs = FaultyFs::new(1);
        let root = Path::new("/r");
        fs.create_dir(&root.join(CHECKPOINTS)).unwrap();
        for (number, control) in [(1, 9), (2, 5), (3, 12)] {
            let checkpoint = Checkpoint {
                control,
                ..sample(number, &[])
            };
            checkpoint.save(&fs, root, STORE).unwrap();
        }
        assert_eq!(controls_included(&fs, root, STORE).unwrap(), 5);
    }

    proptest! {
        #[test]
        fn round_trips(
            number: u64, ranges in proptest::collection::vec((1..9i64, 1..9i64), 0..20),
        ) {
            let checkpoint = sample(number, &ranges);
            let bytes = checkpoint.encode(STORE);
            prop_assert_eq!(Checkpoint::decode(&bytes, STORE), Some(checkpoint));
            prop_assert_eq!(Checkpoint::decode(&bytes, Uuid::from_u128(8)), None);
        }

        #[test]
        fn notices_damage(at in 0..200usize, mask in 1..=255u8) {
            let mut bytes = sample(1, &[(1, 2)]).encode(STORE);
            let at = at % bytes.len();
            bytes[at] ^= mask;
            prop_assert_eq!(Checkpoint::decode(&bytes, STORE), None);
        }

        #[test]
        fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            // With a right checksum, so that the fields are read.
            seal(&mut bytes);
            prop_assert_eq!(Checkpoint::decode(&bytes, STORE), None);
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        let bytes = sample(1, &[(1, 2)]).encode(STORE);
        for len in 0..bytes.len() {
            assert_eq!(Checkpoint::decode(&bytes[..len], STORE), None, "{len}");
        }
    }

    #[test]
    fn the_newest_valid_one_is_loaded_and_old_ones_go() {
        let fs = FaultyFs::new(1);
        let root = Path::new("/r");
        fs.create_dir(&root.join(CHECKPOINTS)).unwrap();
        for number in 1..=7 {
            sample(number, &[]).save(&fs, root, STORE).unwrap();
        }
        tidy(&fs, root, 5).unwrap();
        let path = root.join(CHECKPOINTS).join(checkpoint_name(7));
        assert!(fs.rot(&path, 40, 1));
        let found = load_newest(&fs, root, |bytes| Checkpoint::decode(bytes, STORE)).unwrap();
        assert_eq!(found.newest.unwrap(), sample(6, &[]));
        assert_eq!((found.number_max, found.damaged.len()), (7, 1));
        assert_eq!(fs.list(&root.join(CHECKPOINTS)).unwrap().len(), 5);
    }
}
