//! PULL_MESSAGE (11), the request: a consumer asks a broker for messages.
//!
//! ```text
//! str subject            real, retry or dead-letter subject
//! str group              broadcast: the client id
//! str consumer id
//! i32 wanted messages    none or less: answered "no message"
//! i64 offset             always -1, ignored
//! i64 first sequence     not acknowledged yet, -1 none; ignored by brokers
//! i64 last sequence      received last, -1 none
//! i64 timeout            ms; > 0 wait that long, 0 do not wait, < 0 pull once
//! i8  broadcast          0 no, else yes
//! ..  filters            depends on the version, see [`PullFilter`]
//! ```
//!
//! The response is [`PullResponse`].

mod filter;
mod response;

use bytes::{BufMut, BytesMut};
use qmq_model::payload::put_str;

use crate::codec::{Decode, Encode, Reader};
use crate::error::DecodeError;

pub use filter::{FILTER_TAGS_MAX, FILTERS_MAX, PullFilter, TagFilter, TagMatch};
pub use response::{
    PULL_HEADER_BYTES, PullResponse, PulledMessage, put_payload_for_version,
    put_payload_without_delay_bit, put_pull_header,
};

/// A request for messages. Names are unchecked and numbers as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullRequest<'a> {
    /// Subject to pull from.
    pub subject: &'a str,
    /// Consumer group; in broadcast the client id.
    pub group: &'a str,
    /// Client id.
    pub consumer_id: &'a str,
    /// Number of messages wanted.
    pub request_num: i32,
    /// Always -1 and without meaning; kept so that a request can be written as it was read.
    pub offset: i64,
    /// First pull sequence that is not acknowledged yet, -1 for none. Brokers ignore it.
    pub pull_begin: i64,
    /// Last pull sequence that was received, -1 for none.
    pub pull_last: i64,
    /// How long to wait for messages, ms; 0 or less: not at all.
    pub timeout_ms: i64,
    /// Whether every consumer of the group gets every message.
    pub is_broadcast: bool,
    /// Filters in wire order, those without effect included.
    pub filters: Vec<PullFilter<'a>>,
}

impl<'a> PullRequest<'a> {
    /// The tag filter that counts: the first that is not [`TagMatch::NoTag`]. `None` when there is
    /// none, or when it names no tags and so lets everything pass.
    #[must_use]
    pub fn tag_filter(&self) -> Option<&TagFilter<'a>> {
        self.filters
            .iter()
            .find_map(|filter| match filter {
                PullFilter::Tag(tag) if tag.tag_match != TagMatch::NoTag => Some(tag),
                PullFilter::Tag(_) | PullFilter::SubEnv { .. } => None,
            })
            .filter(|tag| !tag.tags.is_empty())
    }

    /// The environment filter that counts, as (environment, sub-environment): the first.
    #[must_use]
    pub fn sub_env_filter(&self) -> Option<(&'a str, &'a str)> {
        self.filters.iter().find_map(|filter| match filter {
            PullFilter::SubEnv { env, sub_env } => Some((*env, *sub_env)),
            PullFilter::Tag(_) => None,
        })
    }
}

impl Encode for PullRequest<'_> {
    /// Below version 9 what the layout has no place for is left out: version 8 has one tag filter
    /// (the first), older ones none.
    ///
    /// # Panics
    /// When a text is over 32 767 bytes or a filter has more than [`FILTER_TAGS_MAX`] tags.
    fn encode(&self, version: i16, out: &mut BytesMut) {
        put_str(out, self.subject.as_bytes());
        put_str(out, self.group.as_bytes());
        put_str(out, self.consumer_id.as_bytes());
        out.put_i32(self.request_num);
        out.put_i64(self.offset);
        out.put_i64(self.pull_begin);
        out.put_i64(self.pull_last);
        out.put_i64(self.timeout_ms);
        out.put_i8(i8::from(self.is_broadcast));
        filter::put(version, &self.filters, out);
    }
}

impl<'a> Decode<'a> for PullRequest<'a> {
    fn decode(version: i16, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let request = Self {
            subject: reader.str("subject")?,
            group: reader.str("group")?,
            consumer_id: reader.str("consumerId")?,
            request_num: reader.i32("requestNum")?,
            offset: reader.i64("offset")?,
            pull_begin: reader.i64("pullOffsetBegin")?,
            pull_last: reader.i64("pullOffsetLast")?,
            timeout_ms: reader.i64("timeoutMillis")?,
            is_broadcast: reader.i8("isBroadcast")? != 0,
            filters: filter::read(version, &mut reader)?,
        };
        reader.end_of(version)?;
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(tag_match: TagMatch, tags: &[&'static str]) -> PullFilter<'static> {
        PullFilter::Tag(TagFilter {
            tag_match,
            tags: tags.iter().map(|t| t.as_bytes()).collect(),
        })
    }

    fn request(filters: Vec<PullFilter<'_>>) -> PullRequest<'_> {
        PullRequest {
            subject: "a.b",
            group: "g",
            consumer_id: "c",
            request_num: 50,
            offset: -1,
            pull_begin: -1,
            pull_last: 7,
            timeout_ms: 2_500,
            is_broadcast: false,
            filters,
        }
    }

    fn encoded(version: i16, request: &PullRequest<'_>) -> BytesMut {
        let mut out = BytesMut::new();
        request.encode(version, &mut out);
        out
    }

    #[test]
    fn each_version_has_its_filters() {
        let sub_env = PullFilter::SubEnv {
            env: "uat",
            sub_env: "u1",
        };
        let both = vec![sub_env, tag(TagMatch::Any, &["x", "y"])];
        let full = request(both.clone());
        for version in [i16::MIN, 0, 7] {
            let read = encoded(version, &full);
            assert_eq!(
                PullRequest::decode(version, &read),
                Ok(request(vec![])),
                "{version}"
            );
        }
        let read = encoded(8, &full);
        assert_eq!(
            PullRequest::decode(8, &read),
            Ok(request(vec![both[1].clone()]))
        );
        for version in [9, 10, i16::MAX] {
            let read = encoded(version, &full);
            assert_eq!(
                PullRequest::decode(version, &read),
                Ok(full.clone()),
                "{version}"
            );
        }
    }

    #[test]
    fn version_8_writes_a_filter_even_when_there_is_none() {
        let body = encoded(8, &request(vec![]));
        let no_tag = request(vec![tag(TagMatch::NoTag, &[])]);
        assert_eq!(PullRequest::decode(8, &body), Ok(no_tag));
    }

    #[test]
    fn a_filter_without_effect_does_not_count() {
        let none: [&[PullFilter<'_>]; 4] = [
            &[],
            &[tag(TagMatch::NoTag, &[])],
            &[tag(TagMatch::NoTag, &["x"])],
            &[tag(TagMatch::Any, &[]), tag(TagMatch::Any, &["x"])],
        ];
        for filters in none {
            assert_eq!(request(filters.to_vec()).tag_filter(), None, "{filters:?}");
        }
        let request = request(vec![
            tag(TagMatch::NoTag, &["x"]),
            PullFilter::SubEnv {
                env: "e",
                sub_env: "s",
            },
            tag(TagMatch::All, &["y"]),
            tag(TagMatch::Any, &["z"]),
        ]);
        assert_eq!(request.tag_filter().unwrap().tags, [b"y"]);
        assert_eq!(request.sub_env_filter(), Some(("e", "s")));
    }

    #[test]
    fn a_count_of_zero_or_less_is_no_filter() {
        let mut body = encoded(9, &request(vec![]));
        let at = body.len() - 4;
        body[at..].copy_from_slice(&(-5_i32).to_be_bytes());
        assert_eq!(PullRequest::decode(9, &body), Ok(request(vec![])));
    }

    #[test]
    fn announced_filters_are_bounded() {
        let many = vec![tag(TagMatch::NoTag, &[]); FILTERS_MAX + 1];
        let body = encoded(9, &request(many[1..].to_vec()));
        assert!(PullRequest::decode(9, &body).is_ok());
        let body = encoded(9, &request(many));
        let error = DecodeError::Length {
            field: "filters",
            length: 17,
        };
        assert_eq!(PullRequest::decode(9, &body), Err(error));
    }

    #[test]
    fn a_negative_tag_count_is_an_error() {
        let mut body = encoded(8, &request(vec![]));
        let last = body.len() - 1;
        body[last] = 0x80;
        let error = DecodeError::Length {
            field: "tag count",
            length: -128,
        };
        assert_eq!(PullRequest::decode(8, &body), Err(error));
    }

    #[test]
    fn any_non_zero_byte_means_broadcast() {
        let mut body = encoded(7, &request(vec![]));
        let last = body.len() - 1;
        for (byte, expected) in [(0, false), (1, true), (2, true), (0xFF, true)] {
            body[last] = byte;
            assert_eq!(
                PullRequest::decode(7, &body).unwrap().is_broadcast,
                expected,
                "{byte}"
            );
        }
    }
}
