//! Writes the seed corpus of every target from the golden frames of the protocol tests.

use std::path::Path;

use qmq_protocol::command::pull::PULL_HEADER_BYTES;
use qmq_protocol::frame::PREFIX_BYTES;
use serde_json::Value;

/// Sizes of the pieces that a frame arrives in: byte by byte, cut, whole.
const PIECES: [u8; 3] = [1, 7, 255];

/// Which target takes the body, by a word of the fixture's name; the first that matches.
const TARGETS: [(&str, &str); 9] = [
    ("register", "register"),
    ("acquire_meta", "register"),
    ("consume_manage", "sync"),
    ("delay_forward", "send"),
    ("send", "send"),
    ("pull", "pull"),
    ("ack", "ack"),
    ("heartbeat", "ack"),
    ("malformed", "ack"),
];

/// Bodies of which no frames are kept: target, version, body. Sync requests, log, heartbeat,
/// dispatch file, digest, checkpoint; answers to legacy clients; requests to browse by sequence, in
/// memory by time, and for the newest, an answer without messages.
const BODIES: [(&str, u8, &[u8]); 13] = [
    ("sync", 9, b"\x02\0\0\0\0\0\0\0\x4f\0\0\0\0\0\0\0\0"),
    (
        "sync",
        9,
        b"\x04\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\x2f\x2c\x91\x95\x14\0\0\0\0\0\0\0\x10\
      \xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ),
    ("sync", 9, b"\0\0\0\x03\0\0\0\0\0\0\0\x4fabc"),
    ("sync", 9, b"\0\0\0\0\0\0\0\x4f\0\0\0\0\0\0\0\x10"),
    (
        "sync",
        9,
        b"\0\0\0\x08\0\0\0\0\0\0\0\0\0\0\0\x2f\x2c\x91\x95\x14\0\0\0\0\0\0\0\x01",
    ),
    (
        "sync",
        9,
        b"\0\0\0\x18\0\0\0\0\0\0\0\x4f\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x63\0\x03a.b\0\x01i",
    ),
    (
        "sync",
        9,
        b"\x01\0\0\0\x0d2\n79\nsub.a/0\n\0\0\0\x053\n-1\n",
    ),
    (
        "register",
        3,
        b"\0\x01s\x01\0\x01\0\x02g1\0\x0e10.0.0.1:20881\0\0\0\0\0\0\0\0\0\x05\x01",
    ),
    ("send", 3, b"\0\x01i\0\0\0\0\0\0\0\x01j\0\0\0\x05\0\x03why"),
    ("browse", 9, b"\0\x03a.b\0\0\0\0\0\0\0\0\0\x07\0\0\0\x64"),
    (
        "browse",
        9,
        b"\0\x03a.b\x01\x01\0\0\x01\x99\0\0\0\0\0\0\0\x64",
    ),
    ("browse", 9, b"\0\x03a.b\0\x02\0\0\0\0\0\0\0\x0a\0\0\0\x0a"),
    ("browse", 9, b"\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x09"),
];

/// What stands in front of the one message of an answer to BROWSE: version, next, end, sequence.
const BROWSED: &[u8] = b"\0\x09\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x07";

fn main() -> std::io::Result<()> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seeds = 0;
    let mut write = |target: &str, name: &str, parts: [&[u8]; 2]| -> std::io::Result<()> {
        let folder = here.join("corpus").join(target);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(name), parts.concat())?;
        seeds += 1;
        Ok(())
    };
    let mut stream = Vec::new();
    let fixtures = std::fs::read_dir(here.join("../protocol/tests/fixtures"))?;
    let mut paths = fixtures
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let json: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        let name = json["name"].as_str().expect("every fixture has a name");
        let frame = bytes_of(json["hex"].as_str().expect("every fixture has bytes"));
        for piece in PIECES {
            write("frame", &format!("{name}_{piece}"), [&[piece], &frame])?;
        }
        let target = TARGETS.iter().find(|(word, _)| name.contains(word));
        let (_, target) = target.expect("every fixture belongs to a target");
        // The version stands at 12; frames cut short in front of the body have none.
        if let (Some(version), Some(body)) = (frame.get(12..14), frame.get(PREFIX_BYTES..)) {
            write(target, name, [version, body])?;
            // A message looks the same in both answers.
            if let (true, Some(message)) = (
                name.starts_with("pull_response"),
                body.get(PULL_HEADER_BYTES..),
            ) {
                write("browse", name, [BROWSED, message])?;
            }
        }
        if frame.len() < 200 && !name.starts_with("malformed") {
            stream.extend(frame);
        }
    }
    stream.truncate(4_000);
    write("frame", "stream", [&[50], &stream])?;
    for (number, (target, version, body)) in BODIES.iter().enumerate() {
        write(target, &format!("body_{number}"), [&[0, *version], body])?;
    }
    println!("{seeds} seeds");
    Ok(())
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digit = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("fixtures are hex");
    (0..hex.len()).step_by(2).map(digit).collect()
}
