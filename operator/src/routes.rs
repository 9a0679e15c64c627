//! What the proxies do for one Service: a pure function of what the API server holds, so that every operator replica
//! publishes the same.
//!
//! `build` makes the route, `overlap` tells when both arms are the same pods. Neither reads the
//! clock, and neither decides: the weight is the journal's.

mod audience;
mod endpoints;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::Arc};

use crds::{Canary, Phase};
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::ResourceExt;
use proxy_api::v1beta1::{Endpoint, HttpPolicy, Listener, Protocol, Route};

pub use self::endpoints::has_ready;
use self::{
    audience::{affinity, audience, mirror},
    endpoints::{endpoints, pod_prefix},
};
use crate::{
    policy, rules,
    services::{self, Asked, AskedPort},
    table::{RouteKey, Table},
    zones,
};

/// What a route is made of, as cached.
#[derive(Clone, Copy, Debug)]
pub struct RouteInputs<'a> {
    /// Spec and journal.
    pub canary: &'a Canary,
    /// The namespace's admission table.
    pub table: &'a Table,
    /// The user's Service, routed or not.
    pub service: &'a Service,
    /// The EndpointSlices of `<service>-primary`.
    pub stable_slices: &'a [&'a EndpointSlice],
    /// The EndpointSlices of `<service>-canary`.
    pub canary_slices: &'a [&'a EndpointSlice],
    /// The pool's proxies that are ready.
    pub proxies: &'a [Arc<Pod>],
}

/// The route of a Canary; none if it has no port of the pool: it was refused, is not set up yet, or is gone.
#[must_use]
pub fn build(inputs: &RouteInputs<'_>) -> Option<Route> {
    let RouteInputs { canary, table, service, stable_slices, canary_slices, proxies } = *inputs;
    let name = service.name_any();
    let uid = canary.uid()?;
    let status = canary.status.clone().unwrap_or_default();
    if is_anothers(canary, table, &name) {
        return None;
    }
    let asked = services::asked(service);
    let tested = status.canary_revision.as_ref().filter(|_| services::has_canary_arm(&status));
    // After a rollback the pods live on for a moment, and the primary Service is wide again.
    let refused = status.canary_revision.as_ref().filter(|revision| Some(*revision) != status.stable_revision.as_ref());
    let intruders = refused.and_then(|revision| pod_prefix(&canary.spec.target_ref.name, revision));
    let listener = |port: &AskedPort| {
        let mut stable = endpoints(stable_slices, port.port, intruders.as_deref());
        if stable.is_empty() && !services::is_judging(status.phase) {
            // A refused version that was shipped past the hold is all there is: an outage would help nobody.
            stable = endpoints(stable_slices, port.port, None);
        }
        let split = i32::from(port.port) == canary.spec.service.port;
        if !split && matches!(status.phase, Phase::Promoting | Phase::Finalising) {
            // The old pods go at any moment, and the judged ones stay: further ports move before that, not after, and stay
            // with them until the primary Service has followed.
            let judged = endpoints(canary_slices, port.port, None);
            stable = if judged.is_empty() { stable } else { judged };
        }
        Some(Listener {
            port: u32::from(pool_port(table, service, port)?),
            service_port: u32::from(port.port),
            service_port_name: port.name.clone().unwrap_or_default(),
            protocol: if split { protocol(port.app_protocol.as_deref()) } else { Protocol::Tcp }.into(),
            split,
            stable,
            canary: if split && tested.is_some() { endpoints(canary_slices, port.port, None) } else { Vec::new() },
        })
    };
    let listeners = listeners(&asked, listener);
    let audience = audience(&status);
    let weight = u32::try_from(status.canary_weight.clamp(0, 100)).unwrap_or_default();
    (!listeners.is_empty()).then(|| Route {
        uid,
        counter: u64::try_from(status.counter).unwrap_or_default(),
        namespace: canary.namespace().unwrap_or_default(),
        service: name,
        canary: canary.name_any(),
        listeners,
        // An audience that cannot be read must not become everybody.
        weight: if audience.is_some() { weight } else { 0 },
        stable_revision: status.stable_revision.clone().unwrap_or_default(),
        canary_revision: tested.cloned().unwrap_or_default(),
        http: Some(HttpPolicy {
            request_timeout_ms: timeout_ms(canary),
            connect_timeout_ms: policy::connect_timeout_ms(&canary.spec.service),
            rules: rules::messages(canary),
            retries: policy::retries(&canary.spec.service),
        }),
        affinity: affinity(canary),
        mirror: mirror(&status).filter(|_| tested.is_some()),
        audience: audience.unwrap_or_default(),
        traffic_policy: policy::traffic(&canary.spec.service, || zones::of(proxies)),
    })
}

/// Endpoints of the two arms of the port that is split. Where all are in both, the weight may go from 100 to 0 and no
/// request moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overlap {
    /// In both.
    pub both: u32,
    /// In the stable arm only.
    pub stable: u32,
    /// In the canary arm only.
    pub canary: u32,
}

/// How far the arms are the same.
#[must_use]
pub fn overlap(inputs: &RouteInputs<'_>) -> Overlap {
    let port = u16::try_from(inputs.canary.spec.service.port).unwrap_or_default();
    let place = |endpoint: Endpoint| (endpoint.address, endpoint.port);
    let stable: BTreeSet<_> = endpoints(inputs.stable_slices, port, None).into_iter().map(place).collect();
    let canary: BTreeSet<_> = endpoints(inputs.canary_slices, port, None).into_iter().map(place).collect();
    let number = |endpoints: usize| u32::try_from(endpoints).unwrap_or(u32::MAX);
    Overlap {
        both: number(canary.intersection(&stable).count()),
        stable: number(stable.difference(&canary).count()),
        canary: number(canary.difference(&stable).count()),
    }
}

/// Endpoints of the stable arm of the port that is split.
#[must_use]
pub fn stable_ready(route: &Route) -> usize {
    route.listeners.iter().filter(|listener| listener.split).map(|listener| listener.stable.len()).sum()
}

/// Endpoints of the canary arm.
#[must_use]
pub fn canary_ready(route: &Route) -> usize {
    route.listeners.iter().filter(|listener| listener.split).map(|listener| listener.canary.len()).sum()
}

fn listeners(asked: &Asked, listener: impl Fn(&AskedPort) -> Option<Listener>) -> Vec<Listener> {
    let tcp = asked.ports.iter().filter(|port| port.protocol == "TCP");
    let mut listeners: Vec<_> = tcp.filter_map(listener).collect();
    listeners.sort_by_key(|listener| listener.port);
    listeners
}

/// An owner is missing only from a table that was just rebuilt; then the route must go on being served.
fn is_anothers(canary: &Canary, table: &Table, service: &str) -> bool {
    table.owners.get(service).is_some_and(|owner| *owner != canary.name_any())
}

/// By the table; with the table lost, by what the routed Service shows: that is where its traffic arrives.
fn pool_port(table: &Table, service: &Service, port: &AskedPort) -> Option<u16> {
    let key = RouteKey { service: service.name_any(), port: port.port, protocol: port.protocol.clone() };
    table.port(&key).or_else(|| services::routed_ports(service).get(&key).copied())
}

/// KEP-3726's names for `appProtocol`, and the registered ones; an unknown one is found out by the connection itself.
fn protocol(app_protocol: Option<&str>) -> Protocol {
    match app_protocol {
        Some("http" | "kubernetes.io/ws") => Protocol::Http,
        Some("kubernetes.io/h2c") => Protocol::H2c,
        Some("grpc") => Protocol::Grpc,
        Some("tcp" | "https" | "tls" | "kubernetes.io/wss") => Protocol::Tcp,
        Some(_) | None => Protocol::Unspecified,
    }
}

/// `spec.service.timeout` in milliseconds; its form is the schema's affair.
fn timeout_ms(canary: &Canary) -> u64 {
    policy::millis(canary.spec.service.timeout.as_deref())
}
