//! Services and Canaries for the tests of those who read or write them.

use super::*;

pub(crate) fn mk_service(yaml: serde_json::Value) -> Service {
    serde_json::from_value(yaml).unwrap()
}

/// Service `web` as the user keeps it.
pub(crate) fn mk_plain() -> Service {
    mk_service(serde_json::json!({
        "metadata": { "name": "web", "namespace": "shop" },
        "spec": { "clusterIP": "198.19.0.1", "selector": { "app": "web" }, "ports": [
            { "name": "http", "port": 80, "protocol": "TCP", "targetPort": "http" },
            { "name": "admin", "port": 9000, "protocol": "TCP", "targetPort": 9000 }
        ] }
    }))
}

/// Service `web` as the route policy leaves it.
pub(crate) fn mk_routed() -> Service {
    mk_service(serde_json::json!({
        "metadata": { "name": "web", "namespace": "shop", "annotations": {
            "sluice.dev/selector": "app=web",
            "sluice.dev/target-ports": "80/TCP=http,9000/TCP=9000"
        } },
        "spec": { "clusterIP": "198.19.0.1", "selector": { "sluice.dev/pool": "default" }, "ports": [
            { "name": "http", "port": 80, "protocol": "TCP", "targetPort": 15000 },
            { "name": "admin", "port": 9000, "protocol": "TCP", "targetPort": 15001 }
        ] }
    }))
}

pub(crate) fn mk_canary(status: serde_json::Value) -> Canary {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "sluice.dev/v1beta1", "kind": "Canary",
        "metadata": { "name": "web", "namespace": "shop", "uid": "u-1" },
        "spec": { "targetRef": { "kind": "Deployment", "name": "web" }, "service": { "port": 80 } },
        "status": status
    }))
    .unwrap()
}
