//! The parts of a broker that clients talk to, and their orderly end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use qmq_daemon::{member, thread};
use qmq_model::Clock;
use qmq_remoting::{DrainReport, Server};
use qmq_store::{Error, Opened};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::broker::Broker;
use crate::config::BrokerConfig;
use crate::deliver::Deliverer;
use crate::desk::Desk;
use crate::env_rules::RulesInUse;
use crate::http::LateShards;
use crate::metrics::Metrics;
use crate::portion::Limits;
use crate::shard::{JOBS_MAX, Shards, Surroundings};
use crate::waiting::Waiting;

/// Owners of subscriptions per process. Each is one task; pulls and acks are cheap.
const SHARDS: usize = 4;

/// A store that is being served.
pub struct Serving {
    writable: Arc<AtomicBool>,
    desk: Arc<Desk>,
    server: JoinHandle<DrainReport>,
    stop_server: CancellationToken,
    writer: oneshot::Receiver<Result<(), Error>>,
    drain: Duration,
}

impl Serving {
    /// Serves an opened store on a bound port.
    ///
    /// # Errors
    /// When the writer's thread or an HTTP client cannot be started.
    pub fn start(
        config: &BrokerConfig,
        server: Server,
        opened: Opened,
        registry: &qmq_daemon::metrics::Metrics,
        late: &LateShards,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let metrics = Arc::new(Metrics::register(registry));
        let waiting = Arc::new(Waiting::new(SHARDS));
        let writable = Arc::new(AtomicBool::new(true));
        let stop_server = CancellationToken::new();
        let env_rules = match config.env_rules_url.clone() {
            Some(url) => RulesInUse::follow(url, stop_server.clone())?,
            None => RulesInUse::default(),
        };
        let Opened {
            writer,
            reader,
            progress,
            ..
        } = opened;
        let desk = Desk::start(
            writer,
            reader.clone(),
            Arc::clone(&waiting),
            Arc::clone(&metrics),
            Arc::clone(&clock),
        );
        let around = Surroundings {
            reader: reader.clone(),
            desk: Arc::clone(&desk),
            waiting: Arc::clone(&waiting),
            deliverer: Deliverer::new(reader, Arc::clone(&metrics)),
            clock,
            metrics: Arc::clone(&metrics),
            limits: Limits {
                unacked_max: config.unacked_max,
                reply_bytes_max: config.reply_bytes_max,
            },
            rules: config.rules,
            jobs: Arc::new(Semaphore::new(JOBS_MAX)),
            stop: stop_server.clone(),
        };
        let shards = Shards::start(SHARDS, &progress, &around);
        // Nobody else sets it.
        let _ = late.set(shards.clone());
        let works_off = Arc::clone(&desk);
        let writer = thread::spawn("qmq-writer", move || works_off.run())
            .context("cannot start the writer's thread")?;
        let may_write = Arc::clone(&writable);
        let broker = Broker::new(config, shards, &around, may_write, env_rules);
        let served = server.serve(Arc::new(broker), stop_server.clone(), config.drain);
        let server = tokio::spawn(served);
        Ok(Self {
            writable,
            desk,
            server,
            stop_server,
            writer,
            drain: config.drain,
        })
    }
}

impl member::Serving for Serving {
    /// Pulls and acks go on.
    fn refuse_sends(&self) {
        self.writable.store(false, Ordering::Relaxed);
    }

    async fn failed(&mut self) -> anyhow::Error {
        match (&mut self.writer).await {
            Ok(Err(error)) => anyhow::Error::new(error).context("the store failed"),
            Ok(Ok(())) | Err(_) => anyhow!("the writer thread ended"),
        }
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.refuse_sends();
        self.stop_server.cancel();
        match tokio::time::timeout(self.drain * 2, self.server).await {
            Ok(Ok(report)) => info!(?report, "connections are closed"),
            Ok(Err(_)) | Err(_) => warn!("connections did not drain in time"),
        }
        self.desk.close();
        let closed = self.writer.await.context("the writer thread ended")?;
        closed.context("closing the store failed")
    }
}
