//! The skeleton all servers share: settings, logging, start, wait for a signal, drain.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::address::HostIdentity;
use crate::failure::{EXIT_NOT_DRAINED, FailureKind, StartError};
use crate::logging::{self, LogFilter, LogFormat};
use crate::metrics;
use crate::open_files;
use crate::settings::{Settings, SettingsArgs, SettingsError};
use crate::shutdown::StopSignals;

/// Tasks that run on a thread before it looks at sockets and timers again. A task that handles a
/// full read takes some 50 us.
const EVENT_INTERVAL: u32 = 8;

/// Longest orderly end. Taking leave of the metaserver may use up 6 s of it.
const DRAIN_SECONDS_DEFAULT: u64 = 30;

/// A server that has started.
pub trait Running: Send {
    /// One line about what listens where, for the log.
    fn banner(&self) -> String;

    /// Waits until the server has ended: after `stop` was cancelled and everything is drained, or
    /// by itself when it cannot go on.
    fn ended(self) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// Which settings a server reads.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// Name of the settings file, without `.properties`; also stands in front of error lines.
    pub name: &'static str,
    /// Further settings files in the same folder, without `.properties`.
    pub companions: &'static [&'static str],
}

impl Server {
    /// Runs a server to its end: `configure` turns settings into a configuration, `start` starts
    /// the server and gets the settings to follow dynamic keys.
    ///
    /// Start-up failures print one line on standard error. The exit codes are those of
    /// [`FailureKind`], 0 after an orderly end, and [`EXIT_NOT_DRAINED`].
    pub fn run<C, R, F>(
        self,
        args: &SettingsArgs,
        configure: impl FnOnce(&Settings) -> Result<C, SettingsError>,
        start: impl FnOnce(C, Settings, CancellationToken) -> F,
    ) -> ExitCode
    where
        R: Running,
        F: Future<Output = Result<R, StartError>>,
    {
        let mut prepared = match self.prepare(args, configure) {
            Ok(prepared) => prepared,
            Err(error) => return self.refuse(&StartError::from(error)),
        };
        if args.check_config {
            print!("{}", prepared.settings.report());
            return ExitCode::SUCCESS;
        }
        let ProcessConfig {
            filter,
            format,
            drain,
        } = prepared.process;
        let level = logging::init(filter, format);
        prepared
            .settings
            .on_change(move |settings| level.follow(settings));
        open_files::raise();
        prepared.settings.log_findings();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .event_interval(EVENT_INTERVAL)
            .enable_all()
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return self.refuse(&StartError::new(FailureKind::Running, error)),
        };
        let code = runtime.block_on(async {
            let stop = CancellationToken::new();
            let start = start(prepared.config, prepared.settings, stop.clone());
            self.serve(start, drain, stop).await
        });
        // Blocking calls that hang must not keep the process alive.
        runtime.shutdown_background();
        code
    }

    fn prepare<C>(
        self,
        args: &SettingsArgs,
        configure: impl FnOnce(&Settings) -> Result<C, SettingsError>,
    ) -> Result<Prepared<C>, SettingsError> {
        let settings = Settings::load(self.name, self.companions, args)?;
        let process = ProcessConfig::from_settings(&settings)?;
        let config = configure(&settings)?;
        Ok(Prepared {
            settings,
            process,
            config,
        })
    }

    async fn serve<R: Running>(
        self,
        start: impl Future<Output = Result<R, StartError>>,
        drain: Duration,
        stop: CancellationToken,
    ) -> ExitCode {
        let signals = match StopSignals::install() {
            Ok(signals) => signals,
            Err(error) => return self.refuse(&StartError::new(FailureKind::Running, error)),
        };
        let second_signal = signals.watch(stop.clone());
        tokio::pin!(second_signal);
        let running = tokio::select! {
            started = start => match started {
                Ok(running) => running,
                Err(error) => return self.refuse(&error),
            },
            () = &mut second_signal => return ExitCode::from(EXIT_NOT_DRAINED),
        };
        info!("started: {}", running.banner());
        let deadline = async {
            stop.cancelled().await;
            tokio::time::sleep(drain).await;
        };
        tokio::select! {
            ended = running.ended() => match ended {
                Ok(()) => {
                    info!("stopped");
                    ExitCode::SUCCESS
                }
                Err(error) => {
                    error!("server failed: {error:#}");
                    self.refuse(&StartError::new(FailureKind::Running, error))
                }
            },
            () = deadline => {
                warn!(seconds = drain.as_secs(), "drain deadline passed");
                ExitCode::from(EXIT_NOT_DRAINED)
            }
            () = &mut second_signal => ExitCode::from(EXIT_NOT_DRAINED),
        }
    }

    fn refuse(self, error: &StartError) -> ExitCode {
        eprintln!("qmq-{}: {error}", self.name);
        error.kind().into()
    }
}

struct Prepared<C> {
    settings: Settings,
    process: ProcessConfig,
    config: C,
}

/// What every server process can be told.
#[derive(Debug)]
pub struct ProcessConfig {
    /// `log.level`: what is logged. May change while running.
    filter: LogFilter,
    /// `log.format`: how it is written.
    format: LogFormat,
    /// `drain.deadline.seconds`: longest orderly end. Default: 30.
    drain: Duration,
}

impl ProcessConfig {
    /// Reads the settings.
    ///
    /// # Errors
    /// The first value that makes no sense, with its origin.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingsError> {
        let seconds = settings.number("drain.deadline.seconds", DRAIN_SECONDS_DEFAULT, 1..=3600)?;
        // Servers use these when they start; a bad or unknown one is told before.
        HostIdentity::check(settings)?;
        metrics::legacy_names(settings)?;
        Ok(Self {
            filter: LogFilter::from_settings(settings)?,
            format: LogFormat::from_settings(settings)?,
            drain: Duration::from_secs(seconds),
        })
    }
}
