//! `store.id`: who a store belongs to, and what was fixed when it was created.

use std::path::Path;

use uuid::Uuid;

use crate::config::StoreConfig;
use crate::error::Error;
use crate::format::{STORE_ID, VERSION};
use crate::fs::{FileSystem, read_file, replace_file};

/// What `store.id` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uuid: Uuid,
    pub(crate) group: String,
    pub(crate) message_segment_bytes: u64,
    pub(crate) action_segment_bytes: u64,
    pub(crate) commit_slots: u32,
}

impl Identity {
    /// The identity of a new store.
    pub(crate) fn new(config: &StoreConfig) -> Self {
        Self {
            uuid: Uuid::new_v4(),
            group: config.group_name.clone(),
            message_segment_bytes: config.message_segment_bytes,
            action_segment_bytes: config.action_segment_bytes,
            commit_slots: config.commit_slots,
        }
    }

    /// Writes it, durably.
    pub(crate) fn save(&self, fs: &dyn FileSystem, root: &Path) -> Result<(), Error> {
        replace_file(fs, root, STORE_ID, self.encode().as_bytes())
    }

    /// Reads it; `None` when there is none.
    pub(crate) fn load(fs: &dyn FileSystem, root: &Path) -> Result<Option<Self>, Error> {
        let path = root.join(STORE_ID);
        let Some(bytes) = read_file(fs, &path)? else {
            return Ok(None);
        };
        let decoded = std::str::from_utf8(&bytes).ok().and_then(Self::decode);
        decoded.map(Some).ok_or(Error::Corrupt {
            path,
            what: "checksum or fields are wrong",
        })
    }

    /// Refuses a store of another group or with other segment sizes.
    pub(crate) fn check(&self, root: &Path, config: &StoreConfig) -> Result<(), Error> {
        let path = || root.to_owned();
        if self.group != config.group_name {
            let (expected, found) = (config.group_name.clone(), self.group.clone());
            return Err(Error::WrongGroup {
                path: path(),
                expected,
                found,
            });
        }
        let sizes = [
            (
                "message_segment_bytes",
                config.message_segment_bytes,
                self.message_segment_bytes,
            ),
            (
                "action_segment_bytes",
                config.action_segment_bytes,
                self.action_segment_bytes,
            ),
        ];
        for (what, expected, found) in sizes {
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

    fn encode(&self) -> String {
        let text = format!(
            "qmq-store {VERSION}\nuuid {}\ngroup {}\nmessage_segment_bytes {}\n\
             action_segment_bytes {}\ncommit_slots {}\n",
            self.uuid,
            self.group,
            self.message_segment_bytes,
            self.action_segment_bytes,
            self.commit_slots,
        );
        let crc = crc32c::crc32c(text.as_bytes());
        format!("{text}crc {crc:08x}\n")
    }

    fn decode(text: &str) -> Option<Self> {
        let at = text.rfind("crc ")?;
        let (body, last) = text.split_at(at);
        if last != format!("crc {:08x}\n", crc32c::crc32c(body.as_bytes())) {
            return None;
        }
        let mut lines = body.lines();
        let mut value = |key: &str| lines.next()?.strip_prefix(key)?.strip_prefix(' ');
        if value("qmq-store")? != VERSION.to_string() {
            return None;
        }
        Some(Self {
            uuid: value("uuid")?.parse().ok()?,
            group: value("group")?.to_owned(),
            message_segment_bytes: value("message_segment_bytes")?.parse().ok()?,
            action_segment_bytes: value("action_segment_bytes")?.parse().ok()?,
            commit_slots: value("commit_slots")?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identity(group: &str) -> Identity {
        let config = StoreConfig {
            group_name: group.into(),
            ..StoreConfig::default()
        };
        Identity::new(&config)
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
        assert_eq!(identity.encode(), expected);
    }

    proptest! {
        #[test]
        fn round_trips(group in "[^\\p{Cc}]{1,40}") {
            let identity = identity(&group);
            prop_assert_eq!(Identity::decode(&identity.encode()), Some(identity));
        }

        #[test]
        fn notices_damage(at in 0..100usize, mask in 1..128u8) {
            let mut bytes = identity("g").encode().into_bytes();
            bytes[at] ^= mask;
            let decoded = std::str::from_utf8(&bytes).ok().and_then(Identity::decode);
            prop_assert_eq!(decoded, None);
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        let text = identity("g").encode();
        for len in 0..text.len() {
            assert_eq!(Identity::decode(&text[..len]), None, "{len}");
        }
    }

    #[test]
    fn another_group_or_size_is_refused() {
        let identity = identity("g");
        let mine = StoreConfig {
            group_name: "g".into(),
            ..StoreConfig::default()
        };
        let root = Path::new("/r");
        assert!(identity.check(root, &mine).is_ok());
        let other = StoreConfig {
            group_name: "h".into(),
            ..StoreConfig::default()
        };
        assert!(matches!(
            identity.check(root, &other),
            Err(Error::WrongGroup { .. })
        ));
        let larger = StoreConfig {
            action_segment_bytes: 1 << 30,
            ..mine
        };
        assert!(matches!(
            identity.check(root, &larger),
            Err(Error::WrongSize { .. })
        ));
    }
}
