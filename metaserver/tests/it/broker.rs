//! BROKER_ACQUIRE_META, BROKER_REGISTER and the liveness of groups.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use qmq_daemon::registration::{self, BrokerIdentity, MetaEndpoint, RegistrationError, Timing};
use qmq_metaserver::MetaserverConfig;
use qmq_metaserver::config::RuleValues;
use qmq_model::BrokerRole;
use qmq_model::BrokerState::{self, Away, Read, ReadWrite};
use qmq_protocol::command::broker_acquire_meta::{
    BrokerAcquireMetaRequest, BrokerAcquireMetaResponse,
};
use qmq_protocol::command::broker_register::BrokerRequestType::{Heartbeat, Offline, Online};
use qmq_protocol::command::client_register::ClientType;
use qmq_protocol::{CommandCode, Decode, Encode};
use sqlx::{AnyPool, AssertSqlSafe, Row};
use tokio_util::sync::CancellationToken;

use crate::node::{G1, G2, Master, Node, PATIENCE, Place, question};

on_each_database! {
    a_broker_learns_who_it_is_and_whom_it_copies_from,
    a_group_goes_through_its_states,
    a_heartbeat_brings_a_lost_row_back,
    a_group_moves_only_to_an_address_that_was_registered,
    slaves_are_always_told_yes_and_have_no_effect,
    a_silent_group_goes_away_and_a_heartbeat_brings_it_back,
    a_broker_that_died_while_nobody_watched_is_found,
    a_dead_broker_stays_dead_when_all_metaservers_are_restarted,
    a_broker_that_moves_to_another_metaserver_stays,
    a_broker_of_a_java_metaserver_is_left_to_it,
    a_broker_of_ours_registers_and_takes_its_leave,
}

/// After which a group that does not report is away.
const SILENCE: Duration = Duration::from_secs(1);

async fn acquire(node: &Node, hostname: &str, port: i32) -> Result<(String, String, i32), i16> {
    let request = BrokerAcquireMetaRequest { hostname, port };
    let write = |out: &mut BytesMut| request.encode(9, out);
    let reply = node.request(CommandCode::BrokerAcquireMeta, write).await;
    if reply.header.code != 0 {
        assert!(reply.body.is_empty());
        return Err(reply.header.code);
    }
    let meta = BrokerAcquireMetaResponse::decode(9, &reply.body).unwrap();
    Ok((
        meta.name.to_owned(),
        meta.master.to_owned(),
        meta.role.code(),
    ))
}

async fn add(node: &Node, role: &str, hostname: &str, ip: &str) {
    let form = [
        ("action", "AddBroker"),
        ("brokerGroup", "g1"),
        ("role", role),
        ("hostname", hostname),
        ("ip", ip),
        ("servePort", "20881"),
        ("syncPort", "20882"),
    ];
    let reply = node.manage(&form).await;
    assert!(reply.starts_with("{\"status\":0,"), "{reply}");
}

async fn a_broker_learns_who_it_is_and_whom_it_copies_from(place: Place) {
    let node = place.start().await;
    assert_eq!(acquire(&node, "m", 20881).await, Err(51));
    add(&node, "4", "b", "10.0.0.3").await;
    assert_eq!(
        acquire(&node, "b", 20881).await,
        Err(51),
        "there is no slave to copy from"
    );
    add(&node, "1", "s", "10.0.0.2").await;
    assert_eq!(
        acquire(&node, "s", 20881).await,
        Err(51),
        "there is no master to copy from"
    );
    add(&node, "0", "m", "10.0.0.1").await;
    let meta = |master: &str, role| Ok(("g1".to_owned(), master.to_owned(), role));
    assert_eq!(acquire(&node, "m", 20881).await, meta("", 0));
    assert_eq!(acquire(&node, "s", 20881).await, meta("10.0.0.1:20882", 1));
    assert_eq!(acquire(&node, "b", 20881).await, meta("10.0.0.2:20882", 4));
    assert_eq!(acquire(&node, "m", 20882).await, Err(51));
    node.stop().await;
}

async fn stored(place: &Place) -> Option<(String, i64)> {
    let sql = place.sql().await;
    let row = sqlx::query("SELECT master_address, CAST(broker_state AS SIGNED) FROM broker_group");
    row.fetch_optional(&sql)
        .await
        .unwrap()
        .map(|row| (row.get(0), row.get(1)))
}

async fn a_group_goes_through_its_states(place: Place) {
    let node = place.start().await;
    add(&node, "0", "m", "10.0.0.1").await;
    let at = |state: BrokerState| Some((G1.address.to_owned(), i64::from(state.code())));
    assert_eq!(node.report(G1, Heartbeat, Away).await, 0);
    assert_eq!(stored(&place).await, None);
    assert_eq!(node.report(G1, Online, Away).await, 0);
    assert_eq!(
        stored(&place).await,
        at(ReadWrite),
        "ONLINE stores RW whatever it says"
    );
    for state in [Read, ReadWrite, Away, ReadWrite] {
        assert_eq!(node.report(G1, Heartbeat, state).await, 0);
        assert_eq!(stored(&place).await, at(state));
    }
    assert_eq!(node.report(G1, Offline, ReadWrite).await, 0);
    assert_eq!(stored(&place).await, at(Away));
    node.stop().await;
}

/// With the reference a lost row stayed lost until the broker was restarted.
async fn a_heartbeat_brings_a_lost_row_back(place: Place) {
    let node = place.start().await;
    node.bring_online(G1).await;
    let sql = place.sql().await;
    sqlx::query("DELETE FROM broker_group")
        .execute(&sql)
        .await
        .unwrap();
    let producer = question("order.paid", ClientType::Producer);
    node.ask_until(producer, |answer| answer.groups.is_empty())
        .await;
    assert_eq!(node.report(G1, Heartbeat, ReadWrite).await, 0);
    node.ask_until(producer, |answer| answer.names() == ["g1"])
        .await;
    node.stop().await;
}

async fn a_group_moves_only_to_an_address_that_was_registered(place: Place) {
    let node = place.start().await;
    let stranger = Master { group: "g9", ..G1 };
    assert_eq!(node.report(stranger, Online, ReadWrite).await, 51);
    assert_eq!(node.report(stranger, Heartbeat, ReadWrite).await, 51);
    assert_eq!(stored(&place).await, None);

    add(&node, "0", "m", "10.0.0.1").await;
    // The first address is taken as it is reported: the operator may have entered another.
    let first = Master {
        address: "192.168.0.1:20881",
        ..G1
    };
    assert_eq!(node.report(first, Online, ReadWrite).await, 0);
    let thief = Master {
        address: "10.6.6.6:20881",
        ..G1
    };
    for what in [Online, Heartbeat, Offline] {
        assert_eq!(node.report(thief, what, ReadWrite).await, 51, "{what:?}");
        assert_eq!(
            stored(&place).await,
            Some((first.address.to_owned(), 1)),
            "{what:?}"
        );
        // Clients are sent to the old broker, and it goes on.
        let told = node.ask(question("order.paid", ClientType::Producer)).await;
        let addresses = told.groups.iter().map(|group| group.master.as_str());
        assert_eq!(addresses.collect::<Vec<_>>(), [first.address], "{what:?}");
        assert_eq!(node.report(first, Heartbeat, ReadWrite).await, 0);
    }
    assert_eq!(
        node.report(
            Master {
                address: "nonsense",
                ..G1
            },
            Online,
            ReadWrite
        )
        .await,
        51
    );
    let other_kind = Master {
        role: BrokerRole::DelayMaster,
        ..first
    };
    assert_eq!(node.report(other_kind, Online, ReadWrite).await, 51);
    // The address that was entered is always welcome.
    assert_eq!(node.report(G1, Online, ReadWrite).await, 0);
    assert_eq!(stored(&place).await, Some((G1.address.to_owned(), 1)));
    node.stop().await;

    let config = MetaserverConfig {
        open_register: true,
        ..place.config()
    };
    let node = place.start_with(config).await;
    assert_eq!(node.report(thief, Online, ReadWrite).await, 0);
    assert_eq!(stored(&place).await, Some((thief.address.to_owned(), 1)));
    let told = node.ask(question("order.paid", ClientType::Producer)).await;
    assert_eq!(told.groups[0].master, thief.address);
    node.stop().await;
}

async fn slaves_are_always_told_yes_and_have_no_effect(place: Place) {
    let node = place.start().await;
    for role in [
        BrokerRole::Slave,
        BrokerRole::Backup,
        BrokerRole::DelaySlave,
        BrokerRole::DelayBackup,
    ] {
        assert_eq!(
            node.report(Master { role, ..G1 }, Online, ReadWrite).await,
            0
        );
    }
    assert_eq!(stored(&place).await, None);
    node.stop().await;
}

fn quick(place: &Place, silence: Duration) -> MetaserverConfig {
    let rules = RuleValues {
        heartbeat_timeout_ms: u64::try_from(silence.as_millis()).unwrap(),
        ..place.config().rules
    };
    MetaserverConfig {
        rules,
        ..place.config()
    }
}

async fn a_silent_group_goes_away_and_a_heartbeat_brings_it_back(place: Place) {
    let node = place.start_with(quick(&place, SILENCE)).await;
    node.bring_online(G1).await;
    seen_while_it_reports(&node).await;
    let producer = question("order.paid", ClientType::Producer);
    node.ask_until(producer, |answer| answer.groups.is_empty())
        .await;
    seen_while_it_reports(&node).await;
    node.stop().await;
}

/// Reports until clients are told of the group: on a busy machine it may be away again before
/// they ask.
async fn seen_while_it_reports(node: &Node) {
    let look = async {
        loop {
            assert_eq!(node.report(G1, Heartbeat, ReadWrite).await, 0);
            let answer = node.ask(question("order.paid", ClientType::Producer)).await;
            if answer.names() == ["g1"] {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, look)
        .await
        .expect("the group must be seen");
}

/// With the reference timers were armed by reports only, so a broker that died while all
/// metaservers were down stayed RW.
async fn a_broker_that_died_while_nobody_watched_is_found(place: Place) {
    let node = place.start().await;
    node.bring_online(G1).await;
    node.stop().await;
    let node = place.start_with(quick(&place, SILENCE / 10)).await;
    let producer = question("order.paid", ClientType::Producer);
    node.ask_until(producer, |answer| answer.groups.is_empty())
        .await;
    node.stop().await;
}

async fn a_dead_broker_stays_dead_when_all_metaservers_are_restarted(place: Place) {
    let heard = place.start_with(quick(&place, SILENCE)).await;
    let other = place.start_with(quick(&place, SILENCE)).await;
    heard.bring_online(G1).await;
    let consumer = question("order.paid", ClientType::Consumer);
    for node in [&heard, &other] {
        node.ask_until(consumer, |answer| answer.groups.is_empty())
            .await;
    }
    heard.stop().await;
    other.stop().await;
    // With the time-out of production: what is told is what is known from the start.
    for _ in 0..2 {
        let nodes = [place.start().await, place.start().await];
        for node in &nodes {
            let told = node.ask(consumer).await;
            assert_eq!((told.code, told.names()), (0, vec![]));
        }
        assert_eq!(stored(&place).await, Some((G1.address.to_owned(), 4)));
        for node in nodes {
            node.stop().await;
        }
    }
}

/// With the reference a broker that moved to another metaserver was set to NRW by the one
/// it had left.
async fn a_broker_that_moves_to_another_metaserver_stays(place: Place) {
    let left = place.start_with(quick(&place, SILENCE)).await;
    let joined = place.start_with(quick(&place, SILENCE)).await;
    left.bring_online(G1).await;
    let (mut begin, mut heard) = (Instant::now(), Instant::now());
    // More than two time-outs without a word to the node it has left.
    while begin.elapsed() < SILENCE * 5 / 2 {
        let before = heard;
        heard = Instant::now();
        assert_eq!(joined.report(G1, Heartbeat, ReadWrite).await, 0);
        let stored = stored(&place).await;
        if before.elapsed() > SILENCE / 2 {
            // On a busy machine the reports were so far apart that it may rightly have gone.
            begin = Instant::now();
            continue;
        }
        assert_eq!(stored, Some((G1.address.to_owned(), 1)));
    }
    left.stop().await;
    joined.stop().await;
}

/// A Java metaserver on the same database writes a state only when it changes, and nothing of what it
/// hears.
async fn a_broker_of_a_java_metaserver_is_left_to_it(place: Place) {
    let node = place.start_with(quick(&place, SILENCE / 4)).await;
    let sql = place.sql().await;
    let theirs = format!(
        "INSERT INTO broker_group (group_name, kind, master_address, broker_state, create_time, \
         update_time) VALUES ('theirs', 1, '10.0.0.9:1', 1, {now}, {now})",
        now = place.now()
    );
    run(&sql, &theirs).await;
    node.bring_online(G1).await;
    gone(&sql, "g1").await;
    assert_eq!(state_of(&sql, "theirs").await, 1, "ours never heard it");

    // The broker turns to the Java metaserver.
    run(
        &sql,
        "UPDATE broker_group SET broker_state = 1 WHERE group_name = 'g1'",
    )
    .await;
    node.ask_until(question("order.paid", ClientType::Consumer), |answer| {
        answer.names() == ["g1", "theirs"]
    })
    .await;
    node.bring_online(G2).await;
    for _ in 0..2 {
        assert_eq!(node.report(G2, Online, ReadWrite).await, 0);
        gone(&sql, "g2").await;
        assert_eq!(
            state_of(&sql, "g1").await,
            1,
            "somebody else brought it back"
        );
    }
    // It turns to ours again, and dies.
    assert_eq!(node.report(G1, Heartbeat, ReadWrite).await, 0);
    gone(&sql, "g1").await;
    // One that takes its leave from ours and comes back there is theirs at once.
    assert_eq!(node.report(G1, Online, ReadWrite).await, 0);
    assert_eq!(node.report(G1, Offline, ReadWrite).await, 0);
    run(
        &sql,
        "UPDATE broker_group SET broker_state = 1 WHERE group_name = 'g1'",
    )
    .await;
    assert_eq!(node.report(G2, Online, ReadWrite).await, 0);
    gone(&sql, "g2").await;
    let states = (state_of(&sql, "g1").await, state_of(&sql, "theirs").await);
    assert_eq!(states, (1, 1));
    node.stop().await;
}

async fn run(sql: &AnyPool, statement: &str) {
    let done = sqlx::query(AssertSqlSafe(statement.to_owned())).execute(sql);
    assert_eq!(done.await.unwrap().rows_affected(), 1);
}

async fn state_of(sql: &AnyPool, group: &str) -> i64 {
    let query = "SELECT CAST(broker_state AS SIGNED) FROM broker_group WHERE group_name = ?";
    let query = sqlx::query_scalar(query).bind(group.to_owned());
    query.fetch_one(sql).await.unwrap()
}

/// Waits until a group is away.
async fn gone(sql: &AnyPool, group: &str) {
    let look = async {
        while state_of(sql, group).await != 4 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, look)
        .await
        .expect("the group must go away");
}

/// Our own broker side against our own metaserver.
async fn a_broker_of_ours_registers_and_takes_its_leave(place: Place) {
    let node = place.start().await;
    let endpoint: MetaEndpoint = format!("{}/meta/address", node.http()).parse().unwrap();
    let identity = BrokerIdentity {
        hostname: "m".into(),
        ip: Ipv4Addr::new(10, 0, 0, 1),
        serve_port: 20881,
        sync_port: 20882,
        serves: BrokerRole::Master,
    };
    let timing = Timing::default();
    let error = registration::acquire(&endpoint, &identity, timing)
        .await
        .unwrap_err();
    assert!(
        matches!(error, RegistrationError::NotRegistered { .. }),
        "{error}"
    );

    add(&node, "0", "m", "10.0.0.1").await;
    let meta = registration::acquire(&endpoint, &identity, timing)
        .await
        .unwrap();
    assert_eq!((meta.group.as_str(), meta.role), ("g1", BrokerRole::Master));
    let (state, watched) = tokio::sync::watch::channel(Away);
    let stop = CancellationToken::new();
    let address = registration::address(identity.ip, identity.serve_port);
    let registered =
        registration::start(&endpoint, &meta, address, watched, timing, stop.clone()).unwrap();
    state.send_replace(ReadWrite);
    registered
        .online()
        .wait_for(|online| *online)
        .await
        .unwrap();
    let producer = question("order.paid", ClientType::Producer);
    assert_eq!(
        node.ask(producer).await.names(),
        ["g1"],
        "ONLINE is answered once it is seen"
    );
    stop.cancel();
    registered.stopped().await;
    assert_eq!(stored(&place).await, Some((G1.address.to_owned(), 4)));
    node.stop().await;
}
