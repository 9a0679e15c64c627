//! The shell against a scripted API server in paused time: what is called, how often, and what is told.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::body::{Body as Answer, Bytes};
use http::{Method, Request, Response};
use kube::client::Body;

use super::*;

/// One lease behind the calls that the elections make; the watch tells each change.
#[derive(Clone)]
struct FakeServer {
    lease: Arc<Mutex<Option<serde_json::Value>>>,
    calls: Arc<Mutex<Vec<Method>>>,
    changed: watch::Sender<u64>,
    is_away: watch::Sender<bool>,
}

impl FakeServer {
    fn new() -> Self {
        let (changed, is_away) = (watch::Sender::new(0), watch::Sender::new(false));
        Self { lease: Arc::default(), calls: Arc::default(), changed, is_away }
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Client::new(service, "sluice-system")
    }

    async fn answer(&self, request: Request<Body>) -> Response<Answer> {
        if *self.is_away.borrow() {
            std::future::pending::<()>().await;
        }
        self.calls.lock().unwrap().push(request.method().clone());
        let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        let method = request.method().clone();
        let body = request.into_body().collect_bytes().await.unwrap();
        match method {
            Method::GET if is_watch => Response::new(watch_of(self.clone())),
            Method::GET => self.held(),
            Method::POST if self.lease.lock().unwrap().is_some() => status(409),
            _ => self.write(serde_json::from_slice(&body).unwrap()),
        }
    }

    fn held(&self) -> Response<Answer> {
        let lease = self.lease.lock().unwrap();
        lease.as_ref().map_or_else(|| status(404), |lease| Response::new(Answer::from(lease.to_string())))
    }

    fn write(&self, patch: serde_json::Value) -> Response<Answer> {
        let mut lease = self.lease.lock().unwrap();
        let version = lease.as_ref().map(|lease| lease["metadata"]["resourceVersion"].clone());
        if version.is_some_and(|version| version != patch["metadata"]["resourceVersion"]) {
            return status(409);
        }
        let next = *self.changed.borrow() + 1;
        let written = serde_json::json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": "sluice-operator", "resourceVersion": next.to_string() }, "spec": patch["spec"],
        });
        *lease = Some(written.clone());
        self.changed.send_replace(next);
        Response::new(Answer::from(written.to_string()))
    }

    fn lease(&self, pod: &str) -> Lease {
        let (namespace, name) = ("sluice-system".to_owned(), "sluice-operator".to_owned());
        Lease { client: self.client(), namespace, name, pod: pod.to_owned(), timing: Timing::default() }
    }

    fn holder(&self) -> String {
        let lease = self.lease.lock().unwrap();
        lease.as_ref().and_then(|lease| lease["spec"]["holderIdentity"].as_str()).unwrap_or_default().to_owned()
    }
}

fn status(code: u16) -> Response<Answer> {
    let text = serde_json::json!({ "kind": "Status", "status": "Failure", "code": code, "message": "", "reason": "" });
    Response::builder().status(code).body(Answer::from(text.to_string())).unwrap()
}

/// A watch's body: a line for every change, for ever.
fn watch_of(server: FakeServer) -> Answer {
    let changed = server.changed.subscribe();
    let lines = futures::stream::unfold((server, changed), |(server, mut changed)| async move {
        changed.changed().await.ok()?;
        let lease = server.lease.lock().unwrap().clone();
        let line = format!("{}\n", serde_json::json!({ "type": "MODIFIED", "object": lease }));
        Some((Ok::<_, Infallible>(Bytes::from(line)), (server, changed)))
    });
    Answer::from_stream(lines)
}

struct Standing {
    leading: Leadership,
    stop: CancellationToken,
    end: tokio::task::JoinHandle<Result<(), LeaseError>>,
}

fn stand(lease: Lease) -> Standing {
    let (sender, leading) = watch::channel(false);
    let stop = CancellationToken::new();
    let end = tokio::spawn(lease.run(Metrics::new(), stop.clone(), sender));
    Standing { leading, stop, end }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_stops_hands_over_at_once() {
    let server = FakeServer::new();
    let mut one = stand(server.lease("one"));
    one.leading.wait_for(|leads| *leads).await.unwrap();
    let mut two = stand(server.lease("two"));
    // Two renewals, so that the standby watches.
    let mut changes = server.changed.subscribe();
    changes.wait_for(|version| *version >= 3).await.unwrap();
    assert!(!*two.leading.borrow());

    let asked = Instant::now();
    one.stop.cancel();
    two.leading.wait_for(|leads| *leads).await.unwrap();
    assert!(asked.elapsed() < Duration::from_millis(100), "{:?}", asked.elapsed());
    one.end.await.unwrap().unwrap();
    assert!(server.holder().starts_with("two_"));
    two.stop.cancel();
    two.end.await.unwrap().unwrap();
    assert_eq!(server.holder(), "");
}

#[tokio::test(start_paused = true)]
async fn a_dead_leader_is_followed_within_twenty_seconds() {
    let server = FakeServer::new();
    let mut one = stand(server.lease("one"));
    one.leading.wait_for(|leads| *leads).await.unwrap();
    let mut two = stand(server.lease("two"));
    server.changed.subscribe().wait_for(|version| *version >= 3).await.unwrap();
    one.end.abort();
    let died = Instant::now();
    two.leading.wait_for(|leads| *leads).await.unwrap();
    assert!(died.elapsed() <= Duration::from_secs(20), "{:?}", died.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_leader_without_an_api_server_ends_with_an_error_before_its_lease_ends() {
    let server = FakeServer::new();
    let mut one = stand(server.lease("one"));
    one.leading.wait_for(|leads| *leads).await.unwrap();
    let renewed = Instant::now();
    server.is_away.send_replace(true);
    let end = one.end.await.unwrap();
    assert!(matches!(end, Err(LeaseError::Lost(_))), "{end:?}");
    assert!(renewed.elapsed() < Timing::default().duration);
    assert!(!*one.leading.borrow());
}

#[tokio::test(start_paused = true)]
async fn ten_idle_minutes_of_both_replicas_cost_less_than_a_hundred_calls() {
    let server = FakeServer::new();
    let mut one = stand(server.lease("one"));
    one.leading.wait_for(|leads| *leads).await.unwrap();
    let two = stand(server.lease("two"));
    server.changed.subscribe().wait_for(|version| *version >= 3).await.unwrap();
    server.calls.lock().unwrap().clear();
    tokio::time::sleep(Duration::from_secs(600)).await;
    let calls = server.calls.lock().unwrap().clone();
    let writes = calls.iter().filter(|method| **method == Method::PATCH).count();
    // 600 s / 7 s. The watch of the fake server never ends; a real one adds a call each 290 s.
    assert_eq!((calls.len(), writes), (85, 85));
    assert!(*one.leading.borrow() && !*two.leading.borrow());
}
