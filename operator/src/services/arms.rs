//! `<service>-primary` and `<service>-canary`: one selects the stable pods, the other those under test. The proxies take
//! their endpoints from the EndpointSlices of these two.
//!
//! Pure builders, then the two writes. Neither Service is touched by the route policy: no key of the table names them.

use std::collections::BTreeMap;

use crds::{
    Canary, CanaryStatus, Phase,
    names::{ARM_LABEL, CANARY_LABEL, FIELD_MANAGER, POD_TEMPLATE_HASH},
};
use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use kube::{Api, Client, Resource, ResourceExt};

use super::{Asked, AskedPort, asked, canary_name, primary_name};
use crate::api::{self, ApiError};

/// The Services that a Canary should have now.
#[derive(Clone, Debug, PartialEq)]
pub struct Arms {
    /// Selects the stable pods; all of the target's while the whole of it serves.
    pub primary: Service,
    /// Selects the pods under test; none while there are none.
    pub canary: Option<Service>,
}

/// Builds both from the journal. `target_selector` is the Deployment's `matchLabels`, `service` the user's, routed or
/// not, `primary_seen` the primary Service as it is: while a version is on trial, or was refused, the stable pods keep
/// the target ports that it has.
#[must_use]
pub fn arms(
    canary: &Canary,
    target_selector: &BTreeMap<String, String>,
    service: &Service,
    primary_seen: Option<&Service>,
) -> Arms {
    let status = canary.status.clone().unwrap_or_default();
    let asked = asked(service);
    let selector = |revision: Option<&String>| {
        let mut selector = asked.selector.clone();
        selector.extend(target_selector.clone());
        selector.extend(revision.map(|revision| (POD_TEMPLATE_HASH.to_owned(), revision.clone())));
        selector
    };
    let stable = status.stable_revision.as_ref().filter(|_| is_narrow(&status));
    let tested = status.canary_revision.as_ref().filter(|_| has_canary_arm(&status));
    Arms {
        primary: build(
            canary,
            primary_name(canary),
            "stable",
            selector(stable),
            pinned(&asked, status.phase, primary_seen),
        ),
        canary: tested
            .map(|revision| build(canary, canary_name(canary), "canary", selector(Some(revision)), ports(&asked))),
    }
}

/// Whether the stable arm must be kept free of the pods under test.
pub(crate) const fn is_judging(phase: Phase) -> bool {
    match phase {
        Phase::Progressing | Phase::WaitingPromotion | Phase::Promoting => true,
        Phase::Initializing
        | Phase::Initialized
        | Phase::Waiting
        | Phase::Finalising
        | Phase::Succeeded
        | Phase::Failed
        | Phase::Terminating => false,
    }
}

/// Whether the stable arm is one revision. In Finalising that is the judged one: the old pods are deleted, and must have
/// left the arm before traffic comes back to it. Without a weight they still serve.
fn is_narrow(status: &CanaryStatus) -> bool {
    is_judging(status.phase) || (status.phase == Phase::Finalising && status.canary_weight > 0)
}

/// Whether the pods under test have an arm of their own: while they may have traffic, and in Finalising, where it is
/// compared with the stable arm, whatever the weight.
pub(crate) fn has_canary_arm(status: &CanaryStatus) -> bool {
    is_judging(status.phase) || status.phase == Phase::Finalising || status.canary_weight > 0
}

/// Whether Git may speak of a version that the stable pods are not.
const fn is_pinned(phase: Phase) -> bool {
    match phase {
        Phase::Waiting | Phase::Progressing | Phase::WaitingPromotion | Phase::Promoting | Phase::Failed => true,
        Phase::Initializing | Phase::Initialized | Phase::Finalising | Phase::Succeeded | Phase::Terminating => false,
    }
}

/// Name of a port on both arms. Made from the number, because a user may rename a port, and the slices follow late.
#[must_use]
pub fn port_name(port: u16) -> String {
    format!("tcp-{port}")
}

fn ports(asked: &Asked) -> Vec<ServicePort> {
    let mut ports: Vec<_> = asked.ports.iter().map(|port| arm_port(port, port.target.clone())).collect();
    // The order in which the API server keeps a list that it merges; a difference would be written again and again.
    ports.sort_by_key(|port| port.port);
    ports
}

fn pinned(asked: &Asked, phase: Phase, seen: Option<&Service>) -> Vec<ServicePort> {
    let mut wanted = ports(asked);
    let seen = seen.filter(|_| is_pinned(phase)).and_then(|seen| seen.spec.as_ref()?.ports.as_ref());
    for port in &mut wanted {
        let has =
            seen.and_then(|ports| ports.iter().find(|has| has.port == port.port && has.protocol == port.protocol));
        if let Some(has) = has {
            port.target_port.clone_from(&has.target_port);
        }
    }
    wanted
}

fn arm_port(port: &AskedPort, target: IntOrString) -> ServicePort {
    ServicePort {
        name: Some(port_name(port.port)),
        port: i32::from(port.port),
        protocol: Some(port.protocol.clone()),
        target_port: Some(target),
        ..ServicePort::default()
    }
}

fn build(
    canary: &Canary,
    name: String,
    arm: &str,
    selector: BTreeMap<String, String>,
    ports: Vec<ServicePort>,
) -> Service {
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    Service {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: canary.namespace(),
            labels: Some(BTreeMap::from([
                label("app.kubernetes.io/managed-by", FIELD_MANAGER),
                label(ARM_LABEL, arm),
                label(CANARY_LABEL, &canary.name_any()),
            ])),
            owner_references: canary.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec { selector: Some(selector), ports: Some(ports), ..ServiceSpec::default() }),
        ..Service::default()
    }
}

/// Sees to one arm's Service; `seen` is the cached object of that name. True if it was written.
///
/// # Errors
/// As [`api::call`].
pub async fn ensure(client: &Client, desired: &Service, seen: Option<&Service>) -> Result<bool, ApiError> {
    if seen.is_some_and(|seen| !api::differs(desired, &sorted(seen))) {
        return Ok(false);
    }
    let namespace = desired.namespace().unwrap_or_default();
    api::apply(&Api::namespaced(client.clone(), &namespace), desired).await?;
    Ok(true)
}

/// Deletes an arm's Service, if it is one of ours. True if there was one.
///
/// # Errors
/// As [`api::call`].
pub async fn delete(client: &Client, namespace: &str, seen: Option<&Service>) -> Result<bool, ApiError> {
    let ours = seen.filter(|seen| seen.labels().contains_key(ARM_LABEL));
    api::delete(&Api::<Service>::namespaced(client.clone(), namespace), ours).await
}

fn sorted(seen: &Service) -> Service {
    let mut seen = seen.clone();
    if let Some(ports) = seen.spec.as_mut().and_then(|spec| spec.ports.as_mut()) {
        ports.sort_by_key(|port| port.port);
    }
    seen
}

#[cfg(test)]
mod tests;
