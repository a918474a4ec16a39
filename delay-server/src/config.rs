//! Settings of a delay server, with their units and defaults.

use std::path::PathBuf;
use std::time::Duration;

use qmq_daemon::member::{self, MemberConfig};
use qmq_daemon::settings::{Settings, SettingsError};
use qmq_store::{DelayConfig, FlushMode};

/// Everything a delay server can be told. Keys are those of `delay.properties`.
#[derive(Clone, Debug)]
pub struct DelayServerConfig {
    /// Where it listens and whom it reports to. Default of `admin.port`: 20884.
    pub member: MemberConfig,
    /// `store.root`: folder of the store. Default: `data/delay`.
    pub store_root: PathBuf,
    /// `flush.disk.type`, `flush.interval.ms`: when a send is answered. Default: `sync`.
    pub flush: FlushMode,
    /// `message.bytes.max`: largest message. Unit: bytes. Default: 8 MiB.
    pub message_bytes_max: usize,
    /// `subjects.max`: subjects that messages are taken for; each costs some hundred bytes of
    /// memory for ever. Messages for further ones are refused. Default: 1 000 000.
    pub subjects_max: usize,
    /// `delay.max.days`: how far ahead a message may be due; what is farther is refused.
    /// Default: 730.
    pub delay_max: Duration,
    /// `wait.slave.wrote`: sends are answered after a slave has them. No slave is served in this
    /// release, so every answer is given without one, counted. Default: false.
    pub wait_slave: bool,
    /// `overdue.drop.days`: messages that no broker took for so long after their time are dropped,
    /// counted. Default: never.
    pub drop_overdue_after: Option<Duration>,
    /// `dispatch.in.flight.max`: requests on their way to one broker group. Default: 8.
    pub in_flight_max: usize,
    /// `dispatch.overdue.per.second`: overdue messages that go out in a second beside those that
    /// fall due now. Default: 20 000.
    pub overdue_per_second: u32,
    /// `dispatch.reply.ms`: how long a broker may take to answer; then the outcome is unknown and
    /// the same request is repeated. Default: 5 s.
    pub reply_wait: Duration,
    /// `shutdown.drain.seconds`: how long a stopping server waits for started requests.
    /// Default: 10.
    pub drain: Duration,
}

impl DelayServerConfig {
    /// Reads the settings.
    ///
    /// # Errors
    /// The first value that makes no sense, with its origin.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingsError> {
        // Those of the original: of its files by time, and of slaves.
        settings.without_effect(&[
            "segment.scale.minute",
            "load.in.advance.min",
            "load.blocking.exit.sec",
            "load.segment.delay.min",
            "per.segment.file.size",
            "per.message.size",
            "dispatch.log.keep.hour",
            "schedule.clean.before.dispatch.hour",
            "messagelog.retention.hours",
            "log.expired.delete.enable",
            "log.retention.check.interval.seconds",
            "receive.queue.size",
            "Receiver.RejectIllegalSubject",
            "slave.sync.timeout",
            "slave.server.http.port",
            "sync.batch.size",
            "message.sync.timeout.ms",
            "dispatch.sync.timeout.ms",
            "delay.send.threads",
            "delay.send.batch.thread.size",
            "delay.send.wait.time",
            "delay.send.batch.executor.sleep.min.millis",
            "netty.send.message.retry.max.times",
            "netty.send.message.retry.without.fallback.max.times",
            "netty.send.message.retry.min.sleep.millis",
            "netty.send.message.retry.max.sleep.millis",
            "netty.send.message.retry.without.fallback.max.sleep.millis",
            "add.wheel.exception.sleep.millis",
        ]);
        let seconds = |key, default, max| {
            let seconds = settings.number(key, default, 0..=max)?;
            Ok(Duration::from_secs(seconds))
        };
        let days = settings.number("delay.max.days", 730, 1..=36_500)?;
        Ok(Self {
            member: MemberConfig::from_settings(settings, 20884)?,
            store_root: settings.get("store.root", "data/delay".to_owned())?.into(),
            flush: member::flush_interval(settings)?
                .map_or(FlushMode::Sync, |interval| FlushMode::Async { interval }),
            message_bytes_max: settings.number("message.bytes.max", 8 << 20, 1024..=(15 << 20))?,
            subjects_max: settings.number("subjects.max", 1_000_000, 1..=100_000_000)?,
            delay_max: Duration::from_secs(days * 86_400),
            wait_slave: settings.flag("wait.slave.wrote", false)?,
            drop_overdue_after: drop_overdue_after(settings)?,
            in_flight_max: settings.number("dispatch.in.flight.max", 8, 1..=64)?,
            overdue_per_second: overdue_per_second(settings)?,
            reply_wait: Duration::from_millis(settings.number(
                "dispatch.reply.ms",
                5_000,
                100..=60_000,
            )?),
            drain: seconds("shutdown.drain.seconds", 10, 600)?,
        })
    }
    /// The part of the settings that concerns the store of broker group `group`.
    #[must_use]
    pub fn store(&self, group: &str) -> DelayConfig {
        DelayConfig {
            group_name: group.to_owned(),
            flush: self.flush,
            drop_overdue_after: self.drop_overdue_after,
            ..DelayConfig::default()
        }
    }
}

/// `dispatch.overdue.per.second`; may change while running.
///
/// # Errors
/// When it makes no sense.
pub fn overdue_per_second(settings: &Settings) -> Result<u32, SettingsError> {
    settings.number("dispatch.overdue.per.second", 20_000, 100..=10_000_000)
}

fn drop_overdue_after(settings: &Settings) -> Result<Option<Duration>, SettingsError> {
    let key = "overdue.drop.days";
    let days: Option<u64> = settings.optional(key)?;
    match days {
        None => Ok(None),
        Some(days @ 1..=36_500) => Ok(Some(Duration::from_secs(days * 86_400))),
        Some(_) => Err(settings.invalid(key, "not within 1..=36500".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use qmq_daemon::SettingsArgs;
    use qmq_daemon::process::ProcessConfig;

    use super::*;

    const ENDPOINT: (&str, &str) = ("meta.server.endpoint", "http://m:8080/meta/address");

    fn of(pairs: &[(&str, &str)]) -> Result<DelayServerConfig, SettingsError> {
        let mut all = vec![ENDPOINT];
        all.extend_from_slice(pairs);
        DelayServerConfig::from_settings(&Settings::of_pairs("delay", &all))
    }

    #[test]
    fn the_sample_is_complete_and_its_values_are_the_defaults() {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/delay.properties");
        let args = SettingsArgs {
            file: Some(sample),
            ..SettingsArgs::default()
        };
        let settings = Settings::load("delay", &[], &args).unwrap();
        let sample = DelayServerConfig::from_settings(&settings).unwrap();
        ProcessConfig::from_settings(&settings).unwrap();
        let unknown = settings.unknown();
        assert!(unknown.is_empty(), "{unknown:?}");
        let endpoint = sample.member.meta_endpoint.to_string();
        let defaults = Settings::of_pairs("delay", &[(ENDPOINT.0, &endpoint)]);
        let defaults = DelayServerConfig::from_settings(&defaults).unwrap();
        assert_eq!(format!("{sample:?}"), format!("{defaults:?}"));
    }

    #[test]
    fn keys_of_the_original_are_understood() {
        // Scales below 7 did not start there without further keys.
        let pairs = [
            ENDPOINT,
            ("segment.scale.minute", "5"),
            ("dispatch.log.keep.hour", "72"),
            ("wait.slave.wrote", "TRUE"),
        ];
        let settings = Settings::of_pairs("delay", &pairs);
        let config = DelayServerConfig::from_settings(&settings).unwrap();
        assert!(config.wait_slave && settings.unknown().is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert_eq!(of(&[]).unwrap().store("g").drop_overdue_after, None);
        let kept = of(&[("overdue.drop.days", "2")]).unwrap().store("g");
        let two_days = Duration::from_secs(172_800);
        assert_eq!(kept.drop_overdue_after, Some(two_days));
        for pair in [
            ("overdue.drop.days", "0"),
            ("delay.max.days", "0"),
            ("dispatch.overdue.per.second", "1"),
            ("flush.disk.type", "asnyc"),
            ("wait.slave.wrote", "yes"),
        ] {
            let error = of(&[pair]).unwrap_err().to_string();
            assert!(error.contains(pair.0), "{error}");
        }
    }
}
