//! Clients that were silent for long are no longer listed; those that are alive are.

use std::time::Duration;

use qmq_metaserver::MetaserverConfig;
use qmq_protocol::command::client_register::{ClientRequestType, ClientType};
use sqlx::{AnyPool, AssertSqlSafe};

use crate::node::{Node, PATIENCE, Place, http, question};

on_each_database!(silent_clients_are_dropped_and_live_ones_touched);

/// More than are dropped by one statement.
const DEAD: usize = 250;

async fn silent_clients_are_dropped_and_live_ones_touched(place: Place) {
    let node = place.start().await;
    let alive = question("order.paid", ClientType::Consumer);
    node.ask(alive).await;
    consumers_until(&node, 1).await;
    let sql = place.sql().await;
    let old = match place.has_widths() {
        true => "'2001-02-03 04:05:06'",
        false => "981173106000",
    };
    let dead = |n| format!("('order.paid', 2, 'group', 'dead-{n}', 'app', '', {old}, {old})");
    let dead: Vec<String> = (0..DEAD).map(dead).collect();
    run(
        &sql,
        format!(
            "INSERT INTO client_meta_info (subject_info, client_type, consumer_group, client_id, \
             app_code, room, create_time, update_time) VALUES {}",
            dead.join(", ")
        ),
    )
    .await;
    let set = format!("UPDATE client_meta_info SET update_time = {old}");
    run(&sql, set).await;
    node.stop().await;

    // Of those that live longer than a metaserver, the next one sees heartbeats only.
    let node = place.start().await;
    let mut again = alive;
    again.request_type = ClientRequestType::Heartbeat;
    node.ask(again).await;
    let touched = format!("SELECT COUNT(*) FROM client_meta_info WHERE update_time > {old}");
    let touched = async {
        while sqlx::query_scalar::<_, i64>(AssertSqlSafe(touched.clone()))
            .fetch_one(&sql)
            .await
            .unwrap()
            != 1
        {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, touched)
        .await
        .expect("one must be touched");
    let listed = consumers_until(&node, DEAD + 1).await;
    assert!(listed.contains("qmq://dead-0?"), "{listed}");
    node.stop().await;

    let quick = MetaserverConfig {
        client_expiry_round: Duration::from_millis(20),
        ..place.config()
    };
    let node = place.start_with(quick).await;
    let listed = consumers_until(&node, 1).await;
    assert!(listed.contains("qmq://client-1?"), "{listed}");
    node.stop().await;
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
