//! What a metaserver counts. Labels are group names of registered brokers and fixed words, never
//! subjects: any client can name any number of those.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use qmq_daemon::metrics::Metrics;

/// Labels of broker reports.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
#[expect(non_snake_case, reason = "the labels are those of the Java metaserver")]
pub struct BrokerReport {
    /// Broker group.
    pub groupName: String,
    /// Number of the request type.
    pub requestType: i32,
}

/// Label of what happens to a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
#[expect(non_snake_case, reason = "the label is that of the Java metaserver")]
pub struct GroupLabel {
    /// Broker group.
    pub groupName: String,
}

/// Label of client registrations.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
#[expect(non_snake_case, reason = "the label is that of the Java metaserver")]
pub struct ClientLabel {
    /// Number of the client type; 3 stands for every unknown one.
    pub clientTypeCode: i32,
}

/// The counters of a metaserver. Clones count together.
#[derive(Clone, Debug)]
pub struct Counters {
    /// Reports of masters, by group and type.
    pub broker_reports: Family<BrokerReport, Counter>,
    /// Groups that went away without saying so.
    pub broker_disconnected: Family<GroupLabel, Counter>,
    /// Clients that asked for a subject.
    pub client_registers: Family<ClientLabel, Counter>,
    /// Clients refused for the subject they named.
    pub client_refused: Counter,
    /// Answers without a single group.
    pub empty_answers: Counter,
    /// Answers 51 because nothing is known and the database is away.
    pub unknown_answers: Counter,
    /// Clients that were not noted in the database because too many waited.
    pub clients_dropped: Counter,
    /// Refreshes of the routes that failed.
    pub refresh_errors: Counter,
    /// 1 while the database does not answer.
    pub database_away: Gauge,
    /// Open TCP connections.
    pub connections: Gauge,
}

impl Counters {
    /// Registers the counters.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            broker_reports: metrics.register(
                "brokerRegisterCount",
                "reports of broker masters",
                Family::default(),
            ),
            broker_disconnected: metrics.register(
                "brokerDisconnectedCount",
                "broker groups that fell silent",
                Family::default(),
            ),
            client_registers: metrics.register(
                "clientRegisterCount",
                "questions of clients for a subject",
                Family::default(),
            ),
            client_refused: metrics.register(
                "clientRegisterRefusedCount",
                "questions for a subject with an illegal name",
                Counter::default(),
            ),
            empty_answers: metrics.register(
                "clientRegisterEmptyCount",
                "answers without a broker group",
                Counter::default(),
            ),
            unknown_answers: metrics.register(
                "clientRegisterUnknownCount",
                "questions that could not be answered without the database",
                Counter::default(),
            ),
            clients_dropped: metrics.register(
                "clientInfoDroppedCount",
                "clients not noted because too many waited to be",
                Counter::default(),
            ),
            refresh_errors: metrics.register(
                "refreshErrorCount",
                "failed refreshes of the routes",
                Counter::default(),
            ),
            database_away: metrics.gauge(
                "databaseAway",
                "1 while the database does not answer and clients are served from memory",
            ),
            connections: metrics
                .gauge("nettyProviderConnectionActiveCount", "open tcp connections"),
        }
    }
}
