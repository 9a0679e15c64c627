//! `spec.service.trafficPolicy`: how the proxies deal with the pods of both versions. Istio's DestinationRule vocabulary, as
//! far as it works; each version is what Istio calls a destination, and a limit holds for each proxy by itself.
//!
//! What Istio takes for "not set", a zero, is refused here: leave the field out.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::load_balancer::LoadBalancer;

/// How the proxies deal with the pods of both versions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficPolicy {
    /// Connections to the pods: how they are made, kept and limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_pool: Option<ConnectionPool>,
    /// Which pod of a version serves a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    /// Pods that fail one request after the other are left out for a while. Absent: none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetection>,
}

/// Pods that fail one request after the other are left out for a while, within their version: no request changes to the other
/// one by this, and what counted against a version stays counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OutlierDetection {
    /// Answers of 500 to 599, or none, in a row, that eject a pod; 0: not looked at. 5 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "consecutive5xxErrors")]
    #[schemars(range(min = 0, max = 10_000))]
    pub consecutive_5xx_errors: Option<i32>,
    /// Answers of 502, 503 or 504, or none, in a row, that eject a pod; 0 or absent: not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000))]
    pub consecutive_gateway_errors: Option<i32>,
    /// Time of service that forgives a pod one of its ejections, `1ms` to `60m`; 10s if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 12), regex(pattern = r"^[0-9]+(ms|s|m)$"))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1ms') && duration(self) <= duration('1h')").message("outlierDetection.interval must lie between 1ms and 60m"))]
    pub interval: Option<String>,
    /// How long a pod is left out the first time, `1ms` to `60m`; 30s if absent. The second time in a row it is twice as
    /// long, and so on up to five minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 12), regex(pattern = r"^[0-9]+(ms|s|m)$"))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1ms') && duration(self) <= duration('1h')").message("outlierDetection.baseEjectionTime must lie between 1ms and 60m"))]
    pub base_ejection_time: Option<String>,
    /// Share of a version's pods that may be left out at a time, never exceeded; 50 if absent. The last one stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub max_ejection_percent: Option<i32>,
}

/// Connections to the pods: how they are made, kept and limited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConnectionPool {
    /// Of whatever is spoken over them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpPool>,
    /// Of those that carry requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpPool>,
}

/// Connections, whatever is spoken over them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpPool {
    /// Connections of HTTP/1.1 and TCP to a version that each proxy may have at a time, idle ones included; any number if
    /// absent. HTTP/2 connections are few: limit their requests by `http.http2MaxRequests`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections: Option<i32>,
    /// Time in which a pod must take a connection, `1ms` to `1m`; 1s if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 12), regex(pattern = r"^[0-9]+(ms|s|m)$"))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1ms') && duration(self) <= duration('1m')").message("tcp.connectTimeout must lie between 1ms and 1m"))]
    pub connect_timeout: Option<String>,
    /// How soon the kernel notices that a pod's machine is gone without a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_keepalive: Option<TcpKeepalive>,
}

/// Probes on silent connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpKeepalive {
    /// Silence before the first probe, `1s` to `120m`; 60s if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 12), regex(pattern = r"^[0-9]+(s|m)$"))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('2h')").message("tcpKeepalive.time must lie between 1s and 120m"))]
    pub time: Option<String>,
    /// Time between two probes, `1s` to `120m`; 10s if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 12), regex(pattern = r"^[0-9]+(s|m)$"))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('2h')").message("tcpKeepalive.interval must lie between 1s and 120m"))]
    pub interval: Option<String>,
    /// Probes without an answer that end the connection; 3 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 127))]
    pub probes: Option<i32>,
}

/// Connections that carry requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpPool {
    /// Requests of each proxy that may wait for one of `tcp.maxConnections`, for `tcp.connectTimeout` at most; 1024 if
    /// absent. Others are answered 503.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "http1MaxPendingRequests")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub http1_max_pending_requests: Option<i32>,
    /// Requests under way to a version, of each proxy, HTTP/1.1 ones included as in Istio; any number if absent. Others are
    /// answered 503 at once.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "http2MaxRequests")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub http2_max_requests: Option<i32>,
    /// Requests over one connection, after which it is closed; 1: none is kept. Any number if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub max_requests_per_connection: Option<i32>,
    /// Time without a request after which a connection is closed, `1s` to `60m`. Absent: 4s for HTTP/1.1, and HTTP/2
    /// connections stay. Keep it below the time after which the pods close theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 12), regex(pattern = r"^[0-9]+(s|m)$"))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('1h')").message("http.idleTimeout must lie between 1s and 60m"))]
    pub idle_timeout: Option<String>,
}
