//! `ProxyPool`: size and resources of the proxies of a namespace.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The proxies of a namespace. The operator creates `default` with the namespace's first Canary.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "sluice.dev",
    version = "v1beta1",
    kind = "ProxyPool",
    namespaced,
    status = "ProxyPoolStatus",
    derive = "PartialEq",
    doc = "The proxies of a namespace.",
    validation = Rule::new("self.metadata.name == 'default'").message("a namespace has one ProxyPool, and its name is default"),
    printcolumn(name = "Desired", type_ = "integer", json_path = ".spec.replicas"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "Routes", type_ = "integer", json_path = ".status.routes"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxyPoolSpec {
    /// Number of proxies; fewer than two cannot be rolled without a gap.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 1, max = 100))]
    pub replicas: i32,
    /// Worker threads of each proxy; one per core of its CPU limit (or of the node) if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 128))]
    pub workers: Option<i32>,
    /// Requests and limits of each proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Log filter of the proxies, such as `info` or `dataplane=debug`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    pub log_level: Option<String>,
}

/// The admission table, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProxyPoolStatus {
    /// Generation that this status speaks of.
    #[serde(default)]
    pub observed_generation: i64,
    /// Proxies that are ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Ports that are routed.
    #[serde(default)]
    pub routes: i32,
    /// `<service>:<port>/<protocol>` and the listening port that serves it.
    #[serde(default)]
    pub ports: BTreeMap<String, i32>,
}

fn default_replicas() -> i32 {
    2
}
