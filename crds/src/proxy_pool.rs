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
    /// What clients may take of each proxy. A change is in force at once, for new connections and new requests.
    #[serde(default)]
    pub limits: Limits,
    /// Access log of the proxies, JSON on their standard output; off if absent. A change rolls the proxies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
    /// Traces of the requests that pass the proxies; off if absent. A change rolls the proxies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,
}

/// What clients may take of one proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.maxConnectionsPerPort) || self.maxConnectionsPerPort <= self.maxConnections").message("limits.maxConnectionsPerPort cannot be more than maxConnections"))]
pub struct Limits {
    /// Connections from clients at a time; fewer if the proxy's open files allow no more.
    #[serde(default = "default_max_connections")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections: i32,
    /// Connections at a time to one port of a Service; only `maxConnections` counts if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections_per_port: Option<i32>,
    /// Bytes of a request's head; more are answered 431.
    #[serde(default = "default_max_header_bytes")]
    #[schemars(range(min = 8_192, max = 262_144))]
    pub max_header_bytes: i32,
    /// Header fields of a request; more are answered 431.
    #[serde(default = "default_max_headers")]
    #[schemars(range(min = 16, max = 256))]
    pub max_headers: i32,
    /// Streams that are open at a time on one HTTP/2 connection.
    #[serde(default = "default_max_streams")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_streams: i32,
}

impl Default for Limits {
    /// As the proxy's own.
    fn default() -> Self {
        Self {
            max_connections: default_max_connections(),
            max_connections_per_port: None,
            max_header_bytes: default_max_header_bytes(),
            max_headers: default_max_headers(),
            max_streams: default_max_streams(),
        }
    }
}

/// Which requests get a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("(self.mode == 'Sampled') == has(self.ratio)").message("ratio is for mode Sampled, which needs it"))]
pub struct AccessLog {
    /// Which requests are logged. In a manifest `"Off"` is quoted: YAML reads it as false otherwise.
    pub mode: AccessLogMode,
    /// Share of the requests, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub ratio: Option<f64>,
}

/// Which requests are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccessLogMode {
    /// None.
    Off,
    /// Those that failed or have a response flag.
    Errors,
    /// A share of all.
    Sampled,
}

/// Where spans go and how many.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tracing {
    /// Collector, OTLP over gRPC, such as `http://otel-collector.monitoring:4317`.
    #[schemars(length(max = 300), regex(pattern = r"^http://[^/\s]+$"))]
    pub endpoint: String,
    /// Share of the traces begun at the proxies that is sampled, 0 to 1; a caller's decision is kept.
    #[serde(default = "default_sampling_ratio")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub sampling_ratio: f64,
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

fn default_max_connections() -> i32 {
    20_000
}

fn default_max_header_bytes() -> i32 {
    32_768
}

fn default_max_headers() -> i32 {
    100
}

fn default_max_streams() -> i32 {
    250
}

fn default_sampling_ratio() -> f64 {
    0.01
}

fn default_replicas() -> i32 {
    2
}
