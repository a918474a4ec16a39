//! Which runs are live, and where the logs begin. Replaced as a whole.
//!
//! ```text
//! 4 magic  2 version  2 zero  16 uuid  8 first kept byte of the messagelog  8 of the actionlog
//! 8 number of the next run  4 runs: 8 number, 8 begin, 8 end     4 CRC-32C of all before
//! ```

use std::ops::Range;
use std::path::Path;

use uuid::Uuid;

use crate::error::Error;
use crate::format::{Fields, MANIFEST, MANIFEST_MAGIC, VERSION, checked, seal};
use crate::fs::{FileSystem, read_file, replace_file};

/// The live runs, in the order of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// First kept bytes, by [`LogKind::index`](crate::LogKind). What is in front has expired.
    pub(crate) oldest: [u64; 2],
    /// No run has this number or a higher one.
    pub(crate) next_number: u64,
    /// Number and stretch of the messagelog of each.
    pub(crate) runs: Vec<(u64, Range<u64>)>,
}

impl Manifest {
    /// Reads it; `None` when it is missing or damaged.
    pub(crate) fn load(
        fs: &dyn FileSystem,
        dir: &Path,
        store: Uuid,
    ) -> Result<Option<Self>, Error> {
        let bytes = read_file(fs, &dir.join(MANIFEST))?;
        Ok(bytes.and_then(|bytes| Self::decode(&bytes, store)))
    }

    /// Writes it, durably.
    pub(crate) fn save(&self, fs: &dyn FileSystem, dir: &Path, store: Uuid) -> Result<(), Error> {
        replace_file(fs, dir, MANIFEST, &self.encode(store))
    }

    fn encode(&self, store: Uuid) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&MANIFEST_MAGIC.to_be_bytes());
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(store.as_bytes());
        for field in [self.oldest[0], self.oldest[1], self.next_number] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        let count = u32::try_from(self.runs.len()).expect("a handful of runs");
        out.extend_from_slice(&count.to_be_bytes());
        for (number, range) in &self.runs {
            for field in [*number, range.start, range.end] {
                out.extend_from_slice(&field.to_be_bytes());
            }
        }
        seal(&mut out);
        out
    }

    fn decode(bytes: &[u8], store: Uuid) -> Option<Self> {
        let mut fields = Fields(checked(bytes)?);
        let is_ours = fields.u32()? == MANIFEST_MAGIC && fields.u16()? == VERSION;
        if !is_ours || fields.u16()? != 0 || fields.uuid()? != store {
            return None;
        }
        let oldest = [fields.u64()?, fields.u64()?];
        let next_number = fields.u64()?;
        let mut runs = Vec::new();
        for _ in 0..fields.u32()? {
            runs.push((fields.u64()?, fields.u64()?..fields.u64()?));
        }
        let is_whole = fields.rest().is_empty();
        is_whole.then_some(Self {
            oldest,
            next_number,
            runs,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::tests::unhex;

    const STORE: Uuid = Uuid::from_u128(7);

    fn sample() -> Manifest {
        Manifest {
            oldest: [1024, 0],
            next_number: 9,
            runs: vec![(3, 1000..5000), (8, 5000..5100)],
        }
    }

    #[test]
    fn writes_the_bytes_of_the_format_page() {
        let expected = unhex(
            "514d514d 0001 0000 00000000000000000000000000000007 \
             0000000000000400 0000000000000000 0000000000000009 00000002 \
             0000000000000003 00000000000003e8 0000000000001388 \
             0000000000000008 0000000000001388 00000000000013ec",
        );
        let bytes = sample().encode(STORE);
        assert_eq!(bytes[..bytes.len() - 4], expected);
        assert_eq!(Manifest::decode(&bytes, STORE), Some(sample()));
        assert_eq!(Manifest::decode(&bytes, Uuid::from_u128(8)), None);
    }

    #[test]
    fn every_truncation_is_refused() {
        let bytes = sample().encode(STORE);
        for len in 0..bytes.len() {
            assert_eq!(Manifest::decode(&bytes[..len], STORE), None, "{len}");
        }
    }

    proptest! {
        #[test]
        fn notices_damage(at in 0..100usize, mask in 1..=255u8) {
            let mut bytes = sample().encode(STORE);
            bytes[at] ^= mask;
            prop_assert_eq!(Manifest::decode(&bytes, STORE), None);
        }

        #[test]
        fn random_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            seal(&mut bytes);
            prop_assert_eq!(Manifest::decode(&bytes, STORE), None);
        }
    }
}
