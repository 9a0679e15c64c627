//! What the proxies do, as compiled from the operator's messages: by listening port. Immutable; a change makes a new
//! table that shares every route that stayed as it was.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use proxy_api::v1beta1 as api;

use crate::affinity::{self, Affinity};
use crate::audience::Audience;
use crate::balance::{self, Balance, Keyed, Zones};
use crate::mirror::{self, Mirror};
use crate::outlier::{self, Outliers, Ward};
use crate::pool::Pool;
use crate::retry::{BadCondition, Retry};
use crate::rules::{Head, RuleError, Rules};
use crate::split::{Arm, Split, mix};

/// Time to establish a connection where the route does not say; pods of one cluster answer in a few milliseconds or not
/// at all.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Every route in force.
#[derive(Clone, Debug, Default)]
pub struct Table {
    salt: u64,
    zone: Arc<str>,
    routes: BTreeMap<String, Arc<Route>>,
    ports: BTreeMap<u16, Arc<Port>>,
}

/// What is done for one Canary.
#[derive(Debug)]
pub struct Route {
    /// Of the Canary.
    pub uid: String,
    /// Fence: only rises for one `uid`.
    pub counter: u64,
    /// Namespace of the Canary.
    pub namespace: String,
    /// Service that is routed.
    pub service: String,
    /// Name of the Canary.
    pub canary: String,
    /// The canary's share, 0..=100.
    pub weight: u8,
    /// Pod-template hash behind the stable arm; empty if unknown.
    pub stable_revision: String,
    /// Pod-template hash behind the canary arm; empty if there is none.
    pub canary_revision: String,
    /// Longest time that a request may take, body included.
    pub request_timeout: Option<Duration>,
    /// Longest time to establish a connection to an endpoint.
    pub connect_timeout: Duration,
    /// Connections to the endpoints.
    pub pool: Pool,
    /// Endpoints that go on failing, if the route looks for them.
    pub outliers: Option<Outliers>,
    /// How endpoints are chosen among; none: by [`balance::choose`].
    pub balance: Option<Arc<Balance>>,
    /// Who stays where; only while there is a choice, that is, with a weight of 1..=99.
    pub affinity: Option<Affinity>,
    /// What is done about failed attempts.
    pub retry: Option<Retry>,
    /// What is done with single requests; none: forwarded, all of them.
    pub rules: Option<Arc<Rules>>,
    /// Who may see the canary; none: everybody.
    pub audience: Option<Audience>,
    /// What is copied to the canary.
    pub mirror: Option<Mirror>,
    /// Keeps its positions over changes of the route.
    pub split: Arc<Split>,
    listening: Vec<u16>,
}

/// One listening port.
#[derive(Debug)]
pub struct Port {
    /// The pool's listening port.
    pub number: u16,
    /// Port of the Service that it serves.
    pub service_port: u16,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// False: always to stable.
    pub split: bool,
    /// The route that it belongs to.
    pub route: Arc<Route>,
    /// Endpoints of the stable arm.
    pub stable: Vec<Target>,
    /// Endpoints of the canary arm.
    pub canary: Vec<Target>,
    /// Who looks after the arms' endpoints, if the route says so and the port is split: stable, canary.
    wards: Option<[Arc<Ward>; 2]>,
    /// Where the arms' requests go, if zones count and the preference is in force: stable, canary.
    zones: Option<[Arc<Zones>; 2]>,
}

/// Who answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The version.
    pub arm: Arm,
    /// Bucket to tell the client with the answer, by [`Affinity::write_cookie`].
    pub told: Option<u8>,
}

/// One endpoint of an arm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// Name of its pod, empty if unknown.
    pub pod: String,
    /// Zone of its node, empty if unknown.
    pub zone: String,
}

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, or HTTP/2 if the client opens with its preface; the endpoint is spoken to likewise.
    Detect,
    /// HTTP by either version from the client, HTTP/1.1 to the endpoint.
    Http1,
    /// HTTP by either version from the client, HTTP/2 to the endpoint.
    Http2,
    /// Bytes, spliced.
    Tcp,
}

/// Why a route cannot be taken into force; the one before stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No uid.
    #[error("route has no uid")]
    NoUid,
    /// Weight above 100.
    #[error("weight is {0}, must be at most 100")]
    Weight(u32),
    /// Port outside 1..=65535.
    #[error("port is {0}, must lie between 1 and 65535")]
    Port(u32),
    /// Address that is not an IP address.
    #[error("endpoint address {0:?} is not an IP address")]
    Address(String),
    /// Protocol that this proxy does not know.
    #[error("protocol {0} is not known to this proxy")]
    Protocol(i32),
    /// Session affinity that cannot be carried out.
    #[error(transparent)]
    Affinity(#[from] affinity::Invalid),
    /// Retry conditions that this proxy does not know.
    #[error(transparent)]
    Condition(#[from] BadCondition),
    /// A rule that has no meaning.
    #[error("rules are not valid")]
    Rules(#[from] RuleError),
    /// Mirror that cannot be carried out.
    #[error(transparent)]
    Mirror(#[from] mirror::Invalid),
    /// Outlier detection that cannot be carried out.
    #[error(transparent)]
    Outlier(#[from] outlier::Invalid),
    /// Load balancer that cannot be carried out.
    #[error(transparent)]
    Balance(#[from] balance::Invalid),
    /// Another route has the port.
    #[error("port {port} belongs to {holder}")]
    Taken {
        /// The port.
        port: u16,
        /// `<namespace>/<canary>` that has it.
        holder: String,
    },
}

impl Port {
    /// The endpoints of an arm.
    #[must_use]
    pub fn targets(&self, arm: Arm) -> &[Target] {
        match arm {
            Arm::Stable => &self.stable,
            Arm::Canary => &self.canary,
        }
    }

    /// Who looks after the endpoints of an arm, in its order.
    #[must_use]
    pub fn ward(&self, arm: Arm) -> Option<&Arc<Ward>> {
        self.wards.as_ref().map(|[stable, canary]| match arm {
            Arm::Stable => stable,
            Arm::Canary => canary,
        })
    }

    /// Where the requests of an arm go, by zone; `None` if zones do not count, or must not for now.
    #[must_use]
    pub fn zones(&self, arm: Arm) -> Option<&Arc<Zones>> {
        self.zones.as_ref().map(|[stable, canary]| match arm {
            Arm::Stable => stable,
            Arm::Canary => canary,
        })
    }

    /// The arm of a request with these header fields; `head` is asked for where an audience is to be told from the others,
    /// `random` is used where a client is new.
    pub fn choose<'a, 'h>(
        &self,
        fields: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        head: impl FnOnce() -> Head<'h>,
        random: u64,
    ) -> Choice {
        let route = &self.route;
        let (arm, told) = match (&route.audience, &route.affinity) {
            _ if !self.split => (Arm::Stable, None),
            (Some(audience), _) if !audience.holds(&head()) => (Arm::Stable, None),
            (_, None) => (route.split.pick(route.weight), None),
            (_, Some(affinity)) => affinity.pick(affinity.bucket(fields), &route.split, route.weight, random),
        };
        Choice { arm, told }
    }

    /// Where within the arm a request with these header fields, from `client`, belongs; `random` is asked where a client is
    /// new.
    pub fn key<'a>(
        &self,
        fields: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        client: IpAddr,
        random: impl FnOnce() -> u64,
    ) -> Keyed {
        match self.route.balance.as_deref().and_then(Balance::hash_key) {
            None => Keyed::default(),
            Some(key) => key.of(fields, client, random()),
        }
    }
}

impl Route {
    /// The arm of a connection of which nothing else is known.
    #[must_use]
    pub fn pick(&self) -> Arm {
        if self.audience.is_some() { Arm::Stable } else { self.split.pick(self.weight) }
    }

    /// Whether both arms get requests, so that somebody may compare them. Copies are held against no arm.
    fn compares(&self) -> bool {
        if self.audience.is_some() { self.weight > 0 } else { (1..=99).contains(&self.weight) }
    }
}

impl Table {
    /// No route. `salt` is random per process, so that two proxies do not pick in step.
    #[must_use]
    pub fn new(salt: u64) -> Self {
        Self { salt, ..Self::default() }
    }

    /// For a proxy in this zone; routes that it has already are not compiled anew.
    #[must_use]
    pub fn in_zone(self, zone: &str) -> Self {
        Self { zone: zone.into(), ..self }
    }

    /// The zone of this proxy, empty if unknown.
    #[must_use]
    pub fn zone(&self) -> &str {
        &self.zone
    }

    /// The ports to listen on.
    #[must_use]
    pub fn ports(&self) -> &BTreeMap<u16, Arc<Port>> {
        &self.ports
    }

    /// The routes by uid.
    #[must_use]
    pub fn routes(&self) -> &BTreeMap<String, Arc<Route>> {
        &self.routes
    }

    /// This table with `route` in place of what it had for the same uid.
    ///
    /// # Errors
    /// When the route is not valid or asks for another route's port.
    pub fn upsert(&self, route: &api::Route) -> Result<Self, Refusal> {
        let previous = self.routes.get(&route.uid).map(Arc::as_ref);
        let before = previous.and_then(|previous| previous.rules.as_deref());
        let rules = route.http.as_ref().map_or(Ok(None), |http| Rules::compile(&http.rules, before))?;
        self.insert(route, rules.map(Arc::new))
    }

    /// As [`Table::upsert`], with the rules that are in force in place of the route's, which were refused: endpoints must
    /// not go stale for a rule that has no meaning.
    ///
    /// # Errors
    /// When the rest of the route is not valid either.
    pub fn upsert_with_old_rules(&self, route: &api::Route) -> Result<Self, Refusal> {
        self.insert(route, self.routes.get(&route.uid).and_then(|previous| previous.rules.clone()))
    }

    fn insert(&self, route: &api::Route, rules: Option<Arc<Rules>>) -> Result<Self, Refusal> {
        let previous = self.routes.get(&route.uid).map(Arc::as_ref);
        let ports = compile(route, previous, rules, self)?;
        for port in &ports {
            if let Some(holder) = self.ports.get(&port.number).filter(|held| held.route.uid != route.uid) {
                let holder = format!("{}/{}", holder.route.namespace, holder.route.canary);
                return Err(Refusal::Taken { port: port.number, holder });
            }
        }
        let mut table = self.without(&route.uid);
        let Some(compiled) = ports.first().map(|port| Arc::clone(&port.route)) else {
            // A route without listeners serves nothing; it is not kept.
            return Ok(table);
        };
        table.routes.insert(route.uid.clone(), compiled);
        table.ports.extend(ports.into_iter().map(|port| (port.number, Arc::new(port))));
        Ok(table)
    }

    /// This table less the route of `uid`.
    #[must_use]
    pub fn without(&self, uid: &str) -> Self {
        let mut table = self.clone();
        if let Some(route) = table.routes.remove(uid) {
            for port in &route.listening {
                table.ports.remove(port);
            }
        }
        table
    }
}

fn compile(
    route: &api::Route,
    previous: Option<&Route>,
    rules: Option<Arc<Rules>>,
    Table { salt, zone, .. }: &Table,
) -> Result<Vec<Port>, Refusal> {
    if route.uid.is_empty() {
        return Err(Refusal::NoUid);
    }
    let weight = u8::try_from(route.weight).ok().filter(|w| *w <= 100).ok_or(Refusal::Weight(route.weight))?;
    let listening = route.listeners.iter().map(|listener| port(listener.port)).collect::<Result<Vec<_>, _>>()?;
    let http = route.http.clone().unwrap_or_default();
    let retry = match &http.retries {
        Some(retries) => Retry::compile(retries, previous.and_then(|route| route.retry.as_ref()))?,
        None => None,
    };
    let split = previous.map_or_else(|| Arc::new(Split::new(seed(&route.uid, *salt))), |p| Arc::clone(&p.split));
    let affinity = route.affinity.as_ref();
    let affinity = affinity.map(|a| Affinity::compile(a, &route.uid, &route.canary_revision)).transpose()?;
    let mirror_seed = !seed(&route.uid, salt.rotate_left(1));
    let mirror = route.mirror.as_ref();
    let mirror =
        mirror.map(|m| Mirror::compile(m, previous.and_then(|p| p.mirror.as_ref()), mirror_seed)).transpose()?;
    let arms = route.listeners.iter().map(|listener| Ok([targets(&listener.stable)?, targets(&listener.canary)?]));
    let arms = arms.collect::<Result<Vec<_>, Refusal>>()?;
    let policy = route.traffic_policy.clone().unwrap_or_default();
    let balance = policy.load_balancer.as_ref().map_or(Ok(None), Balance::compile)?;
    let outliers = policy.outlier_detection.as_ref().map(outlier::Policy::compile).transpose()?.map(|policy| {
        let split = route.listeners.iter().zip(&arms).filter(|(listener, _)| listener.split);
        let targets = split.flat_map(|(_, arms)| arms).flatten();
        Outliers::new(policy, targets, previous.and_then(|route| route.outliers.as_ref()))
    });
    let compiled = Arc::new(Route {
        uid: route.uid.clone(),
        counter: route.counter,
        namespace: route.namespace.clone(),
        service: route.service.clone(),
        canary: route.canary.clone(),
        weight,
        stable_revision: route.stable_revision.clone(),
        canary_revision: route.canary_revision.clone(),
        request_timeout: millis(http.request_timeout_ms),
        connect_timeout: millis(http.connect_timeout_ms).unwrap_or(DEFAULT_CONNECT_TIMEOUT),
        outliers,
        pool: policy.connection_pool.as_ref().map(Pool::compile).unwrap_or_default(),
        balance: balance.map(Arc::new),
        affinity: affinity.filter(|_| (1..=99).contains(&weight)),
        retry,
        rules,
        audience: Audience::compile(&route.audience)?,
        mirror: mirror.flatten(),
        split,
        listening,
    });
    route.listeners.iter().zip(arms).map(|(listener, arms)| compile_port(listener, arms, &compiled, zone)).collect()
}

fn compile_port(
    listener: &api::Listener,
    [stable, canary]: [Vec<Target>; 2],
    route: &Arc<Route>,
    zone: &str,
) -> Result<Port, Refusal> {
    let protocol = match api::Protocol::try_from(listener.protocol) {
        // A port that is not split is not looked into either: bytes cost less and cannot be misread.
        Ok(_) if !listener.split => Protocol::Tcp,
        Ok(api::Protocol::Unspecified) => Protocol::Detect,
        Ok(api::Protocol::Http) => Protocol::Http1,
        Ok(api::Protocol::H2c | api::Protocol::Grpc) => Protocol::Http2,
        Ok(api::Protocol::Tcp) => Protocol::Tcp,
        Err(_) => return Err(Refusal::Protocol(listener.protocol)),
    };
    let wards = route.outliers.as_ref().filter(|_| listener.split).map(|outliers| {
        [(Arm::Stable, &stable), (Arm::Canary, &canary)].map(|(arm, targets)| Arc::new(outliers.ward(arm, targets)))
    });
    Ok(Port {
        number: port(listener.port)?,
        service_port: port(listener.service_port)?,
        protocol,
        split: listener.split,
        route: Arc::clone(route),
        zones: zones(route, [&stable, &canary], wards.as_ref(), zone).filter(|_| listener.split),
        wards,
        stable,
        canary,
    })
}

/// Where the requests of both arms go, for a proxy in `zone`, if zones count and may.
fn zones(route: &Route, arms: [&[Target]; 2], wards: Option<&[Arc<Ward>; 2]>, zone: &str) -> Option<[Arc<Zones>; 2]> {
    let locality = route.balance.as_ref()?.locality.as_ref()?;
    let compared = route.compares() && arms.iter().all(|targets| !targets.is_empty());
    let zones = locality.prefer(zone, arms, compared)?;
    let zones = match wards.filter(|_| compared) {
        None => zones,
        Some(wards) => Zones::paired(zones, wards),
    };
    Some(zones.map(Arc::new))
}

fn targets(endpoints: &[api::Endpoint]) -> Result<Vec<Target>, Refusal> {
    let mut targets = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        let ip: IpAddr = endpoint.address.parse().map_err(|_| Refusal::Address(endpoint.address.clone()))?;
        let address = SocketAddr::new(ip, port(endpoint.port)?);
        let target = Target { address, pod: endpoint.pod.clone(), zone: endpoint.zone.clone() };
        // An address twice would be picked twice as often.
        if targets.iter().all(|known: &Target| known.address != target.address) {
            targets.push(target);
        }
    }
    Ok(targets)
}

fn port(number: u32) -> Result<u16, Refusal> {
    u16::try_from(number).ok().filter(|n| *n != 0).ok_or(Refusal::Port(number))
}

fn millis(value: u64) -> Option<Duration> {
    (value != 0).then(|| Duration::from_millis(value))
}

fn seed(uid: &str, salt: u64) -> u64 {
    uid.bytes().fold(salt, |hash, byte| mix(hash ^ u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_route(uid: &str, port: u32, weight: u32) -> api::Route {
        let endpoint = |address: &str| api::Endpoint { address: address.into(), port: 80, ..Default::default() };
        api::Route {
            uid: uid.into(),
            counter: 1,
            namespace: "shop".into(),
            service: "web".into(),
            canary: "web".into(),
            weight,
            listeners: vec![api::Listener {
                port,
                service_port: 80,
                split: true,
                stable: vec![endpoint("10.0.0.1"), endpoint("10.0.0.1"), endpoint("fd00::1")],
                canary: vec![endpoint("10.0.0.2")],
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn a_changed_route_replaces_its_ports_and_keeps_its_split() {
        let table = Table::default().upsert(&mk_route("a", 15_000, 10)).unwrap();
        let split = Arc::clone(&table.ports()[&15_000].route.split);
        let table = table.upsert(&mk_route("a", 15_001, 25)).unwrap();
        assert_eq!(table.ports().keys().collect::<Vec<_>>(), [&15_001]);
        let port = &table.ports()[&15_001];
        assert_eq!((port.route.weight, port.stable.len(), port.canary.len()), (25, 2, 1));
        assert!(Arc::ptr_eq(&split, &port.route.split));
    }

    #[test]
    fn untouched_routes_are_shared_not_copied() {
        let table = Table::default().upsert(&mk_route("a", 15_000, 10)).unwrap();
        let next = table.upsert(&mk_route("b", 15_001, 10)).unwrap();
        assert!(Arc::ptr_eq(&table.ports()[&15_000], &next.ports()[&15_000]));
    }

    #[test]
    fn a_rule_without_meaning_keeps_the_rules_before_it_and_holds_no_endpoint_back() {
        let with_rule = |name: &str, port| {
            let rule = api::Rule { name: name.into(), ..Default::default() };
            let http = Some(api::HttpPolicy { rules: vec![rule], ..Default::default() });
            api::Route { http, ..mk_route("a", port, 10) }
        };
        let table = Table::default().upsert(&with_rule("good", 15_000)).unwrap();
        let bad = with_rule("NOT A NAME", 15_001);
        assert!(matches!(table.upsert(&bad), Err(Refusal::Rules(_))));
        let table = table.upsert_with_old_rules(&bad).unwrap();
        let route = &table.ports()[&15_001].route;
        assert_eq!(route.rules.as_ref().unwrap().iter().next().unwrap().name, "good");
        assert!(Table::default().upsert_with_old_rules(&bad).unwrap().routes()["a"].rules.is_none());
    }

    #[test]
    fn a_port_has_one_owner_until_its_route_goes() {
        let table = Table::default().upsert(&mk_route("a", 15_000, 10)).unwrap();
        let refusal = table.upsert(&mk_route("b", 15_000, 10)).unwrap_err();
        assert_eq!(refusal.to_string(), "port 15000 belongs to shop/web");
        assert!(table.without("a").upsert(&mk_route("b", 15_000, 10)).is_ok());
    }

    #[test]
    fn routes_that_make_no_sense_are_refused_with_the_reason() {
        let refusal = |change: fn(&mut api::Route)| {
            let mut route = mk_route("a", 15_000, 10);
            change(&mut route);
            Table::default().upsert(&route).unwrap_err()
        };
        assert_eq!(refusal(|r| r.uid.clear()), Refusal::NoUid);
        assert_eq!(refusal(|r| r.weight = 101), Refusal::Weight(101));
        assert_eq!(refusal(|r| r.listeners[0].port = 70_000), Refusal::Port(70_000));
        assert_eq!(refusal(|r| r.listeners[0].stable[0].port = 0), Refusal::Port(0));
        assert_eq!(refusal(|r| r.listeners[0].stable[0].address = "web".into()), Refusal::Address("web".into()));
        assert_eq!(refusal(|r| r.listeners[0].protocol = 9), Refusal::Protocol(9));
        let outliers = api::OutlierDetection { max_ejection_percent: Some(101), ..Default::default() };
        let mut route = mk_route("a", 15_000, 10);
        route.traffic_policy = Some(api::TrafficPolicy { outlier_detection: Some(outliers), ..Default::default() });
        let refusal = Table::default().upsert(&route).unwrap_err();
        assert_eq!(refusal.to_string(), "maxEjectionPercent is 101, must be at most 100");
    }

    #[test]
    fn zones_count_for_both_arms_or_for_none_while_these_are_compared() {
        let place = |address: &str, zone: &str| api::Endpoint {
            address: address.into(),
            port: 80,
            zone: zone.into(),
            ..Default::default()
        };
        let of_zone = |zone: &str| api::ZoneProxies { zone: zone.into(), proxies: 1 };
        let setting = api::LocalityLbSetting { proxies: vec![of_zone("a"), of_zone("b")] };
        let load_balancer = Some(api::LoadBalancer { locality_lb_setting: Some(setting), ..Default::default() });
        let with = |weight, canary: &[&str]| {
            let mut route = mk_route("a", 15_000, weight);
            route.listeners[0].stable = vec![place("10.0.0.1", "a"), place("10.0.0.2", "b")];
            route.listeners[0].canary =
                canary.iter().zip(3..).map(|(zone, n)| place(&format!("10.0.0.{n}"), zone)).collect();
            route.traffic_policy = Some(api::TrafficPolicy {
                load_balancer: load_balancer.clone(),
                outlier_detection: Some(api::OutlierDetection::default()),
                ..Default::default()
            });
            route
        };
        let kept = |route: &api::Route| {
            let table = Table::new(1).in_zone("b").upsert(route).unwrap();
            let port = &table.ports()[&15_000];
            [Arm::Stable, Arm::Canary].map(|arm| port.zones(arm).map(|zones| zones.kept()))
        };
        assert_eq!(kept(&with(0, &["a"])), [Some(1.0), Some(0.0)], "nobody is compared yet");
        assert_eq!(kept(&with(10, &["a"])), [None, None], "the canary has none in zone b");
        assert_eq!(kept(&with(10, &["a", "b"])), [Some(1.0), Some(1.0)]);
        assert_eq!(kept(&with(10, &[])), [Some(1.0), Some(0.0)], "stable serves alone");
        assert_eq!(kept(&with(100, &["a"])), [Some(1.0), Some(0.0)], "the canary serves alone");
        let value = Some(api::TextMatch { kind: Some(api::text_match::Kind::Exact("1".into())) });
        let mut audience = with(100, &["a"]);
        let matching = api::NamedMatch { name: "x-beta".into(), value };
        audience.audience = vec![api::Match { headers: vec![matching], ..Default::default() }];
        assert_eq!(kept(&audience), [None, None], "an audience is compared with the others");
        let mut plain = with(10, &["a", "b"]);
        plain.listeners[0].split = false;
        assert_eq!(kept(&plain), [None, None]);
    }

    #[test]
    fn a_port_that_is_not_split_is_spliced() {
        let mut route = mk_route("a", 15_000, 10);
        route.listeners[0].split = false;
        let table = Table::default().upsert(&route).unwrap();
        assert_eq!(table.ports()[&15_000].protocol, Protocol::Tcp);
    }
}
