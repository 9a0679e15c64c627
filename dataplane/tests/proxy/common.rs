//! The real proxy in-process: the bed with its route, and what to wait with. Its clients and endpoints are in rooms of
//! their own.

mod client;
mod origin;

use std::net::SocketAddr;
use std::time::Duration;

use dataplane::exposition::page::Format;
use dataplane::process::{Proxy, Settings};
use proxy_api::v1beta1 as api;
use routing::Table;
use tokio::net::TcpListener;

pub use self::client::{Answer, Client, http2_client, read_head, set_cookie};
pub use self::origin::{Origin, Reserved, dead, raw_origin, reserve};

/// A proxy with one route on one port.
pub struct Bed {
    pub proxy: Proxy,
    pub port: u16,
    pub table: Table,
    route: api::Route,
    _reserved: Reserved,
}

pub fn start() -> Proxy {
    let address = Some("127.0.0.1".parse().unwrap());
    let max_held_bytes = routing::limits::HELD_BYTES;
    let settings =
        Settings { workers: 2, address, max_connections: 100, max_held_bytes, possible_connections: 1_000, seed: 1 };
    Proxy::start(&settings).unwrap()
}

impl Bed {
    /// Runs `change` over a route of weight 0 without endpoints.
    pub async fn new(change: impl FnOnce(&mut api::Route)) -> Self {
        let (proxy, reserved) = (start(), reserve());
        let mut route = mk_route(reserved.port);
        change(&mut route);
        let (port, table) = (reserved.port, Table::new(1));
        let mut bed = Self { proxy, port, table, route: route.clone(), _reserved: reserved };
        bed.apply(&route).await;
        bed
    }

    /// One stable endpoint, which speaks `protocol`.
    pub async fn to(address: SocketAddr, protocol: api::Protocol) -> Self {
        Self::new(|route| {
            stable(route, address);
            speaks(route, protocol);
        })
        .await
    }

    pub async fn apply(&mut self, route: &api::Route) {
        self.table = self.table.upsert(route).unwrap();
        assert_eq!(self.proxy.apply(self.table.clone()).await.len(), 0);
    }

    /// Runs `change` over the route that is in force.
    pub async fn change(&mut self, change: impl FnOnce(&mut api::Route)) {
        change(&mut self.route);
        self.route.counter += 1;
        self.apply(&self.route.clone()).await;
    }

    pub async fn connect(&self) -> Client {
        Client::connect(self.port).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.connect().await.get(path).await
    }

    /// Once nothing is under way: a worker counts a request after the client has its answer.
    pub fn counters(&self, arm: api::Arm) -> api::ArmCounters {
        let start = std::time::Instant::now();
        while self.in_flight() > 0 && start.elapsed() < Duration::from_secs(20) {
            std::thread::yield_now();
        }
        let all = self.proxy.shared().registry.arm_counters();
        all.into_iter().find(|counters| counters.arm() == arm).unwrap_or_default()
    }

    /// Requests begun and not over, right now. Not by the counters that are sent: reading those is telling them.
    pub fn in_flight(&self) -> u64 {
        self.proxy.shared().registry.snapshot().iter().map(|(_, series)| series.totals().in_flight).sum()
    }

    /// What the admin port answers.
    pub async fn admin(&self, path: &str) -> serde_json::Value {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(dataplane::admin::serve(listener, self.proxy.shared()));
        let answer = Client::connect(port).await.get(path).await;
        task.abort();
        assert_eq!(answer.status, 200);
        serde_json::from_str(&answer.body).unwrap()
    }

    pub fn metrics(&self) -> String {
        self.series(Format::Text)
    }

    pub fn series(&self, format: Format) -> String {
        dataplane::exposition::render(&self.proxy.shared().registry, &self.proxy.shared().table(), format)
    }
}

pub fn mk_route(port: u16) -> api::Route {
    api::Route {
        uid: "uid".into(),
        counter: 1,
        namespace: "shop".into(),
        service: "web".into(),
        canary: "web".into(),
        stable_revision: "old".into(),
        canary_revision: "new".into(),
        listeners: vec![api::Listener { port: port.into(), service_port: 80, split: true, ..Default::default() }],
        ..Default::default()
    }
}

pub fn endpoint(address: SocketAddr) -> api::Endpoint {
    api::Endpoint { address: address.ip().to_string(), port: address.port().into(), ..Default::default() }
}

pub fn stable(route: &mut api::Route, address: SocketAddr) {
    route.listeners[0].stable.push(endpoint(address));
}

/// What is spoken on the port, and by its endpoints.
pub fn speaks(route: &mut api::Route, protocol: api::Protocol) {
    route.listeners[0].protocol = protocol.into();
}

pub fn canary(route: &mut api::Route, address: SocketAddr) {
    route.listeners[0].canary.push(endpoint(address));
}

/// Fails the test instead of hanging it.
pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("should take less than 20 s")
}

/// Waits until `ready` holds.
pub async fn eventually(what: &str, ready: impl Fn() -> bool) {
    for _ in 0..2_000 {
        if ready() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("did not come true: {what}");
}
