//! What limits and rules refuse has a line in the access log, whichever protocol the client speaks.

use std::sync::Arc;

use bytes::Bytes;
use dataplane::sight::Logged;
use http::{Request, Version};
use http_body_util::Full;
use proxy_api::v1beta1 as api;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::common::{Bed, Origin, eventually, http2_client, speaks, stable, within};
use crate::http2;
use crate::limits::{PING, PREFACE, hanging, limit, opening, until, with_headers};
use crate::sight::{Written, log};

/// The lines, once there are as many.
async fn lines(written: &Written, count: usize) -> Vec<Value> {
    eventually("the lines are written", || written.lines().len() >= count).await;
    let lines = written.lines();
    assert_eq!(lines.len(), count, "{lines:?}");
    lines
}

fn short(line: &Value) -> (&Value, &Value) {
    assert_eq!((&line["service"], &line["client"], line.get("arm")), (&json!("web"), &json!("127.0.0.1"), None));
    (&line["status"], &line["flags"])
}

#[tokio::test]
async fn a_connection_too_many_has_a_line() {
    for (protocol, status) in [(api::Protocol::Http, 503), (api::Protocol::Grpc, 0), (api::Protocol::Tcp, 0)] {
        let bed = Bed::new(|route| speaks(route, protocol)).await;
        let written = log(&bed, Logged::Errors);
        limit(&bed, |limits| limits.connections = 0);
        let _client = bed.connect().await;
        let lines = lines(&written, 1).await;
        assert_eq!(short(&lines[0]), (&json!(status), &json!("OM")));
        assert_eq!((lines[0].get("method"), lines[0].get("protocol")), (None, None));
    }
}

#[tokio::test]
async fn a_head_that_is_refused_has_a_line() {
    let bed = Bed::new(|route| speaks(route, api::Protocol::Http)).await;
    let written = log(&bed, Logged::Errors);
    assert_eq!(bed.connect().await.send(&with_headers(101, "x")).await.status, 431);
    assert_eq!(bed.connect().await.send(&with_headers(1, &"x".repeat(40_000))).await.status, 431);
    assert_eq!(bed.connect().await.send("GET / HTTP/1.1\r\n\r\n").await.status, 400);
    let mut client = http2_client(bed.port).await;
    let request = Request::get("http://web/long?secret").version(Version::HTTP_2).header("x", "x".repeat(33_000));
    let answer = within(client.send_request(request.body(Full::<Bytes>::default()).unwrap())).await.unwrap();
    assert_eq!(answer.status(), 431);
    let lines = lines(&written, 4).await;
    let said: Vec<_> = lines.iter().map(|line| short(line).0.as_u64().unwrap()).collect();
    assert_eq!(said, [431, 431, 400, 431]);
    assert!(lines.iter().all(|line| line["flags"] == "DPE"), "{lines:?}");
    assert_eq!((&lines[3]["path"], &lines[3]["protocol"]), (&json!("/long"), &json!("HTTP/2")));
}

#[tokio::test]
async fn a_head_too_large_on_a_port_of_http2_has_a_line() {
    let bed = Bed::new(|route| speaks(route, api::Protocol::H2c)).await;
    let written = log(&bed, Logged::Errors);
    assert_eq!(bed.connect().await.send(&with_headers(101, "x")).await.status, 431);
    assert_eq!(short(&lines(&written, 1).await[0]), (&json!(431), &json!("DPE")));
}

#[tokio::test]
async fn a_stream_too_many_has_a_line() {
    let bed = hanging().await;
    let written = log(&bed, Logged::Errors);
    limit(&bed, |limits| limits.streams = 1);
    let mut client = bed.connect().await;
    client.0.write_all(&[PREFACE, &opening(1), &opening(3), PING].concat()).await.unwrap();
    let refused = [0, 0, 4, 3, 0, 0, 0, 0, 3, 0, 0, 0, 7];
    assert!(until(&mut client, &refused).await.1);
    let lines = lines(&written, 1).await;
    assert_eq!(short(&lines[0]), (&json!(0), &json!("OM")));
    assert_eq!(lines[0]["protocol"], "HTTP/2");
}

/// A route with one rule.
async fn ruled(origin: &Origin, rule: api::Rule) -> Bed {
    Bed::new(|route| {
        stable(route, origin.address);
        speaks(route, api::Protocol::Http);
        route.http = Some(api::HttpPolicy { rules: vec![rule], ..Default::default() });
    })
    .await
}

#[tokio::test]
async fn what_a_rule_refuses_has_a_line_with_its_flag() {
    let origin = Origin::text("ok").await;
    let limit = api::RateLimit { requests: 1, unit_ms: 3_600_000, burst: 0 };
    let bed = ruled(&origin, api::Rule { rate_limit: Some(limit), ..Default::default() }).await;
    let written = log(&bed, Logged::Errors);
    assert_eq!(bed.get("/first").await.status, 200);
    assert_eq!(bed.get("/second?x").await.status, 429);
    assert_eq!(http2::get(bed.port, "/third").await.0, 429);
    let limited = lines(&written, 2).await;
    assert!(limited.iter().all(|line| short(line) == (&json!(429), &json!("RL"))), "{limited:?}");
    let seen = limited.iter().map(|line| (line["path"].clone(), line["protocol"].clone())).collect::<Vec<_>>();
    assert_eq!(seen, [(json!("/second"), json!("HTTP/1.1")), (json!("/third"), json!("HTTP/2"))]);
    assert!(limited.iter().all(|line| line["bytesSent"].as_u64().unwrap() > 0));

    let fault = api::Fault { abort_status: 404, abort_percent: 100, ..Default::default() };
    let bed = ruled(&origin, api::Rule { fault: Some(fault), ..Default::default() }).await;
    let written = log(&bed, Logged::Errors);
    assert_eq!((bed.get("/").await.status, http2::get(bed.port, "/").await.0), (404, 404));
    let aborted = lines(&written, 2).await;
    assert!(aborted.iter().all(|line| short(line) == (&json!(404), &json!("FI"))), "{aborted:?}");
}

#[tokio::test]
async fn a_flood_of_refusals_loses_lines_and_counts_them() {
    let bed = Bed::new(|_| {}).await;
    let written = log(&bed, Logged::Errors);
    limit(&bed, |limits| limits.connections = 0);
    for _ in 0..250 {
        assert_eq!(bed.connect().await.answer().await.unwrap().status, 503);
    }
    let counts = Arc::clone(&bed.proxy.shared().registry.sight().unwrap().counts);
    let lost = || counts.lines_dropped.load(std::sync::atomic::Ordering::SeqCst) as usize;
    eventually("each is written or counted", || written.lines().len() + lost() == 250).await;
}
