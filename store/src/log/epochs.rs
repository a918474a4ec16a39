//! The epoch table: where each term begins in each log.
//!
//! ```text
//!  0 4 magic   4 2 version   6 2 entries   8 16 uuid
//! 24 entries: 8 term, 8 first messagelog offset, 8 first actionlog offset
//! .. 4 CRC-32C of all before
//! ```

use std::path::Path;

use uuid::Uuid;

use crate::error::Error;
use crate::format::{EPOCHS, EPOCHS_MAGIC, Fields, VERSION, checked, seal};
use crate::fs::{FileSystem, read_file, replace_file};

/// Where a term begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch {
    pub(crate) term: u64,
    /// First offset of each log, by [`LogKind::index`](crate::LogKind).
    pub(crate) first: [u64; 2],
}

/// All terms, ascending; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Epochs(Vec<Epoch>);

impl Epochs {
    /// The table of a new store: term 1 from the start.
    pub(crate) fn first() -> Self {
        Self(vec![Epoch {
            term: 1,
            first: [0; 2],
        }])
    }

    /// The term in force.
    pub(crate) fn term(&self) -> u64 {
        self.0.last().map_or(0, |epoch| epoch.term)
    }

    /// Writes the table and makes it durable.
    pub(crate) fn save(&self, fs: &dyn FileSystem, root: &Path, store: Uuid) -> Result<(), Error> {
        replace_file(fs, root, EPOCHS, &self.encode(store))
    }

    /// Reads the table of a store.
    pub(crate) fn load(fs: &dyn FileSystem, root: &Path, store: Uuid) -> Result<Self, Error> {
        let path = root.join(EPOCHS);
        let Some(bytes) = read_file(fs, &path)? else {
            return Err(Error::Corrupt {
                path,
                what: "missing",
            });
        };
        Self::decode(&bytes, store).ok_or(Error::Corrupt {
            path,
            what: "no valid epoch table",
        })
    }

    fn encode(&self, store: Uuid) -> Vec<u8> {
        let mut out = Vec::with_capacity(28 + 24 * self.0.len());
        out.extend_from_slice(&EPOCHS_MAGIC.to_be_bytes());
        out.extend_from_slice(&VERSION.to_be_bytes());
        let count =
            u16::try_from(self.0.len()).expect("a term is a fail-over: never 65 536 of them");
        out.extend_from_slice(&count.to_be_bytes());
        out.extend_from_slice(store.as_bytes());
        for epoch in &self.0 {
            for field in [epoch.term, epoch.first[0], epoch.first[1]] {
                out.extend_from_slice(&field.to_be_bytes());
            }
        }
        seal(&mut out);
        out
    }

    fn decode(bytes: &[u8], store: Uuid) -> Option<Self> {
        let mut fields = Fields(checked(bytes)?);
        if fields.u32()? != EPOCHS_MAGIC || fields.u16()? != VERSION {
            return None;
        }
        let count = fields.u16()?;
        if fields.uuid()? != store {
            return None;
        }
        let mut epochs = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            epochs.push(Epoch {
                term: fields.u64()?,
                first: [fields.u64()?, fields.u64()?],
            });
        }
        let rises = epochs.is_sorted_by(|a, b| a.term < b.term);
        (rises && !epochs.is_empty() && fields.rest().is_empty()).then_some(Self(epochs))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::tests::unhex;

    const STORE: Uuid = Uuid::from_u128(7);

    fn table(starts: &[[u64; 2]]) -> Epochs {
        let epochs = starts.iter().zip(1..);
        Epochs(
            epochs
                .map(|(first, term)| Epoch {
                    term,
                    first: *first,
                })
                .collect(),
        )
    }

    #[test]
    fn writes_the_bytes_of_the_format_page() {
        let expected = unhex(
            "514d5145 0001 0002 00000000000000000000000000000007 \
             0000000000000001 0000000000000000 0000000000000000 \
             0000000000000002 0000000000000005 0000000000000007 42f1739b",
        );
        assert_eq!(table(&[[0, 0], [5, 7]]).encode(STORE), expected);
    }

    proptest! {
        #[test]
        fn round_trips(starts in proptest::collection::vec(any::<[u64; 2]>(), 1..20)) {
            let epochs = table(&starts);
            let bytes = epochs.encode(STORE);
            prop_assert_eq!(Epochs::decode(&bytes, STORE), Some(epochs));
            prop_assert_eq!(Epochs::decode(&bytes, Uuid::from_u128(8)), None);
        }

        #[test]
        fn notices_damage(at in 0..52usize, mask in 1..=255u8) {
            let mut bytes = Epochs::first().encode(STORE);
            bytes[at] ^= mask;
            prop_assert_eq!(Epochs::decode(&bytes, STORE), None);
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        let bytes = table(&[[0, 0], [5, 7]]).encode(STORE);
        for len in 0..bytes.len() {
            assert_eq!(Epochs::decode(&bytes[..len], STORE), None, "{len}");
        }
    }

    #[test]
    fn a_new_store_is_in_term_one() {
        assert_eq!(Epochs::first().term(), 1);
    }
}
