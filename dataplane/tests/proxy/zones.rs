//! Zone preference on real sockets: a proxy in zone a, endpoints in zones a and b that answer with their names. Counted, never
//! timed.

use std::collections::{BTreeMap, BTreeSet};

use http::{Response, StatusCode};
use http_body_util::Full;
use proxy_api::v1beta1 as api;
use proxy_api::v1beta1::load_balancer::{Algorithm, Simple};
use routing::Table;

use crate::balance::ask_http2;
use crate::common::{Bed, Client, Origin, dead, endpoint, http2_client, speaks};

/// A proxy in zone a, one of two in zones a and b.
struct Zoned {
    bed: Bed,
    route: api::Route,
    origins: Vec<Origin>,
}

impl Zoned {
    /// Endpoints of stable by name; the name's last letter is the zone.
    async fn new(stable: &[&'static str]) -> Self {
        let mut route = api::Route::default();
        let mut bed = Bed::new(|given| {
            // HTTP/2 clients, too, and endpoints that speak HTTP/1.1.
            speaks(given, api::Protocol::Http);
            route = given.clone();
        })
        .await;
        bed.table = Table::new(1).in_zone("a");
        let mut zoned = Self { bed, route, origins: Vec::new() };
        // The default prefers who was not slow on a busy machine.
        zoned.balance(Simple::Random, true);
        for name in stable {
            let endpoint = zoned.origin(name).await;
            zoned.route.listeners[0].stable.push(endpoint);
        }
        zoned.apply().await;
        zoned
    }

    fn balance(&mut self, simple: Simple, preferred: bool) {
        let of_zone = |zone: &str| api::ZoneProxies { zone: zone.into(), proxies: 1 };
        let setting = api::LocalityLbSetting { proxies: vec![of_zone("a"), of_zone("b")] };
        let policy = self.route.traffic_policy.get_or_insert_default();
        policy.load_balancer = Some(api::LoadBalancer {
            algorithm: Some(Algorithm::Simple(simple.into())),
            locality_lb_setting: preferred.then_some(setting),
            ..Default::default()
        });
    }

    async fn origin(&mut self, name: &'static str) -> api::Endpoint {
        let origin = Origin::text(name).await;
        let placed = in_zone(&name[name.len() - 1..], endpoint(origin.address));
        self.origins.push(origin);
        placed
    }

    async fn apply(&mut self) {
        self.route.counter += 1;
        self.bed.apply(&self.route).await;
    }

    async fn counts(&self, requests: usize) -> BTreeMap<String, usize> {
        let mut client = self.bed.connect().await;
        let mut counts = BTreeMap::new();
        for _ in 0..requests {
            let answer = client.get("/").await;
            // It is over, and its outcome is known, before the next one.
            self.bed.counters(api::Arm::Stable);
            *counts.entry(answer.body).or_default() += 1;
        }
        counts
    }

    async fn locality(&self) -> serde_json::Value {
        self.bed.admin("/clusters").await["ports"][0]["locality"].clone()
    }
}

fn in_zone(zone: &str, endpoint: api::Endpoint) -> api::Endpoint {
    api::Endpoint { zone: zone.into(), ..endpoint }
}

fn of_zone(counts: &BTreeMap<String, usize>, zone: &str) -> usize {
    counts.iter().filter(|(name, _)| name.ends_with(zone)).map(|(_, count)| count).sum()
}

#[tokio::test]
async fn requests_stay_in_the_zone_by_every_protocol_and_algorithm() {
    let mut zoned = Zoned::new(&["1-a", "2-a", "3-b", "4-b"]).await;
    for simple in [Simple::PeakEwma, Simple::LeastRequest, Simple::RoundRobin, Simple::Random] {
        zoned.balance(simple, true);
        zoned.apply().await;
        let counts = zoned.counts(60).await;
        assert_eq!(of_zone(&counts, "a"), 60, "{simple:?}: {counts:?}");
        assert!(counts.len() == 2 || simple == Simple::PeakEwma, "{simple:?}: {counts:?}");
    }
    let mut sender = http2_client(zoned.bed.port).await;
    for _ in 0..20 {
        let (_, name) = ask_http2(&mut sender, "x-user", "ann").await;
        assert!(name.ends_with('a'), "{name}");
    }
    speaks(&mut zoned.route, api::Protocol::Tcp);
    zoned.apply().await;
    for _ in 0..20 {
        let name = Client::connect(zoned.bed.port).await.get("/").await.body;
        assert!(name.ends_with('a'), "{name}");
    }
    zoned.balance(Simple::RoundRobin, false);
    zoned.apply().await;
    assert_eq!(zoned.locality().await, serde_json::Value::Null);
    let mut all = BTreeSet::new();
    for _ in 0..60 {
        all.insert(Client::connect(zoned.bed.port).await.get("/").await.body);
    }
    assert_eq!(all.len(), 4, "nobody asked for it");
}

#[tokio::test]
async fn a_zone_gives_away_what_its_endpoints_cannot_bear() {
    // Half of the requests come through zone a, a quarter of the endpoints is there: 60 of 100 stay.
    let zoned = Zoned::new(&["1-a", "2-b", "3-b", "4-b"]).await;
    let counts = zoned.counts(1_000).await;
    assert!((500..700).contains(&of_zone(&counts, "a")), "{counts:?}");
    assert_eq!(counts.len(), 4, "{counts:?}");
    let locality = zoned.locality().await;
    assert_eq!((&locality["zone"], &locality["inForce"]), (&"a".into(), &true.into()));
    assert_eq!((&locality["stablePercent"], &locality["canaryPercent"]), (&60.0.into(), &serde_json::Value::Null));
    let clusters = zoned.bed.admin("/clusters").await;
    assert_eq!(clusters["ports"][0]["stable"][1]["zone"], "b");
}

#[tokio::test]
async fn the_split_is_as_exact_and_both_arms_stay_or_neither_does() {
    let mut zoned = Zoned::new(&["old-1-a", "old-2-b"]).await;
    let (near, far) = (zoned.origin("new-a").await, zoned.origin("new-b").await);
    zoned.route.listeners[0].canary = vec![near.clone(), far];
    zoned.route.weight = 20;
    zoned.apply().await;
    let counts = zoned.counts(100).await;
    assert_eq!(of_zone(&counts, "a"), 100, "{counts:?}");
    assert!((19..=21).contains(&counts["new-a"]), "{counts:?}");
    // The canary would be abroad for half of the requests: then stable is, too.
    zoned.route.listeners[0].canary = vec![near];
    zoned.apply().await;
    let counts = zoned.counts(200).await;
    assert!((39..=41).contains(&counts["new-a"]), "{counts:?}");
    assert!(counts["old-1-a"] > 20 && counts["old-2-b"] > 20, "{counts:?}");
    assert_eq!(zoned.locality().await["inForce"], false);
    let config = zoned.bed.admin("/config").await;
    assert_eq!(config["ports"][0]["locality"]["stablePercent"], serde_json::Value::Null);
}

#[tokio::test]
async fn without_an_endpoint_that_serves_the_zone_is_left() {
    let mut zoned = Zoned::new(&["1-b"]).await;
    let gone = in_zone("a", endpoint(dead().await));
    zoned.route.listeners[0].stable.push(gone);
    zoned.apply().await;
    assert_eq!(zoned.counts(20).await, BTreeMap::from([("1-b".to_owned(), 20)]), "refused connections");
    let broken = Origin::new(|_| async {
        let mut answer = Response::new(Full::from("broken-a"));
        *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        answer
    })
    .await;
    zoned.route.listeners[0].stable[1] = in_zone("a", endpoint(broken.address));
    let policy = zoned.route.traffic_policy.get_or_insert_default();
    policy.outlier_detection = Some(api::OutlierDetection {
        consecutive_5xx_errors: Some(3),
        base_ejection_time_ms: 3_600_000,
        ..Default::default()
    });
    zoned.apply().await;
    let counts = zoned.counts(50).await;
    assert_eq!(counts, BTreeMap::from([("1-b".to_owned(), 47), ("broken-a".to_owned(), 3)]), "left out");
}
