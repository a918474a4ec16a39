//! The golden frames of the C++ client, sent to running servers.

use anyhow::{Context, Result, ensure};
use qmq_e2e::{Golden, Stranger};
use qmq_protocol::Decode;
use qmq_protocol::Frame;
use qmq_protocol::command::client_register::ClientRegisterResponse;
use qmq_protocol::command::send::SendResponse;

use super::{Scene, TARGETS};

const LEGACY: i16 = 3;

fn golden(name: &str) -> Golden {
    let mut frames = Golden::starting_with(&format!("legacy_v3_cpp_{name}.json")).unwrap();
    frames.pop().unwrap()
}

async fn replay(stranger: &mut Stranger, name: &str) -> Result<Frame> {
    stranger.write(&golden(name).bytes).await?;
    let reply = stranger.next().await?.context("closed")?;
    ensure!(reply.header.version == LEGACY, "{:?}", reply.header);
    Ok(reply)
}

/// From the first question to a stored message, in the layouts that client reads.
#[test]
fn a_cpp_client_is_served_from_route_to_result() {
    let scene = Scene::new();
    scene.run(async {
        let mut to_metaserver = Stranger::connect(scene.metaserver).await?;
        let reply = replay(&mut to_metaserver, "client_register_request").await?;
        ensure!(reply.header.code == 0 && reply.header.request_code == 35);
        let answer = ClientRegisterResponse::decode_version(LEGACY, &reply.body)?;
        ensure!(answer.subject == "wire.order.changed" && answer.client_type_code == 1);
        let group = answer.groups.first().context("a group")?;
        ensure!(group.master.parse() == Ok(scene.broker), "{group:?}");

        let mut to_broker = Stranger::connect(scene.broker).await?;
        let reply = replay(&mut to_broker, "send_request").await?;
        ensure!(reply.header.code == 0 && reply.header.request_code == 10);
        let listed = SendResponse::decode(LEGACY, &reply.body)?;
        let listed: Vec<_> = listed.failures().collect();
        ensure!(listed.len() == 1, "{listed:?}");
        ensure!(listed[0].message_id == b"231114.221320.192.168.1.10.4242.900");
        ensure!(listed[0].result.code() == 0, "{listed:?}");
        Ok(())
    });
    for target in TARGETS {
        let server = scene.address(target);
        let reply = scene.run(async {
            let mut stranger = Stranger::connect(server).await?;
            replay(&mut stranger, "heartbeat_request").await
        });
        assert_eq!(reply.header.code, 100);
    }
    scene.end();
}
