//! `/onoffline` and `/subject/consumers`.

use qmq_metaserver::MetaserverConfig;
use qmq_protocol::command::client_register::ClientType;

use crate::node::{Node, Place, TOKEN, http, question};

on_each_database! {
    consumers_are_switched_off_and_on,
    a_switch_needs_a_token_unless_it_is_open,
    a_switch_names_everything,
    consumers_are_listed_by_group,
}

const DONE: &str = "{\"status\":0,\"message\":\"ok\",\"data\":null}\n";

fn query(node: &Node, operation: &str, client: &str, state: &str) -> String {
    format!(
        "{}/onoffline?operation={operation}&clientId={client}&subject=s&consumerGroup=group\
         &state={state}",
        node.http()
    )
}

async fn text(request: reqwest::RequestBuilder) -> String {
    let reply = request.send().await.unwrap();
    assert_eq!(reply.status(), 200);
    reply.text().await.unwrap()
}

async fn switch(node: &Node, client: &str, state: &str) -> String {
    let url = query(node, "update", client, state);
    text(http().get(url).header("X-Api-Token", TOKEN)).await
}

async fn told(node: &Node, client: &str) -> String {
    text(http().get(query(node, "query", client, "0"))).await
}

fn says(word: &str) -> String {
    format!("{{\"status\":0,\"message\":\"{word}\",\"data\":null}}\n")
}

async fn consumers_are_switched_off_and_on(place: Place) {
    let node = place.start().await;
    let mut consumer = question("s", ClientType::Consumer);
    consumer.client_id = "c1";
    assert_eq!(told(&node, "c1").await, says("ON"));
    assert_eq!(switch(&node, "c1", "1").await, DONE);
    assert_eq!(switch(&node, "c1", "7").await, DONE, "twice is no error");
    assert_eq!(told(&node, "c1").await, says("OFF"));
    node.ask_until(consumer, |answer| !answer.is_online).await;
    assert_eq!(switch(&node, "c1", "0").await, DONE);
    node.ask_until(consumer, |answer| answer.is_online).await;
    // All of a group, and everybody back, single ones included.
    assert_eq!(switch(&node, "*", "1").await, DONE);
    assert_eq!(switch(&node, "c1", "1").await, DONE);
    node.ask_until(consumer, |answer| !answer.is_online).await;
    assert_eq!(switch(&node, "*", "0").await, DONE);
    assert_eq!(told(&node, "c1").await, says("ON"));
    node.ask_until(consumer, |answer| answer.is_online).await;
    // By POST as well.
    let form = "operation=update&clientId=c1&subject=s&consumerGroup=group&state=1";
    let post = http()
        .post(format!("{}/onoffline", node.http()))
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(form);
    assert_eq!(text(post.header("X-Api-Token", TOKEN)).await, DONE);
    assert_eq!(told(&node, "c1").await, says("OFF"));
    node.stop().await;
}

/// With the reference anybody could stop any consumer with a GET.
async fn a_switch_needs_a_token_unless_it_is_open(place: Place) {
    let node = place.start().await;
    let url = query(&node, "update", "c1", "1");
    for token in ["", "wrong"] {
        let get = text(http().get(&url).header("X-Api-Token", token)).await;
        let post = text(http().post(&url).header("X-Api-Token", token)).await;
        for reply in [get, post] {
            assert!(reply.contains("no valid api token"), "{reply}");
        }
    }
    assert_eq!(told(&node, "c1").await, says("ON"));
    node.stop().await;
    let node = place
        .start_with(MetaserverConfig {
            open_onoffline: true,
            ..place.config()
        })
        .await;
    let url = query(&node, "update", "c1", "1");
    let post = text(http().post(&url)).await;
    assert!(post.contains("no valid api token"), "{post}");
    assert_eq!(text(http().get(&url)).await, DONE);
    assert_eq!(told(&node, "c1").await, says("OFF"));
    node.stop().await;
}

async fn a_switch_names_everything(place: Place) {
    let node = place.start().await;
    let long = "x".repeat(101);
    for (operation, client, state) in [
        ("", "c", "1"),
        ("stop", "c", "1"),
        ("update", "", "1"),
        ("update", "c", ""),
        ("query", "c", ""),
        ("query", "c", "off"),
        ("update", &long, "1"),
    ] {
        let url = query(&node, operation, client, state);
        let reply = text(http().get(url).header("X-Api-Token", TOKEN)).await;
        assert!(reply.starts_with("{\"status\":-1,"), "{reply}");
    }
    node.lose_database().await;
    assert!(told(&node, "c1").await.starts_with("{\"status\":-1,"));
    let reply = switch(&node, "c1", "1").await;
    assert!(reply.starts_with("{\"status\":-1,"), "{reply}");
    node.stop().await;
}

async fn consumers_are_listed_by_group(place: Place) {
    let node = place.start().await;
    for (client_id, group, client_type) in [
        ("c2", "g1", ClientType::Consumer),
        ("c1", "g1", ClientType::Consumer),
        ("c1", "g2", ClientType::Consumer),
        ("p1", "", ClientType::Producer),
    ] {
        let mut online = question("s", client_type);
        (online.client_id, online.consumer_group, online.ldc) = (client_id, group, "r1");
        node.ask(online).await;
    }
    let ask = async |query: &str| {
        let url = format!("{}/subject/consumers{query}", node.http());
        text(http().get(url)).await
    };
    let row = |group: &str, urls: &str| {
        format!(
            "{{\"namespace\":\"newqmq\",\"prefix\":\"s\",\"consumerGroup\":\"{group}\",\
             \"owner\":null,\"endPoint\":[{urls}]}}"
        )
    };
    let url = |client: &str| format!("\"qmq://{client}?room=r1&appCode=app\"");
    let rows = [
        row("g1", &[url("c1"), url("c2")].join(",")),
        row("g2", &url("c1")),
    ];
    let expected = format!(
        "{{\"status\":0,\"message\":\"success\",\"data\":[{}]}}\n",
        rows.join(",")
    );
    // They are noted behind the answers.
    let listed = async {
        loop {
            let reply = ask("?subject=s").await;
            if reply == expected {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    let limit = crate::node::PATIENCE;
    tokio::time::timeout(limit, listed)
        .await
        .expect("they must be listed");
    assert!(ask("?subject=other").await.ends_with("\"data\":[]}\n"));
    assert!(ask("").await.starts_with("{\"status\":-1,"));
    node.lose_database().await;
    assert!(ask("?subject=s").await.starts_with("{\"status\":-1,"));
    node.stop().await;
}
