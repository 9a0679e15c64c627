//! Which endpoint of an arm serves, by each algorithm; over both versions of HTTP and bare TCP. Counted, never timed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http2::SendRequest;
use proxy_api::v1beta1 as api;
use proxy_api::v1beta1::consistent_hash::Key;
use proxy_api::v1beta1::load_balancer::{Algorithm, Simple};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Semaphore;

use crate::common::{
    Answer, Bed, Client, Origin, canary, dead, endpoint, eventually, http2_client, mk_route, set_cookie, speaks,
    stable, within,
};

/// A proxy over endpoints that answer with their names.
struct Many {
    bed: Bed,
    route: api::Route,
    origins: Vec<Origin>,
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

impl Many {
    /// So many stable endpoints, chosen among by `algorithm`.
    async fn new(count: usize, algorithm: Algorithm, protocol: api::Protocol) -> Self {
        let mut origins = Vec::new();
        let mut route = mk_route(0);
        for name in &NAMES[..count] {
            origins.push(Origin::text(name).await);
            stable(&mut route, origins.last().unwrap().address);
        }
        speaks(&mut route, protocol);
        balance(&mut route, Some(algorithm), None);
        let bed = Bed::new(|given| {
            route.listeners[0].port = given.listeners[0].port;
            *given = route.clone();
        })
        .await;
        Self { bed, route, origins }
    }

    async fn simple(count: usize, simple: Simple) -> Self {
        Self::new(count, Algorithm::Simple(simple.into()), api::Protocol::Unspecified).await
    }

    async fn hashed(count: usize, key: Key, protocol: api::Protocol) -> Self {
        let algorithm = Algorithm::ConsistentHash(api::ConsistentHash { key: Some(key) });
        Self::new(count, algorithm, protocol).await
    }

    async fn apply(&mut self) {
        self.route.counter += 1;
        self.bed.apply(&self.route).await;
    }

    /// Who serves each of 60 users.
    async fn owners(&self) -> Vec<String> {
        let mut client = self.bed.connect().await;
        let mut owners = Vec::new();
        for user in 0..60 {
            owners.push(ask(&mut client, &format!("X-User: {user}\r\n")).await.body);
        }
        owners
    }
}

fn balance(route: &mut api::Route, algorithm: Option<Algorithm>, warmup: Option<api::Warmup>) {
    let load_balancer = Some(api::LoadBalancer { algorithm, warmup, ..Default::default() });
    route.traffic_policy = Some(api::TrafficPolicy { load_balancer, ..Default::default() });
}

fn by_header() -> Key {
    Key::HttpHeaderName("x-user".into())
}

async fn ask(client: &mut Client, field: &str) -> Answer {
    client.send(&format!("GET / HTTP/1.1\r\nHost: web\r\n{field}\r\n")).await
}

/// The `Set-Cookie` and the body of the answer.
pub async fn ask_http2(sender: &mut SendRequest<Empty<Bytes>>, name: &str, value: &str) -> (Option<String>, String) {
    let request = Request::get("http://web/").version(Version::HTTP_2).header(name, value).body(Empty::new()).unwrap();
    let answer = within(sender.send_request(request)).await.unwrap();
    let told = answer.headers().get("set-cookie").map(|value| value.to_str().unwrap().to_owned());
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (told, String::from_utf8(body.to_vec()).unwrap())
}

async fn counts(client: &mut Client, requests: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..requests {
        *counts.entry(ask(client, "").await.body).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn round_robin_takes_one_after_the_other() {
    let many = Many::new(3, Algorithm::Simple(Simple::RoundRobin.into()), api::Protocol::Http).await;
    let mut client = many.bed.connect().await;
    let counts = counts(&mut client, 30).await;
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [10, 10, 10]);
    // All requests of a connection are one worker's.
    let mut sender = http2_client(many.bed.port).await;
    let mut seen = Vec::new();
    for _ in 0..6 {
        seen.push(ask_http2(&mut sender, "x-user", "ann").await.1);
    }
    assert_eq!(seen[..3], seen[3..]);
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>().len(), 3);
}

#[tokio::test]
async fn random_gives_each_about_its_share() {
    let many = Many::simple(3, Simple::Random).await;
    let counts = counts(&mut many.bed.connect().await, 300).await;
    assert!(counts.len() == 3 && counts.values().all(|count| (50..150).contains(count)), "{counts:?}");
}

#[tokio::test]
async fn least_request_sends_nothing_to_the_one_that_is_busy() {
    let free = Arc::new(Semaphore::new(0));
    let mut many = Many::new(0, Algorithm::Simple(Simple::LeastRequest.into()), api::Protocol::Http).await;
    for name in ["a", "b"] {
        let free = Arc::clone(&free);
        let origin = Origin::new(move |request| {
            let free = Arc::clone(&free);
            async move {
                if request.uri().path() == "/hold" {
                    let _ = free.acquire().await.unwrap();
                }
                Response::new(Full::from(name))
            }
        })
        .await;
        stable(&mut many.route, origin.address);
        many.origins.push(origin);
    }
    many.apply().await;
    let mut sender = http2_client(many.bed.port).await;
    let hold = Request::get("http://web/hold").version(Version::HTTP_2).body(Empty::new()).unwrap();
    let held = tokio::spawn(sender.send_request(hold));
    eventually("the request is held", || many.bed.in_flight() == 1).await;
    let mut served = BTreeSet::new();
    for _ in 0..20 {
        served.insert(ask_http2(&mut sender, "x-user", "ann").await.1);
    }
    free.add_permits(1);
    let holder = within(held).await.unwrap().unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(served.len(), 1, "{served:?}");
    assert!(!served.contains(std::str::from_utf8(&holder).unwrap()));
}

#[tokio::test]
async fn a_header_has_one_endpoint_on_every_worker_by_every_protocol() {
    let many = Many::hashed(4, by_header(), api::Protocol::Http).await;
    let owners = many.owners().await;
    assert!(owners.iter().collect::<BTreeSet<_>>().len() > 1, "users are spread: {owners:?}");
    for _ in 0..6 {
        assert_eq!(many.owners().await, owners, "another connection, maybe another worker");
    }
    let mut sender = http2_client(many.bed.port).await;
    for (user, owner) in owners.iter().enumerate() {
        assert_eq!(ask_http2(&mut sender, "X-User", &user.to_string()).await, (None, owner.clone()));
    }
    let counts = counts(&mut many.bed.connect().await, 60).await;
    assert!(counts.len() > 1, "without the header nobody is pinned: {counts:?}");
}

#[tokio::test]
async fn an_endpoint_that_comes_or_goes_moves_its_own_users_only() {
    let mut many = Many::hashed(4, by_header(), api::Protocol::Unspecified).await;
    let four = many.owners().await;
    many.origins.push(Origin::text("e").await);
    stable(&mut many.route, many.origins[4].address);
    many.apply().await;
    let five = many.owners().await;
    assert!(four.iter().zip(&five).all(|(four, five)| four == five || five == "e"), "{four:?} then {five:?}");
    let gone = endpoint(many.origins[1].address);
    many.route.listeners[0].stable.retain(|endpoint| *endpoint != gone);
    many.apply().await;
    let left = many.owners().await;
    assert!(five.iter().zip(&left).all(|(five, left)| five == left || five == "b"), "{five:?} then {left:?}");
    assert!(!left.contains(&"b".to_owned()));
}

fn by_cookie(ttl_seconds: Option<u64>) -> Key {
    Key::HttpCookie(api::HashCookie { name: "pod".into(), ttl_seconds, path: String::new() })
}

fn pair(set: &str) -> String {
    set_cookie(set, 60)
}

#[tokio::test]
async fn a_client_without_cookie_is_given_one_and_stays_with_who_served_it() {
    let many = Many::hashed(4, by_cookie(Some(60)), api::Protocol::Http).await;
    let (mut client, mut other) = (many.bed.connect().await, many.bed.connect().await);
    let mut sender = http2_client(many.bed.port).await;
    let mut seen = BTreeSet::new();
    for _ in 0..30 {
        let first = ask(&mut client, "Cookie: a=b\r\n").await;
        let jar = pair(first.header("set-cookie").unwrap());
        for client in [&mut client, &mut other] {
            let again = ask(client, &format!("Cookie: a=b; {jar}\r\n")).await;
            assert_eq!((&again.body, again.header("set-cookie")), (&first.body, None));
        }
        assert_eq!(ask_http2(&mut sender, "cookie", &jar).await, (None, first.body.clone()));
        let (told, body) = ask_http2(&mut sender, "cookie", "a=b").await;
        assert_eq!(ask(&mut client, &format!("Cookie: {}\r\n", pair(&told.unwrap()))).await.body, body);
        seen.insert(first.body);
    }
    assert!(seen.len() > 1, "new clients are spread");
}

#[tokio::test]
async fn without_a_ttl_the_cookie_is_the_applications_affair() {
    let many = Many::hashed(3, by_cookie(None), api::Protocol::Unspecified).await;
    let mut client = many.bed.connect().await;
    assert_eq!(ask(&mut client, "").await.header("set-cookie"), None);
    let first = ask(&mut client, "Cookie: pod=theirs\r\n").await.body;
    for _ in 0..10 {
        assert_eq!(ask(&mut client, "Cookie: pod=theirs\r\n").await.body, first);
    }
}

/// A connection from an address of its own.
async fn from(source: &str, port: u16) -> Client {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(source.parse().unwrap(), 0)).unwrap();
    Client(socket.connect(SocketAddr::from(([127, 0, 0, 1], port))).await.unwrap())
}

#[tokio::test]
async fn a_source_address_has_one_endpoint_by_http_and_by_tcp() {
    let mut many = Many::hashed(4, Key::UseSourceIp(true), api::Protocol::Unspecified).await;
    let mut owners = Vec::new();
    for source in 1..=20 {
        owners.push(from(&format!("127.0.7.{source}"), many.bed.port).await.get("/").await.body);
    }
    assert!(owners.iter().collect::<BTreeSet<_>>().len() > 1, "sources are spread: {owners:?}");
    for protocol in [api::Protocol::Unspecified, api::Protocol::Tcp] {
        speaks(&mut many.route, protocol);
        many.apply().await;
        for (source, owner) in (1..=20).zip(&owners) {
            let answer = from(&format!("127.0.7.{source}"), many.bed.port).await.get("/").await;
            assert_eq!(answer.body, *owner, "{protocol:?}");
        }
    }
}

#[tokio::test]
async fn who_cannot_be_reached_is_replaced_for_its_own_users_only() {
    let mut many = Many::hashed(3, by_header(), api::Protocol::Unspecified).await;
    let before = many.owners().await;
    many.route.listeners[0].stable.push(endpoint(dead().await));
    many.apply().await;
    assert_eq!(many.owners().await, before, "the users of the dead one are back where they were");
}

#[tokio::test]
async fn a_retry_goes_to_the_next_in_the_users_own_order() {
    let mut many = Many::hashed(3, by_header(), api::Protocol::Unspecified).await;
    let before = many.owners().await;
    let broken = Origin::new(|_| async {
        let mut answer = Response::new(Full::from("broken"));
        *answer.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        answer
    })
    .await;
    stable(&mut many.route, broken.address);
    let retries =
        api::Retries { attempts: 1, retry_on: "503".into(), min_retries_per_second: Some(1_000), ..Default::default() };
    many.route.http = Some(api::HttpPolicy { retries: Some(retries), ..Default::default() });
    many.apply().await;
    assert_eq!(many.owners().await, before);
    assert!(many.bed.counters(api::Arm::Stable).errors > 0, "some users belonged to the broken one");
}

#[tokio::test]
async fn the_split_comes_first_and_a_key_has_an_endpoint_in_each_arm() {
    let mut many = Many::hashed(3, by_header(), api::Protocol::Unspecified).await;
    for name in ["new-1", "new-2"] {
        many.origins.push(Origin::text(name).await);
        canary(&mut many.route, many.origins.last().unwrap().address);
    }
    many.route.weight = 50;
    many.apply().await;
    let mut client = many.bed.connect().await;
    let mut seen = BTreeMap::<String, usize>::new();
    for _ in 0..100 {
        *seen.entry(ask(&mut client, "X-User: ann\r\n").await.body).or_default() += 1;
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    let canaries: usize = seen.iter().filter(|(name, _)| name.starts_with("new")).map(|(_, count)| count).sum();
    assert!((49..=51).contains(&canaries), "{seen:?}");
}

#[tokio::test]
async fn while_all_endpoints_are_new_they_serve_alike_and_the_admin_port_shows_their_share() {
    let mut many = Many::simple(2, Simple::RoundRobin).await;
    let warmup = api::Warmup { duration_ms: 86_400_000, ..Default::default() };
    balance(&mut many.route, Some(Algorithm::Simple(Simple::RoundRobin.into())), Some(warmup));
    many.apply().await;
    let counts = counts(&mut many.bed.connect().await, 100).await;
    assert!(counts.len() == 2 && counts.values().all(|count| *count > 10), "{counts:?}");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let admin = listener.local_addr().unwrap().port();
    tokio::spawn(dataplane::admin::serve(listener, many.bed.proxy.shared()));
    let clusters = Client::connect(admin).await.get("/clusters").await.body;
    let clusters: serde_json::Value = serde_json::from_str(&clusters).unwrap();
    let port = &clusters["ports"][0];
    assert_eq!(port["loadBalancer"], "ROUND_ROBIN");
    assert_eq!(port["stable"][0]["sharePercent"], 10.0);
}
