//! The parts of a delay server, and their orderly end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use qmq_client::RouteFinder;
use qmq_daemon::settings::SettingsError;
use qmq_daemon::{Settings, member, thread};
use qmq_model::{Clock, UnixMillis};
use qmq_remoting::{DrainReport, Pool, PoolConfig, Server};
use qmq_store::{DelayOpened, DelayReader, Error};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::{DelayServerConfig, overdue_per_second};
use crate::control::Control;
use crate::dispatch::{Dispatch, Limits};
use crate::hands::Hands;
use crate::http::{Desk, LateDesk};
use crate::inbox::Inbox;
use crate::metrics::Metrics;
use crate::routes::Addresses;
use crate::scheduler::{News, NewsBox, Scheduler};
use crate::sender::Sender;
use crate::server::DelayServer;
use crate::writer::Writer;

/// How often the store is asked what waits in it.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Longest pause between two attempts to connect to a broker.
const RECONNECT_WAIT_MAX: Duration = Duration::from_secs(1);
/// As what the server asks the metaserver for routes.
const APP_CODE: &str = "qmq-delay-server";

/// A store that is being served.
pub struct Serving {
    writable: Arc<AtomicBool>,
    inbox: Arc<Inbox>,
    news: NewsBox,
    server: JoinHandle<DrainReport>,
    stop_server: CancellationToken,
    writer: oneshot::Receiver<Result<(), Error>>,
    scheduler: oneshot::Receiver<()>,
    drain: Duration,
}

impl Serving {
    /// Serves an opened store of broker group `group` on a bound port. Must be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// When a thread cannot be started, or the metaserver's URL cannot be used.
    pub fn start(
        config: &DelayServerConfig,
        group: &str,
        server: Server,
        opened: DelayOpened,
        registry: &qmq_daemon::metrics::Metrics,
        late: &LateDesk,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let metrics = Arc::new(Metrics::register(registry));
        let inbox = Arc::new(Inbox::default());
        let news = NewsBox::default();
        let writable = Arc::new(AtomicBool::new(true));
        let stop_server = CancellationToken::new();
        let DelayOpened {
            writer,
            reader,
            begun,
            ..
        } = opened;
        if config.wait_slave {
            warn!("wait.slave.wrote is set and no slave is registered: sends are answered without");
        }
        let hands = hands(config, &reader, &inbox, &news, &clock, &metrics)?;
        let limits = Limits {
            requests_per_group: config.in_flight_max,
            overdue_per_second: config.overdue_per_second,
            ..Limits::default()
        };
        let dispatch = Dispatch::new(limits, rand::random());
        let scheduler = Scheduler::new(
            dispatch,
            begun,
            hands,
            news.clone(),
            Arc::clone(&clock),
            Arc::clone(&metrics),
        );
        let writer = Writer::new(
            writer,
            Arc::clone(&inbox),
            news.clone(),
            Arc::clone(&metrics),
            Arc::clone(&clock),
            config.wait_slave,
        );
        let drain = config.drain;
        let writer = thread::spawn("qmq-writer", || writer.run())?;
        let scheduler = thread::spawn("qmq-scheduler", move || scheduler.run(drain))?;
        let look = look_at_store(reader.clone(), Arc::clone(&metrics), Arc::clone(&clock));
        // Ends with the server.
        tokio::spawn(stop_server.clone().run_until_cancelled_owned(look));
        let control = Control::new(reader.clone(), Arc::clone(&inbox));
        // Nobody else sets it.
        let _ = late.set(Desk {
            group: group.to_owned(),
            control,
            clock: Arc::clone(&clock),
            delay_max: config.delay_max,
        });
        let service = DelayServer {
            inbox: Arc::clone(&inbox),
            clock,
            metrics,
            reader,
            message_bytes_max: config.message_bytes_max,
            subjects_max: config.subjects_max,
            delay_max: config.delay_max,
            writable: Arc::clone(&writable),
        };
        let served = server.serve(Arc::new(service), stop_server.clone(), drain);
        Ok(Self {
            writable,
            inbox,
            news,
            server: tokio::spawn(served),
            stop_server,
            writer,
            scheduler,
            drain,
        })
    }

    /// Takes over settings that were changed while running.
    ///
    /// # Errors
    /// When a value makes no sense; nothing changes then.
    pub fn follower(
        &self,
    ) -> impl Fn(&Settings) -> Result<(), SettingsError> + Send + Sync + use<> {
        let news = self.news.clone();
        move |settings| {
            news.tell(News::OverdueRate(overdue_per_second(settings)?));
            Ok(())
        }
    }
}

impl member::Serving for Serving {
    /// Dispatch goes on.
    fn refuse_sends(&self) {
        self.writable.store(false, Ordering::Relaxed);
    }

    async fn failed(&mut self) -> anyhow::Error {
        tokio::select! {
            ended = &mut self.writer => match ended {
                Ok(Err(error)) => anyhow::Error::new(error).context("the store failed"),
                Ok(Ok(())) | Err(_) => anyhow!("the writer thread ended"),
            },
            _ = &mut self.scheduler => anyhow!("the scheduler thread ended"),
        }
    }

    /// Requests under way are waited for, so that their outcome is written down.
    async fn stop(self) -> anyhow::Result<()> {
        self.refuse_sends();
        self.stop_server.cancel();
        self.news.tell(News::Stop);
        match tokio::time::timeout(self.drain * 2, self.server).await {
            Ok(Ok(report)) => info!(?report, "connections are closed"),
            Ok(Err(_)) | Err(_) => warn!("connections did not drain in time"),
        }
        if self.scheduler.await.is_err() {
            error!("the scheduler thread ended");
        }
        self.inbox.close();
        let closed = self.writer.await.context("the writer thread ended")?;
        closed.context("closing the store failed")
    }
}

fn hands(
    config: &DelayServerConfig,
    reader: &DelayReader,
    inbox: &Arc<Inbox>,
    news: &NewsBox,
    clock: &Arc<dyn Clock>,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Hands> {
    let addresses = Addresses::default();
    let finder = RouteFinder::new(&config.member.meta_endpoint.to_string(), APP_CODE);
    let sender = Sender {
        reader: reader.clone(),
        pool: Pool::new(PoolConfig {
            back_off_max: RECONNECT_WAIT_MAX,
            ..PoolConfig::default()
        }),
        addresses: addresses.clone(),
        reply_wait: config.reply_wait,
        clock: Arc::clone(clock),
        metrics: Arc::clone(metrics),
    };
    Ok(Hands {
        inbox: Arc::clone(inbox),
        sender,
        finder: finder.context("meta.server.endpoint")?,
        reader: reader.clone(),
        addresses,
        news: news.clone(),
        runtime: Handle::current(),
    })
}

/// Keeps the gauges of what waits up to date.
async fn look_at_store(reader: DelayReader, metrics: Arc<Metrics>, clock: Arc<dyn Clock>) {
    loop {
        let (reader, metrics, now) = (reader.clone(), Arc::clone(&metrics), clock.now());
        let looked = tokio::task::spawn_blocking(move || {
            metrics.set_pending(&reader.stats(), now);
            let mut oldest = Vec::new();
            let overdue = UnixMillis(0)..now;
            match reader.list(None, overdue, None, 1, &mut oldest) {
                Ok(_) => {
                    let late = oldest.first().map(|oldest| now.since(oldest.entry.due));
                    let late = late.unwrap_or_default().as_secs();
                    let late = i64::try_from(late).unwrap_or(i64::MAX);
                    metrics.oldest_overdue_seconds.set(late);
                }
                Err(error) => error!(%error, "cannot look for what is overdue"),
            }
        });
        // It is not interrupted unless the process ends.
        let _ = looked.await;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
