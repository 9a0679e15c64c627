//! Copies of requests for the canary, over both versions of HTTP.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use proxy_api::v1beta1 as api;

use crate::common::{Bed, Origin, canary, eventually, http2_client, raw_origin, speaks, stable, within};

/// What the canary was sent: method, path, body, and whether it was marked as a copy.
type Seen = Arc<Mutex<Vec<(String, String, Bytes, bool)>>>;

async fn watcher() -> (Origin, Seen) {
    let seen = Seen::default();
    let list = Arc::clone(&seen);
    let origin = Origin::new(move |request: Request<hyper::body::Incoming>| {
        let list = Arc::clone(&list);
        async move {
            let (method, path) = (request.method().to_string(), request.uri().to_string());
            let marked = request.headers().contains_key("x-sluice-mirrored");
            let body = request.into_body().collect().await.unwrap().to_bytes();
            list.lock().unwrap().push((method, path, body, marked));
            Response::builder().status(500).body(Full::from("nobody reads this")).unwrap()
        }
    })
    .await;
    (origin, seen)
}

/// Answers when it has read the body: of a request that is answered earlier, only a part may have been passed on.
async fn reader() -> Origin {
    Origin::new(|request| async move {
        request.into_body().collect().await.unwrap();
        Response::new(Full::from("old"))
    })
    .await
}

async fn bed(old: &Origin, new: std::net::SocketAddr, percent: u32, all_methods: bool) -> Bed {
    Bed::new(|route| {
        stable(route, old.address);
        canary(route, new);
        route.mirror = Some(api::Mirror { percent, all_methods });
    })
    .await
}

fn copies(bed: &Bed, result: &str) -> u64 {
    let line = format!(
        r#"sluice_proxy_mirrored_requests_total{{canary_namespace="shop",canary="web",service="web",result="{result}"}} "#
    );
    bed.metrics().lines().find_map(|found| found.strip_prefix(&line)?.parse().ok()).unwrap()
}

#[tokio::test]
async fn a_share_of_stables_safe_requests_is_copied_and_counted_in_no_arm() {
    let (old, (new, seen)) = (Origin::text("old").await, watcher().await);
    let bed = bed(&old, new.address, 30, false).await;
    let mut client = bed.connect().await;
    for _ in 0..100 {
        assert_eq!(client.get("/page?a=b").await.body, "old");
        let post = client.send("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 2\r\n\r\nhi").await;
        assert_eq!(post.body, "old");
    }
    eventually("every copy has an answer", || copies(&bed, "failed") >= 29).await;
    let copied = seen.lock().unwrap().clone();
    assert!((29..=31).contains(&copied.len()), "{} of 100 GETs", copied.len());
    assert!(copied.iter().all(|copy| *copy == ("GET".into(), "/page?a=b".into(), Bytes::new(), true)), "{copied:?}");
    assert_eq!(bed.counters(api::Arm::Stable).succeeded, 200);
    assert_eq!(bed.counters(api::Arm::Canary).started, 0, "a copy says nothing to the verdict");
}

#[tokio::test]
async fn bodies_are_copied_up_to_the_limit_and_larger_ones_are_not() {
    let (old, (new, seen)) = (reader().await, watcher().await);
    let bed = bed(&old, new.address, 100, true).await;
    let mut client = bed.connect().await;
    let large = "x".repeat(64 * 1024 + 1);
    let with_length =
        |body: &str| format!("POST /l HTTP/1.1\r\nHost: web\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    assert_eq!(client.send(&with_length("hello")).await.status, 200);
    assert_eq!(client.send(&with_length(&large[1..])).await.status, 200);
    assert_eq!(client.send(&with_length(&large)).await.status, 200);
    let chunked = "POST /c HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(client.send(&format!("{chunked}3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")).await.status, 200);
    assert_eq!(client.send(&format!("{chunked}{:x}\r\n{large}\r\n0\r\n\r\n", large.len())).await.status, 200);
    eventually("every copy has its fate", || copies(&bed, "failed") == 3 && copies(&bed, "too_large") == 2).await;
    let mut bodies: Vec<_> =
        seen.lock().unwrap().iter().map(|(_, path, body, _)| (path.clone(), body.clone())).collect();
    bodies.sort_by_key(|(_, body)| body.len());
    let [first, second, third] = &bodies[..] else { panic!("{} copies", bodies.len()) };
    assert!([first, second].contains(&&("/l".into(), "hello".into())), "{first:?} {second:?}");
    assert!([first, second].contains(&&("/c".into(), "abcde".into())), "{first:?} {second:?}");
    assert_eq!(third.1.len(), 64 * 1024);
}

#[tokio::test]
async fn a_canary_that_never_answers_holds_up_nobody() {
    let old = Origin::text("old").await;
    let hang = raw_origin(|_, stream| async move {
        let _stream = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let bed = bed(&old, hang, 100, false).await;
    let mut client = bed.connect().await;
    for _ in 0..200 {
        assert_eq!(client.get("/").await.body, "old");
    }
    eventually("what is too much is not sent", || copies(&bed, "overflow") > 0).await;
    assert_eq!(bed.counters(api::Arm::Stable).succeeded, 200);
}

#[tokio::test]
async fn an_http2_request_is_copied_with_its_body() {
    let (old, (new, seen)) = (reader().await, watcher().await);
    let bed = Bed::new(|route| {
        stable(route, old.address);
        canary(route, new.address);
        speaks(route, api::Protocol::Http);
        route.mirror = Some(api::Mirror { percent: 100, all_methods: true });
    })
    .await;
    let mut sender = http2_client(bed.port).await;
    for body in ["", "hello"] {
        let request = Request::post("http://web/h2").version(Version::HTTP_2).body(Full::<Bytes>::from(body)).unwrap();
        let answer = within(sender.send_request(request)).await.unwrap();
        assert_eq!(within(answer.into_body().collect()).await.unwrap().to_bytes(), "old");
    }
    eventually("both are copied", || seen.lock().unwrap().len() == 2).await;
    let bodies: Vec<_> = seen.lock().unwrap().iter().map(|(_, _, body, _)| body.clone()).collect();
    assert!(bodies.contains(&Bytes::new()) && bodies.contains(&Bytes::from("hello")), "{bodies:?}");
    assert_eq!(bed.counters(api::Arm::Canary).started, 0);
}

#[tokio::test]
async fn a_copy_with_a_large_answer_is_answered() {
    let new = Origin::new(|_| async { Response::new(Full::from(vec![7; 3 * 1024 * 1024])) }).await;
    let old = Origin::text("old").await;
    let bed = bed(&old, new.address, 100, false).await;
    assert_eq!(bed.get("/").await.body, "old");
    eventually("it is answered", || copies(&bed, "answered") == 1).await;
    assert_eq!(copies(&bed, "failed"), 0);
}
