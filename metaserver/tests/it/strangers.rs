//! What people on the network may try with both ports; and the description the HTTP port has of
//! itself.

use bytes::BytesMut;
use qmq_protocol::command::broker_acquire_meta::BrokerAcquireMetaRequest;
use qmq_protocol::command::client_register::{ClientRegisterRequest, ClientType};
use qmq_protocol::{CommandCode, Encode};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::node::{G1, Node, PATIENCE, Place, TOKEN, http, question};

on_each_database! {
    every_action_is_described_and_protected_as_it_says,
    words_of_sql_are_only_words,
    words_of_sql_are_only_words_to_brokers_and_clients,
    floods_of_headers_and_bodies_are_refused,
    a_crowd_that_says_nothing_holds_up_nobody,
}

async fn description(node: &Node) -> Value {
    let url = format!("{}/openapi.json", node.http());
    let reply = http().get(url).send().await.unwrap();
    assert_eq!(reply.headers()["content-type"], "application/json");
    serde_json::from_str(&reply.text().await.unwrap()).unwrap()
}

/// The forms of all actions.
fn forms(description: &Value) -> Vec<&Value> {
    let body = &description["paths"]["/management"]["post"]["requestBody"];
    let schema = &body["content"]["application/x-www-form-urlencoded"]["schema"];
    schema["anyOf"].as_array().unwrap().iter().collect()
}

fn name(form: &Value) -> &str {
    form["properties"]["action"]["const"].as_str().unwrap()
}

/// Every `$ref` in a description.
fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

/// Actions that tell everybody.
const OPEN: [&str; 3] = ["ListBrokers", "ListBrokerGroups", "ListSubjectRoutes"];

async fn every_action_is_described_and_protected_as_it_says(place: Place) {
    let node = place.start().await;
    let description = description(&node).await;
    let mut found = Vec::new();
    references(&description, &mut found);
    assert!(found.len() > 5, "{found:?}");
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(description.pointer(pointer).is_some(), "{reference}");
    }
    let forms = forms(&description);
    assert!(forms.len() >= 16);
    // One that is revoked is as good as a wrong one.
    std::fs::write(place.tokens(), "other=now\n").unwrap();
    for form in forms {
        let action = name(form);
        let needs_token = form["description"]
            .as_str()
            .unwrap()
            .contains("Needs a token");
        assert_eq!(needs_token, !OPEN.contains(&action), "{action}");
        for token in [None, Some("wrong"), Some(TOKEN), Some("")] {
            let mut request = node.post(&[("action", action)]);
            if let Some(token) = token {
                request = request.header("X-Api-Token", token);
            }
            let reply = request.send().await.unwrap().text().await.unwrap();
            let is_refused = reply.contains("no valid api token");
            assert_eq!(is_refused, needs_token, "{action} with {token:?}: {reply}");
        }
    }
    node.stop().await;
}

/// Put where a value is expected.
const WORDS: [&str; 6] = [
    "x'; DROP TABLE broker_group; -- ",
    "x\" OR \"1\"=\"1",
    "' OR '1'='1",
    "1); DELETE FROM subject_route WHERE (1=1",
    "\\'; SELECT SLEEP(9); --",
    "x\0y%_{now}",
];

async fn words_of_sql_are_only_words(place: Place) {
    let node = place.start().await;
    node.bring_online(G1).await;
    let consumer = question("order.paid", ClientType::Consumer);
    node.ask_until(consumer, |answer| answer.names() == ["g1"])
        .await;
    let list = async |action| node.manage(&[("action", action)]).await;
    let before = (
        list("ListBrokerGroups").await,
        list("ListSubjectRoutes").await,
    );
    let description = description(&node).await;
    for form in forms(&description) {
        let action = name(form);
        let keys = form["properties"].as_object().unwrap().keys();
        let keys: Vec<&str> = keys
            .map(String::as_str)
            .filter(|k| *k != "action")
            .collect();
        for key in &keys {
            for word in WORDS {
                let mut call = vec![("action", action), (*key, word)];
                // The others as they should be, so that this one gets as far as it can.
                let others = keys.iter().filter(|other| *other != key);
                call.extend(others.map(|other| (*other, harmless(other))));
                let reply = node.manage(&call).await;
                let answer: Value = serde_json::from_str(&reply).unwrap();
                let is_list = action.starts_with("List");
                let is_refused = answer["status"] == -1 || answer.get("error").is_some();
                // A password may be anything, and what is looked for is not found.
                let may_be = is_list || *key == "password" || is_nothing_to_do(action, key);
                assert!(is_refused || may_be, "{action} {key}={word}: {reply}");
                assert!(!reply.to_lowercase().contains("syntax"), "{reply}");
            }
        }
    }
    for word in WORDS {
        for (path, key) in [
            ("/subject/consumers", "subject"),
            ("/slave/meta", "groupName"),
        ] {
            let mut url = reqwest::Url::parse(&format!("{}{path}", node.http())).unwrap();
            url.query_pairs_mut().append_pair(key, word);
            let reply = http().get(url).send().await.unwrap();
            assert_eq!(reply.status(), 200, "{path} {word}");
        }
        switch_with_words(&node, word).await;
    }
    let after = (
        list("ListBrokerGroups").await,
        list("ListSubjectRoutes").await,
    );
    assert_eq!(after, before);
    node.stop().await;
}

/// `/onoffline` with a word in the place of each value.
async fn switch_with_words(node: &Node, word: &str) {
    let url = format!("{}/onoffline", node.http());
    for operation in ["query", "update"] {
        let call = [
            ("operation", operation),
            ("clientId", "c"),
            ("subject", "s"),
            ("consumerGroup", "g"),
            ("state", "1"),
        ];
        for odd in call {
            let body = form_urlencoded::Serializer::new(String::new())
                .extend_pairs(
                    call.map(|(key, value)| (key, if key == odd.0 { word } else { value })),
                )
                .finish();
            let request = http().post(&url).body(body);
            let request = request
                .header("Content-Type", "application/x-www-form-urlencoded")
                .header("X-Api-Token", TOKEN);
            let reply = request.send().await.unwrap().text().await.unwrap();
            let answer: Value = serde_json::from_str(&reply).unwrap();
            // A switch may be for anybody, but neither what is done nor a state may be anything.
            let is_refused = matches!(odd.0, "operation" | "state");
            assert_eq!(
                answer["status"] == -1,
                is_refused,
                "{odd:?}={word}: {reply}"
            );
            assert!(!reply.to_lowercase().contains("syntax"), "{reply}");
        }
    }
}

/// The other port has no tokens.
async fn words_of_sql_are_only_words_to_brokers_and_clients(place: Place) {
    let node = place.start().await;
    node.bring_online(G1).await;
    let consumer = question("order.paid", ClientType::Consumer);
    node.ask_until(consumer, |answer| answer.names() == ["g1"])
        .await;
    let groups = node.manage(&[("action", "ListBrokerGroups")]).await;
    for word in WORDS {
        for client_type in [ClientType::Consumer, ClientType::Producer] {
            let usual = question("order.paid", client_type);
            let odd = [
                ClientRegisterRequest {
                    client_id: word,
                    ..usual
                },
                ClientRegisterRequest {
                    app_code: word,
                    ..usual
                },
                ClientRegisterRequest {
                    consumer_group: word,
                    ..usual
                },
                ClientRegisterRequest { ldc: word, ..usual },
            ];
            for odd in odd {
                assert_eq!(node.ask(odd).await.names(), ["g1"], "{odd:?}");
            }
            let subject = question(word, client_type);
            let answer = node.ask(subject).await;
            assert_eq!((answer.code, answer.subject.as_str()), (0, word));
        }
        assert_eq!(node.beat(word, G1.address).await, 51);
        assert_eq!(node.beat("g1", word).await, 51);
        let acquire = BrokerAcquireMetaRequest {
            hostname: word,
            port: 20881,
        };
        let write = |out: &mut BytesMut| acquire.encode(9, out);
        let reply = node.request(CommandCode::BrokerAcquireMeta, write).await;
        assert_eq!(reply.header.code, 51);
    }
    assert_eq!(node.manage(&[("action", "ListBrokerGroups")]).await, groups);
    let routes = node.manage(&[("action", "ListSubjectRoutes")]).await;
    assert!(
        routes.contains("{\"subject\":\"order.paid\",\"brokerGroups\":[\"g1\"],\"version\":1,")
    );
    node.stop().await;
}

fn harmless(key: &str) -> &'static str {
    match key {
        "role" => "1",
        "servePort" => "1001",
        "syncPort" => "1002",
        "port" => "3306",
        "code" => "1",
        "ip" => "10.0.0.9",
        "limit" => "1",
        "tag" => "pay",
        "update" => "true",
        "brokerGroup" | "relatedBrokerGroup" | "newBrokerGroup" => "unknown",
        _ => "nobody",
    }
}

/// Whether a call names something that may be missing, or reads nothing of this parameter.
fn is_nothing_to_do(action: &str, key: &str) -> bool {
    action == "UnMarkReadonlyBrokerGroup"
        || matches!(
            (action, key),
            ("ResetOffset", "time") | ("AddDb", "update" | "room")
        )
}

async fn floods_of_headers_and_bodies_are_refused(place: Place) {
    let node = place.start().await;
    let big = node
        .post(&[("action", "ListBrokers"), ("x", &"y".repeat(200_001))])
        .send()
        .await
        .unwrap();
    assert_eq!(big.status(), 413);
    let many = (0..500).fold(
        node.post(&[("action", "ListBrokers")]),
        |request, number| request.header(format!("x-flood-{number}"), "y"),
    );
    assert_eq!(many.send().await.unwrap().status(), 431);
    // A header that never ends: refused or cut off, long before it fills the memory.
    let mut stream = TcpStream::connect(node.http().replace("http://", ""))
        .await
        .unwrap();
    stream
        .write_all(b"GET /meta/address HTTP/1.1\r\nHost: h\r\nx: ")
        .await
        .unwrap();
    let flood = vec![b'y'; 64 * 1024];
    let mut sent = 0_usize;
    while sent < 64 * 1024 * 1024 {
        if stream.write_all(&flood).await.is_err() {
            break;
        }
        sent += flood.len();
    }
    assert!(sent < 64 * 1024 * 1024, "{sent} bytes of header were taken");
    // More parameters than anybody needs.
    let many: String = (0..50_000).map(|_| "a=b&").collect();
    let reply = http()
        .post(format!("{}/management", node.http()))
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(many[..199_999].to_owned())
        .send()
        .await
        .unwrap();
    assert!(reply.text().await.unwrap().contains("action is missing"));
    node.stop().await;
}

/// Connections that send a byte now and then or nothing at all.
async fn a_crowd_that_says_nothing_holds_up_nobody(place: Place) {
    let node = place.start().await;
    let authority = node.http().replace("http://", "");
    let mut crowd = Vec::new();
    for number in 0..200 {
        let mut stream = TcpStream::connect(&authority).await.unwrap();
        if number % 2 == 0 {
            let half = b"POST /management HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nact";
            stream.write_all(half).await.unwrap();
        }
        crowd.push(stream);
    }
    let asked = http().get(format!("{}/meta/address", node.http())).send();
    let reply = tokio::time::timeout(PATIENCE, asked)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(reply.text().await.unwrap(), node.tcp());
    // None was answered, and none was needed.
    let mut byte = [0];
    for stream in &crowd {
        let read = stream.try_read(&mut byte);
        let is_waiting = read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(is_waiting);
    }
    let mut last = crowd.pop().unwrap();
    last.write_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    last.read_to_string(&mut text).await.unwrap();
    assert!(text.ends_with("ok\n"), "{text}");
    drop(crowd);
    node.stop().await;
}
