//! What a delay server counts. Labels are names of broker groups and fixed words, never subjects:
//! any client can name any number of those.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use qmq_model::UnixMillis;
use qmq_store::DelayStats;

use crate::dispatch::{Counts, Dispatch};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
/// Ranges of due times that pending messages are counted by, each up to its end, as seen from now.
/// The store counts by the hour, so the ends are met to the hour.
const RANGES: [(&str, Option<Duration>); 5] = [
    ("overdue", Some(Duration::ZERO)),
    ("hour", Some(HOUR)),
    ("day", Some(DAY)),
    ("month", Some(Duration::from_secs(30 * DAY.as_secs()))),
    ("later", None),
];

/// Label of a range of due times.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Range {
    /// One of `overdue`, `hour`, `day`, `month`, `later`.
    pub due: &'static str,
}

/// Label of a broker group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Group {
    /// Its name.
    pub group: Arc<str>,
}

/// Counters of one delay server.
#[derive(Debug)]
pub struct Metrics {
    /// Messages accepted.
    pub stored: Counter,
    /// Payload bytes accepted.
    pub stored_bytes: Counter,
    /// Messages refused with a result code.
    pub refused: Counter,
    /// Of these, messages due later than `delay.max.days`.
    pub too_far: Counter,
    /// Messages whose time had passed when they came.
    pub past: Counter,
    /// Messages without the delay bit that had their time in a property.
    pub from_property: Counter,
    /// Messages that did not say when they are due.
    pub untold: Counter,
    /// Requests whose body could not be decoded.
    pub undecodable: Counter,
    /// Messages acknowledged without the slave that `wait.slave.wrote` asks for.
    pub unreplicated_acks: Counter,
    /// Messages that could not be read when they were due, each attempt counted.
    pub unreadable: Counter,
    /// Times that somebody set the clock.
    pub clock_steps: Counter,
    /// Messages confirmed by a broker.
    pub delivered: Counter,
    /// Messages sent again to the same group because the outcome was unknown.
    pub repeated: Counter,
    /// Messages of unknown outcome sent to another group because theirs was gone.
    pub abandoned: Counter,
    /// Messages that a broker did not take, and requests of unknown outcome.
    pub dispatch_errors: Counter,
    /// From the due time to a broker's confirmation.
    pub lateness_seconds: Histogram,
    /// Time to make a batch durable.
    pub commit_seconds: Histogram,
    /// Time of seals, checkpoints and flushes, for which sends wait.
    pub upkeep_seconds: Histogram,
    /// Messages that are not delivered, by due time.
    pub pending: Family<Range, Gauge>,
    /// How long the oldest overdue message is overdue.
    pub oldest_overdue_seconds: Gauge,
    /// Messages dropped because of `overdue.drop.days`, since the store was created.
    pub dropped: Gauge,
    /// Messages in the wheel.
    pub loaded: Gauge,
    /// Due messages that wait in memory.
    pub queued: Gauge,
    /// Requests under way and waiting to be repeated, by group.
    pub requests: Family<Group, Gauge>,
}

impl Metrics {
    /// Registers all of them.
    #[must_use]
    pub fn register(registry: &qmq_daemon::metrics::Metrics) -> Self {
        let times = || Histogram::new(exponential_buckets(0.000_05, 2.0, 18));
        let metrics = Self {
            stored: Counter::default(),
            stored_bytes: Counter::default(),
            refused: Counter::default(),
            too_far: Counter::default(),
            past: Counter::default(),
            from_property: Counter::default(),
            untold: Counter::default(),
            undecodable: Counter::default(),
            unreplicated_acks: Counter::default(),
            unreadable: Counter::default(),
            clock_steps: Counter::default(),
            delivered: Counter::default(),
            repeated: Counter::default(),
            abandoned: Counter::default(),
            dispatch_errors: Counter::default(),
            // From a millisecond to a day.
            lateness_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 27)),
            commit_seconds: times(),
            upkeep_seconds: times(),
            pending: Family::default(),
            oldest_overdue_seconds: Gauge::default(),
            dropped: Gauge::default(),
            loaded: Gauge::default(),
            queued: Gauge::default(),
            requests: Family::default(),
        };
        let all = metrics.counters().into_iter();
        for (name, help, counter) in all.chain(metrics.dispatch_counters()) {
            registry.register(name, help, counter.clone());
        }
        for (legacy, counter) in metrics.legacy() {
            registry.also_as(
                legacy,
                "as in the java delay server, of all subjects",
                counter,
            );
        }
        for (name, help, histogram) in [
            (
                "qmq_lateness_seconds",
                "From the due time to a broker's confirmation",
                &metrics.lateness_seconds,
            ),
            (
                "qmq_commit_seconds",
                "Time to make a batch durable",
                &metrics.commit_seconds,
            ),
            (
                "qmq_upkeep_seconds",
                "Time of seals, checkpoints and flushes, for which sends wait",
                &metrics.upkeep_seconds,
            ),
        ] {
            registry.register(name, help, histogram.clone());
        }
        metrics.register_gauges(registry);
        metrics
    }

    fn register_gauges(&self, registry: &qmq_daemon::metrics::Metrics) {
        let help = "Messages not delivered yet, by due time, to the hour";
        registry.register("qmq_messages_pending", help, self.pending.clone());
        let help = "Requests to a broker group under way or to be repeated";
        registry.register("qmq_dispatch_requests", help, self.requests.clone());
        for (name, help, gauge) in [
            (
                "qmq_oldest_overdue_seconds",
                "How long the oldest overdue message is overdue",
                &self.oldest_overdue_seconds,
            ),
            (
                "qmq_messages_dropped",
                "Messages dropped as overdue for too long, ever",
                &self.dropped,
            ),
            ("qmq_messages_loaded", "Messages in the wheel", &self.loaded),
            (
                "qmq_messages_queued",
                "Due messages that wait in memory",
                &self.queued,
            ),
        ] {
            registry.register(name, help, gauge.clone());
        }
    }

    /// Name, help and counter of what has to do with receiving.
    fn counters(&self) -> impl IntoIterator<Item = (&'static str, &'static str, &Counter)> {
        [
            ("qmq_messages_stored", "Messages accepted", &self.stored),
            (
                "qmq_message_bytes_stored",
                "Payload bytes accepted",
                &self.stored_bytes,
            ),
            (
                "qmq_messages_refused",
                "Messages refused with a result code",
                &self.refused,
            ),
            (
                "qmq_messages_too_far",
                "Messages due too late",
                &self.too_far,
            ),
            (
                "qmq_messages_past",
                "Messages that came after their time",
                &self.past,
            ),
            (
                "qmq_messages_due_from_property",
                "Messages without the delay bit, with their time in a property",
                &self.from_property,
            ),
            (
                "qmq_messages_due_untold",
                "Messages that told no time",
                &self.untold,
            ),
            (
                "qmq_requests_undecodable",
                "Requests that could not be read",
                &self.undecodable,
            ),
            (
                "qmq_unreplicated_acks",
                "Messages acknowledged without a slave",
                &self.unreplicated_acks,
            ),
            (
                "qmq_messages_unreadable",
                "Due messages not readable",
                &self.unreadable,
            ),
        ]
    }

    /// Those that the Java delay server has too, by their names there.
    fn legacy(&self) -> impl IntoIterator<Item = (&'static str, &Counter)> {
        [
            ("receivedMessagesCount", &self.stored),
            ("receivedFailedCount", &self.refused),
            ("overDelayMessage", &self.too_far),
            ("pastMessages", &self.past),
            ("delayBrokerSendMsgCount", &self.delivered),
            ("nettySendMessageFailCount", &self.dispatch_errors),
        ]
    }

    /// The same of dispatch.
    fn dispatch_counters(
        &self,
    ) -> impl IntoIterator<Item = (&'static str, &'static str, &Counter)> {
        [
            (
                "qmq_clock_steps",
                "Times that somebody set the clock",
                &self.clock_steps,
            ),
            (
                "qmq_messages_delivered",
                "Messages confirmed by a broker",
                &self.delivered,
            ),
            (
                "qmq_messages_repeated",
                "Messages sent to the same group again after an unknown outcome",
                &self.repeated,
            ),
            (
                "qmq_messages_abandoned",
                "Messages of unknown outcome in a group that is gone, sent to another one",
                &self.abandoned,
            ),
            (
                "qmq_dispatch_errors",
                "Messages that brokers did not take, and requests of unknown outcome",
                &self.dispatch_errors,
            ),
        ]
    }

    /// Sets the gauges of what the store holds.
    pub fn set_pending(&self, stats: &DelayStats, now: UnixMillis) {
        let mut hours = stats.by_hour.iter().copied().peekable();
        for (due, end) in RANGES {
            let end = end.map(|end| now.plus(end));
            let mut messages = 0;
            while let Some((_, count)) =
                hours.next_if(|(hour, _)| end.is_none_or(|end| hour.plus(HOUR) <= end))
            {
                messages += count;
            }
            let gauge = self.pending.get_or_create(&Range { due });
            gauge.set(i64::try_from(messages).unwrap_or(i64::MAX));
        }
        self.dropped
            .set(i64::try_from(stats.expired).unwrap_or(i64::MAX));
    }
}

/// What was counted of the rules so far.
#[derive(Debug, Default)]
pub struct Gauges {
    counted: Counts,
}

impl Gauges {
    /// Shows the state of the rules; `loaded` messages are in the wheel.
    pub fn set(&mut self, metrics: &Metrics, dispatch: &Dispatch, loaded: usize) {
        let (now, before) = (dispatch.counts(), self.counted);
        self.counted = now;
        metrics.delivered.inc_by(now.confirmed - before.confirmed);
        metrics.repeated.inc_by(now.repeated - before.repeated);
        metrics.abandoned.inc_by(now.abandoned - before.abandoned);
        let errors =
            |counts: Counts| counts.turned_away + counts.rejected + counts.unknown_requests;
        metrics.dispatch_errors.inc_by(errors(now) - errors(before));
        metrics.loaded.set(gauge(loaded));
        metrics.queued.set(gauge(dispatch.queued()));
        for lane in dispatch.lanes() {
            let group = Group {
                group: lane.group.into(),
            };
            let requests = lane.in_flight + lane.repeats;
            metrics.requests.get_or_create(&group).set(gauge(requests));
        }
    }
}

fn gauge(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_messages_are_counted_by_when_they_are_due() {
        let hour = |hours: i64| UnixMillis(hours * 3_600_000);
        let metrics = Metrics::register(&qmq_daemon::metrics::Metrics::default());
        // Half past ten: the hour that goes on is not over.
        let now = hour(10).plus(HOUR / 2);
        let by_hour = [
            (2, 1),
            (9, 2),
            (10, 4),
            (11, 8),
            (33, 16),
            (35, 32),
            (5_000, 64),
        ];
        let stats = DelayStats {
            by_hour: by_hour.map(|(at, count)| (hour(at), count)).into(),
            expired: 3,
            ..DelayStats::default()
        };
        metrics.set_pending(&stats, now);
        let shown = RANGES.map(|(due, _)| metrics.pending.get_or_create(&Range { due }).get());
        assert_eq!(shown, [3, 4, 24, 32, 64]);
        assert_eq!(metrics.dropped.get(), 3);
        metrics.set_pending(&DelayStats::default(), now);
        let shown = RANGES.map(|(due, _)| metrics.pending.get_or_create(&Range { due }).get());
        assert_eq!(shown, [0; 5]);
    }
}
