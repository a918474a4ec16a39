//! Whatever a stranger sends hurts nobody but the stranger: real servers, and beside the bad
//! clients a good one that sends, pulls and acks all the time and must not notice anything.

mod crowd;
mod frames;
mod greedy;
mod legacy;
mod requests;

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use qmq_e2e::neighbour::Noticed;
use qmq_e2e::{Cluster, Neighbour, Server, Stranger, wait};
use qmq_protocol::CommandCode;
use tokio::runtime::Runtime;

const MIB: u64 = 1024 * 1024;
/// The most memory a broker may ever have resident while strangers that send little do their worst:
/// ten thousand connections at 4 KiB and a task each come to some 80 MiB, and recent messages, the
/// buffers of a batch and what the allocator holds on to may be as much again.
const BROKER_RESIDENT_MAX: u64 = 192 * MIB;
/// The same for a metaserver, which keeps no messages.
const METASERVER_RESIDENT_MAX: u64 = 192 * MIB;
/// The same for a delay server.
const DELAY_SERVER_RESIDENT_MAX: u64 = 192 * MIB;
/// How long a server may take to let go of connections that ended.
const RELEASE_MAX: Duration = Duration::from_secs(60);
/// Descriptors that come and go by themselves: files of the store, connections of the database.
const FILES_MARGIN: usize = 16;
/// Longest a phase of a test may take: some seconds, the rest is for busy machines.
const PHASE_MAX: Duration = Duration::from_secs(180);
/// Rounds the good client goes on for while the bad ones do their worst.
const ROUNDS: usize = 50;

/// A cluster with a good client on it.
struct Scene {
    cluster: Cluster,
    runtime: Runtime,
    metaserver: SocketAddr,
    broker: SocketAddr,
    delay_server: SocketAddr,
    good: Option<Neighbour>,
}

/// Which of the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Broker,
    DelayServer,
    Metaserver,
}

const TARGETS: [Target; 3] = [Target::Broker, Target::DelayServer, Target::Metaserver];

impl Scene {
    fn new() -> Self {
        let mut cluster = Cluster::with_broker().unwrap();
        cluster.add_delay_server("d1", &[]).unwrap();
        let runtime = Runtime::new().unwrap();
        let metaserver = cluster.metaserver.address("tcp").unwrap();
        let broker = cluster.broker().server.address("tcp").unwrap();
        let delay_server = cluster.delay_server().server.address("tcp").unwrap();
        let good = Neighbour::start(runtime.handle(), metaserver, broker).unwrap();
        Self {
            cluster,
            runtime,
            metaserver,
            broker,
            delay_server,
            good: Some(good),
        }
    }

    fn address(&self, target: Target) -> SocketAddr {
        match target {
            Target::Broker => self.broker,
            Target::DelayServer => self.delay_server,
            Target::Metaserver => self.metaserver,
        }
    }

    fn server(&mut self, target: Target) -> &Server {
        match target {
            Target::Broker => &self.cluster.broker().server,
            Target::DelayServer => &self.cluster.delay_server().server,
            Target::Metaserver => &self.cluster.metaserver,
        }
    }

    fn run<T>(&self, future: impl Future<Output = Result<T>>) -> T {
        let within = async { tokio::time::timeout(PHASE_MAX, future).await };
        let done = self.runtime.block_on(within);
        done.expect("a phase takes seconds").unwrap()
    }

    fn open_files(&mut self, target: Target) -> usize {
        self.server(target).usage().unwrap().open_files
    }

    /// The good client goes on while the bad ones are there.
    fn good_goes_on(&mut self) {
        let good = self.good.take().unwrap();
        self.good = Some(good.live_through(ROUNDS).unwrap());
    }

    /// Waits until the server has accepted so many connections that about `count` files are open:
    /// whoever is connected may not be accepted yet.
    fn await_open(&mut self, target: Target, count: usize) {
        wait::until("connections are accepted", RELEASE_MAX, || {
            let open = self.server(target).usage()?.open_files;
            Ok((open + FILES_MARGIN >= count).then_some(()))
        })
        .unwrap();
    }

    /// Waits until the server has no more connections than when `before` files were open.
    fn await_release(&mut self, target: Target, before: usize) {
        wait::until("connections are let go", RELEASE_MAX, || {
            let open = self.server(target).usage()?.open_files;
            Ok((open <= before + FILES_MARGIN).then_some(()))
        })
        .unwrap();
    }

    /// A new client is served.
    fn newcomer_is_served(&self, target: Target) {
        let server = self.address(target);
        let reply = self.run(async {
            let mut newcomer = Stranger::connect(server).await?;
            newcomer.ask(9, CommandCode::Heartbeat, &[]).await
        });
        assert_eq!(reply.header.code, 100);
    }

    /// The good client noticed nothing, and the servers stayed within their memory.
    fn end(self) -> Noticed {
        self.end_within(BROKER_RESIDENT_MAX, METASERVER_RESIDENT_MAX)
    }

    fn end_within(mut self, broker_max: u64, metaserver_max: u64) -> Noticed {
        self.good_goes_on();
        let noticed = self.good.take().unwrap().stop().unwrap();
        for (target, most) in [
            (Target::Broker, broker_max),
            (Target::DelayServer, DELAY_SERVER_RESIDENT_MAX),
            (Target::Metaserver, metaserver_max),
        ] {
            self.newcomer_is_served(target);
            let peak = self.server(target).usage().unwrap().resident_peak;
            println!("{target:?}: {} MiB resident at most", peak / MIB);
            assert!(peak <= most, "{target:?}: {peak} bytes, bound {most}");
        }
        println!("{noticed:?}");
        self.cluster.stop().unwrap();
        noticed
    }
}

/// What all others rely on.
#[test]
fn the_good_client_notices_a_broker_that_is_gone() {
    let mut scene = Scene::new();
    scene.cluster.broker().server.kill().unwrap();
    let good = scene.good.take().unwrap();
    let error = format!("{:#}", good.live_through(ROUNDS).unwrap_err());
    assert!(error.contains("noticed something: round"), "{error}");
}
