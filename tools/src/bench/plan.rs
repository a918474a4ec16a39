//! Options of the bench commands, and which of them fit together.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use qmq_protocol::frame::BODY_BYTES_MAX;
use serde::Serialize;

use crate::bench::content::{LANES_MAX, SIZE_MAX};
use crate::bench::receiver::Sabotage;
use crate::cli::Metaserver;

/// Port of a broker when none is given.
const BROKER_PORT_DEFAULT: u16 = 20881;
/// Longest part of a run.
const SECONDS_MAX: f64 = 86_400.0;
/// Most threads of each kind.
const THREADS_MAX: usize = 64;
/// Most requests in flight per connection.
const IN_FLIGHT_MAX: usize = 65_536;
/// Most subjects, and most groups.
const NAMES_MAX: usize = 10_000;

/// What every bench command needs.
#[derive(Args, Clone, Debug, Serialize)]
pub(crate) struct Common {
    /// A broker, without asking a metaserver; may be given several times. Default port: 20881.
    #[arg(
        long,
        value_name = "HOST[:PORT]",
        required_unless_present = "metaserver"
    )]
    pub(crate) connect: Vec<String>,
    /// HTTP side of the metaserver that names the brokers of the subjects. Default port: 8080.
    #[arg(long, value_name = "HOST[:PORT]", conflicts_with = "connect")]
    #[serde(skip)]
    pub(crate) metaserver: Option<Metaserver>,
    /// Name of the subject; with --subjects the begin of their names.
    #[arg(long, default_value = "bench")]
    pub(crate) subject: String,
    /// Number of subjects; messages take turns.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) subjects: usize,
    /// Content of a message; about 100 bytes of header come on top.
    #[arg(long, value_name = "BYTES", default_value_t = 1024)]
    pub(crate) size: usize,
    /// Threads that send, and threads that receive.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) threads: usize,
    /// Process whose use is told. Default: found through the port when it is on this machine.
    #[arg(long = "server-pid", value_name = "PID")]
    pub(crate) server_pid: Option<u32>,
    /// How long nothing may come before what is missing counts as lost.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = seconds)]
    pub(crate) patience: f64,
    /// Prints one line of JSON instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    /// Puts a fault into what was received: the run must fail.
    #[arg(long, value_name = "FAULT", hide = true)]
    pub(crate) sabotage: Option<Sabotage>,
}

/// How messages are sent.
#[derive(Args, Clone, Debug, Serialize)]
pub(crate) struct Sending {
    /// Connections that send.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(crate) connections: usize,
    /// Requests without an answer per connection.
    #[arg(long = "in-flight", value_name = "N", default_value_t = 512)]
    pub(crate) in_flight: usize,
    /// Messages per request.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) batch: usize,
    /// Messages per second, sent at fixed times whatever the server does. Default: as fast as
    /// possible.
    #[arg(long, value_name = "N", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// How long is measured.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = seconds)]
    pub(crate) duration: f64,
    /// How long is sent before measuring.
    #[arg(long = "warm-up", value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    pub(crate) warm_up: f64,
}

/// How messages are received.
#[derive(Args, Clone, Debug, Serialize)]
pub(crate) struct Receiving {
    /// Consumer groups; each gets every message.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) groups: usize,
    /// Consumers of each group, with a connection each.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) consumers: usize,
    /// Most messages of a pull.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) pull: i32,
}

/// `bench produce`.
#[derive(Args, Clone, Debug, Serialize)]
pub(crate) struct ProducePlan {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) sending: Sending,
    /// Does not receive what was acknowledged: for servers that hand out nothing.
    #[arg(long = "no-check", conflicts_with = "sabotage")]
    pub(crate) no_check: bool,
}

/// `bench consume`.
#[derive(Args, Clone, Debug, Serialize)]
pub(crate) struct ConsumePlan {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) receiving: Receiving,
    /// Messages that are sent first.
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub(crate) messages: u64,
}

/// `bench e2e`.
#[derive(Args, Clone, Debug, Serialize)]
pub(crate) struct EndToEndPlan {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) sending: Sending,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) receiving: Receiving,
}

/// `bench isolation`.
#[derive(Args, Clone, Debug, Serialize)]
pub(crate) struct IsolationPlan {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) sending: Sending,
    /// Consumers of the loaded subject.
    #[arg(long = "slow-consumers", value_name = "N", default_value_t = 4)]
    pub(crate) slow_consumers: usize,
    /// Pause of such a consumer between two pulls of 100 messages.
    #[arg(long = "slow-pause", value_name = "SECONDS", default_value_t = 0.05, value_parser = seconds)]
    pub(crate) slow_pause: f64,
    /// Let the load compete with server and probe for the processors. Otherwise its threads have
    /// the lowest priority, as if they ran on another machine: they use what is left, and still
    /// send as fast as they are answered.
    #[arg(long = "load-competes")]
    pub(crate) load_competes: bool,
    /// Messages per second on the other subject.
    #[arg(long = "probe-rate", value_name = "N", default_value_t = 200.0, value_parser = rate)]
    pub(crate) probe_rate: f64,
    /// Exit code 1 when a loaded p99 is more than so many times the idle one.
    #[arg(long = "ratio-max", value_name = "N", default_value_t = 3.0, value_parser = rate)]
    pub(crate) ratio_max: f64,
}

/// `bench delay`.
#[derive(Args, Clone, Debug, Serialize)]
pub(crate) struct DelayPlan {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) sending: Sending,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) receiving: Receiving,
    /// A delay server that takes the messages, when brokers are named with --connect; may be given
    /// several times. Default port: 20881.
    #[arg(
        long = "delay-server",
        value_name = "HOST[:PORT]",
        conflicts_with = "metaserver",
        required_unless_present = "metaserver"
    )]
    pub(crate) delay_servers: Vec<String>,
    /// Each message is due so long after it is sent; with --messages, the first one so long after
    /// the start.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = seconds)]
    pub(crate) delay: f64,
    /// Sends so many messages as fast as possible, due one after the other within the time of
    /// --within, in place of --rate, --duration and --warm-up. Choose --delay so that all are sent
    /// before: what is sent too late is late.
    #[arg(
        long,
        value_name = "N",
        conflicts_with_all = ["rate", "duration", "warm_up"],
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub(crate) messages: Option<u64>,
    /// Over how long the due times of --messages are spread.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds, requires = "messages")]
    pub(crate) within: f64,
}

impl Common {
    /// # Errors
    /// Says which options do not fit.
    pub(crate) fn validate(&self) -> Result<()> {
        within("--subjects", self.subjects, 1, NAMES_MAX)?;
        within("--size", self.size, 0, SIZE_MAX)?;
        within("--threads", self.threads, 1, THREADS_MAX)?;
        for index in 0..self.subjects.min(1) {
            let name = self.subject_name(index);
            qmq_model::names::check_subject(&name).with_context(|| format!("--subject {name}"))?;
        }
        Ok(())
    }

    /// The name of subject number `index`.
    pub(crate) fn subject_name(&self, index: usize) -> String {
        if self.subjects == 1 {
            self.subject.clone()
        } else {
            format!("{}.{index}", self.subject)
        }
    }

    /// The servers that were named.
    ///
    /// # Errors
    /// When one cannot be resolved.
    pub(crate) fn named_servers(&self) -> Result<Vec<SocketAddr>> {
        resolve_all(&self.connect)
    }

    /// `patience` as a duration.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs_f64(self.patience)
    }
}

impl Sending {
    /// # Errors
    /// Says which options do not fit.
    pub(crate) fn validate(&self, size: usize) -> Result<()> {
        within("--connections", self.connections, 1, LANES_MAX)?;
        within("--in-flight", self.in_flight, 1, IN_FLIGHT_MAX)?;
        // What stands around a content is shorter than 400 bytes: names are bounded.
        let batch_max = BODY_BYTES_MAX / (size + 400);
        within("--batch", self.batch, 1, batch_max.max(1))?;
        ensure!(self.duration > 0.0, "--duration must be above 0");
        Ok(())
    }

    /// How long is measured.
    pub(crate) fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.duration)
    }

    /// How long is sent before.
    pub(crate) fn warm_up(&self) -> Duration {
        Duration::from_secs_f64(self.warm_up)
    }
}

impl Receiving {
    /// # Errors
    /// Says which options do not fit.
    pub(crate) fn validate(&self) -> Result<()> {
        within("--groups", self.groups, 1, NAMES_MAX)?;
        within("--consumers", self.consumers, 1, LANES_MAX)
    }
}

fn within(option: &str, value: usize, least: usize, most: usize) -> Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    bail!("{option} {value} is not within {least} to {most}")
}

impl DelayPlan {
    /// # Errors
    /// Says which options do not fit.
    pub(crate) fn validate(&self) -> Result<()> {
        self.common.validate()?;
        self.sending.validate(self.common.size)?;
        self.receiving.validate()
    }

    /// The delay servers that were named.
    ///
    /// # Errors
    /// When one cannot be resolved.
    pub(crate) fn named_delay_servers(&self) -> Result<Vec<SocketAddr>> {
        resolve_all(&self.delay_servers)
    }
}

fn resolve_all(servers: &[String]) -> Result<Vec<SocketAddr>> {
    servers.iter().map(|server| resolve(server)).collect()
}

/// The address of `host[:port]`, the first that the name has.
fn resolve(server: &str) -> Result<SocketAddr> {
    let has_port = server[server.rfind(']').map_or(0, |at| at + 1)..].contains(':');
    let resolved = if has_port {
        server.to_socket_addrs()
    } else {
        (server.trim_matches(['[', ']']), BROKER_PORT_DEFAULT).to_socket_addrs()
    };
    let mut addresses = resolved.with_context(|| format!("no such server: {server}"))?;
    addresses
        .next()
        .with_context(|| format!("no such server: {server}"))
}

fn seconds(text: &str) -> Result<f64, String> {
    let value = text.parse().ok();
    let value = value.filter(|seconds| (0.0..=SECONDS_MAX).contains(seconds));
    value.ok_or_else(|| format!("expected seconds, at most {SECONDS_MAX}"))
}

fn rate(text: &str) -> Result<f64, String> {
    let value = text.parse().ok();
    let value = value.filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    value.ok_or_else(|| "expected a number above 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sending() -> Sending {
        Sending {
            connections: 1,
            in_flight: 1,
            batch: 1,
            rate: None,
            duration: 1.0,
            warm_up: 0.0,
        }
    }

    #[test]
    fn the_usual_port_is_the_default() {
        let text = |server: &str| resolve(server).unwrap().to_string();
        assert_eq!(text("127.0.0.1"), "127.0.0.1:20881");
        assert_eq!(text("127.0.0.1:9"), "127.0.0.1:9");
        assert_eq!(text("[::1]"), "[::1]:20881");
        assert_eq!(text("[::1]:9"), "[::1]:9");
        assert!(resolve("127.0.0.1:x").is_err());
    }

    #[test]
    fn a_request_has_to_fit_a_frame() {
        assert!(sending().validate(SIZE_MAX).is_ok());
        let batch = Sending {
            batch: 20_000,
            ..sending()
        };
        assert!(batch.validate(100).is_ok());
        assert!(batch.validate(1024).is_err());
    }

    #[test]
    fn zero_of_anything_is_refused() {
        for broken in [
            Sending {
                connections: 0,
                ..sending()
            },
            Sending {
                in_flight: 0,
                ..sending()
            },
            Sending {
                batch: 0,
                ..sending()
            },
            Sending {
                duration: 0.0,
                ..sending()
            },
        ] {
            assert!(broken.validate(10).is_err(), "{broken:?}");
        }
        assert!(rate("0").is_err() && rate("-1").is_err() && rate("inf").is_err());
        assert!(seconds("-1").is_err() && seconds("NaN").is_err());
    }
}
