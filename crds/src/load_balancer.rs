//! `spec.service.trafficPolicy.loadBalancer`: which pod of a version serves a request. Istio's DestinationRule vocabulary, as
//! far as it works; the version is chosen before, by the weight.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which pod of a version serves a request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.simple) || has(self.consistentHash) || has(self.warmup) || has(self.localityLbSetting)").message("loadBalancer needs simple, consistentHash, warmup or localityLbSetting"))]
#[x_kube(validation = Rule::new("!has(self.simple) || !has(self.consistentHash)").message("loadBalancer takes either simple or consistentHash, not both"))]
#[x_kube(validation = Rule::new("!has(self.warmup) || !has(self.consistentHash)").message("loadBalancer.warmup does not go with consistentHash"))]
#[x_kube(validation = Rule::new("!has(self.localityLbSetting) || !has(self.consistentHash)").message("loadBalancer.localityLbSetting does not go with consistentHash"))]
pub struct LoadBalancer {
    /// By what a pod is chosen where requests are all alike; `PEAK_EWMA` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub simple: Option<SimpleBalancer>,
    /// Requests that are alike in this go to the same pod, as long as it is there. Those that do not say go by `PEAK_EWMA`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistent_hash: Option<ConsistentHash>,
    /// New pods get less than their share at first. Absent: all of it at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup: Option<Warmup>,
    /// Pods in the zone of the proxy first. Absent: zones do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locality_lb_setting: Option<LocalityLbSetting>,
}

/// Whether requests stay in their zone (`topology.kubernetes.io/zone`): as far as no pod gets more than 1.2 times its even
/// share by it, and, while two versions are compared, only if both can serve every zone by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LocalityLbSetting {
    /// False: zones do not count, as if it were absent.
    pub enabled: bool,
}

/// By what a pod is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SimpleBalancer {
    /// The better of two random pods, by peak-EWMA latency and requests under way.
    PeakEwma,
    /// The one of two random pods with fewer requests under way.
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
}

/// What requests are told apart by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("[has(self.httpHeaderName), has(self.httpCookie), has(self.useSourceIp)].filter(one, one).size() == 1").message("consistentHash takes one of httpHeaderName, httpCookie and useSourceIp"))]
pub struct ConsistentHash {
    /// Value of this request header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9-]+$"))]
    pub http_header_name: Option<String>,
    /// Value of this cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_cookie: Option<HashCookie>,
    /// The address that the connection comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self").message("consistentHash.useSourceIp can only be true: leave it out instead"))]
    pub use_source_ip: Option<bool>,
}

/// A cookie that is hashed, and, with a `ttl`, set where it is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HashCookie {
    /// Of the cookie; another one than that of `analysis.sessionAffinity`.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^_?[A-Za-z0-9.~-][A-Za-z0-9._~-]*$"))]
    pub name: String,
    /// Lifetime of the cookie that clients without get, up to a year (`525600m`); `0s`: until they close. Absent: they get
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 12), regex(pattern = r"^[0-9]+(s|m)$"))]
    #[x_kube(validation = Rule::new("duration(self) <= duration('8760h')").message("httpCookie.ttl must be at most a year"))]
    pub ttl: Option<String>,
    /// What the cookie is sent for; `/` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^/[!-:<-~]*$"))]
    pub path: Option<String>,
}

/// How a new pod comes to its share: at each age `(age / duration) ^ (1 / aggression)` of it, and never less than
/// `minimumPercent`. A pod is new to a proxy that has not known it for longer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Warmup {
    /// Age at which a pod has all of its share, `1s` to `60m`.
    #[schemars(length(max = 12), regex(pattern = r"^[0-9]+(s|m)$"))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('1h')").message("warmup.duration must lie between 1s and 60m"))]
    pub duration: String,
    /// Percent of its share that a pod begins with; 10 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub minimum_percent: Option<i32>,
    /// How much sooner than along a straight line the share rises; 1, the line, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1.0, max = 100.0))]
    pub aggression: Option<f64>,
}
