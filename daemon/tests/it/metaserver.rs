//! A metaserver that notes what it is asked and answers as it is told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::BytesMut;
use qmq_daemon::http::HttpServer;
use qmq_daemon::registration::MetaEndpoint;
use qmq_model::BrokerRole;
use qmq_protocol::command::broker_acquire_meta::{
    BrokerAcquireMetaRequest, BrokerAcquireMetaResponse,
};
use qmq_protocol::command::broker_register::{BrokerRegisterRequest, BrokerRequestType};
use qmq_protocol::{CommandCode, Decode, Encode, ResultCode};
use qmq_remoting::{Request, Responder, Server, ServerConfig, Service};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// The one broker it knows.
const KNOWN: (&str, i32) = ("host", 20881);

/// One report of a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// What was reported.
    pub(crate) what: BrokerRequestType,
    /// Number of the state.
    pub(crate) state: i32,
}

struct Answers {
    reports: watch::Sender<Vec<Report>>,
    /// How many reports of each kind are still to be refused: online, heartbeat, offline.
    refuse: [AtomicU32; 3],
}

impl Service for Answers {
    async fn call(&self, request: Request, responder: Responder) {
        let code = CommandCode::from_code(request.header.code);
        if code == Some(CommandCode::BrokerAcquireMeta) {
            let asked = BrokerAcquireMetaRequest::decode(9, &request.body).unwrap();
            if (asked.hostname, asked.port) != KNOWN {
                return responder.send_empty(ResultCode::BrokerError);
            }
            let reply = BrokerAcquireMetaResponse {
                name: "group",
                master: "",
                role: BrokerRole::Master,
            };
            return responder.send(0, |out: &mut BytesMut| reply.encode(9, out));
        }
        let report = BrokerRegisterRequest::decode(9, &request.body).unwrap();
        assert_eq!(
            (report.group_name, report.broker_address),
            ("group", "10.0.0.1:20881")
        );
        let what = report.request_type().unwrap();
        self.reports.send_modify(|reports| {
            reports.push(Report {
                what,
                state: report.state_code,
            });
        });
        let left = &self.refuse[usize::try_from(what.code()).unwrap()];
        let refused = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        let code = if refused.is_ok() {
            ResultCode::BrokerError
        } else {
            ResultCode::Success
        };
        responder.send_empty(code);
    }
}

/// The running fake.
pub(crate) struct Metaserver {
    answers: Arc<Answers>,
    lookups: watch::Receiver<u32>,
    http: SocketAddr,
    stop: CancellationToken,
}

impl Metaserver {
    /// Starts it; it knows the broker [`KNOWN`].
    pub(crate) async fn start() -> Self {
        let stop = CancellationToken::new();
        let answers = Arc::new(Answers {
            reports: watch::Sender::default(),
            refuse: [0, 0, 0].map(AtomicU32::new),
        });
        let server = Server::bind(LOOPBACK, ServerConfig::default())
            .await
            .unwrap();
        let tcp = server.local_addr();
        let drain = Duration::from_secs(1);
        tokio::spawn(server.serve(Arc::clone(&answers), stop.clone(), drain));
        let (count, lookups) = watch::channel(0);
        let address = get(async move || {
            count.send_modify(|count| *count += 1);
            tcp.to_string()
        });
        let router = Router::new().route("/meta/address", address);
        let http = HttpServer::start(LOOPBACK, router, stop.clone())
            .await
            .unwrap()
            .address();
        Self {
            answers,
            lookups,
            http,
            stop,
        }
    }

    /// Its endpoint.
    pub(crate) fn endpoint(&self) -> MetaEndpoint {
        format!("http://{}/meta/address", self.http)
            .parse()
            .unwrap()
    }

    /// Refuses the next `count` reports of a kind.
    pub(crate) fn refuse(&self, what: BrokerRequestType, count: u32) {
        let left = &self.answers.refuse[usize::try_from(what.code()).unwrap()];
        left.store(count, Ordering::SeqCst);
    }

    /// Waits until the reports fulfil `condition`.
    pub(crate) async fn wait_for(
        &self,
        condition: impl FnMut(&Vec<Report>) -> bool,
    ) -> Vec<Report> {
        let mut reports = self.answers.reports.subscribe();
        let found = tokio::time::timeout(Duration::from_secs(60), reports.wait_for(condition));
        found.await.expect("the report must come").unwrap().clone()
    }

    /// How often the HTTP endpoint was asked.
    pub(crate) fn lookups(&self) -> u32 {
        *self.lookups.borrow()
    }
}

impl Drop for Metaserver {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
