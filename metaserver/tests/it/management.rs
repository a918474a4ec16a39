//! The HTTP port.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::node::{Node, Place, TOKEN, http};

on_each_database! {
    adds_and_lists_brokers,
    checks_brokers_in_the_documented_order,
    a_role_and_an_address_are_taken_once,
    protected_actions_need_a_token,
    answers_like_the_reference_to_what_it_does_not_know,
    serves_metrics_and_health_on_the_same_port,
    the_address_is_bare_and_the_connection_closes_on_request,
}

fn broker<'a>(changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut form = vec![
        ("action", "AddBroker"),
        ("brokerGroup", "g1"),
        ("role", "0"),
        ("hostname", "host1"),
        ("ip", "10.0.0.1"),
        ("servePort", "20881"),
        ("syncPort", "20882"),
    ];
    for (key, value) in changes {
        match form.iter_mut().find(|(k, _)| k == key) {
            Some(entry) => entry.1 = value,
            None => form.push((key, value)),
        }
    }
    form
}

async fn refusal(node: &Node, changes: &[(&str, &str)]) -> String {
    let reply = node.manage(&broker(changes)).await;
    assert!(reply.ends_with("\"data\":null}\n"), "{reply}");
    let message = reply
        .strip_prefix("{\"status\":-1,\"message\":\"")
        .unwrap_or_else(|| {
            panic!("{changes:?} must be refused, got {reply}");
        });
    message.to_owned()
}

async fn adds_and_lists_brokers(place: Place) {
    let node = place.start().await;
    let added = node.manage(&broker(&[])).await;
    let master = "{\"group\":\"g1\",\"role\":\"MASTER\",\"hostname\":\"host1\",\
                  \"ip\":\"10.0.0.1\",\"servePort\":20881,\"syncPort\":20882}";
    assert_eq!(
        added,
        format!("{{\"status\":0,\"message\":\"\",\"data\":{master}}}\n")
    );

    let backup = [
        ("role", "4"),
        ("hostname", "host2"),
        ("syncPort", "ignored"),
    ];
    let added = node.manage(&broker(&backup)).await;
    assert!(
        added.contains("\"role\":\"BACKUP\"") && added.contains("\"syncPort\":-1"),
        "{added}"
    );
    let other = [("brokerGroup", "g2"), ("hostname", "host3")];
    node.manage(&broker(&other)).await;

    let listed = node
        .post(&[("action", "ListBrokers"), ("brokerGroup", "")])
        .send()
        .await
        .unwrap();
    assert_eq!(listed.headers()["content-type"], "application/json");
    let listed = listed.text().await.unwrap();
    assert!(listed.starts_with("{\"status\":0,\"message\":\"\",\"data\":[{\"group\":\"g1\""));
    assert_eq!(listed.matches("\"group\"").count(), 3);
    let one = node
        .post(&[("action", "ListBrokers"), ("brokerGroup", "g2")])
        .send()
        .await
        .unwrap();
    assert_eq!(one.text().await.unwrap().matches("\"group\"").count(), 1);
    node.stop().await;
}

/// The order of the checks is part of the API: the first failure is reported.
async fn checks_brokers_in_the_documented_order(place: Place) {
    let node = place.start().await;
    // Each line breaks one thing and everything that is checked later.
    let all_wrong = [
        ("role", "x"),
        ("servePort", "y"),
        ("syncPort", "z"),
        ("brokerGroup", ""),
        ("hostname", ""),
        ("ip", ""),
    ];
    let cases: [(&[(&str, &str)], &str); 9] = [
        (
            &all_wrong,
            "AddBroker failed: role \\\"x\\\" is not a number",
        ),
        (&[("role", "8")], "AddBroker failed: role 8 is unknown"),
        (
            &[("servePort", "y"), ("brokerGroup", "")],
            "AddBroker failed: servePort",
        ),
        (
            &[("syncPort", "z"), ("brokerGroup", "")],
            "AddBroker failed: syncPort",
        ),
        (
            &[("brokerGroup", ""), ("role", "2")],
            "brokerGroup is empty",
        ),
        (
            &[("role", "2"), ("hostname", "")],
            "role 2 (STANDBY) cannot be added",
        ),
        (&[("hostname", ""), ("ip", "")], "hostname is empty"),
        (&[("ip", ""), ("servePort", "0")], "ip is empty"),
        (
            &[("ip", "127.1"), ("servePort", "0")],
            "ip \\\"127.1\\\" is no dotted IPv4 address",
        ),
    ];
    for (changes, expected) in cases {
        let message = refusal(&node, changes).await;
        assert!(message.starts_with(expected), "{changes:?}: {message}");
    }
    for ports in [
        ("0", "1"),
        ("1", "0"),
        ("-1", "1"),
        ("7", "7"),
        ("70000", "1"),
        ("1", "70000"),
    ] {
        let message = refusal(&node, &[("servePort", ports.0), ("syncPort", ports.1)]).await;
        assert!(
            message.starts_with("servePort and syncPort must differ"),
            "{message}"
        );
    }
    let long = "x".repeat(31);
    refusal(&node, &[("brokerGroup", &long)]).await;
    let listed = node.manage(&[("action", "ListBrokers")]).await;
    assert_eq!(listed, "{\"status\":0,\"message\":\"\",\"data\":[]}\n");
    node.stop().await;
}

async fn a_role_and_an_address_are_taken_once(place: Place) {
    let node = place.start().await;
    node.manage(&broker(&[])).await;
    let message = refusal(&node, &[("hostname", "host2")]).await;
    assert!(message.contains("use another group name"), "{message}");
    let message = refusal(&node, &[("brokerGroup", "g2")]).await;
    assert!(
        message.contains("another broker has host1:20881"),
        "{message}"
    );
    let message = refusal(&node, &[("role", "6"), ("hostname", "host2")]).await;
    assert!(message.contains("both realtime and delay"), "{message}");
    node.manage(&broker(&[("role", "1"), ("hostname", "host2")]))
        .await;
    node.manage(&broker(&[("role", "4"), ("hostname", "host3")]))
        .await;
    let message = refusal(&node, &[("role", "1"), ("hostname", "host4")]).await;
    assert!(message.contains("is complete"), "{message}");
    node.stop().await;
}

async fn protected_actions_need_a_token(place: Place) {
    let node = place.start().await;
    let form = broker(&[]);
    let refused = "{\"status\":-1,\"message\":\"no valid api token";
    let without = node.post(&form).send().await.unwrap().text().await.unwrap();
    assert!(without.starts_with(refused), "{without}");
    for token in ["wrong", "", "secre", "secret2"] {
        let reply = node
            .post(&form)
            .header("X-Api-Token", token)
            .send()
            .await
            .unwrap();
        assert_eq!(reply.status(), 200);
        assert!(
            reply.text().await.unwrap().starts_with(refused),
            "{token:?}"
        );
    }
    // Only the header counts, never a parameter.
    let mut with_parameter = form.clone();
    with_parameter.push(("X-Api-Token", TOKEN));
    let reply = node
        .post(&with_parameter)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(reply.starts_with(refused), "{reply}");
    // A changed file counts at once.
    std::fs::write(place.tokens(), "fresh=x\n").unwrap();
    assert!(node.manage(&form).await.starts_with(refused));
    let reply = node
        .post(&form)
        .header("X-Api-Token", "fresh")
        .send()
        .await
        .unwrap();
    assert!(reply.text().await.unwrap().starts_with("{\"status\":0,"));
    node.stop().await;
}

async fn answers_like_the_reference_to_what_it_does_not_know(place: Place) {
    let node = place.start().await;
    let text = |reply: reqwest::Response| async {
        let is_json = reply.headers()["content-type"]
            .to_str()
            .unwrap()
            .contains("json");
        (
            reply.status().as_u16(),
            is_json,
            reply.text().await.unwrap(),
        )
    };
    let (status, is_json, body) = text(node.post(&[]).send().await.unwrap()).await;
    assert_eq!((status, is_json), (200, false));
    assert!(body.contains("action is missing"), "{body}");
    let unknown = node.post(&[("action", "addBroker")]).send().await.unwrap();
    let (status, is_json, body) = text(unknown).await;
    assert_eq!((status, is_json), (200, false));
    assert!(body.contains("unknown action \"addBroker\""), "{body}");

    let url = node.http();
    let get = |path: &str| http().get(format!("{url}{path}")).send();
    assert_eq!(get("/management").await.unwrap().status(), 405);
    assert_eq!(get("/nowhere").await.unwrap().status(), 404);
    let big = node
        .post(&[("action", &"x".repeat(200_001))])
        .send()
        .await
        .unwrap();
    assert_eq!(big.status(), 413);
    // The query wins over the body.
    let reply = http()
        .post(format!("{url}/management?action=ListBrokers"))
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body("action=nothing");
    assert!(
        reply
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
            .starts_with("{\"status\":0,")
    );
    node.stop().await;
}

async fn serves_metrics_and_health_on_the_same_port(place: Place) {
    let node = place.start().await;
    for (path, expected) in [
        ("/healthz", "ok\n"),
        ("/readyz", "ready\n"),
        ("/metrics", "clientRegisterRefusedCount"),
    ] {
        let reply = http()
            .get(format!("{}{path}", node.http()))
            .send()
            .await
            .unwrap();
        assert_eq!(reply.status(), 200);
        let text = reply.text().await.unwrap();
        assert!(text.contains(expected), "{path}: {text}");
    }
    node.stop().await;
}

/// C++ clients end at the close of the socket, Erlang crashes at a line end.
async fn the_address_is_bare_and_the_connection_closes_on_request(place: Place) {
    let node = place.start().await;
    let authority = node.http().replace("http://", "");
    let mut stream = TcpStream::connect(&authority).await.unwrap();
    let request = "GET /meta/address HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(!head.to_lowercase().contains("content-type"), "{head}");
    assert_eq!(body, node.tcp());
    node.stop().await;

    let advertised = Some("192.0.2.7:4000".parse().unwrap());
    let config = qmq_metaserver::MetaserverConfig {
        advertised,
        ..place.config()
    };
    let node = place.start_with(config).await;
    let reply = http()
        .get(format!("{}/meta/address", node.http()))
        .send()
        .await
        .unwrap();
    assert_eq!(reply.text().await.unwrap(), "192.0.2.7:4000");
    node.stop().await;
}
