//! ResetOffset, against brokers that note what they are asked.

use std::sync::{Arc, Mutex};

use qmq_model::{BrokerRole, BrokerState};
use qmq_protocol::command::broker_register::BrokerRequestType;
use qmq_protocol::command::client_register::ClientType;
use qmq_protocol::command::consume_manage::{ConsumeFromWhere, ConsumeManageRequest};
use qmq_protocol::{CommandCode, Decode, ResultCode};
use qmq_remoting::{Request, Responder, Server, ServerConfig, Service};
use tokio_util::sync::CancellationToken;

use crate::node::{Master, Node, PATIENCE, Place, question};

on_each_database! {
    every_broker_of_the_subject_is_asked,
    brokers_that_did_not_do_it_are_named,
}

type Asked = Arc<Mutex<Vec<(String, String, ConsumeFromWhere)>>>;

/// A broker that answers every reset with one code.
#[derive(Clone)]
struct Broker {
    asked: Asked,
    code: ResultCode,
}

impl Service for Broker {
    async fn call(&self, request: Request, responder: Responder) {
        assert_eq!(
            CommandCode::from_code(request.header.code),
            Some(CommandCode::ConsumeManage)
        );
        let reset = ConsumeManageRequest::decode(request.header.version, &request.body).unwrap();
        let asked = (reset.subject.to_owned(), reset.group.to_owned(), reset.from);
        self.asked.lock().unwrap().push(asked);
        responder.send_empty(self.code);
    }
}

/// Starts one and adds its group.
async fn broker(node: &Node, group: &'static str, code: ResultCode) -> (Asked, CancellationToken) {
    let asked = Asked::default();
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::bind(any, ServerConfig::default()).await.unwrap();
    let address = server.local_addr().to_string();
    let stop = CancellationToken::new();
    let service = Broker {
        asked: Arc::clone(&asked),
        code,
    };
    tokio::spawn(server.serve(Arc::new(service), stop.clone(), PATIENCE));
    node.bring_online(Master {
        group,
        address: address.leak(),
        role: BrokerRole::Master,
    })
    .await;
    (asked, stop)
}

async fn reset(node: &Node, changes: &[(&str, &str)]) -> String {
    let mut form = vec![
        ("action", "ResetOffset"),
        ("subject", "s"),
        ("group", "group"),
        ("code", "1"),
    ];
    for (key, value) in changes {
        match form.iter_mut().find(|(k, _)| k == key) {
            Some(entry) => entry.1 = value,
            None => form.push((key, value)),
        }
    }
    node.manage(&form).await
}

async fn every_broker_of_the_subject_is_asked(place: Place) {
    let node = place.start().await;
    let (one, stop_one) = broker(&node, "g1", ResultCode::Success).await;
    let (other, stop_other) = broker(&node, "g2", ResultCode::Success).await;
    node.ask_until(question("s", ClientType::Consumer), |answer| {
        answer.groups.len() == 2
    })
    .await;
    let done = "{\"status\":0,\"message\":\"\",\"data\":\"success\"}\n";
    assert_eq!(reset(&node, &[]).await, done);
    assert_eq!(reset(&node, &[("code", "2")]).await, done);
    assert_eq!(reset(&node, &[("code", "3"), ("time", "77")]).await, done);
    // The name as it is given, the route of the subject behind it.
    let retry = [("subject", "%RETRY%s%group")];
    assert_eq!(reset(&node, &retry).await, done);
    let expected = [
        ("s", ConsumeFromWhere::Latest),
        ("s", ConsumeFromWhere::Earliest),
        ("s", ConsumeFromWhere::Time(77)),
        ("%RETRY%s%group", ConsumeFromWhere::Latest),
    ];
    let expected = expected.map(|(subject, from)| (subject.to_owned(), "group".to_owned(), from));
    assert_eq!(*one.lock().unwrap(), expected);
    assert_eq!(*other.lock().unwrap(), expected);
    for changes in [
        ("code", ""),
        ("code", "x"),
        ("code", "4"),
        ("code", "3"),
        ("subject", ""),
        ("group", ""),
        ("subject", "without.route"),
    ] {
        let reply = reset(&node, &[changes]).await;
        assert!(reply.starts_with("{\"status\":-1,"), "{changes:?}: {reply}");
    }
    assert_eq!(one.lock().unwrap().len(), expected.len());
    stop_one.cancel();
    stop_other.cancel();
    node.stop().await;
}

/// The reference stops at the first broker that cannot be reached, and takes any answer for a yes.
async fn brokers_that_did_not_do_it_are_named(place: Place) {
    let node = place.start().await;
    let (refused, stop_refused) = broker(&node, "g1", ResultCode::ParamError).await;
    let (done, stop_done) = broker(&node, "g2", ResultCode::Success).await;
    node.ask_until(question("s", ClientType::Consumer), |answer| {
        answer.groups.len() == 2
    })
    .await;
    // Nobody listens there.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = gone.local_addr().unwrap().to_string();
    drop(gone);
    let away = Master {
        group: "g3",
        address: address.leak(),
        role: BrokerRole::Master,
    };
    node.bring_online(away).await;
    let add = [
        ("action", "AddSubjectBrokerGroup"),
        ("subject", "s"),
        ("brokerGroup", "g3"),
    ];
    assert!(node.manage(&add).await.starts_with("{\"subject\":\"s\""));
    let code = node
        .report(away, BrokerRequestType::Offline, BrokerState::Away)
        .await;
    assert_eq!(code, 0);
    let reply = reset(&node, &[]).await;
    assert!(
        reply.starts_with("{\"status\":-1,\"message\":\"not moved on g1: "),
        "{reply}"
    );
    assert!(
        reply.contains("\"data\":{\"g1\":\"the broker answered 53\",\"g3\":"),
        "{reply}"
    );
    assert!(!reply.contains("\"g2\""), "{reply}");
    assert_eq!(done.lock().unwrap().len(), 1);
    assert_eq!(refused.lock().unwrap().len(), 1);
    stop_refused.cancel();
    stop_done.cancel();
    node.stop().await;
}
