//! Attempts after the first: which, where to, at what price, and who is judged by them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use proxy_api::v1beta1 as api;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::common::{Bed, Origin, canary, http2_client, raw_origin, read_head, stable, within};

fn retries(route: &mut api::Route, retry_on: &str) {
    let retries = api::Retries { attempts: 3, retry_on: retry_on.into(), ..Default::default() };
    route.http = Some(api::HttpPolicy { retries: Some(retries), ..Default::default() });
}

fn set(route: &mut api::Route, change: impl FnOnce(&mut api::Retries)) {
    change(route.http.as_mut().unwrap().retries.as_mut().unwrap());
}

/// Answers `status` to everything and counts what it was asked.
async fn failing(status: u16) -> (Origin, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&count);
    let origin = Origin::new(move |_| {
        asked.fetch_add(1, SeqCst);
        async move { Response::builder().status(status).body(Full::from("no")).unwrap() }
    })
    .await;
    (origin, count)
}

/// Answers what it was sent.
async fn echo() -> Origin {
    Origin::new(
        |request| async move { Response::new(Full::new(request.into_body().collect().await.unwrap().to_bytes())) },
    )
    .await
}

fn line(bed: &Bed, name: &str, arm: &str) -> u64 {
    let metrics = bed.metrics();
    let line = metrics.lines().find(|line| line.starts_with(&format!("{name}{{")) && line.contains(arm));
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn users_are_shielded_and_the_canary_is_judged_by_the_first_attempt() {
    let (old, (bad, asked), good) = (Origin::text("old").await, failing(503).await, Origin::text("new").await);
    let bed = Bed::new(|route| {
        stable(route, old.address);
        canary(route, bad.address);
        canary(route, good.address);
        route.weight = 100;
        retries(route, "5xx");
    })
    .await;
    let mut client = bed.connect().await;
    for _ in 0..40 {
        let answer = client.get("/").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "new"), "another endpoint of the same arm answers");
    }
    let (counters, failed) = (bed.counters(api::Arm::Canary), asked.load(SeqCst) as u64);
    assert!(failed > 0, "the endpoint that fails was asked first at least once in 40");
    assert_eq!((counters.started, counters.errors, counters.succeeded), (40, failed, 40 - failed));
    assert_eq!(line(&bed, "sluice_proxy_retries_total", "canary"), failed);
    assert_eq!(line(&bed, "sluice_proxy_retries_recovered_total", "canary"), failed);
    assert!(bed.metrics().contains(&format!(r#"arm="canary",revision="new",code="503"}} {failed}"#)));
    assert_eq!(bed.counters(api::Arm::Stable).started, 0);
}

#[tokio::test]
async fn without_another_endpoint_the_same_is_asked_until_the_attempts_are_used() {
    let (bad, asked) = failing(503).await;
    let bed = Bed::new(|route| {
        stable(route, bad.address);
        retries(route, "gateway-error");
    })
    .await;
    let answer = bed.get("/").await;
    assert_eq!((answer.status, answer.body.as_str()), (503, "no"), "the last answer is passed on");
    assert_eq!(asked.load(SeqCst), 4, "one attempt and three retries");
    assert_eq!((bed.counters(api::Arm::Stable).errors, bad.connections.load(SeqCst)), (1, 1));
    assert_eq!(line(&bed, "sluice_proxy_retries_recovered_total", "stable"), 0);
}

#[tokio::test]
async fn answers_that_no_condition_names_are_passed_on() {
    let (bad, asked) = failing(500).await;
    let bed = Bed::new(|route| {
        stable(route, bad.address);
        retries(route, "gateway-error,connect-failure,409");
    })
    .await;
    assert_eq!(bed.get("/").await.status, 500);
    assert_eq!(asked.load(SeqCst), 1);
}

#[tokio::test]
async fn the_budget_bounds_what_an_outage_costs() {
    let (bad, asked) = failing(503).await;
    let bed = Bed::new(|route| {
        stable(route, bad.address);
        retries(route, "5xx");
        set(route, |retries| (retries.budget_percent, retries.min_retries_per_second) = (Some(20), Some(0)));
    })
    .await;
    let mut client = bed.connect().await;
    for _ in 0..100 {
        assert_eq!(client.get("/").await.status, 503);
    }
    let made = asked.load(SeqCst) as u64 - 100;
    assert!(made <= 20, "{made} retries of 100 requests");
    assert!(made > 0);
    bed.counters(api::Arm::Stable);
    assert_eq!(line(&bed, "sluice_proxy_retries_total", "stable"), made);
    assert!(line(&bed, "sluice_proxy_retries_denied_total", "stable") > 0);
}

#[tokio::test]
async fn a_post_is_repeated_only_if_the_user_says_so_and_then_with_its_body() {
    const LENGTH: [&str; 3] = ["POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 10\r\n\r\n", "hello", "world"];
    const CHUNKS: [&str; 3] = [
        "POST / HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n",
        "5\r\nhello\r\n",
        "5\r\nworld\r\n0\r\n\r\n",
    ];
    for (retry_on, request, repeated) in
        [("5xx", LENGTH, false), ("5xx,non-idempotent", LENGTH, true), ("5xx,non-idempotent", CHUNKS, true)]
    {
        let ((bad, asked), good) = (failing(503).await, echo().await);
        let bed = Bed::new(|route| {
            stable(route, bad.address);
            stable(route, good.address);
            retries(route, retry_on);
        })
        .await;
        let mut failed = 0;
        for _ in 0..20 {
            let mut client = bed.connect().await;
            // In pieces, so that the answer may come before the body has.
            for piece in request {
                // A connection that was given up after an early answer takes no more.
                let _ = client.0.write_all(piece.as_bytes()).await;
                tokio::task::yield_now().await;
            }
            let answer = client.answer().await.unwrap();
            match answer.status {
                200 => assert_eq!(answer.body, "helloworld"),
                status => failed += usize::from(status == 503),
            }
        }
        assert!(asked.load(SeqCst) > 0, "{retry_on}");
        assert_eq!(failed, if repeated { 0 } else { asked.load(SeqCst) }, "{retry_on}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_long_to_keep_is_not_repeated() {
    // Reads all of it, and then fails.
    let (asked, all) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count, bytes) = (Arc::clone(&asked), Arc::clone(&all));
    let reads = Origin::new(move |request: Request<Incoming>| {
        count.fetch_add(1, SeqCst);
        let bytes = Arc::clone(&bytes);
        async move {
            bytes.fetch_add(request.into_body().collect().await.unwrap().to_bytes().len(), SeqCst);
            Response::builder().status(503).body(Full::from("no")).unwrap()
        }
    })
    .await;
    let bed = Bed::new(|route| {
        stable(route, reads.address);
        retries(route, "5xx");
    })
    .await;
    let head = "PUT / HTTP/1.1\r\nHost: web\r\nContent-Length: 100000\r\n\r\n";
    let mut client = bed.connect().await;
    assert_eq!(client.send(&format!("{head}{}", "x".repeat(100_000))).await.status, 503);
    assert_eq!((asked.load(SeqCst), all.load(SeqCst)), (1, 100_000));
    let small = "PUT / HTTP/1.1\r\nHost: web\r\nContent-Length: 60000\r\n\r\n";
    assert_eq!(bed.connect().await.send(&format!("{small}{}", "x".repeat(60_000))).await.status, 503);
    assert_eq!((asked.load(SeqCst), all.load(SeqCst)), (5, 340_000));
}

#[tokio::test]
async fn an_endpoint_that_is_silent_is_left_after_the_per_try_timeout() {
    let hangs = raw_origin(|_, mut stream| async move {
        read_head(&mut stream).await;
        read_head(&mut stream).await;
    })
    .await;
    let resets = raw_origin(|_, mut stream| async move {
        read_head(&mut stream).await;
    })
    .await;
    let good = Origin::text("good").await;
    let bed = Bed::new(|route| {
        stable(route, hangs);
        stable(route, resets);
        stable(route, good.address);
        retries(route, "reset");
        set(route, |retries| (retries.per_try_timeout_ms, retries.min_retries_per_second) = (200, Some(100)));
    })
    .await;
    for _ in 0..10 {
        assert_eq!(bed.get("/").await.body, "good");
    }
    let counters = bed.counters(api::Arm::Stable);
    assert_eq!(counters.errors, counters.started - counters.succeeded);
    assert!(counters.errors > 0);
}

#[tokio::test]
async fn nothing_is_repeated_once_the_client_has_heard_something() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let breaks = raw_origin(move |_, mut stream| {
        count.fetch_add(1, SeqCst);
        async move {
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhal").await.unwrap();
        }
    })
    .await;
    let bed = Bed::new(|route| {
        stable(route, breaks);
        retries(route, "5xx,reset");
    })
    .await;
    let mut client = bed.connect().await;
    client.0.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").await.unwrap();
    assert!(within(read_head(&mut client.0)).await.unwrap().starts_with("HTTP/1.1 200"));
    let mut rest = Vec::new();
    let _ = within(tokio::io::AsyncReadExt::read_to_end(&mut client.0, &mut rest)).await;
    assert_eq!((rest.as_slice(), asked.load(SeqCst)), (&b"hal"[..], 1));
}

/// An h2c endpoint that answers `status` and `grpc-status` in its head, with what it was sent.
async fn grpc(status: u16, grpc_status: &'static str, asked: Arc<AtomicUsize>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let asked = Arc::clone(&asked);
            let service = service_fn(move |request: Request<Incoming>| {
                asked.fetch_add(1, SeqCst);
                async move {
                    let said = request.into_body().collect().await.unwrap().to_bytes();
                    let answer = Response::builder().status(status).header("grpc-status", grpc_status);
                    Ok::<_, Infallible>(answer.body(Full::new(said)).unwrap())
                }
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

async fn call(bed: &Bed, body: &'static str) -> (u16, Bytes) {
    let mut sender = http2_client(bed.port).await;
    let request = Request::post("http://web/echo").version(Version::HTTP_2).body(Full::new(Bytes::from(body))).unwrap();
    let answer = within(sender.send_request(request)).await.unwrap();
    (answer.status().as_u16(), within(answer.into_body().collect()).await.unwrap().to_bytes())
}

#[tokio::test]
async fn grpc_calls_are_repeated_by_their_status_with_their_body() {
    let asked = Arc::new(AtomicUsize::new(0));
    let (bad, good) = (grpc(200, "14", Arc::clone(&asked)).await, grpc(200, "0", Arc::default()).await);
    let bed = Bed::new(|route| {
        stable(route, bad);
        stable(route, good);
        retries(route, "unavailable");
    })
    .await;
    for _ in 0..20 {
        assert_eq!(call(&bed, "hello").await, (200, "hello".into()));
    }
    let (counters, failed) = (bed.counters(api::Arm::Stable), asked.load(SeqCst) as u64);
    assert!(failed > 0);
    assert_eq!((counters.grpc_errors, counters.succeeded), (failed, 20 - failed));
    assert_eq!(line(&bed, "sluice_proxy_retries_recovered_total", "stable"), failed);
}

#[tokio::test]
async fn http2_attempts_are_counted_and_bounded_like_the_others() {
    let asked = Arc::new(AtomicUsize::new(0));
    let bad = grpc(503, "0", Arc::clone(&asked)).await;
    for (retry_on, wanted) in [("5xx", 1), ("5xx,non-idempotent", 4)] {
        asked.store(0, SeqCst);
        let bed = Bed::new(|route| {
            stable(route, bad);
            retries(route, retry_on);
        })
        .await;
        assert_eq!(call(&bed, "hello").await, (503, "hello".into()));
        assert_eq!((asked.load(SeqCst), bed.counters(api::Arm::Stable).errors), (wanted, 1), "{retry_on}");
    }
}

#[tokio::test]
async fn an_http2_endpoint_that_is_silent_is_left_after_the_per_try_timeout() {
    // Speaks HTTP/2 and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hangs = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service =
                service_fn(|_: Request<Incoming>| std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>());
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    let good = grpc(200, "0", Arc::default()).await;
    let bed = Bed::new(|route| {
        stable(route, hangs);
        stable(route, good);
        retries(route, "reset,non-idempotent");
        set(route, |retries| retries.per_try_timeout_ms = 200);
    })
    .await;
    for _ in 0..6 {
        assert_eq!(call(&bed, "hello").await, (200, "hello".into()));
    }
    assert!(bed.counters(api::Arm::Stable).errors > 0);
}
