//! Whole frames: golden ones, test vectors, random ones.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod compare;
mod damage;
mod fixture;
mod fixtures;
mod legacy;
mod malformed;
mod properties;
mod sync;
mod vectors;
