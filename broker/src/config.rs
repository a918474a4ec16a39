//! Settings of a broker, with their units and defaults.

use std::path::PathBuf;
use std::time::Duration;

use qmq_daemon::member::{self, MemberConfig};
use qmq_daemon::settings::{Settings, SettingsError};
use qmq_store::{FlushMode, Kept, Retention, StoreConfig};

use crate::subscription::Patience;

/// Everything a broker can be told. Keys are those of `broker.properties`.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// Where it listens and whom it reports to. Default of `admin.port`: 20883.
    pub member: MemberConfig,
    /// `store.root`: folder of the store. Default: `data/broker`.
    pub store_root: PathBuf,
    /// `flush.disk.type`: when a send is answered. Default: `sync`.
    pub flush: FlushMode,
    /// What is kept; may change while running. See [`kept`].
    pub kept: Kept,
    /// `message.bytes.max`: largest message. Unit: bytes. Default: 8 MiB.
    pub message_bytes_max: usize,
    /// `duplicate.window.seconds`: how long a message is remembered, so that a producer that sends
    /// it again gets success and no second copy. 0: not at all. Default: 600.
    pub duplicate_window: Duration,
    /// `duplicate.window.bytes.max`: memory for that. Unit: bytes. Default: 256 MiB.
    pub duplicate_bytes_max: usize,
    /// `consumer.unacked.max`: messages one consumer may hold. Default: 100 000.
    pub unacked_max: u64,
    /// Values that may change while running.
    pub rules: RuleValues,
    /// `sub_env_isolation_filter.enable` and `sub_env_isolation_filter.rules_url`: where rules that
    /// keep sub-environments apart come from. Default: they are not kept apart.
    pub env_rules_url: Option<String>,
    /// `pull.reply.bytes.max`: size of one pull reply; a single larger message still goes out.
    /// Unit: bytes. Default: 4 MiB.
    pub reply_bytes_max: usize,
    /// `subjects.max`: subjects that messages are taken for; each costs some hundred bytes of
    /// memory for ever. Messages for further ones are refused. Default: 1 000 000.
    pub subjects_max: usize,
    /// `config.export.seconds`: how often the files of `store.root/config/` are written; `None`:
    /// never. Default: 10 s.
    pub export_period: Option<Duration>,
    /// `shutdown.drain.seconds`: how long a stopping broker waits for started requests. Default: 10.
    pub drain: Duration,
}

impl BrokerConfig {
    /// Reads the settings.
    ///
    /// # Errors
    /// The first value that makes no sense, with its origin.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingsError> {
        settings.without_effect(&[
            "slave.sync.timeout",
            "wait.slave.wrote",
            "consumerlog.retention.hours",
            "action.checkpoint.interval",
            "message.checkpoint.interval",
            "sync.batch.size",
            "message.sync.timeout.ms",
            "receive.queue.size",
            "Receiver.RejectIllegalSubject",
            "PullMessageProcessor.AllowNonPositiveRequestNum",
            "ConsumerStatusChecker.SkipCheckDuringOffline",
            "slave.message.lag.time.max.seconds",
            "slave.message.lag.mark_readonly",
            "slave.server.http.port",
            "query.max.threads",
            "log_dispatcher.pause.millis",
            "consumerlog.v2.enable",
            "memtable.max_reserved",
            "memtable.max_active",
            "smt.retention.hours",
        ]);
        if settings.flag("smt.enable", false)? {
            let what = "stores in sorted message tables are not served";
            return Err(settings.invalid("smt.enable", what.to_owned()));
        }
        Ok(Self {
            member: MemberConfig::from_settings(settings, 20883)?,
            store_root: settings.get("store.root", "data/broker".to_owned())?.into(),
            flush: flush_mode(settings)?,
            kept: kept(settings)?,
            message_bytes_max: settings.number("message.bytes.max", 8 << 20, 1024..=(15 << 20))?,
            duplicate_window: Duration::from_secs(settings.number(
                "duplicate.window.seconds",
                600,
                0..=86_400,
            )?),
            duplicate_bytes_max: settings.number(
                "duplicate.window.bytes.max",
                256 << 20,
                (1 << 20)..=(64 << 30),
            )?,
            unacked_max: settings.number("consumer.unacked.max", 100_000, 100..=1_000_000)?,
            rules: RuleValues::from_settings(settings)?,
            env_rules_url: env_rules_url(settings)?,
            reply_bytes_max: settings.number("pull.reply.bytes.max", 4 << 20, 1024..=(64 << 20))?,
            subjects_max: settings.number("subjects.max", 1_000_000, 1..=100_000_000)?,
            export_period: match settings.number("config.export.seconds", 10, 0..=86_400)? {
                0 => None,
                seconds => Some(Duration::from_secs(seconds)),
            },
            drain: Duration::from_secs(settings.number("shutdown.drain.seconds", 10, 0..=600)?),
        })
    }

    /// The part of the settings that concerns the store of broker group `group`.
    #[must_use]
    pub fn store(&self, group: &str) -> StoreConfig {
        StoreConfig {
            group_name: group.to_owned(),
            flush: self.flush,
            checkpoint_retain: self.kept.checkpoints,
            duplicate_window: self.duplicate_window,
            duplicate_bytes_max: self.duplicate_bytes_max,
            retention: self.kept.retention,
            ..StoreConfig::default()
        }
    }
}

/// Values that may change while running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleValues {
    /// `message.retry.delay.seconds`: how old messages of retry subjects are when they are handed
    /// out. Default: 5 s.
    pub retry_delay: Duration,
    /// `consumer.dead.seconds`, `consumer.lost.ack.seconds`, `consumer.forget.hours`,
    /// `group.forget.hours`, `put_need_retry_message.limiter`.
    pub patience: Patience,
}

impl RuleValues {
    /// Reads the settings.
    ///
    /// # Errors
    /// The first value that makes no sense, with its origin.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingsError> {
        let seconds = settings.number("message.retry.delay.seconds", 5, 0..=86_400)?;
        Ok(Self {
            retry_delay: Duration::from_secs(seconds),
            patience: patience(settings)?,
        })
    }
}

/// What is kept: `checkpoint.retain.count` (checkpoints; default: 5), `messagelog.retention.hours`
/// and `pulllog.retention.hours` (default: 72), looked for every
/// `log.retention.check.interval.seconds` (default: 60), all that only with
/// `log.expired.delete.enable` (default: true).
///
/// # Errors
/// The first value that makes no sense, with its origin.
pub fn kept(settings: &Settings) -> Result<Kept, SettingsError> {
    Ok(Kept {
        retention: retention(settings)?,
        checkpoints: settings.number("checkpoint.retain.count", 5, 1..=1_000)?,
    })
}

fn retention(settings: &Settings) -> Result<Option<Retention>, SettingsError> {
    let hours = |key| {
        let hours: u64 = settings.number(key, 72, 1..=87_600)?;
        Ok(Duration::from_secs(hours * 3600))
    };
    // The actionlog is what the reference calls pull logs here.
    let (messages, actions) = (
        hours("messagelog.retention.hours")?,
        hours("pulllog.retention.hours")?,
    );
    let interval = settings.number("log.retention.check.interval.seconds", 60, 1..=86_400)?;
    let is_on = settings.flag("log.expired.delete.enable", true)?;
    Ok(is_on.then_some(Retention {
        messages,
        actions,
        check_interval: Duration::from_secs(interval),
    }))
}

fn patience(settings: &Settings) -> Result<Patience, SettingsError> {
    let seconds = |key, default, max| {
        let seconds = settings.number(key, default, 1..=max)?;
        Ok(Duration::from_secs(seconds))
    };
    let hours = |key, default| {
        let hours: u64 = settings.number(key, default, 1..=87_600)?;
        Ok(Duration::from_secs(hours * 3600))
    };
    Ok(Patience {
        dead_after: seconds("consumer.dead.seconds", 180, 86_400)?,
        lost_ack_after: seconds("consumer.lost.ack.seconds", 30, 86_400)?,
        forever_after: hours("consumer.forget.hours", 48)?,
        group_after: hours("group.forget.hours", 720)?,
        copies_per_second: settings.number("put_need_retry_message.limiter", 50, 1..=10_000)?,
    })
}

fn env_rules_url(settings: &Settings) -> Result<Option<String>, SettingsError> {
    let enable = settings.flag("sub_env_isolation_filter.enable", false)?;
    let key = "sub_env_isolation_filter.rules_url";
    let url: Option<String> = settings.optional(key)?;
    match (enable, url) {
        (false, _) => Ok(None),
        (true, Some(url)) => Ok(Some(url)),
        (true, None) => Err(settings.invalid(
            key,
            "is needed when sub-environments are kept apart".to_owned(),
        )),
    }
}

fn flush_mode(settings: &Settings) -> Result<FlushMode, SettingsError> {
    let interval = member::flush_interval(settings)?;
    Ok(interval.map_or(FlushMode::Sync, |interval| FlushMode::Async { interval }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use qmq_daemon::SettingsArgs;
    use qmq_daemon::process::ProcessConfig;

    use super::*;

    #[test]
    fn the_sample_is_complete_and_its_values_are_the_defaults() {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/broker.properties");
        let args = SettingsArgs {
            file: Some(sample),
            ..SettingsArgs::default()
        };
        let settings = Settings::load("broker", &[], &args).unwrap();
        let sample = BrokerConfig::from_settings(&settings).unwrap();
        ProcessConfig::from_settings(&settings).unwrap();
        let unknown = settings.unknown();
        assert!(unknown.is_empty(), "{unknown:?}");
        let endpoint = sample.member.meta_endpoint.to_string();
        let defaults = Settings::of_pairs("broker", &[("meta.server.endpoint", &endpoint)]);
        let defaults = BrokerConfig::from_settings(&defaults).unwrap();
        assert_eq!(format!("{sample:?}"), format!("{defaults:?}"));
    }

    #[test]
    fn the_switch_for_deleting_is_honoured() {
        let of = |pairs: &[(&str, &str)]| {
            let mut all = vec![("meta.server.endpoint", "http://m:8080/meta/address")];
            all.extend_from_slice(pairs);
            let config = BrokerConfig::from_settings(&Settings::of_pairs("broker", &all)).unwrap();
            config.store("g").retention
        };
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let retention = |messages, actions, seconds| Retention {
            messages: hours(messages),
            actions: hours(actions),
            check_interval: Duration::from_secs(seconds),
        };
        assert_eq!(of(&[]), Some(retention(72, 72, 60)));
        let all = [
            ("messagelog.retention.hours", "5"),
            ("pulllog.retention.hours", "6"),
            ("log.retention.check.interval.seconds", "7"),
        ];
        assert_eq!(of(&all), Some(retention(5, 6, 7)));
        assert_eq!(of(&[("log.expired.delete.enable", "false")]), None);
    }

    /// What the install document of the Java servers tells operators to write.
    #[test]
    fn the_file_of_a_java_broker_is_understood() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("broker.properties");
        let text = "# \u{5fc5}\u{586b}\nmeta.server.endpoint=http://m:8080/meta/address\n\
                    broker.port=20881\nsync.port=20882\nslave.sync.timeout=3000\nstore.root=/data\n\
                    wait.slave.wrote=true\nmessage.retry.delay.seconds=5\n\
                    messagelog.retention.hours=72\nconsumerlog.retention.hours=72\n\
                    pulllog.retention.hours=72\nlog.retention.check.interval.seconds=60\n\
                    log.expired.delete.enable=TRUE\ncheckpoint.retain.count=5\n\
                    action.checkpoint.interval=100000\nmessage.checkpoint.interval=100000\n\
                    put_need_retry_message.limiter=50\nsync.batch.size=100000\n\
                    message.sync.timeout.ms=10\n";
        std::fs::write(&file, text).unwrap();
        let args = SettingsArgs {
            file: Some(file),
            ..SettingsArgs::default()
        };
        let settings = Settings::load("broker", &[], &args).unwrap();
        let config = BrokerConfig::from_settings(&settings).unwrap();
        assert_eq!(config.store_root, Path::new("/data"));
        assert!(config.kept.retention.is_some());
        assert!(settings.unknown().is_empty(), "{:?}", settings.unknown());
        let smt = [("smt.enable", "true")];
        let error = BrokerConfig::from_settings(&Settings::of_pairs("broker", &smt));
        assert!(error.unwrap_err().to_string().contains("smt.enable"));
    }

    #[test]
    fn a_flush_type_that_is_none_is_refused() {
        let pairs = [
            ("meta.server.endpoint", "http://m:8080/meta/address"),
            ("flush.disk.type", "asnyc"),
        ];
        let error = BrokerConfig::from_settings(&Settings::of_pairs("broker", &pairs));
        assert!(error.unwrap_err().to_string().contains("flush.disk.type"));
    }
}
