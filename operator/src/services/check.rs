//! Which Services cannot be routed, and what to say about those that can; one sentence each, for people.

use std::collections::BTreeMap;

use crds::Canary;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use kube::ResourceExt;

use super::{Asked, TCP, asked};

/// Why the Service cannot be routed for this Canary; `pod_labels` are those of the target's template.
#[must_use]
pub fn refusal(service: &Service, canary: &Canary, pod_labels: &BTreeMap<String, String>) -> Option<String> {
    let name = service.name_any();
    let asked = asked(service);
    let default = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&default);
    let why =
        of_kind(spec, &asked).or_else(|| of_ports(canary, &asked)).or_else(|| of_pods(canary, &asked, pod_labels))?;
    Some(format!("Service {name} {why}"))
}

fn of_kind(spec: &ServiceSpec, asked: &Asked) -> Option<String> {
    if spec.type_.as_deref() == Some("ExternalName") {
        return Some("is of type ExternalName: it has no pods whose traffic could be split".to_owned());
    }
    if spec.cluster_ip.as_deref() == Some("None") {
        return Some("is headless (clusterIP: None): its clients choose pods themselves, past the proxies".to_owned());
    }
    if asked.selector.is_empty() && !asked.routed {
        return Some(
            "has no selector: its endpoints are not found by label, so no version can be told apart".to_owned(),
        );
    }
    if spec.publish_not_ready_addresses == Some(true) {
        return Some(
            "has publishNotReadyAddresses: true, which would send traffic to pods that are not ready".to_owned(),
        );
    }
    let local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    let field = match (local(&spec.external_traffic_policy), local(&spec.internal_traffic_policy)) {
        (true, _) => "externalTrafficPolicy",
        (false, true) => "internalTrafficPolicy",
        (false, false) => return None,
    };
    Some(format!("has {field}: Local, but not every node has a proxy: set it to Cluster"))
}

fn of_ports(canary: &Canary, asked: &Asked) -> Option<String> {
    if let Some(port) = asked.ports.iter().find(|port| port.protocol != TCP) {
        let (number, protocol) = (port.port, &port.protocol);
        return Some(format!(
            "has port {number}/{protocol}: every port goes through the proxies, and they carry TCP only"
        ));
    }
    let wanted = canary.spec.service.port;
    if asked.ports.iter().all(|port| i32::from(port.port) != wanted) {
        let ports: Vec<_> = asked.ports.iter().map(|port| port.port.to_string()).collect();
        return Some(format!("has no port {wanted}, which spec.service.port names; it has {}", ports.join(", ")));
    }
    None
}

fn of_pods(canary: &Canary, asked: &Asked, pod_labels: &BTreeMap<String, String>) -> Option<String> {
    let (key, value) = asked.selector.iter().find(|(key, value)| pod_labels.get(*key) != Some(value))?;
    let target = &canary.spec.target_ref.name;
    Some(format!("selects {key}={value}, which the pods of Deployment {target} do not carry"))
}

/// What works otherwise than the user may expect.
#[must_use]
pub fn warnings(service: &Service, canary: &Canary) -> Vec<String> {
    let name = service.name_any();
    let mut warnings = Vec::new();
    if service.spec.as_ref().and_then(|spec| spec.session_affinity.as_deref()) == Some("ClientIP") {
        warnings.push(format!(
            "Service {name} has sessionAffinity: ClientIP: it ties a client to a proxy, not to a pod or a version"
        ));
    }
    let encrypted = |protocol: &str| matches!(protocol, "https" | "tls" | "kubernetes.io/wss" | "kubernetes.io/https");
    for port in asked(service).ports {
        let protocol = port.app_protocol.as_deref().unwrap_or_default();
        if i32::from(port.port) == canary.spec.service.port && encrypted(protocol) {
            warnings.push(format!(
                "port {} of Service {name} is encrypted (appProtocol: {protocol}): the proxies split its connections and \
                 cannot see its requests",
                port.port
            ));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{
        super::fixtures::{mk_canary, mk_plain, mk_routed, mk_service},
        *,
    };

    fn labels() -> BTreeMap<String, String> {
        BTreeMap::from([("app".to_owned(), "web".to_owned()), ("tier".to_owned(), "front".to_owned())])
    }

    fn refused(patch: Value) -> String {
        let mut service = serde_json::to_value(mk_plain()).unwrap();
        for (key, value) in patch.as_object().unwrap() {
            service["spec"][key] = value.clone();
        }
        refusal(&mk_service(service), &mk_canary(json!({})), &labels()).unwrap_or_default()
    }

    #[test]
    fn an_ordinary_service_is_accepted_plain_and_routed() {
        for service in [mk_plain(), mk_routed()] {
            assert_eq!(refusal(&service, &mk_canary(json!({})), &labels()), None);
            assert!(warnings(&service, &mk_canary(json!({}))).is_empty());
        }
    }

    #[test]
    fn each_refusal_names_the_field() {
        let table = [
            (json!({ "type": "ExternalName" }), "is of type ExternalName: "),
            (json!({ "clusterIP": "None" }), "is headless (clusterIP: None): "),
            (json!({ "selector": null }), "has no selector: "),
            (json!({ "publishNotReadyAddresses": true }), "has publishNotReadyAddresses: true"),
            (json!({ "externalTrafficPolicy": "Local" }), "has externalTrafficPolicy: Local"),
            (json!({ "internalTrafficPolicy": "Local" }), "has internalTrafficPolicy: Local"),
            (json!({ "ports": [{ "port": 80 }, { "port": 53, "protocol": "UDP" }] }), "has port 53/UDP: "),
            (json!({ "ports": [{ "port": 80 }, { "port": 54, "protocol": "SCTP" }] }), "has port 54/SCTP: "),
            (
                json!({ "ports": [{ "port": 81 }, { "port": 82 }] }),
                "has no port 80, which spec.service.port names; it has 81, 82",
            ),
            (
                json!({ "selector": { "app": "other" } }),
                "selects app=other, which the pods of Deployment web do not carry",
            ),
        ];
        for (patch, wanted) in table {
            let sentence = refused(patch);
            assert!(sentence.starts_with(&format!("Service web {wanted}")), "{sentence}");
        }
    }

    #[test]
    fn affinity_and_encryption_are_warned_of() {
        let mut service = mk_plain();
        let spec = service.spec.as_mut().unwrap();
        spec.session_affinity = Some("ClientIP".to_owned());
        spec.ports.as_mut().unwrap()[0].app_protocol = Some("https".to_owned());
        spec.ports.as_mut().unwrap()[1].app_protocol = Some("https".to_owned());
        let warnings = warnings(&service, &mk_canary(json!({})));
        assert_eq!(warnings.len(), 2, "{warnings:?}");
    }
}
