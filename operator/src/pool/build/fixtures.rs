//! Pools, settings and proxies for tests.

use super::*;

pub(crate) fn mk_pool(spec: serde_json::Value) -> ProxyPool {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "sluice.dev/v1beta1", "kind": "ProxyPool",
        "metadata": { "name": "default", "namespace": "shop", "uid": "p-1", "generation": 4 },
        "spec": spec
    }))
    .unwrap()
}

pub(crate) fn mk_settings() -> PoolSettings {
    PoolSettings {
        image: "sluice.dev/sluice-proxy:1".to_owned(),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        operator: "sluice-operator.sluice-system.svc:9443".to_owned(),
        ca_bundle: "PEM".to_owned(),
        scrape: true,
    }
}

/// The proxies as they are when all is well, but for `change`.
pub(crate) fn mk_seen(change: impl FnOnce(&mut serde_json::Value)) -> Deployment {
    let mut value = serde_json::to_value(build(&mk_pool(serde_json::json!({})), &mk_settings()).deployment).unwrap();
    value["metadata"]["generation"] = serde_json::json!(3);
    value["status"] = serde_json::json!({ "observedGeneration": 3, "updatedReplicas": 2, "availableReplicas": 2, "readyReplicas": 2 });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}
