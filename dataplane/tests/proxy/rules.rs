//! What rules do with requests, over HTTP/1.1 and over HTTP/2.

use std::time::Duration;

use proxy_api::v1beta1 as api;

use crate::common::{Bed, Origin, canary, stable, within};
use crate::http2;

fn prefix(prefix: &str) -> api::Match {
    let kind = Some(api::text_match::Kind::Prefix(prefix.into()));
    api::Match { path: Some(api::TextMatch { kind }), ..Default::default() }
}

async fn mk_bed(origin: &Origin, rules: Vec<api::Rule>) -> Bed {
    Bed::new(|route| {
        stable(route, origin.address);
        canary(route, origin.address);
        // HTTP/2 from the client, HTTP/1.1 to the endpoint.
        route.listeners[0].protocol = api::Protocol::Http.into();
        route.weight = 50;
        route.http = Some(api::HttpPolicy { rules, ..Default::default() });
    })
    .await
}

fn judged(bed: &Bed) -> u64 {
    bed.counters(api::Arm::Stable).started + bed.counters(api::Arm::Canary).started
}

#[tokio::test]
async fn an_aborted_request_reaches_no_endpoint_and_counts_for_no_arm() {
    let origin = Origin::text("fine").await;
    let fault = api::Fault { abort_status: 503, abort_percent: 100, ..Default::default() };
    let rule = api::Rule { matches: vec![prefix("/broken")], fault: Some(fault), ..Default::default() };
    let bed = mk_bed(&origin, vec![rule]).await;
    let mut client = bed.connect().await;
    assert_eq!(client.get("/broken/x").await.status, 503);
    let posted = client.send("POST /broken HTTP/1.1\r\nHost: web\r\nContent-Length: 2\r\n\r\nhi").await;
    assert_eq!((posted.status, posted.body.as_str()), (503, "aborted on purpose\n"));
    let (status, _) = http2::get(bed.port, "/broken").await;
    assert_eq!((status, judged(&bed)), (503, 0));
    assert_eq!(client.get("/brokenx").await.body, "fine", "the connection lives on, and others are forwarded");
    assert_eq!(http2::get(bed.port, "/").await, (200, "fine".to_owned()));
    assert_eq!(judged(&bed), 2);
}

#[tokio::test]
async fn a_delay_on_purpose_is_no_latency_of_an_arm() {
    let origin = Origin::text("fine").await;
    let fault = api::Fault { delay_ms: 1_000, delay_percent: 100, ..Default::default() };
    let bed = mk_bed(&origin, vec![api::Rule { fault: Some(fault), ..Default::default() }]).await;
    let begun = std::time::Instant::now();
    assert_eq!(bed.get("/").await.body, "fine");
    assert_eq!(http2::get(bed.port, "/").await.1, "fine");
    assert!(begun.elapsed() >= Duration::from_millis(2_000));
    assert_eq!(judged(&bed), 2);
    assert!(bed.metrics().contains("le=\"0.75\"} 1"), "{}", bed.metrics());
}

#[tokio::test]
async fn a_rules_timeout_counts_instead_of_the_routes() {
    let origin = Origin::new(|_| std::future::pending()).await;
    let rule = api::Rule { matches: vec![prefix("/")], request_timeout_ms: Some(50), ..Default::default() };
    let bed = mk_bed(&origin, vec![rule]).await;
    assert_eq!(within(bed.get("/")).await.status, 504);
    assert_eq!(within(http2::get(bed.port, "/")).await.0, 504);
}
