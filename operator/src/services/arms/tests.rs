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
fn the_primary_is_narrow_while_a_version_is_judged_or_the_old_one_leaves() {
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
    // The old pods are being deleted, and traffic comes back to this arm.
    assert_eq!(&selector(&arms(&at("Finalising", 100), &target(), &mk_plain(), None).primary), &narrow);
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
