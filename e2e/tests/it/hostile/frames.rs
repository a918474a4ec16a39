//! Frames that are malformed, and good ones that end in the middle.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use qmq_e2e::{Golden, Stranger};
use qmq_protocol::command::send::SendResponse;
use qmq_protocol::{Decode, Frame};
use tokio::task::JoinSet;

use super::{Scene, TARGETS, Target};

/// Connections at a time.
const AT_ONCE: usize = 32;
/// Frames up to this length are cut, and the connection ended, at each of their bytes. Longer ones
/// are written byte by byte, each followed by silence until the next, and ended at some bytes.
const SHORT_BYTES: usize = 1_000;
/// Distance of the cuts of longer frames. A prime, so that no field is missed each time.
const LONG_STEP: usize = 997;

/// What becomes of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// The stream cannot be followed: closed.
    Closed,
    /// No answer, and the connection is kept.
    Silence,
    /// Answered with this code and no body.
    Code(i16),
    /// A send whose only message is refused with this result.
    Refused(i32),
}

fn expected(name: &str, target: Target) -> Outcome {
    match name.strip_prefix("malformed_").unwrap() {
        "bad_magic" | "header_size_16" | "header_size_20" | "total_max" | "total_too_small" => {
            Outcome::Closed
        }
        "response_flag" => Outcome::Silence,
        // Nobody sends, pulls or acks at a metaserver, nor pulls or acks at a delay server.
        "unknown_code_9999" => Outcome::Code(3),
        _ if target == Target::Metaserver => Outcome::Code(3),
        name if target == Target::DelayServer && !name.starts_with("send") => Outcome::Code(3),
        "pull_truncated"
        | "pull_unknown_filter"
        | "ack_v9_without_broadcast_byte"
        | "send_empty_message_id" => Outcome::Code(51),
        "pull_request_num_0" | "pull_subject_with_slash" => Outcome::Code(4),
        "send_wrong_crc" => Outcome::Refused(6),
        other => panic!("no outcome is known for {other}"),
    }
}

fn outcome(reply: &Frame) -> Result<Outcome> {
    if reply.body.is_empty() {
        return Ok(Outcome::Code(reply.header.code));
    }
    ensure!(reply.header.code == 0, "{reply:?}");
    let response = SendResponse::decode(9, &reply.body)?;
    let mut failures = response.failures();
    let failure = failures.next().context("a failure")?;
    ensure!(!failure.remark.is_empty(), "a refusal says why");
    Ok(Outcome::Refused(failure.result.code()))
}

/// Sends the frame and, on the same connection, the heartbeat that was sent behind it. That is
/// answered first when the answer to the frame is held back; `is_silent` says that none will come.
async fn try_malformed(server: SocketAddr, frame: &Golden, is_silent: bool) -> Result<Outcome> {
    let mut stranger = Stranger::connect(server).await?;
    stranger.write(&frame.bytes).await?;
    let heartbeat = frame.next.as_ref().context("a next frame")?;
    stranger.write(heartbeat).await?;
    let mut found = Outcome::Silence;
    let mut is_alive = false;
    while !is_alive || (found == Outcome::Silence && !is_silent) {
        let Some(reply) = stranger.next().await? else {
            return Ok(Outcome::Closed);
        };
        match reply.header.code {
            100 => is_alive = true,
            _ => found = outcome(&reply)?,
        }
    }
    Ok(found)
}

#[test]
fn a_malformed_frame_has_its_outcome_and_hurts_nobody() {
    let scene = Scene::new();
    for target in TARGETS {
        let mut tried = 0;
        for frame in Golden::starting_with("malformed_").unwrap() {
            let expected = expected(&frame.name, target);
            let is_silent = expected == Outcome::Silence;
            let found = scene.run(try_malformed(scene.address(target), &frame, is_silent));
            assert_eq!(found, expected, "{} {target:?}", frame.name);
            tried += 1;
        }
        assert_eq!(tried, 14);
    }
    scene.end();
}

/// One connection that ends after `len` bytes of a frame.
#[derive(Clone, Copy)]
struct Cut {
    frame: usize,
    len: usize,
    /// Written byte by byte.
    dribbled: bool,
}

fn cuts(frames: &[Golden]) -> Vec<Cut> {
    let mut cuts = Vec::new();
    for (frame, golden) in frames.iter().enumerate() {
        let total = golden.bytes.len();
        let step = if total <= SHORT_BYTES { 1 } else { LONG_STEP };
        let ended = |len| Cut {
            frame,
            len,
            dribbled: false,
        };
        cuts.extend((1..total).step_by(step).map(ended));
        cuts.push(Cut {
            frame,
            len: total - 1,
            dribbled: true,
        });
    }
    cuts
}

/// The server must close the connection without a word.
async fn try_cut(server: SocketAddr, part: &[u8], dribbled: bool) -> Result<()> {
    let mut stranger = Stranger::connect(server).await?;
    let step = if dribbled { 1 } else { part.len() };
    for bytes in part.chunks(step) {
        if !stranger.write(bytes).await? {
            break;
        }
    }
    stranger.finish().await?;
    let answer = stranger.next().await?;
    ensure!(answer.is_none(), "half a frame was answered: {answer:?}");
    Ok(())
}

async fn try_cuts(server: SocketAddr, frames: Arc<Vec<Golden>>, all: Arc<Vec<Cut>>) -> Result<()> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (frames, all, next) = (Arc::clone(&frames), Arc::clone(&all), Arc::clone(&next));
        workers.spawn(async move {
            while let Some(cut) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                let golden = &frames[cut.frame];
                try_cut(server, &golden.bytes[..cut.len], cut.dribbled)
                    .await
                    .with_context(|| format!("{} cut at {}", golden.name, cut.len))?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = workers.join_next().await {
        done??;
    }
    Ok(())
}

#[test]
fn frames_cut_at_every_byte_leak_nothing() {
    let mut scene = Scene::new();
    let frames: Vec<Golden> = Golden::starting_with("")
        .unwrap()
        .into_iter()
        .map(|frame| frame.in_version(9))
        .collect();
    assert!(frames.len() > 100);
    let all = Arc::new(cuts(&frames));
    let frames = Arc::new(frames);
    println!("{} connections to each server", all.len());
    for target in TARGETS {
        let before = scene.open_files(target);
        let server = scene.address(target);
        scene.run(try_cuts(server, Arc::clone(&frames), Arc::clone(&all)));
        scene.good_goes_on();
        scene.await_release(target, before);
    }
    scene.end();
}
