//! What a broker tells the metaserver, and when.

use std::net::Ipv4Addr;
use std::time::Duration;

use qmq_daemon::registration::{
    BrokerIdentity, BrokerMeta, Registration, RegistrationError, Timing, acquire, start,
};
use qmq_daemon::{FailureKind, StartError};
use qmq_model::{BrokerRole, BrokerState};
use qmq_protocol::command::broker_register::BrokerRequestType::{self, Heartbeat, Offline, Online};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::metaserver::{Metaserver, Report};

const QUICK: Timing = Timing {
    heartbeat: Duration::from_millis(20),
    retry: Duration::from_millis(2),
    // Never reached: a request that is given up looks for another metaserver.
    deadline: Duration::from_secs(60),
};

fn identity(hostname: &str) -> BrokerIdentity {
    BrokerIdentity {
        hostname: hostname.into(),
        ip: Ipv4Addr::new(10, 0, 0, 1),
        serve_port: 20881,
        sync_port: 20882,
        serves: BrokerRole::Master,
    }
}

struct Broker {
    state: watch::Sender<BrokerState>,
    registration: Registration,
    stop: CancellationToken,
}

fn broker(metaserver: &Metaserver) -> Broker {
    let meta = BrokerMeta {
        group: "group".into(),
        role: BrokerRole::Master,
        master: String::new(),
    };
    let (state, watched) = watch::channel(BrokerState::Away);
    let stop = CancellationToken::new();
    let address = "10.0.0.1:20881".to_owned();
    let registration = start(
        &metaserver.endpoint(),
        &meta,
        address,
        watched,
        QUICK,
        stop.clone(),
    )
    .unwrap();
    Broker {
        state,
        registration,
        stop,
    }
}

fn count(reports: &[Report], what: BrokerRequestType) -> usize {
    reports.iter().filter(|report| report.what == what).count()
}

#[tokio::test]
async fn learns_who_it_is() {
    let metaserver = Metaserver::start().await;
    let meta = acquire(&metaserver.endpoint(), &identity("host"), QUICK)
        .await
        .unwrap();
    assert_eq!(
        (meta.group.as_str(), meta.role),
        ("group", BrokerRole::Master)
    );
}

#[tokio::test]
async fn tells_how_to_add_an_unknown_broker() {
    let metaserver = Metaserver::start().await;
    let endpoint = metaserver.endpoint();
    let error = acquire(&endpoint, &identity("stranger"), QUICK)
        .await
        .unwrap_err();
    let command = format!(
        "bin/tools.sh AddBroker --metaserver={} --token=<token> --brokerGroup=<name> --role=0 \
         --hostname=stranger --ip=10.0.0.1 --servePort=20881 --syncPort=20882",
        endpoint.authority()
    );
    assert!(error.to_string().contains(&command), "{error}");
    assert_eq!(StartError::from(error).kind(), FailureKind::Registration);
}

#[tokio::test]
async fn names_the_endpoint_that_does_not_answer() {
    let endpoint = "http://127.0.0.1:1/meta/address".parse().unwrap();
    let error = acquire(&endpoint, &identity("host"), QUICK)
        .await
        .unwrap_err();
    assert!(
        matches!(error, RegistrationError::Discovery { .. }),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains("http://127.0.0.1:1/meta/address"),
        "{error}"
    );
    assert_eq!(StartError::from(error).kind(), FailureKind::Network);
}

#[tokio::test]
async fn reports_heartbeat_online_heartbeat_offline() {
    let metaserver = Metaserver::start().await;
    let broker = broker(&metaserver);
    metaserver.wait_for(|reports| reports.len() > 2).await;
    broker.state.send_replace(BrokerState::ReadWrite);
    broker
        .registration
        .online()
        .wait_for(|online| *online)
        .await
        .unwrap();
    let reports = metaserver
        .wait_for(|reports| count(reports, Online) == 1)
        .await;
    assert!(reports[..2].iter().all(|report| *report
        == Report {
            what: Heartbeat,
            state: 4
        }));
    let alive = Report {
        what: Heartbeat,
        state: 1,
    };
    metaserver
        .wait_for(|reports| reports.last() == Some(&alive))
        .await;

    broker.state.send_replace(BrokerState::Read);
    let readonly = Report {
        what: Heartbeat,
        state: 2,
    };
    metaserver
        .wait_for(|reports| reports.contains(&readonly))
        .await;

    broker.stop.cancel();
    broker.registration.stopped().await;
    let reports = metaserver.wait_for(|_| true).await;
    assert_eq!(
        reports.last(),
        Some(&Report {
            what: Offline,
            state: 4
        })
    );
    assert_eq!(
        count(&reports, Offline),
        1,
        "one OFFLINE that succeeded is enough"
    );
    assert_eq!(count(&reports, Online), 1);
    assert_eq!(
        metaserver.lookups(),
        1,
        "a broker stays with its metaserver"
    );
}

/// The reference's brokers take code 51 for success and stay invisible.
#[tokio::test]
async fn repeats_online_until_it_succeeds() {
    let metaserver = Metaserver::start().await;
    metaserver.refuse(Online, 4);
    let broker = broker(&metaserver);
    broker.state.send_replace(BrokerState::ReadWrite);
    broker
        .registration
        .online()
        .wait_for(|online| *online)
        .await
        .unwrap();
    let reports = metaserver
        .wait_for(|reports| count(reports, Online) == 5)
        .await;
    assert_eq!(count(&reports, Online), 5);
    assert!(
        metaserver.lookups() >= 5,
        "each failure asks for an address again"
    );
}

#[tokio::test]
async fn gives_up_taking_leave_after_three_times() {
    let metaserver = Metaserver::start().await;
    metaserver.refuse(Offline, 9);
    let broker = broker(&metaserver);
    broker.stop.cancel();
    broker.registration.stopped().await;
    let reports = metaserver.wait_for(|_| true).await;
    assert_eq!(count(&reports, Offline), 3);
}
