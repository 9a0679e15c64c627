//! `spec.service`: what the proxies do for each request beyond the split. Names and meaning are Istio's and Flagger's.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is done about attempts that fail. The release is judged by first attempts: retries shield users, not the version.
///
/// A request is sent again only if its body was kept (64 KiB), and if its method is idempotent, unless the endpoint cannot
/// have seen it, the condition is a gRPC status, or `retryOn` has `non-idempotent`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retries {
    /// Retries of one request, the first attempt not counted; 0: none.
    #[schemars(range(min = 0, max = 10))]
    pub attempts: i32,
    /// Longest time from the end of a request to the head of its answer, for each attempt, such as `1s`. Absent: none but
    /// `service.timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9]+(ms|s|m)$"))]
    pub per_try_timeout: Option<String>,
    /// Conditions with commas: `5xx`, `gateway-error`, `connect-failure`, `refused-stream`, `reset`, `retriable-4xx`,
    /// `retriable-status-codes`, status codes, the gRPC statuses `cancelled`, `deadline-exceeded`, `internal`,
    /// `resource-exhausted`, `unavailable`, and `non-idempotent`. Absent: `connect-failure,refused-stream,unavailable,cancelled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(validation = Rule::new("self.split(',').all(c, c.trim().matches('^(5xx|gateway-error|connect-failure|refused-stream|reset|retriable-4xx|retriable-status-codes|cancelled|deadline-exceeded|internal|resource-exhausted|unavailable|non-idempotent|[1-5][0-9][0-9])$'))").message("retries.retryOn takes 5xx, gateway-error, connect-failure, refused-stream, reset, retriable-4xx, retriable-status-codes, status codes, cancelled, deadline-exceeded, internal, resource-exhausted, unavailable, non-idempotent"))]
    #[x_kube(validation = Rule::new("!self.contains('retriable-status-codes') || self.split(',').exists(c, c.trim().matches('^[1-5][0-9][0-9]$'))").message("retries.retryOn needs status codes beside retriable-status-codes"))]
    pub retry_on: Option<String>,
    /// What all retries of the route together may cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<RetryBudget>,
}

/// Bounds the retries of a route, in each proxy, over the last ten seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetryBudget {
    /// Retries per hundred requests; 20 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<i32>,
    /// Retries per second that are allowed whatever the requests were; 10 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000))]
    pub min_retries_per_second: Option<i32>,
}
