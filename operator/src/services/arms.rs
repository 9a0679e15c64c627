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
    /// Selects the stable pods; all of the target's while nothing is judged.
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
    let stable = status.stable_revision.as_ref().filter(|_| is_judging(status.phase));
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
mod tests {
    use serde_json::{Value, json};

    use super::{
        super::fixtures::{mk_canary, mk_plain, mk_routed},
        *,
    };

    fn target() -> BTreeMap<String, String> {
        BTreeMap::from([("app".to_owned(), "web".to_owned()), ("tier".to_owned(), "front".to_owned())])
    }

    fn at(phase: &str, weight: i32) -> Canary {
        mk_canary(json!({ "phase": phase, "canaryWeight": weight, "stableRevision": "s1", "canaryRevision": "c2" }))
    }

    fn selector(service: &Service) -> Value {
        json!(service.spec.as_ref().unwrap().selector)
    }

    fn targets(service: &Service) -> Value {
        let ports = service.spec.as_ref().unwrap().ports.as_ref().unwrap();
        json!(ports.iter().map(|port| &port.target_port).collect::<Vec<_>>())
    }

    #[test]
    fn the_primary_service_in_full() {
        let built = arms(&at("Initialized", 0), &target(), &mk_routed(), None);
        assert_eq!(
            serde_json::to_value(&built.primary).unwrap(),
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {
                    "name": "web-primary", "namespace": "shop",
                    "labels": {
                        "app.kubernetes.io/managed-by": "sluice-operator",
                        "sluice.dev/arm": "stable", "sluice.dev/canary": "web"
                    },
                    "ownerReferences": [{ "apiVersion": "sluice.dev/v1beta1", "kind": "Canary", "name": "web", "uid": "u-1",
                        "controller": true }]
                },
                "spec": {
                    "selector": { "app": "web", "tier": "front" },
                    "ports": [
                        { "name": "tcp-80", "port": 80, "protocol": "TCP", "targetPort": "http" },
                        { "name": "tcp-9000", "port": 9000, "protocol": "TCP", "targetPort": 9000 }
                    ]
                }
            })
        );
        assert_eq!(built.canary, None);
    }

    #[test]
    fn the_primary_is_narrow_exactly_while_a_version_is_judged() {
        let wide = json!({ "app": "web", "tier": "front" });
        let narrow = json!({ "app": "web", "tier": "front", "pod-template-hash": "s1" });
        for (phase, wanted) in [
            ("Initializing", &wide),
            ("Initialized", &wide),
            ("Waiting", &wide),
            ("Progressing", &narrow),
            ("WaitingPromotion", &narrow),
            ("Promoting", &narrow),
            ("Finalising", &wide),
            ("Succeeded", &wide),
            ("Failed", &wide),
            ("Terminating", &wide),
        ] {
            assert_eq!(&selector(&arms(&at(phase, 0), &target(), &mk_plain(), None).primary), wanted, "{phase}");
        }
    }

    #[test]
    fn the_canary_service_stays_as_long_as_it_may_have_traffic() {
        let built = arms(&at("Finalising", 100), &target(), &mk_plain(), None);
        let canary = built.canary.unwrap();
        assert_eq!(selector(&canary)["pod-template-hash"], "c2");
        assert_eq!(canary.labels()[ARM_LABEL], "canary");
        assert!(arms(&at("Progressing", 0), &target(), &mk_plain(), None).canary.is_some());
        assert!(arms(&at("Finalising", 0), &target(), &mk_plain(), None).canary.is_some());
        assert!(arms(&at("Succeeded", 0), &target(), &mk_plain(), None).canary.is_none());
        assert!(arms(&at("Failed", 0), &target(), &mk_plain(), None).canary.is_none());
    }

    #[test]
    fn a_target_port_changed_in_mid_release_reaches_the_canary_only() {
        let before = arms(&at("Initialized", 0), &target(), &mk_plain(), None).primary;
        let mut service = mk_plain();
        service.spec.as_mut().unwrap().ports.as_mut().unwrap()[1].target_port = Some(IntOrString::Int(9001));
        for phase in ["Progressing", "Promoting", "Failed", "Waiting"] {
            let built = arms(&at(phase, 10), &target(), &service, Some(&before));
            assert_eq!(targets(&built.primary), json!(["http", 9000]), "{phase}");
            assert_eq!(targets(&built.canary.unwrap()), json!(["http", 9001]), "{phase}");
        }
        for phase in ["Finalising", "Succeeded", "Initialized"] {
            let built = arms(&at(phase, 0), &target(), &service, Some(&before));
            assert_eq!(targets(&built.primary), json!(["http", 9001]), "{phase}");
        }
    }

    #[test]
    fn a_port_added_in_mid_release_reaches_both_arms() {
        let before = arms(&at("Initialized", 0), &target(), &mk_plain(), None).primary;
        let mut service = mk_plain();
        let new = ServicePort { port: 8, target_port: Some(IntOrString::Int(8)), ..ServicePort::default() };
        service.spec.as_mut().unwrap().ports.as_mut().unwrap().push(new);
        let built = arms(&at("Progressing", 10), &target(), &service, Some(&before));
        assert_eq!(targets(&built.primary), json!([8, "http", 9000]));
    }

    #[test]
    fn the_servers_own_fields_are_no_reason_to_write() {
        let desired = arms(&at("Initialized", 0), &target(), &mk_plain(), None).primary;
        let mut seen = desired.clone();
        let spec = seen.spec.as_mut().unwrap();
        spec.cluster_ip = Some("198.19.0.9".to_owned());
        spec.ports.as_mut().unwrap().reverse();
        assert!(!api::differs(&desired, &sorted(&seen)));
        let spec = seen.spec.as_mut().unwrap();
        spec.selector.as_mut().unwrap().insert(POD_TEMPLATE_HASH.to_owned(), "s1".to_owned());
        assert!(api::differs(&desired, &sorted(&seen)));
    }
}
