//! Messages that only the write-ahead log holds, in memory: by number, by due time and by id.
//!
//! Nothing is inserted in the middle of anything: messages are noted as they come, and their order
//! by due time and by id is made for some thousand at a time. Clients choose ids, and may give all
//! messages the same one: sorting does not mind.

use std::ops::{Bound, Range};

use crate::delay::entry::{DelaySubject, Key, Pending};

/// How many messages are sorted at a time while a table grows. Those behind the last block are
/// looked at one by one.
const BLOCK_ROWS: usize = 2048;

/// Where the record of a message stands in the write-ahead log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) offset: u64,
    /// Bytes of the record.
    pub(crate) bytes: u32,
    pub(crate) subject: DelaySubject,
}

/// A message of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) key: Key,
    pub(crate) spot: Spot,
    /// Hash of its id.
    pub(crate) id_hash: u64,
}

const _: () = assert!(size_of::<Row>() <= 40, "there are up to a million of them");

/// The messages of one stretch of the write-ahead log.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// The stretch; it ends behind the last message until the table is complete.
    pub(crate) range: Range<u64>,
    /// As they stand in the log: sequences rise.
    rows: Vec<Row>,
    /// Numbers of rows by key, in sorted blocks.
    by_key: Vec<u32>,
    /// The same by hash of the id, then by key.
    by_id: Vec<u32>,
    /// Rows in a block.
    block_rows: usize,
}

impl Table {
    /// An empty one for what stands in the write-ahead log from `begin` on.
    pub(crate) fn at(begin: u64) -> Self {
        Self {
            range: begin..begin,
            rows: Vec::new(),
            by_key: Vec::new(),
            by_id: Vec::new(),
            block_rows: BLOCK_ROWS,
        }
    }

    /// Adds a message; sequences rise.
    pub(crate) fn insert(&mut self, row: Row) {
        let Row { key, spot, .. } = row;
        let last = self.rows.last().map_or(0, |last| last.key.sequence);
        assert!(last < key.sequence, "in the order of the log");
        self.range.end = self.range.end.max(spot.offset + u64::from(spot.bytes));
        self.rows.push(row);
        if self.rows.len() - self.by_key.len() == self.block_rows {
            self.add_block(number(self.by_key.len())..number(self.rows.len()));
        }
    }

    /// The same with everything in one block, complete up to `end`.
    pub(crate) fn completed(&self, end: u64) -> Self {
        let mut whole = Self {
            range: self.range.start..end,
            rows: self.rows.clone(),
            by_key: Vec::with_capacity(self.rows.len()),
            by_id: Vec::with_capacity(self.rows.len()),
            block_rows: self.rows.len().max(1),
        };
        let unsorted = number(self.by_key.len())..number(self.rows.len());
        whole.add_block(self.by_key.iter().copied().chain(unsorted));
        whole
    }

    /// Adds a block of these rows. Quick where they are in order for stretches.
    fn add_block(&mut self, rows: impl Iterator<Item = u32> + Clone) {
        // Sequences rise with the numbers of the rows.
        let by_key = rows.clone().map(|at| (self.row(at).key.due, at));
        let mut by_key: Vec<(i64, u32)> = by_key.collect();
        by_key.sort();
        self.by_key.extend(by_key.iter().map(|(_, at)| at));
        let by_id = rows.map(|at| (self.row(at).id_hash, self.row(at).key.due, at));
        let mut by_id: Vec<(u64, i64, u32)> = by_id.collect();
        by_id.sort();
        self.by_id.extend(by_id.iter().map(|(.., at)| at));
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Lowest sequence; the highest there is when it is empty.
    pub(crate) fn first_sequence(&self) -> u64 {
        self.rows.first().map_or(u64::MAX, |row| row.key.sequence)
    }

    /// Highest sequence; 0 when it is empty.
    pub(crate) fn last_sequence(&self) -> u64 {
        self.rows.last().map_or(0, |row| row.key.sequence)
    }

    pub(crate) fn get(&self, key: Key) -> Option<Spot> {
        let behind_first = key.sequence.checked_sub(self.first_sequence())?;
        if key.sequence > self.last_sequence() {
            return None;
        }
        // Mostly no number is missing.
        let guess = usize::try_from(behind_first).ok()?;
        let is_there = |at: &usize| self.rows.get(*at).is_some_and(|row| row.key == key);
        let at = Some(guess).filter(is_there).or_else(|| {
            let found = self
                .rows
                .binary_search_by_key(&key.sequence, |row| row.key.sequence);
            found.ok().filter(is_there)
        })?;
        Some(self.rows[at].spot)
    }

    fn row(&self, number: u32) -> &Row {
        &self.rows[number as usize]
    }

    /// Rows that are in no block yet.
    fn unsorted(&self) -> &[Row] {
        &self.rows[self.by_key.len()..]
    }

    /// How many messages of a completed table are in front of `from`.
    pub(crate) fn rank(&self, from: Bound<Key>) -> usize {
        let is_before = is_before(from);
        self.by_key.partition_point(|at| is_before(self.row(*at)))
    }

    /// The message of a completed table with this rank.
    pub(crate) fn ranked(&self, rank: usize) -> Option<&Row> {
        self.by_key.get(rank).map(|at| self.row(*at))
    }

    /// All messages of a completed table, ascending.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Row> {
        self.by_key.iter().map(|at| self.row(*at))
    }

    /// Messages with a key from `from` on, ascending.
    pub(crate) fn from(&self, from: Bound<Key>) -> impl Iterator<Item = &Row> {
        let is_before = is_before(from);
        let blocks = self.by_key.chunks(self.block_rows);
        let blocks = blocks.map(|block| {
            let first = block.partition_point(|at| is_before(self.row(*at)));
            &block[first..]
        });
        let unsorted = self.unsorted().iter().filter(|row| !is_before(row));
        let mut last: Vec<&Row> = unsorted.collect();
        last.sort_unstable_by_key(|row| row.key);
        Ascending {
            table: self,
            blocks: blocks.collect(),
            last: last.into_iter().peekable(),
        }
    }

    /// Messages of which the id has this hash.
    pub(crate) fn with_hash(&self, hash: u64) -> impl Iterator<Item = &Row> {
        let blocks = self.by_id.chunks(self.block_rows).flat_map(move |block| {
            let first = block.partition_point(|at| self.row(*at).id_hash < hash);
            block[first..]
                .iter()
                .map(|at| self.row(*at))
                .take_while(move |row| row.id_hash == hash)
        });
        let unsorted = self
            .unsorted()
            .iter()
            .filter(move |row| row.id_hash == hash);
        blocks.chain(unsorted)
    }
}

fn number(row: usize) -> u32 {
    u32::try_from(row).expect("fewer than 2^32 rows")
}

fn is_before(from: Bound<Key>) -> impl Fn(&Row) -> bool {
    move |row| match from {
        Bound::Included(first) => row.key < first,
        Bound::Excluded(last) => row.key <= last,
        Bound::Unbounded => false,
    }
}

/// Rows of a table in the order of their keys.
struct Ascending<'a> {
    table: &'a Table,
    /// What is left of each block.
    blocks: Vec<&'a [u32]>,
    /// What is left of those in no block.
    last: std::iter::Peekable<std::vec::IntoIter<&'a Row>>,
}

impl<'a> Iterator for Ascending<'a> {
    type Item = &'a Row;

    fn next(&mut self) -> Option<&'a Row> {
        let table = self.table;
        let heads = self.blocks.iter_mut();
        let heads = heads.filter_map(|block| Some((table.row(*block.first()?), block)));
        let lowest = heads.min_by_key(|(row, _)| row.key);
        let last = self.last.peek().map(|row| row.key);
        match lowest {
            Some((row, block)) if last.is_none_or(|last| row.key < last) => {
                *block = &block[1..];
                Some(row)
            }
            _ => self.last.next(),
        }
    }
}

impl Spot {
    /// The message with this key.
    pub(crate) fn pending(&self, key: Key) -> Pending {
        Pending {
            due: qmq_model::UnixMillis(key.due),
            sequence: crate::delay::entry::AcceptSequence(key.sequence),
            subject: self.subject,
            bytes: self.bytes,
        }
    }
}

impl Row {
    /// The message of the row.
    pub(crate) fn pending(&self) -> Pending {
        self.spot.pending(self.key)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(sequence: u64, due: i64, id_hash: u64) -> Row {
        Row {
            key: Key { due, sequence },
            spot: Spot {
                offset: 100 * sequence,
                bytes: 100,
                subject: DelaySubject(0),
            },
            id_hash,
        }
    }

    /// With gaps between the numbers, so that blocks are whole, begun and missing.
    fn filled(dues: &[(i64, u64)]) -> (Table, Vec<Row>) {
        let mut table = Table::at(0);
        table.block_rows = 8;
        let rows = dues.iter().zip(1..);
        let rows: Vec<Row> = rows
            .map(|((due, hash), at)| row(at + at / 5, *due, *hash))
            .collect();
        rows.iter().for_each(|row| table.insert(*row));
        (table, rows)
    }

    proptest! {
        #[test]
        fn a_table_finds_what_a_list_does(
            dues in proptest::collection::vec((0..20_i64, 0..5_u64), 0..60),
            from in 0..22_i64,
            hash in 0..6_u64,
        ) {
            let (growing, rows) = filled(&dues);
            let whole = growing.completed(growing.range.end);
            let mut sorted = rows.clone();
            sorted.sort_by_key(|row| row.key);
            let first = Key { due: from, sequence: 30 };
            let rank = whole.rank(Bound::Included(first));
            prop_assert_eq!(rank, sorted.partition_point(|row| row.key < first));
            prop_assert_eq!(whole.ranked(rank), sorted.get(rank));
            prop_assert_eq!(&whole.all().copied().collect::<Vec<Row>>(), &sorted);
            for table in [whole, growing] {
                for first in [Key { due: from, sequence: 0 }, Key { due: from, sequence: 30 }] {
                    let found: Vec<Row> = table.from(Bound::Excluded(first)).copied().collect();
                    let behind = sorted.partition_point(|row| row.key <= first);
                    prop_assert_eq!(&found, &sorted[behind..]);
                }
                for row in &rows {
                    prop_assert_eq!(table.get(row.key), Some(row.spot));
                    prop_assert_eq!(table.get(Key { due: row.key.due + 1, ..row.key }), None);
                }
                for sequence in 0..80 {
                    let is_there = rows.iter().any(|row| row.key == Key { due: 3, sequence });
                    prop_assert_eq!(table.get(Key { due: 3, sequence }).is_some(), is_there);
                }
                let mut with: Vec<Key> = table.with_hash(hash).map(|row| row.key).collect();
                with.sort_unstable();
                let same = sorted.iter().filter(|row| row.id_hash == hash);
                prop_assert_eq!(with, same.map(|row| row.key).collect::<Vec<Key>>());
                prop_assert_eq!(table.len(), rows.len());
            }
        }
    }
}
