//! Which runs of delayed messages are live, and where the logs begin. Replaced as a whole.
//!
//! ```text
//! 4 magic  2 version  2 zero  16 uuid  8 first kept byte of message_log  8 of dispatch_log
//! 8 byte of message_log up to which all messages are in runs, or done   8 number of the next run
//! 4 runs: 8 number, 8 begin and 8 end of its slot in ms                 4 CRC-32C of all before
//! ```

use std::path::Path;

use uuid::Uuid;

use crate::delay::slots::Slot;
use crate::error::Error;
use crate::format::{DELAY_MANIFEST_MAGIC, Fields, MANIFEST, TMP_SUFFIX, VERSION, checked, seal};
use crate::fs::{FileSystem, read_file, replace_file};

/// The live runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// First kept bytes, by [`LogKind::index`](crate::LogKind). What is in front is gone.
    pub(crate) oldest: [u64; 2],
    /// Messages in front of this byte of the write-ahead log are in runs, or done.
    pub(crate) covered: u64,
    /// No run has this number or a higher one.
    pub(crate) next_number: u64,
    /// Number and slot of each.
    pub(crate) runs: Vec<(u64, Slot)>,
}

impl Manifest {
    /// Reads it; in a folder without any run it is created, so that it is there before them.
    ///
    /// # Errors
    /// When it cannot be read although there is something: nobody knows then which run is live.
    pub(crate) fn load(fs: &dyn FileSystem, dir: &Path, store: Uuid) -> Result<Self, Error> {
        let path = dir.join(MANIFEST);
        let Some(bytes) = read_file(fs, &path)? else {
            let names = fs
                .list(dir)
                .map_err(|error| Error::io("list", dir, error))?;
            return if names.iter().all(|name| name.name.ends_with(TMP_SUFFIX)) {
                let first = Self::default();
                first.save(fs, dir, store)?;
                Ok(first)
            } else {
                let what = "missing, but there are runs";
                Err(Error::Corrupt { path, what })
            };
        };
        let what = "checksum or fields are wrong";
        Self::decode(&bytes, store).ok_or(Error::Corrupt { path, what })
    }

    /// Writes it, durably.
    pub(crate) fn save(&self, fs: &dyn FileSystem, dir: &Path, store: Uuid) -> Result<(), Error> {
        replace_file(fs, dir, MANIFEST, &self.encode(store))
    }

    fn encode(&self, store: Uuid) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&DELAY_MANIFEST_MAGIC.to_be_bytes());
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(store.as_bytes());
        let [messages, dispatches] = self.oldest;
        for field in [messages, dispatches, self.covered, self.next_number] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        let count = u32::try_from(self.runs.len()).expect("some hundred runs");
        out.extend_from_slice(&count.to_be_bytes());
        for (number, slot) in &self.runs {
            out.extend_from_slice(&number.to_be_bytes());
            out.extend_from_slice(&slot.begin.to_be_bytes());
            out.extend_from_slice(&slot.end.to_be_bytes());
        }
        seal(&mut out);
        out
    }

    fn decode(bytes: &[u8], store: Uuid) -> Option<Self> {
        let mut fields = Fields(checked(bytes)?);
        let is_ours = fields.u32()? == DELAY_MANIFEST_MAGIC && fields.u16()? == VERSION;
        if !is_ours || fields.u16()? != 0 || fields.uuid()? != store {
            return None;
        }
        let mut manifest = Self {
            oldest: [fields.u64()?, fields.u64()?],
            covered: fields.u64()?,
            next_number: fields.u64()?,
            runs: Vec::new(),
        };
        for _ in 0..fields.u32()? {
            let number = fields.u64()?;
            let (begin, end) = (fields.i64()?, fields.i64()?);
            manifest.runs.push((number, Slot { begin, end }));
        }
        fields.rest().is_empty().then_some(manifest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::tests::unhex;
    use crate::fs::OpenMode;
    use crate::fs::faulty::FaultyFs;

    const STORE: Uuid = Uuid::from_u128(7);

    fn sample() -> Manifest {
        let slot = Slot { begin: 16, end: 32 };
        Manifest {
            oldest: [1024, 0],
            covered: 2000,
            next_number: 9,
            runs: vec![(3, slot), (8, crate::delay::slots::WHOLE)],
        }
    }

    #[test]
    fn writes_the_bytes_of_the_format_page() {
        let expected = unhex(
            "514d514e 0001 0000 00000000000000000000000000000007 \
             0000000000000400 0000000000000000 00000000000007d0 0000000000000009 00000002 \
             0000000000000003 0000000000000010 0000000000000020 \
             0000000000000008 0000000000000000 7fffffffffffffff",
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

    #[test]
    fn only_an_empty_folder_needs_none() {
        let fs = FaultyFs::new(1);
        let dir = Path::new("/runs");
        fs.create_dir(dir).unwrap();
        assert_eq!(
            Manifest::load(&fs, dir, STORE).unwrap(),
            Manifest::default()
        );
        fs.remove(&dir.join(MANIFEST)).unwrap();
        fs.open(&dir.join("run.1"), OpenMode::Create).unwrap();
        assert!(matches!(
            Manifest::load(&fs, dir, STORE),
            Err(Error::Corrupt { .. })
        ));
        sample().save(&fs, dir, STORE).unwrap();
        assert_eq!(Manifest::load(&fs, dir, STORE).unwrap(), sample());
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
