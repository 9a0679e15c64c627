//! The Services of a Canary: the user's, as it was asked for, and the two of ours that tell the arms apart.
//!
//! `asked` sees through the route policy's rewriting, `check` says which Services cannot be routed, `arms` builds
//! `<service>-primary` and `<service>-canary`, `touch` has the policy rewrite the user's Service. The operator never
//! writes `selector` or `targetPort` of the user's Service: it would become their field manager.

mod arms;
mod check;
mod touch;

use std::collections::BTreeMap;

use crds::{
    Canary,
    names::{
        ANNOTATION_SELECTOR, ANNOTATION_TARGET_PORTS, CANARY_SUFFIX, POOL_DEFAULT, POOL_LABEL, PRIMARY_SUFFIX,
        arm_service,
    },
};
use k8s_openapi::{
    api::core::v1::{Service, ServicePort},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::ResourceExt;
use proxy_api::{PROXY_PORT_FIRST, PROXY_PORT_LAST};

pub(crate) use self::arms::{has_canary_arm, is_judging};
pub use self::{
    arms::{Arms, arms, delete, ensure, port_name},
    check::{refusal, warnings},
    touch::{Routing, ServiceError, touch},
};
use crate::table::{RouteKey, Table};

/// Protocol of a port that names none.
const TCP: &str = "TCP";

/// What the user wants of a Service, whether it is routed or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Labels of the pods; empty if the Service has no selector, or its note of it was lost.
    pub selector: BTreeMap<String, String>,
    /// The ports, in the Service's order.
    pub ports: Vec<AskedPort>,
    /// The Service's traffic goes to the pool now.
    pub routed: bool,
}

/// One port of a Service, as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskedPort {
    /// Its name; none if it is the only one and has none.
    pub name: Option<String>,
    /// The Service's port, 1 to 65535.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// `appProtocol`, as it stands.
    pub app_protocol: Option<String>,
    /// Port of the pods, by number or by name.
    pub target: IntOrString,
}

/// Name of the Service that the Canary routes: the target's where none is given.
#[must_use]
pub fn service_name(canary: &Canary) -> &str {
    canary.spec.service.name.as_deref().unwrap_or(&canary.spec.target_ref.name)
}

/// Name of the Service that selects the stable pods.
#[must_use]
pub fn primary_name(canary: &Canary) -> String {
    arm_service(service_name(canary), PRIMARY_SUFFIX)
}

/// Name of the Service that selects the canary pods.
#[must_use]
pub fn canary_name(canary: &Canary) -> String {
    arm_service(service_name(canary), CANARY_SUFFIX)
}

/// What the user wants: from the notes of the route policy where they speak, else from the spec.
#[must_use]
pub fn asked(service: &Service) -> Asked {
    let note = |name| service.annotations().get(name).map(String::as_str).unwrap_or_default();
    let targets: BTreeMap<&str, &str> = pairs(note(ANNOTATION_TARGET_PORTS)).collect();
    let routed = is_pool_selected(service);
    let selector = if routed {
        pairs(note(ANNOTATION_SELECTOR)).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    } else {
        spec_selector(service).cloned().unwrap_or_default()
    };
    let ports = spec_ports(service).iter().map(|port| {
        let number = port_number(port.port);
        let protocol = port.protocol.as_deref().unwrap_or(TCP);
        let noted = targets.get(format!("{number}/{protocol}").as_str()).filter(|_| pool_port(port).is_some());
        AskedPort {
            name: port.name.clone().filter(|name| !name.is_empty()),
            port: number,
            protocol: protocol.to_owned(),
            app_protocol: port.app_protocol.clone(),
            target: match noted {
                Some(noted) if routed => parse_target(noted),
                Some(_) | None => own_target(port, routed),
            },
        }
    });
    Asked { selector, ports: ports.collect(), routed }
}

/// The pool's ports that a routed Service shows; empty for one that is not routed.
#[must_use]
pub fn routed_ports(service: &Service) -> BTreeMap<RouteKey, u16> {
    if !is_pool_selected(service) {
        return BTreeMap::new();
    }
    spec_ports(service).iter().filter_map(|port| Some((key(service, port), pool_port(port)?))).collect()
}

/// Whether every port of the Service goes to the pool's port that the table names for it.
#[must_use]
pub fn is_routed(service: &Service, table: &Table) -> bool {
    let ports = spec_ports(service);
    is_pool_selected(service)
        && !ports.is_empty()
        && ports.iter().all(|port| {
            let wanted = table.routes.get(&key(service, port));
            wanted.is_some() && wanted.copied() == pool_port(port)
        })
}

/// Whether the Service has its own selector, and nothing of ours is left on it.
#[must_use]
pub fn is_restored(service: &Service) -> bool {
    !is_pool_selected(service) && !service.annotations().contains_key(ANNOTATION_SELECTOR)
}

/// Whether the Service goes to the pool though the table has nothing for it: its Canary was removed by force. A touch
/// gives it its own selector back.
#[must_use]
pub fn is_stray(service: &Service, table: &Table) -> bool {
    !is_restored(service) && !table.routes.keys().any(|key| key.service == service.name_any())
}

fn key(service: &Service, port: &ServicePort) -> RouteKey {
    RouteKey {
        service: service.name_any(),
        port: port_number(port.port),
        protocol: port.protocol.clone().unwrap_or_else(|| TCP.to_owned()),
    }
}

fn is_pool_selected(service: &Service) -> bool {
    spec_selector(service).and_then(|selector| selector.get(POOL_LABEL)).is_some_and(|pool| pool == POOL_DEFAULT)
}

fn spec_selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    service.spec.as_ref()?.selector.as_ref()
}

fn spec_ports(service: &Service) -> &[ServicePort] {
    service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default()
}

/// The API server lets only 1 to 65535 through.
fn port_number(port: i32) -> u16 {
    u16::try_from(port).unwrap_or_default()
}

/// The target, if it is a number of the pool's range.
fn pool_port(port: &ServicePort) -> Option<u16> {
    match port.target_port.as_ref()? {
        IntOrString::Int(number) => {
            u16::try_from(*number).ok().filter(|number| (PROXY_PORT_FIRST..=PROXY_PORT_LAST).contains(number))
        }
        IntOrString::String(_) => None,
    }
}

/// The target that the spec shows; the port itself where a routed Service shows the pool's and the note of it was lost.
fn own_target(port: &ServicePort, routed: bool) -> IntOrString {
    let lost = routed && pool_port(port).is_some();
    port.target_port.clone().filter(|_| !lost).unwrap_or(IntOrString::Int(port.port))
}

fn parse_target(text: &str) -> IntOrString {
    text.parse().map_or_else(|_| IntOrString::String(text.to_owned()), IntOrString::Int)
}

/// `a=b,c=d`; entries without `=` are left out.
fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split(',').filter_map(|entry| entry.split_once('='))
}

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;
