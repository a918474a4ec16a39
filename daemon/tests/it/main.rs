//! Tests of registration against a metaserver that answers as it is told.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on may as well panic"
)]

mod metaserver;
mod registration;
