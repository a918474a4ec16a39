//! What can be wrong with a body.

use qmq_model::PayloadError;

/// Why a body is not the command it claims to be. Answered with code 51, the connection is kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The body ends before the field does.
    #[error("body ends inside {field}")]
    Truncated {
        /// The field that was being read.
        field: &'static str,
    },
    /// A length or count is negative or larger than the body.
    #[error("{field} has the impossible length {length}")]
    Length {
        /// The field that was being read.
        field: &'static str,
        /// The length that was announced.
        length: i64,
    },
    /// A number that stands for nothing.
    #[error("{field} has the unknown value {value}")]
    Unknown {
        /// The field that was being read.
        field: &'static str,
        /// The value that was found.
        value: i64,
    },
    /// Text that is not UTF-8.
    #[error("{field} is not UTF-8")]
    NotUtf8 {
        /// The field that was being read.
        field: &'static str,
    },
    /// One of the messages in the body is none.
    #[error("message {index} of the body: {source}")]
    Message {
        /// Its place, counted from 0.
        index: usize,
        /// What is wrong with it.
        source: PayloadError,
    },
    /// Bytes follow the last field.
    #[error("{bytes} bytes follow the last field")]
    Trailing {
        /// How many.
        bytes: usize,
    },
}
