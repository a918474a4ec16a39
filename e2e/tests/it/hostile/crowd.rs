//! Many connections that announce much and send nothing.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use qmq_e2e::usage::allow_open_files;
use qmq_e2e::{Stranger, Usage};
use tokio::task::JoinSet;

use super::{MIB, Scene, TARGETS, Target};

const ANNOUNCERS: usize = 1_000;
const SILENT: usize = 10_000;
/// Files beside those of the silent connections: of the store, of other tests in this process.
const FILES_BESIDE: u64 = 3_000;
/// Connections that are being made at a time.
const CONNECTING: usize = 256;

/// A header that announces `total` bytes behind its first field, and nothing else.
fn announcement(total: i32) -> Vec<u8> {
    let mut bytes = total.to_be_bytes().to_vec();
    bytes.extend_from_slice(&18_i16.to_be_bytes());
    bytes.extend_from_slice(&0xDEC1_0ADE_u32.to_be_bytes());
    // SEND_MESSAGE, version 9.
    bytes.extend_from_slice(&[0, 10, 0, 9]);
    bytes.extend_from_slice(&[0; 10]);
    bytes
}

/// Connects `count` times; each writes `first`.
async fn connect_all(server: SocketAddr, count: usize, first: &[u8]) -> Result<Vec<Stranger>> {
    let mut made = Vec::with_capacity(count);
    let mut making = JoinSet::new();
    for _ in 0..count {
        if making.len() >= CONNECTING {
            made.extend(making.join_next().await.transpose()?.transpose()?);
        }
        let first = first.to_vec();
        making.spawn(async move {
            let mut stranger = Stranger::connect(server).await?;
            stranger.write(&first).await?;
            anyhow::Ok(stranger)
        });
    }
    while let Some(done) = making.join_next().await {
        made.push(done??);
    }
    Ok(made)
}

/// Each is closed, without an answer.
async fn await_closed(strangers: Vec<Stranger>) -> Result<()> {
    for mut stranger in strangers {
        let answer = stranger.next().await?;
        ensure!(answer.is_none(), "answered: {answer:?}");
    }
    Ok(())
}

#[test]
fn two_gibibytes_announced_a_thousand_times_are_refused_at_once() {
    allow_open_files(ANNOUNCERS as u64 + FILES_BESIDE).unwrap();
    let mut scene = Scene::new();
    for target in TARGETS {
        let before = scene.open_files(target);
        let server = scene.address(target);
        let first = announcement(i32::MAX);
        let strangers = scene.run(connect_all(server, ANNOUNCERS, &first));
        scene.run(await_closed(strangers));
        scene.good_goes_on();
        scene.await_release(target, before);
    }
    scene.end();
}

/// The largest body that a server takes.
fn body_max(target: Target) -> i32 {
    match target {
        Target::Broker | Target::DelayServer => 16 * 1024 * 1024,
        Target::Metaserver => 256 * 1024,
    }
}

/// The largest frame that is taken, announced and not sent: memory follows the bytes that came.
/// A thousand of them would be far beyond the bound.
#[test]
fn the_largest_frame_announced_a_thousand_times_costs_nothing() {
    allow_open_files(ANNOUNCERS as u64 + FILES_BESIDE).unwrap();
    let mut scene = Scene::new();
    for target in TARGETS {
        let before = scene.open_files(target);
        let server = scene.address(target);
        let body = body_max(target);
        assert!(ANNOUNCERS as u64 * u64::try_from(body).unwrap() > MIB * 249);
        let mut first = announcement(20 + body);
        first.extend_from_slice(&[0; 100]);
        let strangers = scene.run(connect_all(server, ANNOUNCERS, &first));
        scene.good_goes_on();
        scene.await_open(target, before + ANNOUNCERS);
        drop(strangers);
        scene.await_release(target, before);
    }
    scene.end();
}

#[test]
fn ten_thousand_silent_connections_leave_room_for_others() {
    allow_open_files(SILENT as u64 + FILES_BESIDE).unwrap();
    let mut scene = Scene::new();
    for target in TARGETS {
        let before = scene.open_files(target);
        let server = scene.address(target);
        let strangers = scene.run(connect_all(server, SILENT, &[]));
        // They count as long as the server has not closed them: 30 s without a frame.
        let own = Usage::of(std::process::id()).unwrap();
        assert!(own.open_files > SILENT, "{own:?}");
        scene.good_goes_on();
        scene.newcomer_is_served(target);
        println!("{target:?}: {} files open", scene.open_files(target));
        scene.await_open(target, before + SILENT / 2);
        drop(strangers);
        scene.await_release(target, before);
    }
    scene.end();
}
