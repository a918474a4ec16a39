//! Filters of a pull request.
//!
//! ```text
//! version < 8    nothing
//! version 8      one tag filter, always there
//! version >= 9   i32 count (0 or less: none), then each
//!
//! filter         i16 type 1 and a tag filter, or i16 type 2, str environment, str sub-environment
//! tag filter     i16 match (0 no tag, 1 any, 2 all), i8 count, str each
//! ```
//!
//! A filter has no length, so one of unknown type cannot be skipped: the request is refused.

use bytes::{BufMut, BytesMut};
use qmq_model::payload::put_str;

use crate::codec::Reader;
use crate::error::DecodeError;
use crate::frame::{VERSION_FILTERS, VERSION_TAGS};

/// Most filters taken. Only the first of each of the two types counts and clients send at most one
/// of each, so this is ample; without a bound a small frame would grow many times in memory.
pub const FILTERS_MAX: usize = 16;
/// Most tags of one filter: their number is a signed byte.
pub const FILTER_TAGS_MAX: usize = 127;

const TYPE_TAG: i16 = 1;
const TYPE_SUB_ENV: i16 = 2;

/// What messages a pull wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PullFilter<'a> {
    /// By the tags of the message.
    Tag(TagFilter<'a>),
    /// By the environment the message was sent from.
    SubEnv {
        /// Environment.
        env: &'a str,
        /// Sub-environment.
        sub_env: &'a str,
    },
}

/// Wants messages with certain tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagFilter<'a> {
    /// How the tags are compared.
    pub tag_match: TagMatch,
    /// The tags: bytes, they are compared as such. At most [`FILTER_TAGS_MAX`].
    pub tags: Vec<&'a [u8]>,
}

/// How the tags of a filter are compared with those of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TagMatch {
    /// The filter is not there, even if tags follow.
    NoTag,
    /// One common tag is enough.
    Any,
    /// The message has every tag of the filter.
    All,
    /// A number without a meaning. It matches no message with several tags, but one with a single
    /// tag equal to the only tag of the filter: there the number is never looked at.
    Other(i16),
}

impl TagMatch {
    /// The way of comparing with this number.
    #[must_use]
    pub const fn from_code(code: i16) -> Self {
        match code {
            0 => Self::NoTag,
            1 => Self::Any,
            2 => Self::All,
            other => Self::Other(other),
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> i16 {
        match self {
            Self::NoTag => 0,
            Self::Any => 1,
            Self::All => 2,
            Self::Other(code) => code,
        }
    }
}

/// Appends what the layout of `version` has place for: version 8 the first tag filter, older ones
/// nothing.
pub(super) fn put(version: i16, filters: &[PullFilter<'_>], out: &mut BytesMut) {
    if version >= VERSION_FILTERS {
        out.put_i32(i32::try_from(filters.len()).expect("filters are few"));
        filters.iter().for_each(|filter| put_filter(filter, out));
    } else if version >= VERSION_TAGS {
        let first = filters.iter().find_map(|filter| match filter {
            PullFilter::Tag(tag) => Some(tag),
            PullFilter::SubEnv { .. } => None,
        });
        put_tag_filter(first.unwrap_or(&NO_TAG_FILTER), out);
    }
}

const NO_TAG_FILTER: TagFilter<'static> = TagFilter {
    tag_match: TagMatch::NoTag,
    tags: Vec::new(),
};

fn put_filter(filter: &PullFilter<'_>, out: &mut BytesMut) {
    match filter {
        PullFilter::Tag(tag) => {
            out.put_i16(TYPE_TAG);
            put_tag_filter(tag, out);
        }
        PullFilter::SubEnv { env, sub_env } => {
            out.put_i16(TYPE_SUB_ENV);
            put_str(out, env.as_bytes());
            put_str(out, sub_env.as_bytes());
        }
    }
}

fn put_tag_filter(filter: &TagFilter<'_>, out: &mut BytesMut) {
    out.put_i16(filter.tag_match.code());
    out.put_i8(i8::try_from(filter.tags.len()).expect("a filter has at most 127 tags"));
    filter.tags.iter().for_each(|tag| put_str(out, tag));
}

/// Reads the filters of a request of `version`.
pub(super) fn read<'a>(
    version: i16,
    reader: &mut Reader<'a>,
) -> Result<Vec<PullFilter<'a>>, DecodeError> {
    if version < VERSION_TAGS {
        return Ok(Vec::new());
    }
    if version < VERSION_FILTERS {
        return Ok(vec![PullFilter::Tag(read_tag_filter(reader)?)]);
    }
    let count = reader.i32("filters")?;
    match usize::try_from(count) {
        Ok(count) if count > FILTERS_MAX => {}
        Ok(count) => return (0..count).map(|_| read_filter(reader)).collect(),
        Err(_) => return Ok(Vec::new()),
    }
    Err(DecodeError::Length {
        field: "filters",
        length: count.into(),
    })
}

fn read_filter<'a>(reader: &mut Reader<'a>) -> Result<PullFilter<'a>, DecodeError> {
    match reader.i16("filter type")? {
        TYPE_TAG => read_tag_filter(reader).map(PullFilter::Tag),
        TYPE_SUB_ENV => Ok(PullFilter::SubEnv {
            env: reader.str("env")?,
            sub_env: reader.str("subEnv")?,
        }),
        other => Err(DecodeError::Unknown {
            field: "filter type",
            value: other.into(),
        }),
    }
}

fn read_tag_filter<'a>(reader: &mut Reader<'a>) -> Result<TagFilter<'a>, DecodeError> {
    let tag_match = TagMatch::from_code(reader.i16("tag match")?);
    let count = reader.i8("tag count")?;
    let length = DecodeError::Length {
        field: "tag count",
        length: count.into(),
    };
    let count = u8::try_from(count).map_err(|_| length)?;
    let tags = (0..count)
        .map(|_| reader.short_bytes("tag"))
        .collect::<Result<_, _>>()?;
    Ok(TagFilter { tag_match, tags })
}
