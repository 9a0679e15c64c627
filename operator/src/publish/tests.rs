//! The publisher through a real gRPC client: fence, resume, isolation, acknowledgements.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt;
use proxy_api::v1beta1::from_operator::Message as Down;
use proxy_api::v1beta1::from_proxy::Message as Up;
use proxy_api::v1beta1::{Arm, ArmCounters, FromOperator, FromProxy, Hello};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use super::server::{generated::proxy_config_client::ProxyConfigClient, serve};
use super::*;
use crate::authority::tests::mk_authority;
use crate::identity::Identities;
use crate::identity::tests::Table;

/// Longer than anything here takes; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(20);

struct Operator {
    publisher: Publisher,
    metrics: Metrics,
    endpoint: Endpoint,
    stop: CancellationToken,
    server: JoinHandle<Result<(), ServeError>>,
}

struct FakeProxy {
    up: mpsc::Sender<FromProxy>,
    down: Streaming<FromOperator>,
}

async fn mk_operator() -> Operator {
    mk_operator_with(None).await
}

async fn mk_operator_with(tls: Option<Arc<rustls::ServerConfig>>) -> Operator {
    mk_operator_within(ConnectionLimits::default(), tls).await
}

async fn mk_operator_within(limits: ConnectionLimits, tls: Option<Arc<rustls::ServerConfig>>) -> Operator {
    let metrics = Metrics::new();
    let publisher = Publisher::new(&metrics);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let endpoint = Endpoint::from_shared(format!("{scheme}://{}", listener.local_addr().unwrap())).unwrap();
    let stop = CancellationToken::new();
    let identities = Identities::with(Arc::new(Table::default()));
    let server = tokio::spawn(serve(listener, limits, tls, identities, publisher.clone(), stop.clone()));
    Operator { publisher, metrics, endpoint, stop, server }
}

impl Operator {
    async fn connect(&self, namespace: &str, pod: &str) -> FakeProxy {
        let token = format!("{namespace}/{pod}");
        open(&self.endpoint, Some(&token), mk_hello(namespace, pod)).await.unwrap()
    }

    /// Waits until `wanted` holds.
    async fn until(&self, wanted: impl Fn(&Publisher) -> bool) {
        let mut changes = Box::pin(self.publisher.changes());
        let wait = async {
            while !wanted(&self.publisher) {
                changes.next().await.unwrap();
            }
        };
        timeout(PATIENCE, wait).await.unwrap();
    }

    fn ack_count(&self) -> u64 {
        let text = self.metrics.encode();
        let count =
            text.lines().find_map(|line| line.strip_prefix("sluice_operator_route_acknowledged_seconds_count "));
        count.unwrap().parse().unwrap()
    }
}

async fn open(endpoint: &Endpoint, token: Option<&str>, first: Up) -> Result<FakeProxy, Status> {
    open_on(endpoint.connect().await.unwrap(), token, first).await
}

async fn open_on(channel: Channel, token: Option<&str>, first: Up) -> Result<FakeProxy, Status> {
    let (up, receiver) = mpsc::channel(64);
    up.send(FromProxy { message: Some(first) }).await.unwrap();
    let mut request = Request::new(ReceiverStream::new(receiver));
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let down = ProxyConfigClient::new(channel).connect(request).await?.into_inner();
    Ok(FakeProxy { up, down })
}

fn trusting(endpoint: &Endpoint, bundle: String) -> Endpoint {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(bundle)).domain_name("sluice-operator");
    endpoint.clone().tls_config(tls).unwrap()
}

impl FakeProxy {
    async fn next(&mut self) -> Option<Down> {
        let message = timeout(PATIENCE, self.down.message()).await.unwrap();
        message.ok().flatten().map(|message| message.message.unwrap())
    }

    async fn send(&self, message: Up) {
        self.up.send(FromProxy { message: Some(message) }).await.unwrap();
    }

    async fn ack(&self, uid: &str, counter: u64, error: &str) {
        self.send(Up::Ack(Ack { uid: uid.to_owned(), counter, error: error.to_owned() })).await;
    }

    /// Uids and counters of the Snapshot that must come next.
    async fn snapshot(&mut self) -> BTreeMap<String, u64> {
        match self.next().await {
            Some(Down::Snapshot(snapshot)) => snapshot.routes.into_iter().map(|r| (r.uid, r.counter)).collect(),
            other => panic!("no snapshot but {other:?}"),
        }
    }
}

fn mk_hello(namespace: &str, pod: &str) -> Up {
    Up::Hello(Hello { pod: pod.to_owned(), namespace: namespace.to_owned(), version: "0".to_owned(), incarnation: 7 })
}

fn mk_route(namespace: &str, uid: &str, counter: u64) -> Route {
    Route {
        uid: uid.to_owned(),
        counter,
        namespace: namespace.to_owned(),
        canary: format!("canary-{uid}"),
        stable_revision: "old".to_owned(),
        canary_revision: "new".to_owned(),
        ..Route::default()
    }
}

fn mk_counters(incarnation: u64, sequence: u64, uid: &str, started: u64) -> Up {
    let arm = ArmCounters {
        uid: uid.to_owned(),
        revision: "new".to_owned(),
        arm: Arm::Canary as i32,
        started,
        ..ArmCounters::default()
    };
    Up::Counters(Counters { incarnation, sequence, arms: vec![arm], ..Counters::default() })
}

#[tokio::test]
async fn a_cold_replica_removes_no_route() {
    let operator = mk_operator().await;
    operator.publisher.set(mk_route("shop", "u1", 4));
    let mut proxy = operator.connect("shop", "p1").await;
    operator.until(|publisher| publisher.connected("shop").contains("p1")).await;
    operator.publisher.set(mk_route("shop", "u2", 1));
    operator.publisher.synced();
    // Had it been sent when the stream began, u2 would be missing.
    assert_eq!(proxy.snapshot().await, BTreeMap::from([("u1".to_owned(), 4), ("u2".to_owned(), 1)]));
}

#[tokio::test]
async fn a_proxy_that_trusts_the_bundle_connects_by_tls_and_no_other() {
    let authority = mk_authority();
    let mut operator = mk_operator_with(Some(authority.server_config())).await;
    operator.publisher.synced();
    let stranger = trusting(&operator.endpoint, mk_authority().ca_bundle());
    assert!(stranger.connect().await.is_err());
    operator.endpoint = trusting(&operator.endpoint, authority.ca_bundle());
    let mut proxy = operator.connect("shop", "p1").await;
    assert!(proxy.snapshot().await.is_empty());
}

#[tokio::test]
async fn changes_follow_the_snapshot_one_by_one() {
    let operator = mk_operator().await;
    operator.publisher.synced();
    operator.publisher.set(mk_route("shop", "u1", 1));
    let mut proxy = operator.connect("shop", "p1").await;
    assert_eq!(proxy.snapshot().await.len(), 1);

    assert_eq!(operator.publisher.set(mk_route("shop", "u1", 1)), SetOutcome::Unchanged);
    assert_eq!(operator.publisher.set(mk_route("shop", "u1", 2)), SetOutcome::Set);
    assert_eq!(proxy.next().await, Some(Down::Upsert(mk_route("shop", "u1", 2))));
    assert!(operator.publisher.remove("u1"));
    assert!(matches!(proxy.next().await, Some(Down::Remove(removal)) if removal.uid == "u1"));
    assert!(!operator.publisher.remove("u1"));
}

#[tokio::test]
async fn limits_come_with_the_snapshot_and_then_by_themselves() {
    let operator = mk_operator().await;
    let limits = |generation| Limits { pool: "p".to_owned(), generation, max_streams: 9, ..Limits::default() };
    operator.publisher.set(mk_route("shop", "a", 1));
    operator.publisher.limit("shop", &limits(1));
    operator.publisher.synced();
    let mut proxy = operator.connect("shop", "proxy-1").await;
    let Some(Down::Snapshot(snapshot)) = proxy.next().await else { panic!("a snapshot comes first") };
    assert_eq!((snapshot.routes.len(), snapshot.limits), (1, Some(limits(1))));
    operator.publisher.limit("shop", &limits(1));
    operator.publisher.limit("shop", &limits(2));
    assert_eq!(proxy.next().await, Some(Down::Limits(limits(2))));
    operator.publisher.set(mk_route("shop", "a", 2));
    assert!(matches!(proxy.next().await, Some(Down::Upsert(_))), "the same limits are sent once");
}

#[tokio::test]
async fn an_older_counter_is_refused_and_other_endpoints_are_not() {
    let publisher = Publisher::new(&Metrics::new());
    publisher.set(mk_route("shop", "u1", 5));
    assert_eq!(publisher.set(mk_route("shop", "u1", 4)), SetOutcome::Older);
    assert_eq!(publisher.get("u1").map(|route| route.counter), Some(5));
    let elsewhere = Route { service: "web".to_owned(), ..mk_route("shop", "u1", 5) };
    assert_eq!(publisher.set(elsewhere), SetOutcome::Set);
}

#[tokio::test]
async fn a_proxy_gets_the_routes_of_its_own_namespace_only() {
    let operator = mk_operator().await;
    operator.publisher.synced();
    operator.publisher.set(mk_route("shop", "u1", 1));
    operator.publisher.set(mk_route("bank", "u2", 1));
    let mut proxy = operator.connect("shop", "p1").await;
    assert_eq!(proxy.snapshot().await.into_keys().collect::<Vec<_>>(), ["u1"]);
    operator.publisher.set(mk_route("bank", "u2", 2));
    operator.publisher.set(mk_route("shop", "u1", 2));
    assert_eq!(proxy.next().await, Some(Down::Upsert(mk_route("shop", "u1", 2))));
}

#[tokio::test]
async fn a_stream_without_a_fitting_identity_is_refused() {
    let operator = mk_operator().await;
    let hello = || mk_hello("shop", "p1");
    let ack = Up::Ack(Ack::default());
    for (token, first, code) in [
        (None, hello(), Code::Unauthenticated),
        (Some("junk"), hello(), Code::Unauthenticated),
        (Some("shop/p2"), hello(), Code::PermissionDenied),
        (Some("bank/p1"), hello(), Code::PermissionDenied),
        (Some("shop/p1"), ack, Code::InvalidArgument),
    ] {
        let refused = open(&operator.endpoint, token, first).await.err().map(|status| status.code());
        assert_eq!(refused, Some(code), "{token:?}");
    }
    assert!(operator.publisher.connected("shop").is_empty());
}

#[tokio::test]
async fn a_counter_is_in_force_once_every_connected_proxy_has_applied_it() {
    let operator = mk_operator().await;
    let publisher = &operator.publisher;
    publisher.synced();
    publisher.set(mk_route("shop", "u1", 1));
    assert!(!publisher.in_force("u1", 1), "nobody is connected");
    let (one, two) = (operator.connect("shop", "p1").await, operator.connect("shop", "p2").await);
    operator.until(|publisher| publisher.connected("shop").len() == 2).await;
    publisher.set(mk_route("shop", "u1", 2));

    one.ack("u1", 2, "").await;
    two.ack("u1", 2, "port 15000 is taken").await;
    operator.until(|publisher| publisher.acked("u1").len() == 2).await;
    let refused = ProxyAck { pod: "p2".to_owned(), counter: 2, error: "port 15000 is taken".to_owned() };
    assert_eq!(publisher.acked("u1")[1], refused);
    assert!(!publisher.in_force("u1", 2));
    assert_eq!(operator.ack_count(), 0);

    two.ack("u1", 2, "").await;
    operator.until(|publisher| publisher.in_force("u1", 2)).await;
    assert!(!publisher.in_force("u1", 3));
    assert_eq!(operator.ack_count(), 1);
    two.ack("u1", 2, "").await;
    two.ack("u1", 3, "").await;
    operator.until(|publisher| publisher.acked("u1")[1].counter == 3).await;
    assert_eq!(operator.ack_count(), 1, "one change of a route is measured once");
}

#[tokio::test]
async fn a_proxy_that_goes_is_waited_for_no_longer() {
    let operator = mk_operator().await;
    let publisher = &operator.publisher;
    publisher.synced();
    publisher.set(mk_route("shop", "u1", 1));
    let (one, two) = (operator.connect("shop", "p1").await, operator.connect("shop", "p2").await);
    operator.until(|publisher| publisher.connected("shop").len() == 2).await;
    publisher.set(mk_route("shop", "u1", 2));
    one.ack("u1", 2, "").await;
    operator.until(|publisher| publisher.acked("u1").len() == 1).await;
    drop(two);
    operator.until(|publisher| publisher.in_force("u1", 2)).await;
    assert_eq!(operator.ack_count(), 1);
    assert!(operator.metrics.encode().contains("sluice_operator_proxies 1"));
}

#[tokio::test]
async fn a_new_stream_starts_from_a_snapshot_and_replaces_the_old_one() {
    let operator = mk_operator().await;
    operator.publisher.synced();
    operator.publisher.set(mk_route("shop", "u1", 1));
    let mut old = operator.connect("shop", "p1").await;
    old.snapshot().await;
    old.ack("u1", 1, "").await;
    operator.until(|publisher| publisher.in_force("u1", 1)).await;

    operator.publisher.set(mk_route("shop", "u2", 1));
    let mut new = operator.connect("shop", "p1").await;
    assert_eq!(new.snapshot().await.len(), 2);
    assert!(!operator.publisher.in_force("u1", 1), "what the old stream said does not count");
    while old.next().await.is_some() {}
    assert_eq!(operator.publisher.connected("shop").len(), 1);
    new.ack("u1", 1, "").await;
    operator.until(|publisher| publisher.in_force("u1", 1)).await;
}

#[tokio::test]
async fn the_end_of_the_replica_ends_its_streams() {
    let operator = mk_operator().await;
    operator.publisher.synced();
    let mut proxy = operator.connect("shop", "p1").await;
    proxy.snapshot().await;
    operator.stop.cancel();
    assert_eq!(proxy.next().await, None);
    timeout(PATIENCE, operator.server).await.unwrap().unwrap().unwrap();
    assert!(operator.publisher.connect(Proxy { namespace: "a".to_owned(), pod: "b".to_owned() }, 1).is_none());
}

#[tokio::test]
async fn counters_of_foreign_routes_and_processes_are_not_taken() {
    let operator = mk_operator().await;
    let publisher = &operator.publisher;
    publisher.set(mk_route("shop", "u1", 1));
    publisher.set(mk_route("bank", "u2", 1));
    let proxy = operator.connect("shop", "p1").await;
    proxy.send(mk_counters(7, 1, "u2", 1_000)).await;
    proxy.send(mk_counters(8, 2, "u1", 1_000)).await;
    proxy.send(mk_counters(7, 3, "u1", 12)).await;
    // Messages of a stream are taken in order: with this one taken the others were too.
    proxy.ack("u1", 1, "").await;
    operator.until(|publisher| publisher.acked("u1").len() == 1).await;
    let (reports, after) = publisher.reports("u1", 0);
    assert_eq!(reports.iter().flat_map(|report| &report.arms).map(|arm| arm.started).collect::<Vec<_>>(), [12]);
    assert!(publisher.reports("u2", 0).0.is_empty(), "a proxy of another namespace has nothing to say of it");
    assert!(publisher.reports("u1", after).0.is_empty(), "each message is handed on once");
}

#[test]
fn a_slow_proxy_gets_a_snapshot_instead_of_a_long_queue() {
    for (routes, expected) in [(64, "upserts"), (65, "snapshot")] {
        let publisher = Publisher::new(&Metrics::new());
        publisher.synced();
        let proxy = Proxy { namespace: "shop".to_owned(), pod: "p1".to_owned() };
        let key = publisher.connect(proxy, 1).unwrap();
        let mut kinds = Vec::new();
        assert!(matches!(publisher.take(&key), Next::Message(_)), "the first snapshot");
        for number in 0..routes {
            publisher.set(mk_route("shop", &format!("u{number}"), 1));
        }
        while let Next::Message(message) = publisher.take(&key) {
            kinds.push(matches!(message.message, Some(Down::Upsert(_))));
        }
        match expected {
            "upserts" => assert_eq!(kinds, vec![true; routes]),
            _ => assert_eq!(kinds, [false]),
        }
    }
}

#[test]
fn a_slow_reader_of_changes_is_told_of_every_canary() {
    let publisher = Publisher::new(&Metrics::new());
    publisher.set(mk_route("shop", "u1", 1));
    publisher.set(mk_route("bank", "u2", 1));
    let mut changes = Box::pin(publisher.changes());
    let proxy = Proxy { namespace: "shop".to_owned(), pod: "p1".to_owned() };
    for _ in 0..=CHANGES_BEHIND {
        publisher.connect(proxy.clone(), 1).unwrap();
    }
    let mut told = BTreeSet::new();
    while let Some(Some(change)) = changes.next().now_or_never() {
        told.insert(change.canary);
    }
    assert_eq!(told.into_iter().collect::<Vec<_>>(), ["canary-u1", "canary-u2"]);
}

/// So long that a test which waits for it has failed.
const NEVER: Duration = Duration::from_secs(3_600);
/// One connection at a time, closed soon after it is idle.
const ONE: ConnectionLimits =
    ConnectionLimits { connections: 1, strangers: 1, handshake: NEVER, idle: Duration::from_millis(500) };

/// A proxy gets in: a place that was taken has come back. It dials again like a real one, should it have been too slow.
async fn gets_in(operator: &Operator, pod: &str) -> FakeProxy {
    let dials = async {
        loop {
            let Ok(channel) = operator.endpoint.connect().await else { continue };
            if let Ok(proxy) = open_on(channel, Some(&format!("shop/{pod}")), mk_hello("shop", pod)).await {
                return proxy;
            }
        }
    };
    let mut proxy = timeout(PATIENCE, dials).await.expect("there is a place");
    assert!(proxy.snapshot().await.is_empty());
    proxy
}

/// Waits until the other side has closed the connection.
async fn is_closed(stream: &mut TcpStream) {
    let read = timeout(PATIENCE, stream.read(&mut [0; 1024])).await.expect("it is closed in time");
    assert!(!read.is_ok_and(|bytes| bytes > 0), "nothing is sent on it");
}

async fn mk_secured(limits: ConnectionLimits) -> Operator {
    let authority = mk_authority();
    let mut operator = mk_operator_within(limits, Some(authority.server_config())).await;
    operator.publisher.synced();
    operator.endpoint = trusting(&operator.endpoint, authority.ca_bundle());
    operator
}

async fn dial(operator: &Operator) -> TcpStream {
    let uri = operator.endpoint.uri();
    TcpStream::connect((uri.host().unwrap(), uri.port_u16().unwrap())).await.unwrap()
}

#[tokio::test]
async fn a_connection_that_opens_no_stream_gives_its_place_back() {
    let operator = mk_secured(ONE).await;
    // Its handshakes are done, and its end of HTTP/2 answers every ping.
    let _silent: Channel = operator.endpoint.connect().await.unwrap();
    gets_in(&operator, "p1").await;
}

#[tokio::test]
async fn a_handshake_that_does_not_end_gives_its_place_back() {
    let limits = ConnectionLimits { handshake: Duration::from_millis(10), idle: NEVER, ..ONE };
    let operator = mk_secured(limits).await;
    let mut silent = dial(&operator).await;
    is_closed(&mut silent).await;
    gets_in(&operator, "p1").await;
}

#[tokio::test]
async fn a_connection_whose_stream_has_ended_gives_its_place_back() {
    let operator = mk_secured(ONE).await;
    let _kept: Channel = {
        let channel: Channel = operator.endpoint.connect().await.unwrap();
        let FakeProxy { up, mut down } =
            open_on(channel.clone(), Some("shop/p1"), mk_hello("shop", "p1")).await.unwrap();
        drop(up);
        while let Ok(Some(_)) = down.message().await {}
        channel
    };
    gets_in(&operator, "p1").await;
}

#[tokio::test]
async fn a_stream_that_lasts_keeps_its_connection() {
    let operator = mk_secured(ConnectionLimits { connections: 2, ..ONE }).await;
    let mut proxy = gets_in(&operator, "p1").await;
    // Each was swept at a time at which the stream was older than is granted to idle connections.
    for _ in 0..2 {
        is_closed(&mut dial(&operator).await).await;
    }
    operator.publisher.set(mk_route("shop", "u1", 1));
    assert_eq!(proxy.next().await, Some(Down::Upsert(mk_route("shop", "u1", 1))));
}

#[tokio::test]
async fn a_crowd_of_strangers_keeps_no_proxy_out() {
    let limits = ConnectionLimits { connections: 100, strangers: 2, idle: NEVER, ..ONE };
    let operator = mk_secured(limits).await;
    let mut crowd = Vec::new();
    for _ in 0..4 {
        crowd.push(dial(&operator).await);
    }
    // More proxies than strangers may be: who is known is none.
    let mut proxies = Vec::new();
    for pod in ["p1", "p2", "p3"] {
        proxies.push(gets_in(&operator, pod).await);
    }
    is_closed(&mut crowd[0]).await;
}

#[tokio::test]
async fn the_end_of_the_replica_waits_for_no_stranger() {
    for secured in [true, false] {
        let limits = ConnectionLimits { connections: 2, strangers: 2, idle: NEVER, ..ONE };
        let operator = if secured { mk_secured(limits).await } else { mk_operator_within(limits, None).await };
        let _silent = dial(&operator).await;
        let _greeted: Channel = operator.endpoint.connect().await.unwrap();
        operator.stop.cancel();
        timeout(PATIENCE, operator.server).await.expect("it ends").unwrap().unwrap();
    }
}
