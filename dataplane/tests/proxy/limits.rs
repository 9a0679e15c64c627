//! Limits on what clients may take: what those who want more are told, and that a change is in force at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::Full;
use proxy_api::v1beta1 as api;
use routing::{Limit, Limits};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::common::{Bed, Client, Origin, eventually, http2_client, raw_origin, read_head, speaks, stable, within};

pub fn limit(bed: &Bed, change: impl FnOnce(&mut Limits)) {
    let shared = bed.proxy.shared();
    let mut limits = shared.registry.limits().now();
    change(&mut limits);
    shared.registry.limits().set(limits);
}

fn reached(bed: &Bed, limit: Limit) -> u64 {
    bed.proxy.shared().registry.limits().reached(limit)
}

pub fn with_headers(count: usize, value: &str) -> String {
    let field = format!("X-F: {value}\r\n");
    format!("GET / HTTP/1.1\r\nHost: web\r\n{}\r\n", field.repeat(count))
}

fn http2_with_headers(count: usize, value: &str) -> Request<Full<Bytes>> {
    let request =
        (0..count).fold(Request::get("http://web/"), |request, number| request.header(format!("x-f-{number}"), value));
    request.version(Version::HTTP_2).body(Full::default()).unwrap()
}

#[tokio::test]
async fn a_head_past_a_limit_is_a_431_over_http1_and_limits_change_between_two_requests() {
    let origin = Origin::text("ok").await;
    let bed = Bed::new(|route| stable(route, origin.address)).await;
    let mut client = bed.connect().await;
    assert_eq!(client.send(&with_headers(60, "x")).await.status, 200);
    limit(&bed, |limits| limits.headers = 50);
    assert_eq!(client.send(&with_headers(60, "x")).await.status, 431);
    assert!(client.closed().await);
    limit(&bed, |limits| (limits.headers, limits.header_bytes) = (80, 64 * 1024));
    let mut client = bed.connect().await;
    assert_eq!(client.send(&with_headers(60, "x")).await.status, 200);
    assert_eq!(client.send(&with_headers(1, &"x".repeat(60_000))).await.status, 200);
    assert_eq!(client.send(&with_headers(1, &"x".repeat(66_000))).await.status, 431);
    assert_eq!((reached(&bed, Limit::Headers), reached(&bed, Limit::HeaderBytes)), (1, 1));
    let metrics = bed.metrics();
    assert!(metrics.contains(r#"sluice_proxy_rejected_total{code="431"} 2"#), "{metrics}");
    assert!(metrics.contains(r#"sluice_proxy_limited_total{limit="max_headers",flag="DPE"} 1"#));
    assert!(metrics.contains(r#"sluice_proxy_limit{limit="max_header_bytes"} 65536"#));
}

#[tokio::test]
async fn a_head_past_a_limit_is_a_431_over_http2_and_the_connection_goes_on() {
    let origin = Origin::text("ok").await;
    let bed = Bed::to(origin.address, api::Protocol::Http).await;
    let mut client = http2_client(bed.port).await;
    let mut status = async |count, value: &str| {
        within(client.send_request(http2_with_headers(count, value))).await.unwrap().status().as_u16()
    };
    assert_eq!(status(60, "x").await, 200);
    limit(&bed, |limits| limits.headers = 50);
    assert_eq!(status(60, "x").await, 431);
    assert_eq!(status(1, &"x".repeat(33_000)).await, 431);
    assert_eq!(status(1, &"x".repeat(70_000)).await, 431, "past what is kept of a field list, too");
    assert_eq!(status(1, &"x".repeat(30_000)).await, 200);
    limit(&bed, |limits| limits.header_bytes = 8 * 1024);
    assert_eq!(status(1, &"x".repeat(30_000)).await, 431, "requests on a connection that is open already count, too");
    assert_eq!((reached(&bed, Limit::Headers), reached(&bed, Limit::HeaderBytes)), (1, 3));
    assert!(bed.metrics().contains(r#"sluice_proxy_rejected_total{code="431"} 4"#));
    assert_eq!(bed.counters(api::Arm::Stable).started, 2, "what is refused is no arm's");
}

#[tokio::test]
async fn an_http1_client_of_an_http2_port_is_told_of_a_head_that_is_too_large() {
    let bed = Bed::new(|route| speaks(route, api::Protocol::H2c)).await;
    assert_eq!(bed.connect().await.send(&with_headers(101, "x")).await.status, 431);
    assert_eq!(bed.connect().await.send(&with_headers(1, &"x".repeat(40_000))).await.status, 431);
    assert_eq!((reached(&bed, Limit::Headers), reached(&bed, Limit::HeaderBytes)), (1, 1));
}

#[tokio::test]
async fn a_port_has_its_own_limit_of_connections_whichever_worker_has_them() {
    let origin = Origin::text("ok").await;
    let bed = Bed::new(|route| stable(route, origin.address)).await;
    limit(&bed, |limits| limits.port_connections = 6);
    let mut clients = Vec::new();
    for _ in 0..6 {
        let mut client = bed.connect().await;
        assert_eq!(client.get("/").await.status, 200);
        clients.push(client);
    }
    let mut refused = bed.connect().await;
    assert_eq!(refused.answer().await.unwrap().status, 503);
    assert_eq!(reached(&bed, Limit::PortConnections), 1);
    assert!(bed.metrics().contains(r#"limit="max_connections_per_port",flag="OM"} 1"#));
    limit(&bed, |limits| limits.port_connections = 7);
    let mut admitted = bed.connect().await;
    assert_eq!(admitted.get("/").await.status, 200);
    limit(&bed, |limits| limits.port_connections = 1);
    for client in clients.iter_mut().chain([&mut admitted]) {
        assert_eq!(client.get("/").await.status, 200, "a lower limit closes nothing");
    }
}

#[tokio::test]
async fn an_http2_client_that_is_one_too_many_may_send_everything_elsewhere() {
    let bed = Bed::new(|route| speaks(route, api::Protocol::Grpc)).await;
    limit(&bed, |limits| limits.connections = 0);
    let mut refused = bed.connect().await;
    let mut said = Vec::new();
    within(refused.0.read_to_end(&mut said)).await.unwrap();
    assert_eq!(said[..9], [0, 0, 0, 4, 0, 0, 0, 0, 0], "SETTINGS");
    assert_eq!(said[9..], [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "GOAWAY, stream 0, no error");
    assert_eq!(reached(&bed, Limit::Connections), 1);
}

#[tokio::test]
async fn limits_that_change_under_load_lose_nothing() {
    let origin = Origin::text("ok").await;
    let bed = Bed::new(|route| stable(route, origin.address)).await;
    let (done, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (done, served, port) = (Arc::clone(&done), Arc::clone(&served), bed.port);
            tokio::spawn(async move {
                let mut client = Client::connect(port).await;
                while !done.load(SeqCst) {
                    assert_eq!(client.get("/").await.status, 200);
                    served.fetch_add(1, SeqCst);
                }
            })
        })
        .collect();
    eventually("everybody is in", || bed.proxy.shared().registry.open_connections() == 8).await;
    for round in 0..50 {
        let before = served.load(SeqCst);
        limit(&bed, |limits| {
            (limits.connections, limits.port_connections) = (1 + round % 3, 1 + round % 2);
            (limits.headers, limits.header_bytes) = (16 + round as usize, 8 * 1024 + round as usize);
        });
        eventually("requests under these limits", || served.load(SeqCst) > before + 8).await;
    }
    done.store(true, SeqCst);
    for client in clients {
        within(client).await.unwrap();
    }
}

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
pub const PING: &[u8] = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00pingpong";
const PONG: &[u8] = b"\x00\x00\x08\x06\x01\x00\x00\x00\x00pingpong";

/// GET / of `web`, and nothing after it.
pub fn opening(stream: u32) -> Vec<u8> {
    let fields = [0x82, 0x86, 0x84, 0x41, 3, b'w', b'e', b'b'];
    [&[0, 0, 8, 1, 5][..], &stream.to_be_bytes(), &fields].concat()
}

/// RST_STREAM with CANCEL.
fn reset(stream: u32) -> Vec<u8> {
    [&[0, 0, 4, 3, 0][..], &stream.to_be_bytes(), &[0, 0, 0, 8]].concat()
}

/// Reads until `wanted` comes; all that came, and whether it did before the end.
pub async fn until(client: &mut Client, wanted: &[u8]) -> (Vec<u8>, bool) {
    let mut said = Vec::new();
    while !said.ends_with(wanted) {
        match within(client.0.read_u8()).await {
            Ok(byte) => said.push(byte),
            Err(_) => return (said, false),
        }
    }
    (said, true)
}

/// An endpoint that never answers.
pub async fn hanging() -> Bed {
    let origin = raw_origin(|_, mut stream| async move {
        read_head(&mut stream).await;
        // Until the proxy has given it up.
        let _ = stream.read_u8().await;
    })
    .await;
    Bed::to(origin, api::Protocol::Http).await
}

#[tokio::test]
async fn a_client_that_resets_what_it_opens_again_and_again_is_told_to_calm_down() {
    let bed = hanging().await;
    let mut client = bed.connect().await;
    client.0.write_all(PREFACE).await.unwrap();
    // Each is taken before it is reset. A few at a time: a slow machine, too,
    // resets enough of them in a window.
    let (mut last, mut resets) = (Vec::new(), Vec::new());
    for first in (1..40_000).step_by(20) {
        let streams = (first..first + 20).step_by(2);
        let opened: Vec<u8> = streams.clone().flat_map(opening).collect();
        let said = client.0.write_all(&[&resets[..], &opened, PING].concat()).await;
        resets = streams.flat_map(reset).collect();
        let (heard, goes_on) = until(&mut client, PONG).await;
        last = heard;
        if said.is_err() || !goes_on {
            break;
        }
    }
    let calm = [0, 0, 0, 11];
    assert!(last.windows(4).any(|window| window == calm), "GOAWAY with ENHANCE_YOUR_CALM: {last:?}");
    assert_eq!(reached(&bed, Limit::Resets), 1);
    assert!(bed.metrics().contains(r#"limit="max_resets",flag="OM"} 1"#));
    assert!(client.closed().await);
}

#[tokio::test]
async fn a_stream_that_is_one_too_many_is_refused_and_counted() {
    let bed = hanging().await;
    limit(&bed, |limits| limits.streams = 1);
    let mut client = bed.connect().await;
    client.0.write_all(&[PREFACE, &opening(1), &opening(3)].concat()).await.unwrap();
    let refused = [0, 0, 4, 3, 0, 0, 0, 0, 3, 0, 0, 0, 7];
    assert!(until(&mut client, &refused).await.1);
    client.0.write_all(PING).await.unwrap();
    assert!(until(&mut client, PONG).await.1);
    eventually("it is counted", || reached(&bed, Limit::Streams) == 1).await;
}
