//! Zones of the pool's proxies, by a label that the API server copies from the node to each pod when it is bound
//! (`PodTopologyLabels`, KEP-4742: on by default since Kubernetes 1.35). The operator needs no access to nodes, and a proxy
//! reads the same label of its own pod. Pure.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

/// The well-known label.
pub const LABEL: &str = "topology.kubernetes.io/zone";

/// How many of `proxies` are in which zone; those of which it is not known are in zone "".
#[must_use]
pub fn of(proxies: &[Arc<Pod>]) -> BTreeMap<String, u32> {
    let mut zones = BTreeMap::new();
    for proxy in proxies {
        *zones.entry(proxy.labels().get(LABEL).cloned().unwrap_or_default()).or_default() += 1;
    }
    zones
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn proxies_are_counted_by_zone_and_those_without_apart() {
        let pod = |labels| Arc::new(serde_json::from_value(json!({ "metadata": { "labels": labels } })).unwrap());
        let pods = [pod(json!({ LABEL: "a" })), pod(json!({ LABEL: "b" })), pod(json!({ LABEL: "a" })), pod(json!({}))];
        let wanted = [("", 1), ("a", 2), ("b", 1)].map(|(zone, count)| (zone.to_owned(), count));
        assert_eq!(of(&pods), BTreeMap::from(wanted));
    }
}
