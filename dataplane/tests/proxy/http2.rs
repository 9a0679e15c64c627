//! HTTP/2 without TLS, gRPC, and the translation to HTTP/1.1 and back.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use proxy_api::v1beta1 as api;
use tokio::net::TcpListener;
use tokio_stream::wrappers::ReceiverStream;

use crate::common::{Bed, Origin, canary, http2_client, stable, within};

/// An h2c endpoint that sends a body of two frames and `grpc-status` in its trailers.
async fn grpc_origin(status: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(move |request: Request<Incoming>| async move {
                assert_eq!(request.headers()["te"], "trailers");
                let said = request.into_body().collect().await.unwrap().to_bytes();
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", status.parse().unwrap());
                let frames = [Frame::data(said), Frame::data("!".into()), Frame::trailers(trailers)];
                let body = StreamBody::new(tokio_stream::iter(frames.map(Ok::<_, Infallible>)));
                Ok::<_, Infallible>(Response::new(body))
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

/// Status and body of one request by a client of its own.
pub async fn get(port: u16, path: &str) -> (u16, String) {
    let request = Request::get(format!("http://web{path}")).body(Full::default()).unwrap();
    let answer = send(port, request).await;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// The answer to one request by a client of its own.
pub async fn send(port: u16, request: Request<Full<Bytes>>) -> Response<Incoming> {
    within(http2_client(port).await.send_request(request)).await.unwrap()
}

fn call(body: &'static str) -> Request<Full<Bytes>> {
    let request = Request::post("http://web/echo").version(Version::HTTP_2).header("te", "trailers");
    request.body(Full::from(body)).unwrap()
}

#[tokio::test]
async fn grpc_passes_with_its_trailers_and_its_status_counts() {
    let (good, bad) = (grpc_origin("0").await, grpc_origin("14").await);
    let mut route = crate::common::mk_route(0);
    stable(&mut route, good);
    canary(&mut route, bad);
    let mut bed = Bed::new(|r| {
        route.listeners[0].port = r.listeners[0].port;
        *r = route.clone();
    })
    .await;
    let mut client = http2_client(bed.port).await;
    let answer = within(client.send_request(call("hello"))).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(answer.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(answer.to_bytes(), "hello!");
    let counters = bed.counters(api::Arm::Stable);
    assert_eq!((counters.succeeded, counters.errors), (1, 0));

    (route.weight, route.counter) = (100, 2);
    bed.apply(&route).await;
    let answer = within(client.send_request(call("hello"))).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(answer.trailers().unwrap()["grpc-status"], "14");
    let counters = bed.counters(api::Arm::Canary);
    assert_eq!((counters.errors, counters.grpc_errors), (1, 1));
    assert!(bed.metrics().contains(r#"arm="canary",revision="new",code="503"} 1"#), "the success rate sees it");
}

#[tokio::test]
async fn many_calls_at_once_share_the_connections() {
    let origin = grpc_origin("0").await;
    let bed = Bed::new(|route| {
        stable(route, origin);
        // They all wait for the first connection, on a machine that may be busy.
        route.http.get_or_insert_default().connect_timeout_ms = 60_000;
    })
    .await;
    let client = http2_client(bed.port).await;
    let calls: Vec<_> = (0..200)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move {
                let answer = client.send_request(call("x")).await.unwrap();
                answer.into_body().collect().await.unwrap().to_bytes()
            })
        })
        .collect();
    for call in calls {
        assert_eq!(within(call).await.unwrap(), "x!");
    }
    assert_eq!(bed.counters(api::Arm::Stable).succeeded, 200);
}

#[tokio::test]
async fn http2_clients_are_translated_for_an_http1_port() {
    let origin = Origin::new(|request| async move {
        assert_eq!((request.version(), request.uri().to_string().as_str()), (Version::HTTP_11, "/echo"));
        assert_eq!(
            (request.headers()["host"].as_bytes(), request.headers()["cookie"].as_bytes()),
            (&b"web"[..], &b"a=1; b=2"[..])
        );
        let said = request.into_body().collect().await.unwrap().to_bytes();
        Response::builder().header("connection", "x-hop").header("x-hop", "1").body(Full::new(said)).unwrap()
    })
    .await;
    let bed = Bed::to(origin.address, api::Protocol::Http).await;
    let mut request = call("hello");
    request.headers_mut().append("cookie", "a=1".parse().unwrap());
    request.headers_mut().append("cookie", "b=2".parse().unwrap());
    let answer = within(http2_client(bed.port).await.send_request(request)).await.unwrap();
    assert!(answer.headers().get("x-hop").is_none());
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
}

#[tokio::test]
async fn http1_clients_are_translated_for_an_http2_port() {
    let origin = grpc_origin("0").await;
    let bed = Bed::to(origin, api::Protocol::H2c).await;
    let mut client = bed.connect().await;
    let request = "POST /echo HTTP/1.1\r\nHost: web\r\nTE: trailers\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(client.send(request).await.body, "hello!");
}

#[tokio::test]
async fn a_drain_says_goaway_and_finishes_streams() {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Infallible>>(4);
    let receiver = std::sync::Arc::new(std::sync::Mutex::new(Some(receiver)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service = service_fn(move |_| {
            let body = ReceiverStream::new(receiver.lock().unwrap().take().unwrap());
            async move { Ok::<_, Infallible>(Response::new(StreamBody::new(body))) }
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        server.serve_connection(TokioIo::new(stream), service).await.unwrap();
    });
    let bed = Bed::new(|route| stable(route, address)).await;
    let mut client = http2_client(bed.port).await;
    let mut answer = within(client.send_request(call("x"))).await.unwrap().into_body();
    sender.send(Ok(Frame::data("one".into()))).await.unwrap();
    assert_eq!(within(answer.frame()).await.unwrap().unwrap().into_data().unwrap(), "one");
    let (shared, begun) = (bed.proxy.shared(), std::time::Instant::now());
    let drained = tokio::spawn(bed.proxy.drain(Duration::ZERO, Duration::from_secs(15)));
    crate::common::eventually("draining", || !shared.ready()).await;
    sender.send(Ok(Frame::data("two".into()))).await.unwrap();
    drop(sender);
    assert_eq!(within(answer.collect()).await.unwrap().to_bytes(), "two");
    within(drained).await.unwrap();
    // Without GOAWAY the client would keep its idle connection until idle ones are cut, after 5 s.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}
