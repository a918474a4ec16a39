//! CLIENT_REGISTER: routes of subjects.

use std::time::Duration;

use qmq_metaserver::MetaserverConfig;
use qmq_model::{BrokerRole, BrokerState};
use qmq_protocol::CommandCode;
use qmq_protocol::command::broker_register::BrokerRequestType;
use qmq_protocol::command::client_register::{ClientRequestType, ClientType};
use sqlx::{AssertSqlSafe, Row};

use crate::node::{G1, G2, Master, Place, ask, question};

on_each_database! {
    a_route_appears_once_a_broker_is_online,
    the_first_producer_is_answered_as_soon_as_a_broker_comes,
    a_stop_answers_those_who_wait,
    nobody_waits_longer_than_the_limit,
    subjects_have_routes_of_their_own_and_retry_subjects_have_none,
    a_route_is_topped_up_when_another_group_comes,
    illegal_subjects_are_refused,
    a_producer_of_an_illegal_subject_is_refused_with_a_route_that_is_not_stored,
    a_body_that_cannot_be_decoded_is_answered_51_and_the_connection_kept,
    readonly_marks_switches_and_states_are_honoured,
    notes_each_client_once_by_its_raw_subject,
    a_restart_keeps_everything,
}

const D1: Master = Master {
    group: "d1",
    address: "10.0.0.3:20881",
    role: BrokerRole::DelayMaster,
};

async fn a_route_appears_once_a_broker_is_online(place: Place) {
    let node = place.start().await;
    let producer = question("order.paid", ClientType::Producer);
    let answer = node.ask(producer).await;
    assert_eq!((answer.code, answer.groups.len()), (0, 0));
    assert!(
        answer.timestamp_ms > 1_600_000_000_000,
        "{}",
        answer.timestamp_ms
    );

    node.bring_online(G1).await;
    let answer = node
        .ask_until(producer, |answer| !answer.groups.is_empty())
        .await;
    let group = &answer.groups[0];
    assert_eq!(
        (group.name.as_str(), group.master.as_str()),
        ("g1", "10.0.0.1:20881")
    );
    assert_eq!(group.state, BrokerState::ReadWrite);
    assert!(group.updated_ms > 1_600_000_000_000);
    assert_eq!(
        (answer.subject.as_str(), answer.consumer_group.as_str()),
        ("order.paid", "")
    );
    assert_eq!((answer.client_type, answer.is_online), (1, true));

    let sql = place.sql().await;
    let row = sqlx::query("SELECT broker_group_json, CAST(version AS SIGNED) FROM subject_route")
        .fetch_one(&sql)
        .await
        .unwrap();
    assert_eq!(
        (row.get::<String, _>(0), row.get::<i64, _>(1)),
        ("[\"g1\"]".to_owned(), 1)
    );
    node.stop().await;
}

/// With the reference the first producer of a subject had to wait for 60 s.
async fn the_first_producer_is_answered_as_soon_as_a_broker_comes(place: Place) {
    let wait = Duration::from_secs(60);
    let config = MetaserverConfig {
        first_route_wait: wait,
        ..place.config()
    };
    let node = place.start_with(config).await;
    let early = question("order.paid", ClientType::Producer);
    let (answer, ()) = tokio::join!(node.ask(early), node.bring_online(G1));
    assert_eq!(answer.names(), ["g1"]);
    let delayed = question("order.paid", ClientType::DelayProducer);
    let (answer, ()) = tokio::join!(node.ask(delayed), node.bring_online(D1));
    assert_eq!(answer.names(), ["d1"]);
    node.stop().await;
}

async fn a_stop_answers_those_who_wait(place: Place) {
    let wait = Duration::from_secs(60);
    let config = MetaserverConfig {
        first_route_wait: wait,
        ..place.config()
    };
    let node = place.start_with(config).await;
    let client = node.client();
    let waiting =
        tokio::spawn(
            async move { ask(&client, question("order.paid", ClientType::Producer)).await },
        );
    node.count_until("clientRegisterCount_total{clientTypeCode=\"1\"} 1")
        .await;
    node.stop().await;
    let answer = waiting.await.unwrap();
    assert_eq!((answer.code, answer.groups.len()), (0, 0));
}

async fn nobody_waits_longer_than_the_limit(place: Place) {
    let wait = Duration::from_millis(30);
    let config = MetaserverConfig {
        first_route_wait: wait,
        ..place.config()
    };
    let node = place.start_with(config).await;
    let begin = std::time::Instant::now();
    let answer = node.ask(question("order.paid", ClientType::Consumer)).await;
    assert_eq!((answer.code, answer.groups.len()), (0, 0));
    assert!(begin.elapsed() >= wait);
    node.stop().await;
}

async fn subjects_have_routes_of_their_own_and_retry_subjects_have_none(place: Place) {
    let node = place.start().await;
    node.bring_online(G1).await;
    let first = question("order.paid", ClientType::Consumer);
    node.ask_until(first, |answer| answer.names() == ["g1"])
        .await;
    for name in ["%RETRY%order.paid%group", "%DEAD_RETRY%order.paid%group"] {
        let answer = node.ask(question(name, ClientType::Consumer)).await;
        assert_eq!(
            (answer.subject.as_str(), answer.names()),
            (name, vec!["g1"])
        );
        assert_eq!(answer.consumer_group, "group");
    }
    let answer = node.ask(question("order.sent", ClientType::Producer)).await;
    assert_eq!(answer.names(), ["g1"]);
    let sql = place.sql().await;
    let rows = sqlx::query("SELECT subject_info FROM subject_route ORDER BY subject_info");
    let rows = rows.fetch_all(&sql).await.unwrap();
    let subjects: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(subjects, ["order.paid", "order.sent"]);
    node.stop().await;
}

async fn a_route_is_topped_up_when_another_group_comes(place: Place) {
    let node = place.start().await;
    node.bring_online(G1).await;
    let producer = question("order.paid", ClientType::Producer);
    node.ask_until(producer, |answer| answer.names() == ["g1"])
        .await;
    node.bring_online(G2).await;
    node.ask_until(producer, |answer| answer.names() == ["g1", "g2"])
        .await;
    node.stop().await;
}

async fn illegal_subjects_are_refused(place: Place) {
    let node = place.start().await;
    node.bring_online(G1).await;
    for name in ["", "a/b", "a b", "a\nb", "a\u{3000}b", "%RETRY%a b%g"] {
        let answer = node.ask(question(name, ClientType::Consumer)).await;
        assert_eq!((answer.code, answer.timestamp_ms), (0, -2), "{name:?}");
        assert!(!answer.is_online && answer.groups.is_empty(), "{name:?}");
        assert_eq!((answer.subject.as_str(), answer.client_type), (name, 2));
        assert_eq!(answer.consumer_group, "group");
    }
    node.stop().await;
}

/// A Java producer without a route waits for one for ever and loses a sending thread; with one it
/// sends, and the broker tells it what is wrong.
async fn a_producer_of_an_illegal_subject_is_refused_with_a_route_that_is_not_stored(place: Place) {
    let node = place.start().await;
    node.bring_online(G1).await;
    node.bring_online(D1).await;
    let legal = question("order.paid", ClientType::Producer);
    node.ask_until(legal, |answer| answer.names() == ["g1"])
        .await;
    let delayed = question("order.paid", ClientType::DelayProducer);
    node.ask_until(delayed, |answer| answer.names() == ["d1"])
        .await;
    let long = "x".repeat(300);
    for name in ["", "..", "a/b", "a\nb", long.as_str()] {
        for (client_type, group) in [
            (ClientType::Producer, "g1"),
            (ClientType::DelayProducer, "d1"),
        ] {
            let answer = node.ask(question(name, client_type)).await;
            assert_eq!((answer.code, answer.timestamp_ms), (0, -2), "{name:?}");
            assert_eq!(answer.names(), [group], "{name:?}");
            assert_eq!(answer.subject, name);
        }
    }
    // Nothing was written: neither routes nor clients, although all of them said "online". The
    // client that is noted last shows that whatever was queued before it has been written.
    let mut last = legal;
    last.client_id = "last";
    node.ask(last).await;
    let sql = place.sql().await;
    let ids = "SELECT DISTINCT client_id FROM client_meta_info";
    let noted = async {
        loop {
            let ids: Vec<String> = sqlx::query_scalar(ids).fetch_all(&sql).await.unwrap();
            if ids.iter().any(|id| id == "last") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    noted.await;
    for table in [
        "SELECT DISTINCT subject_info FROM subject_route",
        "SELECT DISTINCT subject_info FROM client_meta_info",
    ] {
        let subjects: Vec<String> = sqlx::query_scalar(table).fetch_all(&sql).await.unwrap();
        assert_eq!(subjects, ["order.paid"], "{table}");
    }
    node.stop().await;
}

async fn a_body_that_cannot_be_decoded_is_answered_51_and_the_connection_kept(place: Place) {
    let node = place.start().await;
    for code in [
        CommandCode::ClientRegister,
        CommandCode::BrokerRegister,
        CommandCode::BrokerAcquireMeta,
    ] {
        let reply = node
            .request(code, |out| out.extend_from_slice(&[0, 9]))
            .await;
        assert_eq!((reply.header.code, reply.body.len()), (51, 0), "{code:?}");
    }
    let reply = node.request(CommandCode::PullMessage, |_| {}).await;
    assert_eq!(reply.header.code, 3);
    let reply = node.request(CommandCode::Heartbeat, |_| {}).await;
    assert_eq!(reply.header.code, 100);
    node.stop().await;
}

async fn readonly_marks_switches_and_states_are_honoured(place: Place) {
    let node = place.start().await;
    node.bring_online(G1).await;
    node.bring_online(G2).await;
    let producer = question("order.paid", ClientType::Producer);
    let consumer = question("order.paid", ClientType::Consumer);
    node.ask_until(producer, |answer| answer.groups.len() == 2)
        .await;

    let sql = place.sql().await;
    let mark = "INSERT INTO readonly_broker_group_setting (subject, broker_group, create_time) \
                VALUES ('*', 'g1', {now})";
    let mark = AssertSqlSafe(mark.replace("{now}", place.now()));
    sqlx::query(mark).execute(&sql).await.unwrap();
    node.ask_until(producer, |answer| answer.names() == ["g2"])
        .await;
    assert_eq!(node.ask(consumer).await.names(), ["g1", "g2"]);

    let code = node
        .report(G2, BrokerRequestType::Heartbeat, BrokerState::Read)
        .await;
    assert_eq!(code, 0);
    let is_read = |state: BrokerState| state == BrokerState::Read;
    node.ask_until(consumer, |answer| {
        answer.groups.iter().any(|group| is_read(group.state))
    })
    .await;
    node.report(G2, BrokerRequestType::Offline, BrokerState::Away)
        .await;
    node.ask_until(consumer, |answer| answer.names() == ["g1"])
        .await;

    let switch = "INSERT INTO client_offline_state (client_id, subject_info, consumer_group, \
                  state) VALUES ('*', 'order.paid', 'group', 1)";
    sqlx::query(switch).execute(&sql).await.unwrap();
    let off = node.ask_until(consumer, |answer| !answer.is_online).await;
    assert_eq!(
        off.names(),
        ["g1"],
        "a consumer that is switched off keeps its groups"
    );
    let retry = node
        .ask(question("%RETRY%order.paid%group", ClientType::Consumer))
        .await;
    assert!(!retry.is_online);
    node.stop().await;
}

async fn notes_each_client_once_by_its_raw_subject(place: Place) {
    let node = place.start().await;
    let online = question("%RETRY%order.paid%group", ClientType::Consumer);
    let mut alive = question("order.paid", ClientType::Consumer);
    alive.request_type = ClientRequestType::Heartbeat;
    for _ in 0..3 {
        node.ask(online).await;
        node.ask(alive).await;
    }
    let sql = place.sql().await;
    let count = async {
        loop {
            let query =
                sqlx::query_scalar("SELECT group_concat(subject_info) FROM client_meta_info");
            let subjects: Option<String> = query.fetch_one(&sql).await.unwrap();
            if let Some(subjects) = subjects {
                return subjects;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert_eq!(count.await, "%RETRY%order.paid%group");
    node.stop().await;
}

async fn a_restart_keeps_everything(place: Place) {
    let node = place.start().await;
    node.bring_online(G1).await;
    let consumer = question("order.paid", ClientType::Consumer);
    let before = node
        .ask_until(consumer, |answer| answer.names() == ["g1"])
        .await;
    node.stop().await;
    let node = place.start().await;
    let after = node.ask(consumer).await;
    assert_eq!(after.names(), ["g1"]);
    assert!(after.timestamp_ms >= before.timestamp_ms);
    node.stop().await;
}
