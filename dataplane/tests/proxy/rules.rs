//! What rules do with requests, over HTTP/1.1 and over HTTP/2.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use proxy_api::v1beta1 as api;

use crate::common::{Bed, Origin, canary, speaks, stable, within};
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
        speaks(route, api::Protocol::Http);
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

fn field(name: &str, value: &str) -> api::Field {
    api::Field { name: name.into(), value: value.into() }
}

/// Answers with what it was asked, and with fields of its own.
async fn mirror() -> Origin {
    Origin::new(|request| async move {
        let mut lines = vec![format!("{} {}", request.method(), request.uri())];
        lines.extend(request.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())));
        Response::builder()
            .header("x-old", "1")
            .header("x-kept", "1")
            .header("access-control-allow-origin", "https://endpoint.example")
            .body(Full::from(lines.join("\n")))
            .unwrap()
    })
    .await
}

struct Told {
    status: u16,
    fields: Vec<(String, String)>,
    body: String,
}

impl Told {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

/// The same request over HTTP/1.1 and over HTTP/2.
async fn both(bed: &Bed, method: &str, path: &str, fields: &[(&str, &str)]) -> [Told; 2] {
    let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let answer = bed.connect().await.send(&format!("{method} {path} HTTP/1.1\r\nHost: web\r\n{lines}\r\n")).await;
    let told = answer.head.lines().filter_map(|line| line.split_once(": "));
    let told = told.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    let first = Told { status: answer.status, fields: told, body: answer.body };

    let mut request = Request::builder().method(method).uri(format!("http://web{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let answer = http2::send(bed.port, request.body(Full::default()).unwrap()).await;
    let told = answer.headers().iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
    let (status, fields) = (answer.status().as_u16(), told.collect());
    let body = within(answer.into_body().collect()).await.unwrap().to_bytes();
    [first, Told { status, fields, body: String::from_utf8(body.to_vec()).unwrap() }]
}

#[tokio::test]
async fn an_endpoint_sees_what_the_rule_makes_of_a_request() {
    let origin = mirror().await;
    let kind = Some(api::path_edit::Kind::Prefix("/v2".into()));
    let rewrite = api::Rewrite { hostname: "inner.example".into(), path: Some(api::PathEdit { kind }) };
    let request_headers = api::FieldEdits {
        set: vec![field("x-set", "new"), field("x-forwarded-proto", "https")],
        add: vec![field("x-added", "2")],
        remove: vec!["x-secret".into()],
    };
    let response_headers =
        api::FieldEdits { set: vec![field("x-new", "1")], remove: vec!["X-Old".into()], ..Default::default() };
    let rule = api::Rule {
        matches: vec![prefix("/v1")],
        rewrite: Some(rewrite),
        request_headers: Some(request_headers),
        response_headers: Some(response_headers),
        ..Default::default()
    };
    let bed = mk_bed(&origin, vec![rule]).await;
    let sent = [("x-set", "old"), ("x-added", "1"), ("x-secret", "s"), ("x-other", "o")];
    for told in both(&bed, "GET", "/v1/a?b=/v1", &sent).await {
        let mut lines: Vec<_> = told.body.lines().filter(|line| !line.starts_with("x-forwarded-for")).collect();
        lines.sort_unstable();
        assert_eq!(
            lines,
            [
                "GET /v2/a?b=/v1",
                "host: inner.example",
                "x-added: 1",
                "x-added: 2",
                "x-forwarded-proto: https",
                "x-other: o",
                "x-set: new",
            ]
        );
        assert_eq!((told.field("x-new"), told.field("x-old"), told.field("x-kept")), (Some("1"), None, Some("1")));
    }
    for told in both(&bed, "GET", "/v3", &sent).await {
        assert!(told.body.starts_with("GET /v3\n") && told.body.contains("x-secret: s"), "{}", told.body);
        assert_eq!(told.field("x-old"), Some("1"));
    }
}

#[tokio::test]
async fn a_redirect_is_answered_by_the_proxy() {
    let origin = mirror().await;
    let redirect = api::Redirect { scheme: "https".into(), status: 301, ..Default::default() };
    let rule = api::Rule { matches: vec![prefix("/old")], redirect: Some(redirect), ..Default::default() };
    let bed = mk_bed(&origin, vec![rule]).await;
    for told in both(&bed, "GET", "/old/a?b", &[]).await {
        assert_eq!((told.status, told.field("location")), (301, Some("https://web/old/a?b")));
    }
    assert_eq!((judged(&bed), origin.connections.load(SeqCst)), (0, 0));
    let line = r#"sluice_proxy_rule_actions_total{canary_namespace="shop",canary="web",service="web",rule="rule-0",action="redirect"} 2"#;
    assert!(bed.metrics().lines().any(|found| found == line), "{}", bed.metrics());
}

#[tokio::test]
async fn pages_of_allowed_origins_may_read_answers_and_others_not() {
    let origin = mirror().await;
    let cors = api::Cors {
        allow_origins: vec!["https://*.shop.example".into()],
        allow_methods: vec!["PUT".into()],
        ..Default::default()
    };
    let bed = mk_bed(&origin, vec![api::Rule { cors: Some(cors), ..Default::default() }]).await;
    let page = "https://a.shop.example";
    let asks = [("origin", page), ("access-control-request-method", "PUT")];
    for told in both(&bed, "OPTIONS", "/", &asks).await {
        assert_eq!((told.status, told.body.as_str(), told.field("content-length")), (204, "", None));
        assert_eq!(told.field("access-control-allow-origin"), Some(page));
        assert_eq!(told.field("access-control-allow-methods"), Some("PUT"));
    }
    assert_eq!(judged(&bed), 0);
    for (from, allowed) in [(page, Some(page)), ("https://evil.example", None)] {
        for told in both(&bed, "PUT", "/", &[("origin", from), ("content-length", "0")]).await {
            assert_eq!((told.status, told.field("access-control-allow-origin")), (200, allowed), "{from}");
            assert_eq!(told.field("vary"), Some("origin"));
        }
    }
    for told in both(&bed, "OPTIONS", "/", &[]).await {
        assert!(told.body.starts_with("OPTIONS /"), "not every OPTIONS is a preflight");
    }
}

#[tokio::test]
async fn what_is_above_the_rate_limit_is_told_when_to_come_back() {
    let origin = Origin::text("fine").await;
    let limit = api::RateLimit { requests: 3, unit_ms: 3_600_000, burst: 0 };
    let rule = api::Rule { name: "few".into(), rate_limit: Some(limit), ..Default::default() };
    let mut bed = mk_bed(&origin, vec![rule.clone()]).await;
    assert_eq!(both(&bed, "GET", "/", &[]).await.map(|told| told.status), [200, 200]);
    // A change of the route, such as a new endpoint or weight, is no fresh start.
    let mut route = crate::common::mk_route(bed.port);
    stable(&mut route, origin.address);
    speaks(&mut route, api::Protocol::Http);
    (route.counter, route.http) = (2, Some(api::HttpPolicy { rules: vec![rule], ..Default::default() }));
    bed.apply(&route).await;
    let [first, second] = both(&bed, "GET", "/", &[]).await;
    assert_eq!((first.status, second.status, second.body.as_str()), (200, 429, "too many requests\n"));
    let seconds: u64 = second.field("retry-after").unwrap().parse().unwrap();
    assert!((1..=1_200).contains(&seconds), "{seconds}");
    assert_eq!(judged(&bed), 3);
    assert!(bed.metrics().contains(r#"rule="few",action="rate_limit"} 1"#), "{}", bed.metrics());
}
