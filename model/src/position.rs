//! Positions: **offsets** are bytes of a log, **sequences** count entries.
//!
//! Ranges are half-open (`begin..end`) everywhere in this code base; the wire and the files of the
//! Java servers use inclusive ranges, which are converted at the edge.

macro_rules! position {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl $name {
            /// The position `count` further on.
            #[must_use]
            pub const fn plus(self, count: $inner) -> Self {
                Self(self.0 + count)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

position!(
    /// A byte position in the messagelog, counted from the first byte ever written.
    MessageOffset, u64);
position!(
    /// A byte position in the actionlog, counted from the first byte ever written.
    ActionOffset, u64);
position!(
    /// Counts the messages of one subject from 0.
    MessageSequence, i64);
position!(
    /// Counts the messages handed to one consumer of one (subject, consumer group) from 0. In
    /// broadcast mode it is the message sequence.
    PullSequence, i64);
