//! One message of the operator → the ports of its route: everything is checked here, so that a request need not ask again.
//!
//! What lasts over changes of a route (the split's position, budgets, the memory of endpoints) is taken over from the route
//! before.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use proxy_api::v1beta1 as api;

use super::{DEFAULT_CONNECT_TIMEOUT, Port, Protocol, Refusal, Route, Table, Target};
use crate::affinity::Affinity;
use crate::audience::Audience;
use crate::balance::{Balance, Zones};
use crate::mirror::Mirror;
use crate::outlier::{self, Outliers, Ward};
use crate::pool::Pool;
use crate::retry::Retry;
use crate::rules::Rules;
use crate::split::{Arm, Split, mix};

pub(super) fn compile(
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
