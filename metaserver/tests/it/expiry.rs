//! Clients that were silent for long are no longer listed; those that are alive are.

use std::time::Duration;

use qmq_metaserver::MetaserverConfig;
use qmq_protocol::command::client_register::{ClientRequestType, ClientType};
use sqlx::{AnyPool, AssertSqlSafe};

use crate::node::{Node, PATIENCE, Place, http, question};

on_each_database! {
    silent_clients_are_dropped_and_live_ones_noted,
    clients_that_only_a_java_metaserver_heard_stay,
    silence_while_no_metaserver_ran_does_not_count,
}

/// More than are dropped by one statement.
const DEAD: usize = 250;
const ALIVE: &str = "qmq://client-1?";

async fn silent_clients_are_dropped_and_live_ones_noted(place: Place) {
    let node = place.start().await;
    let alive = question("order.paid", ClientType::Consumer);
    node.ask(alive).await;
    consumers_until(&node, 1).await;
    let sql = place.sql().await;
    heard_until(&sql, 1).await;
    add_dead(&place, &sql).await;
    hear_all(&sql).await;
    silence(&sql).await;
    // A metaserver ran all the time.
    let now_ms = place.now_ms();
    let note = format!("INSERT INTO qmq_heard_client (id, last_seen_ms) VALUES (0, {now_ms})");
    run(&sql, note).await;
    node.stop().await;

    // Of those that live longer than a metaserver, the next one sees heartbeats only.
    let node = place.start().await;
    let mut again = alive;
    again.request_type = ClientRequestType::Heartbeat;
    node.ask(again).await;
    heard_until(&sql, 1).await;
    let listed = consumers_until(&node, DEAD + 1).await;
    assert!(listed.contains("qmq://dead-0?"), "{listed}");
    node.stop().await;

    let node = start_quick(&place).await;
    let listed = consumers_until(&node, 1).await;
    assert!(listed.contains(ALIVE), "{listed}");
    count_until(
        &sql,
        "SELECT COUNT(*) FROM qmq_heard_client WHERE id > 0",
        1,
    )
    .await;
    node.stop().await;
}

async fn clients_that_only_a_java_metaserver_heard_stay(place: Place) {
    let node = place.start().await;
    let sql = place.sql().await;
    add_dead(&place, &sql).await;
    node.stop().await;
    let node = start_quick(&place).await;
    // One that ours heard goes: so they have been looked for.
    node.ask(question("order.paid", ClientType::Consumer)).await;
    consumers_until(&node, DEAD + 1).await;
    heard_until(&sql, 1).await;
    silence(&sql).await;
    let listed = consumers_until(&node, DEAD).await;
    assert!(!listed.contains(ALIVE), "{listed}");
    node.stop().await;
}

async fn silence_while_no_metaserver_ran_does_not_count(place: Place) {
    let node = place.start().await;
    node.ask(question("order.paid", ClientType::Consumer)).await;
    consumers_until(&node, 1).await;
    let sql = place.sql().await;
    add_dead(&place, &sql).await;
    heard_until(&sql, 1).await;
    node.stop().await;
    // All were heard long ago, and so were the metaservers: who knows whom a Java one heard since.
    hear_all(&sql).await;
    silence(&sql).await;
    let node = start_quick(&place).await;
    let node_is_noted = "SELECT COUNT(*) FROM qmq_heard_client WHERE id = 0";
    count_until(&sql, node_is_noted, 1).await;
    count_until(&sql, "SELECT COUNT(*) FROM qmq_heard_client", 1).await;
    consumers_until(&node, DEAD + 1).await;
    node.stop().await;
}

const LONG_AGO: i64 = 981_173_106_000;

/// Rows that an original metaserver could have written.
async fn add_dead(place: &Place, sql: &AnyPool) {
    let old = match place.has_widths() {
        true => "'2001-02-03 04:05:06'",
        false => "981173106000",
    };
    let dead = |n| format!("('order.paid', 2, 'group', 'dead-{n}', 'app', '', {old}, {old})");
    let dead: Vec<String> = (0..DEAD).map(dead).collect();
    run(
        sql,
        format!(
            "INSERT INTO client_meta_info (subject_info, client_type, consumer_group, client_id, \
             app_code, room, create_time, update_time) VALUES {}",
            dead.join(", ")
        ),
    )
    .await;
}
/// Notes every client as heard long ago.
async fn hear_all(sql: &AnyPool) {
    let insert = format!(
        "INSERT INTO qmq_heard_client (id, last_seen_ms) SELECT id, {LONG_AGO} \
         FROM client_meta_info WHERE id NOT IN (SELECT id FROM qmq_heard_client)"
    );
    run(sql, insert).await;
}

/// Lets who was heard have been silent since long ago.
async fn silence(sql: &AnyPool) {
    let update = format!("UPDATE qmq_heard_client SET last_seen_ms = {LONG_AGO}");
    run(sql, update).await;
}

/// Waits until so many clients were heard lately.
async fn heard_until(sql: &AnyPool, count: i64) {
    let query =
        format!("SELECT COUNT(*) FROM qmq_heard_client WHERE id > 0 AND last_seen_ms > {LONG_AGO}");
    count_until(sql, &query, count).await;
}

async fn count_until(sql: &AnyPool, query: &str, count: i64) {
    let look = async {
        while sqlx::query_scalar::<_, i64>(AssertSqlSafe(query.to_owned()))
            .fetch_one(sql)
            .await
            .unwrap()
            != count
        {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, look)
        .await
        .expect("so many rows must be there");
}

/// A metaserver that looks for silent clients all the time.
async fn start_quick(place: &Place) -> Node {
    let config = MetaserverConfig {
        client_expiry_round: Duration::from_millis(20),
        ..place.config()
    };
    place.start_with(config).await
}

async fn run(sql: &AnyPool, statement: String) {
    let done = sqlx::query(AssertSqlSafe(statement)).execute(sql).await;
    assert!(done.unwrap().rows_affected() > 0);
}

/// Waits until so many consumers are listed; returns the list.
async fn consumers_until(node: &Node, count: usize) -> String {
    let url = format!("{}/subject/consumers?subject=order.paid", node.http());
    let look = async {
        loop {
            let reply = http().get(&url).send().await.unwrap();
            let listed = reply.text().await.unwrap();
            if listed.matches("qmq://").count() == count {
                return listed;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, look)
        .await
        .expect("so many consumers must be listed")
}
