//! `store.id`: who a store belongs to, and what was fixed when it was created.

use std::path::Path;

use uuid::Uuid;

use crate::error::Error;
use crate::format::{LogKind, STORE_ID, VERSION};
use crate::fs::{FileSystem, read_file, replace_file};

/// What is fixed when a store is created. A folder that was created otherwise is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// First word of `store.id`: what kind of store this is.
    pub(crate) title: &'static str,
    /// Its logs.
    pub(crate) logs: [LogKind; 2],
    /// Its other folders.
    pub(crate) folders: &'static [&'static str],
    /// Name of the broker group it belongs to.
    pub(crate) group: String,
    /// How the segment sizes are called.
    pub(crate) size_names: [&'static str; 2],
    /// Segment sizes of both logs.
    pub(crate) segment_bytes: [u64; 2],
    /// Length of the ring of a new store.
    pub(crate) commit_slots: u32,
}

/// What `store.id` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uuid: Uuid,
    pub(crate) group: String,
    pub(crate) segment_bytes: [u64; 2],
    pub(crate) commit_slots: u32,
}

impl Identity {
    /// The identity of a new store.
    pub(crate) fn new(shape: &Shape) -> Self {
        Self {
            uuid: Uuid::new_v4(),
            group: shape.group.clone(),
            segment_bytes: shape.segment_bytes,
            commit_slots: shape.commit_slots,
        }
    }

    /// Writes it, durably.
    pub(crate) fn save(
        &self,
        fs: &dyn FileSystem,
        root: &Path,
        shape: &Shape,
    ) -> Result<(), Error> {
        replace_file(fs, root, STORE_ID, self.encode(shape).as_bytes())
    }

    /// Reads it; `None` when there is none.
    pub(crate) fn load(
        fs: &dyn FileSystem,
        root: &Path,
        shape: &Shape,
    ) -> Result<Option<Self>, Error> {
        let path = root.join(STORE_ID);
        let Some(bytes) = read_file(fs, &path)? else {
            return Ok(None);
        };
        let text = std::str::from_utf8(&bytes).ok();
        let decoded = text.and_then(|text| Self::decode(text, shape));
        decoded.map(Some).ok_or(Error::Corrupt {
            path,
            what: "checksum or fields are wrong",
        })
    }

    /// Refuses a store of another group or with other segment sizes.
    pub(crate) fn check(&self, root: &Path, shape: &Shape) -> Result<(), Error> {
        let path = || root.to_owned();
        if self.group != shape.group {
            let (expected, found) = (shape.group.clone(), self.group.clone());
            return Err(Error::WrongGroup {
                path: path(),
                expected,
                found,
            });
        }
        for index in 0..2 {
            let what = shape.size_names[index];
            let (expected, found) = (shape.segment_bytes[index], self.segment_bytes[index]);
            if expected != found {
                return Err(Error::WrongSize {
                    path: path(),
                    what,
                    expected,
                    found,
                });
            }
        }
        Ok(())
    }

    fn encode(&self, shape: &Shape) -> String {
        let text = format!(
            "{} {VERSION}\nuuid {}\ngroup {}\n{} {}\n{} {}\ncommit_slots {}\n",
            shape.title,
            self.uuid,
            self.group,
            shape.size_names[0],
            self.segment_bytes[0],
            shape.size_names[1],
            self.segment_bytes[1],
            self.commit_slots,
        );
        let crc = crc32c::crc32c(text.as_bytes());
        format!("{text}crc {crc:08x}\n")
    }

    fn decode(text: &str, shape: &Shape) -> Option<Self> {
        let at = text.rfind("crc ")?;
        let (body, last) = text.split_at(at);
        if last != format!("crc {:08x}\n", crc32c::crc32c(body.as_bytes())) {
            return None;
        }
        let mut lines = body.lines();
        let mut value = |key: &str| lines.next()?.strip_prefix(key)?.strip_prefix(' ');
        if value(shape.title)? != VERSION.to_string() {
            return None;
        }
        Some(Self {
            uuid: value("uuid")?.parse().ok()?,
            group: value("group")?.to_owned(),
            segment_bytes: [
                value(shape.size_names[0])?.parse().ok()?,
                value(shape.size_names[1])?.parse().ok()?,
            ],
            commit_slots: value("commit_slots")?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::StoreConfig;

    fn shape(group: &str) -> Shape {
        let config = StoreConfig {
            group_name: group.into(),
            ..StoreConfig::default()
        };
        config.shape()
    }

    fn identity(group: &str) -> Identity {
        Identity::new(&shape(group))
    }

    #[test]
    fn writes_the_lines_of_the_format_page() {
        let identity = Identity {
            uuid: Uuid::from_u128(7),
            ..identity("brokerGroup1")
        };
        let expected = "qmq-store 1\nuuid 00000000-0000-0000-0000-000000000007\n\
                        group brokerGroup1\nmessage_segment_bytes 1073741824\n\
                        action_segment_bytes 104857600\ncommit_slots 16384\ncrc 995b7888\n";
        assert_eq!(identity.encode(&shape("brokerGroup1")), expected);
    }

    proptest! {
        #[test]
        fn round_trips(group in "[^\\p{Cc}]{1,40}") {
            let (identity, shape) = (identity(&group), shape(&group));
            let text = identity.encode(&shape);
            prop_assert_eq!(Identity::decode(&text, &shape), Some(identity));
            let other = Shape { title: "qmq-other-store", ..shape };
            prop_assert_eq!(Identity::decode(&text, &other), None);
        }

        #[test]
        fn notices_damage(at in 0..100usize, mask in 1..128u8) {
            let shape = shape("g");
            let mut bytes = identity("g").encode(&shape).into_bytes();
            bytes[at] ^= mask;
            let text = std::str::from_utf8(&bytes).ok();
            let decoded = text.and_then(|text| Identity::decode(text, &shape));
            prop_assert_eq!(decoded, None);
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        let shape = shape("g");
        let text = identity("g").encode(&shape);
        for len in 0..text.len() {
            assert_eq!(Identity::decode(&text[..len], &shape), None, "{len}");
        }
    }

    #[test]
    fn another_group_or_size_is_refused() {
        let identity = identity("g");
        let mine = shape("g");
        let root = Path::new("/r");
        assert!(identity.check(root, &mine).is_ok());
        let other = shape("h");
        assert!(matches!(
            identity.check(root, &other),
            Err(Error::WrongGroup { .. })
        ));
        let larger = Shape {
            segment_bytes: [1 << 30; 2],
            ..mine
        };
        assert!(matches!(
            identity.check(root, &larger),
            Err(Error::WrongSize { .. })
        ));
    }
}
