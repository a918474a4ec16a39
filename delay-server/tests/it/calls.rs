//! Cancel, reschedule, find, count and list, by call and over HTTP.

use qmq_daemon::http::HttpServer;
use qmq_daemon::tokens::Tokens;
use qmq_model::UnixMillis;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::fake::Mode;
use crate::harness::{Cluster, START, after, answers, of, subject};

async fn cancel(cluster: &Cluster, id: &str) -> Vec<&'static str> {
    let answer = cluster.control().cancel(subject("a.b"), id.to_owned());
    answers(&answer.await.unwrap())
}

#[tokio::test]
async fn a_cancelled_message_is_never_delivered() {
    let cluster = Cluster::start().await;
    let twins = [after(60, "twin"), after(61, "twin")];
    cluster.store(&twins).await;
    cluster.store(&[after(60, "1"), after(62, "2")]).await;
    assert_eq!(cancel(&cluster, "1").await, ["cancelled"]);
    assert_eq!(cancel(&cluster, "1").await, ["already cancelled"]);
    assert_eq!(cancel(&cluster, "twin").await, ["cancelled", "cancelled"]);
    assert!(cancel(&cluster, "unknown").await.is_empty());
    let cluster = cluster.restart().await;
    assert_eq!(cancel(&cluster, "1").await, ["already cancelled"]);
    cluster.after(62);
    cluster.broker.took(&["2"]).await;
    cluster.wait_for_pending(0).await;
    assert_eq!(cluster.broker.state.borrow().came("1"), 0);
    cluster.delay.stop().await;
}

#[tokio::test]
async fn what_is_on_its_way_or_delivered_cannot_be_cancelled_also_after_a_restart() {
    let cluster = Cluster::with(&[("shutdown.drain.seconds", "0")]).await;
    cluster.broker.set(Mode::Silent);
    cluster.store(&[after(1, "1")]).await;
    cluster.after(1);
    cluster.broker.wait_for(|seen| seen.came("1") >= 1).await;
    assert_eq!(cancel(&cluster, "1").await, ["dispatching"]);
    let cluster = cluster.restart().await;
    assert_eq!(cancel(&cluster, "1").await, ["dispatching"]);
    cluster.broker.set(Mode::Take);
    cluster.wait_for_state("1", "delivered").await;
    assert_eq!(cancel(&cluster, "1").await, ["delivered"]);
    cluster.delay.stop().await;
}

#[tokio::test]
async fn a_rescheduled_message_comes_once_at_its_new_time() {
    let cluster = Cluster::start().await;
    cluster.store(&[after(3600, "1"), after(20, "2")]).await;
    for (id, due) in [("1", 30), ("2", 40)] {
        let due = UnixMillis(START.0 + due * 1000);
        let control = cluster.control();
        let moved = control.reschedule(subject("a.b"), id.to_owned(), due).await;
        let moved = moved.unwrap();
        assert_eq!((moved.len(), moved[0].due), (1, due));
        assert_eq!(moved[0].answer, "rescheduled");
    }
    assert_eq!(cluster.pending().await, 2);
    cluster.after(30);
    cluster.broker.took(&["1"]).await;
    cluster.after(10);
    cluster.broker.took(&["1", "2"]).await;
    cluster.wait_for_pending(0).await;
    let due = UnixMillis(START.0 + 9_000_000);
    let control = cluster.control();
    let late = control.reschedule(subject("a.b"), "1".to_owned(), due);
    assert_eq!(answers(&late.await.unwrap()), ["delivered"]);
    cluster.delay.stop().await;
}

/// Sends one request and returns the status and the body.
async fn http(server: &HttpServer, head: &str, token: &str) -> (String, String) {
    let port = server.address().port();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!(
        "{head} HTTP/1.1\r\nHost: localhost\r\nX-Api-Token: {token}\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().to_owned();
    (status, body.trim().to_owned())
}

#[tokio::test]
async fn calls_over_http_need_a_token_and_answer_exactly() {
    let cluster = Cluster::start().await;
    let messages = [after(60, "1"), after(61, "2"), of("c.d", 62, "3")];
    cluster.store(&messages).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("valid-api-tokens.properties");
    std::fs::write(&file, "secret = ops\n").unwrap();
    let tokens = Tokens::new(Some(file));
    let router = qmq_delay_server::http::router(cluster.delay.late.clone(), tokens);
    let stop = CancellationToken::new();
    let any = "127.0.0.1:0".parse().unwrap();
    let server = HttpServer::start(any, router, stop.clone()).await.unwrap();

    let due = |seconds: i64| START.0 + seconds * 1000;
    let calls = [
        ("GET /delay/count", r#""pending":3"#.to_owned()),
        ("GET /delay/count?subject=a.b", r#""pending":2"#.to_owned()),
        (
            "GET /delay/find?subject=a.b&messageId=1",
            format!(r#""entries":[{{"due":{},"state":"pending"}}]"#, due(60)),
        ),
        (
            "GET /delay/list?max=1",
            format!(
                r#""entries":[{{"due":{},"messageId":"1","subject":"a.b"}}]"#,
                due(60)
            ),
        ),
        (
            "POST /delay/cancel?subject=a.b&messageId=1",
            format!(r#""entries":[{{"answer":"cancelled","due":{}}}]"#, due(60)),
        ),
        (
            "POST /delay/reschedule?subject=a.b&messageId=2&due=1700000099000",
            r#""entries":[{"answer":"rescheduled","due":1700000099000}]"#.to_owned(),
        ),
        (
            "POST /delay/cancel?subject=a.b&messageId=nobody",
            r#""entries":[]"#.to_owned(),
        ),
    ];
    for (call, expected) in calls {
        let (status, body) = http(&server, call, "wrong").await;
        assert_eq!(status, "401", "{call}: {body}");
        let (status, body) = http(&server, call, "secret").await;
        assert_eq!(status, "200", "{call}: {body}");
        assert!(body.contains(&expected), "{call}: {body}");
        assert!(body.contains(r#""group":"d""#), "{call}: {body}");
    }
    for call in [
        "POST /delay/cancel?subject=a.b",
        "POST /delay/cancel?messageId=1",
        "POST /delay/reschedule?subject=a.b&messageId=2&due=soon",
        "POST /delay/reschedule?subject=a.b&messageId=2&due=9999999999999",
        "GET /delay/count?subject=a%20b",
    ] {
        let (status, body) = http(&server, call, "secret").await;
        assert_eq!(status, "400", "{call}: {body}");
        assert!(body.contains("error"), "{call}: {body}");
    }
    stop.cancel();
    cluster.delay.stop().await;
}
