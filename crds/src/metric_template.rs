//! `MetricTemplate`: a Prometheus query with variables.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A Prometheus query with variables, for use in `Canary.spec.analysis.metrics[].templateRef`.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "sluice.dev",
    version = "v1beta1",
    kind = "MetricTemplate",
    namespaced,
    derive = "PartialEq",
    doc = "A Prometheus query with variables.",
    printcolumn(name = "Provider", type_ = "string", json_path = ".spec.provider.type"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MetricTemplateSpec {
    /// Where the query is sent.
    pub provider: MetricProvider,
    /// PromQL; `{{ namespace }}`, `{{ name }}`, `{{ target }}`, `{{ service }}`, `{{ revision }}`, `{{ interval }}`,
    /// `{{ variables.<key> }}` are replaced.
    #[schemars(length(min = 1, max = 8_192))]
    pub query: String,
}

/// Where a query is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MetricProvider {
    /// `prometheus`.
    #[serde(rename = "type")]
    pub kind: MetricProviderKind,
    /// URL of the server; the operator's `--metrics-server` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^https?://"), length(max = 2_048))]
    pub address: Option<String>,
}

/// Kinds of metric server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MetricProviderKind {
    /// Prometheus, or what speaks its HTTP API.
    Prometheus,
}
