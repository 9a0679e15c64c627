use std::{collections::BTreeMap, convert::Infallible, time::Duration};

use crds::canary::ProviderRef;
use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::outbound::{
    Policy,
    fault::{Fault, FaultServer},
};

/// A rollback of `shop/web`.
pub(super) fn mk_message(counter: i64) -> Message {
    Message {
        id: MessageId { canary_uid: "uid".to_owned(), counter, kind: Kind::RolledBack },
        namespace: "shop".to_owned(),
        canary: "web".to_owned(),
        severity: Severity::Error,
        stable_revision: Some("7c4b".to_owned()),
        canary_revision: Some("5d9f".to_owned()),
        weight_percent: 25,
        of_audience: false,
        step: "2/4".to_owned(),
        reason: "success rate 94.80 % is below 99 %".to_owned(),
        facts: Vec::new(),
    }
}

fn mk_alert(provider: &str, severity: Severity) -> Alert {
    let provider_ref = ProviderRef { name: provider.to_owned() };
    Alert { name: format!("to-{provider}"), severity, provider_ref }
}

/// An API server that knows these objects by path, and nothing else.
fn mk_client(objects: &[(&str, Value)]) -> kube::Client {
    let objects: BTreeMap<String, Value> =
        objects.iter().map(|(path, object)| ((*path).to_owned(), object.clone())).collect();
    let service = tower::service_fn(move |request: Request<Body>| {
        assert_eq!(
            (request.method(), request.uri().query()),
            (&http::Method::GET, None),
            "only gets by name are allowed"
        );
        let not_found = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "not found",
                                "reason": "NotFound", "code": 404, "metadata": {} });
        let found = objects.get(request.uri().path());
        let status = if found.is_some() { 200 } else { 404 };
        let body = found.unwrap_or(&not_found).to_string().into_bytes();
        async move { Ok::<_, Infallible>(Response::builder().status(status).body(Body::from(body)).unwrap()) }
    });
    kube::Client::new(service, "default")
}

const PROVIDERS: &str = "/apis/sluice.dev/v1beta1/namespaces/shop/alertproviders";
const SECRETS: &str = "/api/v1/namespaces/shop/secrets";

fn mk_provider(name: &str, extra: Value) -> (String, Value) {
    let mut spec = json!({ "type": "slack", "channel": "#releases" });
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let object = json!({ "apiVersion": "sluice.dev/v1beta1", "kind": "AlertProvider",
                         "metadata": { "name": name, "namespace": "shop" }, "spec": spec });
    (format!("{PROVIDERS}/{name}"), object)
}

fn mk_secret(name: &str, data: Value) -> (String, Value) {
    let object = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "namespace": "shop" },
                         "data": data });
    (format!("{SECRETS}/{name}"), object)
}

struct Running {
    outbox: Outbox,
    reports: mpsc::Receiver<DeliveryReport>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(objects: &[(String, Value)]) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let outbound = Outbound::new(Policy { loopback: true, ..Policy::default() }).unwrap();
        let objects: Vec<_> = objects.iter().map(|(path, object)| (path.as_str(), object.clone())).collect();
        let (outbox, sender, reports) = outbox(mk_client(&objects), outbound);
        let stop = CancellationToken::new();
        let task = tokio::spawn(sender.run(stop.clone()));
        Self { outbox, reports, stop, task }
    }

    async fn report(&mut self) -> DeliveryReport {
        let report = tokio::time::timeout(Duration::from_secs(60), self.reports.recv()).await;
        report.expect("a report must come").unwrap()
    }
}

#[tokio::test]
async fn a_message_reaches_the_address_in_the_secret() {
    let slack = FaultServer::start([Fault::json(200, "ok")]).await;
    let encoded = k8s_openapi::ByteString(format!("{}/services/T0/B0/token\n", slack.url()).into_bytes());
    let mut running = Running::start(&[
        mk_provider("team", json!({ "secretRef": { "name": "slack" } })),
        mk_secret("slack", json!({ "address": encoded })),
    ]);
    assert_eq!(running.outbox.offer(mk_message(1), &[mk_alert("team", Severity::Info)]), 1);
    let report = running.report().await;
    assert_eq!(report.outcome, Outcome::Delivered { attempts: 1 });
    assert_eq!((report.alert.as_str(), report.provider.as_str(), report.kind), ("to-team", "team", Kind::RolledBack));
    let sent = slack.requests().join("");
    let (head, body) = sent.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /services/T0/B0/token HTTP/1.1"), "{head}");
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        body["text"],
        ":rotating_light: *shop/web* rolled 5d9f back to 7c4b: success rate 94.80 % is below 99 %"
    );
    assert_eq!(running.outbox.stats(), Stats { delivered: 1, ..Stats::default() });
}

#[tokio::test]
async fn severity_filters_and_a_repeated_offer_is_sent_once() {
    let slack = FaultServer::start([Fault::json(200, "ok")]).await;
    let mut running = Running::start(&[mk_provider("team", json!({ "address": slack.url() }))]);
    let alerts = |severity| [mk_alert("team", severity)];
    let mut info = mk_message(1);
    (info.id.kind, info.severity) = (Kind::Started, Severity::Info);
    assert_eq!(running.outbox.offer(info.clone(), &alerts(Severity::Error)), 0);
    assert_eq!(running.outbox.offer(info.clone(), &alerts(Severity::Info)), 1);
    running.report().await;
    assert_eq!(running.outbox.offer(info, &alerts(Severity::Info)), 0, "the operator came by again");
    assert_eq!(running.outbox.offer(mk_message(1), &alerts(Severity::Warn)), 1, "another kind at the same counter");
    running.report().await;
    assert_eq!(slack.requests().len(), 2);
}

#[tokio::test]
async fn a_passing_failure_is_retried_and_order_is_kept() {
    let slack = FaultServer::start([
        Fault::Answer { status: 503, headers: "retry-after: 1\r\n", body: Vec::new() },
        Fault::Close,
        Fault::json(200, "ok"),
    ])
    .await;
    let mut running = Running::start(&[mk_provider("team", json!({ "address": slack.url() }))]);
    let started = tokio::time::Instant::now();
    for counter in [1, 2] {
        running.outbox.offer(mk_message(counter), &[mk_alert("team", Severity::Info)]);
    }
    assert_eq!(running.report().await.outcome, Outcome::Delivered { attempts: 3 });
    assert!(started.elapsed() >= Duration::from_secs(1), "Retry-After is kept");
    assert_eq!(running.report().await.outcome, Outcome::Delivered { attempts: 1 });
}

#[tokio::test]
async fn a_hanging_receiver_delays_neither_the_offer_nor_another_receiver() {
    let (hanging, fine) = (FaultServer::start([Fault::Hang]).await, FaultServer::start([Fault::json(200, "ok")]).await);
    let mut running = Running::start(&[
        mk_provider("hanging", json!({ "address": hanging.url() })),
        mk_provider("fine", json!({ "address": fine.url() })),
    ]);
    let offered = std::time::Instant::now();
    for counter in 0..200 {
        running.outbox.offer(mk_message(counter), &[mk_alert("hanging", Severity::Info)]);
    }
    running.outbox.offer(mk_message(1), &[mk_alert("fine", Severity::Info)]);
    assert!(offered.elapsed() < Duration::from_secs(1), "offering only queues");
    let delivered = loop {
        let report = running.report().await;
        match report.outcome {
            Outcome::Dropped { ref why } => assert!(why.contains("newer messages took its place")),
            _ => break report,
        }
    };
    assert_eq!((delivered.provider.as_str(), delivered.outcome), ("fine", Outcome::Delivered { attempts: 1 }));
    let stats = running.outbox.stats();
    assert!(stats.queued <= queue::LANE_MAX && stats.dropped >= 149, "{stats:?}");
    running.stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(10), running.task).await;
    ended.expect("a hanging receiver must not keep the operator from stopping").unwrap();
}

#[tokio::test]
async fn what_needs_a_person_is_reported_at_once_and_without_the_secret() {
    let gone = FaultServer::start([Fault::json(404, "no_service")]).await;
    let rude = FaultServer::start([Fault::json(403, "your token is hunter2")]).await;
    let encoded = |text: &str| k8s_openapi::ByteString(text.as_bytes().to_vec());
    let mut running = Running::start(&[
        mk_provider("gone", json!({ "address": format!("{}/services/hidden", gone.url()) })),
        mk_provider("rude", json!({ "address": rude.url() })),
        mk_provider("no-secret", json!({ "secretRef": { "name": "absent" } })),
        mk_provider("no-key", json!({ "secretRef": { "name": "empty" } })),
        mk_secret("empty", json!({ "url": encoded("x") })),
        mk_provider("no-url", json!({ "secretRef": { "name": "odd" } })),
        mk_secret("odd", json!({ "address": encoded("hidden-token") })),
        mk_provider("metadata", json!({ "address": "http://169.254.169.254/" })),
        mk_provider("strange", json!({ "type": "pigeon", "address": "http://x" })),
    ]);
    for (provider, expected) in [
        ("absent", "AlertProvider absent does not exist in namespace shop"),
        ("gone", "refuses the message (status 404, no_service); expected an incoming webhook"),
        ("rude", "refuses the message (status 403); expected an incoming webhook"),
        ("no-secret", "AlertProvider no-secret: Secret absent does not exist"),
        ("no-key", "Secret empty has no key 'address'"),
        ("no-url", "AlertProvider no-url: the address is not usable: expected a URL such as"),
        ("metadata", "169.254.169.254, an address that Sluice does not call"),
        ("strange", "AlertProvider strange has fields that Sluice cannot read"),
    ] {
        running.outbox.offer(mk_message(1), &[mk_alert(provider, Severity::Info)]);
        let report = running.report().await;
        let Outcome::Failed { why } = report.outcome else { panic!("{provider}: {report:?}") };
        assert!(why.contains(expected), "{provider}: {why}");
        assert!(!why.contains("hidden") && !why.contains("hunter2"), "{provider} repeats a secret: {why}");
    }
    assert_eq!(running.outbox.stats(), Stats { failed: 8, ..Stats::default() });
}

#[tokio::test]
async fn what_was_offered_just_before_the_stop_is_still_sent() {
    let slack = FaultServer::start([Fault::json(200, "ok")]).await;
    let mut running = Running::start(&[mk_provider("team", json!({ "address": slack.url() }))]);
    running.outbox.offer(mk_message(1), &[mk_alert("team", Severity::Info)]);
    running.stop.cancel();
    assert_eq!(running.report().await.outcome, Outcome::Delivered { attempts: 1 });
    tokio::time::timeout(Duration::from_secs(10), running.task).await.expect("then the task ends").unwrap();
}
