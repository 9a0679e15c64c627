//! The probes over a real socket, and the client's layer over a scripted API server.

use std::convert::Infallible;

use http::{Request, Response};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ListParams, WatchParams};
use kube::client::{Body, ClientBuilder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

async fn fetch(health: &Health, metrics: &Metrics, path: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let server = tokio::spawn(serve(listener, health.clone(), metrics.clone(), stop.clone()));
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: operator\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    stop.cancel();
    server.await.unwrap();
    answer
}

#[tokio::test]
async fn ready_only_when_every_gate_is_open() {
    let (health, metrics) = (Health::new(), Metrics::new());
    assert!(fetch(&health, &metrics, "/readyz").await.ends_with("not ready: start\n"));
    let (caches, stream) = (health.gate("caches"), health.gate("stream"));
    caches.open();
    let answer = fetch(&health, &metrics, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("not ready: stream\n"), "{answer}");
    stream.open();
    assert!(fetch(&health, &metrics, "/readyz").await.starts_with("HTTP/1.1 200"));
    caches.close();
    assert!(fetch(&health, &metrics, "/readyz").await.ends_with("not ready: caches\n"));
}

#[tokio::test(start_paused = true)]
async fn a_silent_loop_is_not_alive_and_a_beating_one_is() {
    let health = Health::new();
    let controller = health.beat("controller", Duration::from_secs(60));
    let feed = health.beat("feed", Duration::from_secs(60));
    tokio::time::advance(Duration::from_secs(40)).await;
    feed.touch();
    tokio::time::advance(Duration::from_secs(40)).await;
    assert_eq!(health.silent(), ["controller"]);
    controller.touch();
    assert!(health.silent().is_empty());
}

#[tokio::test]
async fn livez_names_the_silent_loop() {
    let (health, metrics) = (Health::new(), Metrics::new());
    assert!(fetch(&health, &metrics, "/livez").await.starts_with("HTTP/1.1 200"));
    let _beat = health.beat("controller", Duration::ZERO);
    let answer = fetch(&health, &metrics, "/livez").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("silent: controller\n"), "{answer}");
}

#[tokio::test]
async fn metrics_carry_every_outcome_that_was_reported() {
    let metrics = Metrics::new();
    metrics.reconciled("conflict", Duration::from_millis(3));
    metrics.release("promoted");
    metrics.api_error("forbidden");
    metrics.leader(true);
    let answer = fetch(&Health::new(), &metrics, "/metrics").await;
    for line in [
        "sluice_operator_reconciles_total{outcome=\"conflict\"} 1",
        "sluice_operator_reconcile_seconds_count 1",
        "sluice_operator_releases_total{outcome=\"promoted\"} 1",
        "sluice_operator_api_errors_total{class=\"forbidden\"} 1",
        "sluice_operator_leader 1",
        "# EOF",
    ] {
        assert!(answer.contains(line), "{line} is missing in {answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_no_longer_asked_for_is_silent() {
    let (health, metrics) = (Health::new(), Metrics::new());
    health.watch("configmaps");
    let server = tower::service_fn(|_: Request<Body>| async {
        let list = r#"{"apiVersion":"v1","kind":"ConfigMapList","metadata":{},"items":[]}"#;
        Ok::<_, Infallible>(Response::new(Body::from(list.as_bytes().to_vec())))
    });
    let client = ClientBuilder::new(server, "default").with_layer(&observe_client(&health, &metrics)).build();
    let maps: Api<ConfigMap> = Api::default_namespaced(client);

    tokio::time::advance(Duration::from_secs(400)).await;
    drop(maps.watch(&WatchParams::default(), "1").await.unwrap());
    tokio::time::advance(Duration::from_secs(400)).await;
    assert!(health.silent().is_empty());
    maps.list(&ListParams::default()).await.unwrap();
    tokio::time::advance(Duration::from_secs(400)).await;
    assert_eq!(health.silent(), ["configmaps"], "a list is no watch");

    let text = metrics.encode();
    assert!(text.contains("sluice_operator_api_requests_total{verb=\"watch\",code=\"200\"} 1"), "{text}");
    assert!(text.contains("sluice_operator_api_requests_total{verb=\"get\",code=\"200\"} 1"), "{text}");
}
