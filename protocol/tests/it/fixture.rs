//! One golden frame: where it is kept, how it is read.

use std::path::PathBuf;

use bytes::BytesMut;
use qmq_protocol::frame::BODY_BYTES_MAX;
use qmq_protocol::{Frame, FrameError, split_frame};
use serde_json::Value;

/// Number of files in the folder; change it when one is added.
pub(crate) const FIXTURES: usize = 133;

/// One file of `tests/fixtures`.
pub(crate) struct Fixture {
    pub(crate) name: String,
    pub(crate) json: Value,
    pub(crate) bytes: Vec<u8>,
}

impl Fixture {
    /// Every file of the folder, sorted by name.
    pub(crate) fn all() -> Vec<Self> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let entries = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let mut paths: Vec<_> = entries
            .filter(|path| path.extension().is_some_and(|e| e == "json"))
            .collect();
        paths.sort();
        paths.iter().map(Self::read).collect()
    }

    fn read(path: &PathBuf) -> Self {
        let json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        assert_eq!(json["name"], name);
        let bytes = from_hex(json["hex"].as_str().unwrap());
        Self { name, json, bytes }
    }

    /// The files whose names start so.
    pub(crate) fn starting_with(prefix: &'static str) -> impl Iterator<Item = Self> {
        Self::all()
            .into_iter()
            .filter(move |fixture| fixture.name.starts_with(prefix))
    }

    /// The frame, which must be the whole of the bytes.
    pub(crate) fn frame(&self) -> Frame {
        whole_frame(&self.bytes).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// The decoded body.
    pub(crate) fn decoded(&self) -> &Value {
        &self.json["decoded"]
    }
}

/// Reads bytes that are exactly one frame.
pub(crate) fn whole_frame(bytes: &[u8]) -> Result<Frame, FrameError> {
    let mut buf = BytesMut::from(bytes);
    let frame = split_frame(&mut buf, BODY_BYTES_MAX)?.expect("the frame is whole");
    assert!(buf.is_empty(), "bytes follow the frame");
    Ok(frame)
}

/// The bytes that `hex` stands for.
pub(crate) fn from_hex(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2));
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

/// An integer of a fixture as the type that is expected.
pub(crate) fn int<T: TryFrom<i64>>(value: &Value) -> T {
    let number = value
        .as_i64()
        .unwrap_or_else(|| panic!("{value} is no integer"));
    T::try_from(number).unwrap_or_else(|_| panic!("{number} is out of range"))
}

/// A text of a fixture.
pub(crate) fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
}

/// A list of a fixture; what is missing is empty.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
