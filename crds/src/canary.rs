//! `Canary`: what a user asks for, and the journal of its releases.
//!
//! Names and meaning are Flagger's wherever Flagger has the concept. Only what works is in the schema; the API server
//! refuses the rest by name.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::audience::AudienceMatch;
use crate::names::TARGET_NAME_MAX;
use crate::rules::HttpRule;
use crate::traffic::Retries;
use crate::traffic_policy::TrafficPolicy;
use crate::verdict::{Verdict, VerdictStatus};

/// Progressive delivery for one Deployment behind one Service.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "sluice.dev",
    version = "v1beta1",
    kind = "Canary",
    plural = "canaries",
    shortname = "cn",
    category = "all",
    namespaced,
    status = "CanaryStatus",
    derive = "PartialEq",
    doc = "Progressive delivery for one Deployment behind one Service.",
    validation = Rule::new("self.metadata.name.size() <= 63").message("metadata.name must have at most 63 characters: it is the value of the label sluice.dev/canary on what is made for this Canary"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Weight", type_ = "integer", json_path = ".status.canaryWeight"),
    printcolumn(name = "Step", type_ = "string", json_path = ".status.step"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(name = "Since", type_ = "date", json_path = ".status.lastTransitionTime"),
    printcolumn(name = "Evidence", type_ = "string", json_path = ".status.verdict.evidence", priority = 1),
    printcolumn(name = "Needed", type_ = "string", json_path = ".status.verdict.needed", priority = 1),
    printcolumn(name = "Failed Checks", type_ = "integer", json_path = ".status.failedChecks", priority = 1),
    printcolumn(name = "Stable", type_ = "string", json_path = ".status.stableRevision", priority = 1),
    printcolumn(name = "Canary", type_ = "string", json_path = ".status.canaryRevision", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1)
)]
#[x_kube(validation = Rule::new("has(self.service.name) || self.targetRef.name.size() <= 63").message("service.name is needed: the target's name is too long to be a Service's, which has at most 63 characters"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.analysis) || !has(self.analysis.sessionAffinity) || !has(self.analysis.sessionAffinity.cookieName) || !has(self.service.trafficPolicy) || !has(self.service.trafficPolicy.loadBalancer) || !has(self.service.trafficPolicy.loadBalancer.consistentHash) || !has(self.service.trafficPolicy.loadBalancer.consistentHash.httpCookie) || self.service.trafficPolicy.loadBalancer.consistentHash.httpCookie.name != self.analysis.sessionAffinity.cookieName").message("consistentHash.httpCookie needs another cookie than sessionAffinity"))]
pub struct CanarySpec {
    /// The Deployment whose template changes are released step by step.
    #[x_kube(validation = Rule::new("self == oldSelf").message("targetRef cannot be changed: delete this Canary and create one for the other Deployment"))]
    pub target_ref: TargetRef,
    /// The Service whose traffic is split.
    pub service: CanaryService,
    /// How a release is judged. Without it: the default steps, judged by the built-in success rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub analysis: Option<Analysis>,
    /// Seconds that the canary's pods may take to become available before the release is rolled back.
    #[serde(default = "default_progress_deadline_seconds")]
    #[schemars(range(min = 1, max = 86_400))]
    pub progress_deadline_seconds: i32,
    /// Promote as soon as the canary's pods are available, without analysis.
    #[serde(default)]
    pub skip_analysis: bool,
    /// Stop deciding: weights stay as they are, template changes stay held.
    #[serde(default)]
    pub suspend: bool,
}

/// Names a Deployment in the Canary's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetRef {
    /// `apps/v1`.
    #[serde(default = "default_target_api_version")]
    #[x_kube(validation = Rule::new("self == 'apps/v1'").message("targetRef.apiVersion must be apps/v1"))]
    pub api_version: String,
    /// `Deployment`.
    #[x_kube(validation = Rule::new("self == 'Deployment'").message("targetRef.kind must be Deployment"))]
    pub kind: String,
    /// Name of the Deployment.
    #[schemars(length(min = 1, max = TARGET_NAME_MAX))]
    pub name: String,
}

/// The Service in front of the target, which the user keeps in Git.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CanaryService {
    /// Name of the Service; the target's name if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: Option<String>,
    /// The port of the Service whose traffic is split. Every other TCP port goes to the stable pods.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: i32,
    /// Longest time that a request may take, such as `15s`; 0s or absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9]+(ms|s|m)$"))]
    pub timeout: Option<String>,
    /// What is done with single requests; one that matches none of the rules is only forwarded. The most specific match
    /// counts, by the precedence of Gateway API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(validation = Rule::new("self.all(r, !has(r.name) || self.filter(s, has(s.name) && s.name == r.name).size() == 1)").message("two rules cannot have the same name"))]
    pub rules: Option<Vec<HttpRule>>,
    /// What is done about attempts that fail. Absent: none is made again, but where no connection could be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,
    /// How the proxies deal with the pods of both versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_policy: Option<TrafficPolicy>,
}

/// How a release is judged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!(has(self.stepWeights) && (has(self.stepWeight) || has(self.maxWeight)))").message("analysis takes either stepWeights, or stepWeight with maxWeight, not both"))]
#[x_kube(validation = Rule::new("!has(self.maxWeight) || has(self.stepWeight)").message("analysis.maxWeight needs analysis.stepWeight"))]
#[x_kube(validation = Rule::new("!has(self.stepWeight) || !has(self.maxWeight) || self.stepWeight <= self.maxWeight").message("analysis.stepWeight must be at most analysis.maxWeight"))]
#[x_kube(validation = Rule::new("!has(self.iterations) || has(self.match)").message("analysis.iterations needs analysis.match: together they are an A/B test"))]
#[x_kube(validation = Rule::new("!has(self.iterations) || !(has(self.stepWeights) || has(self.stepWeight) || has(self.maxWeight) || has(self.stepChecks))").message("analysis takes either iterations, or stepWeights, stepWeight and stepChecks, not both"))]
#[x_kube(validation = Rule::new("!has(self.mirrorWeight) || (has(self.mirror) && self.mirror)").message("analysis.mirrorWeight needs analysis.mirror: true"))]
pub struct Analysis {
    /// Time between two checks, `1s` to `1h`; a step lasts at least one.
    #[serde(default = "default_interval")]
    #[schemars(regex(pattern = r"^[0-9]+(s|m|h)$"))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('1h')").message("analysis.interval must lie between 1s and 1h"))]
    pub interval: String,
    /// Failed checks in one release that roll it back.
    #[serde(default = "default_threshold")]
    #[schemars(range(min = 1, max = 1_000))]
    pub threshold: i32,
    /// The weights to go through, strictly rising, each 1 to 100; promotion follows the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    #[x_kube(validation = Rule::new("self.all(w, w >= 1 && w <= 100)").message("analysis.stepWeights must each lie between 1 and 100"))]
    #[x_kube(validation = Rule::new("self.all(w, self.filter(v, v == w).size() == 1) && self.isSorted()").message("analysis.stepWeights must be strictly rising"))]
    pub step_weights: Option<Vec<i32>>,
    /// Weight added at each step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub step_weight: Option<i32>,
    /// Weight of the last step before promotion, with `stepWeight`; 100 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_weight: Option<i32>,
    /// Checks that must pass at each step before the next one; 1 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000))]
    pub step_checks: Option<i32>,
    /// Only requests that one of these holds for see the canary until it is promoted: with `iterations` all of them (A/B
    /// test), else the share that the weight says.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8))]
    pub audience: Option<Vec<AudienceMatch>>,
    /// A/B test, with `match` and instead of weights: checks that must pass before everybody sees the canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000))]
    pub iterations: Option<i32>,
    /// Before the first weight: copies of GET, HEAD, OPTIONS and TRACE requests go to the canary, nobody gets its answers,
    /// and `request-success-rate`, if it is among the metrics, is that of the copies.
    #[serde(default)]
    pub mirror: bool,
    /// Percent of those requests that are copied, with `mirror`; 100 if absent. The canary gets as many pods as that takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub mirror_weight: Option<i32>,
    /// Clients keep the version that they saw first, as long as the weight does not fall below them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_affinity: Option<SessionAffinity>,
    /// What is measured. Absent: `request-success-rate` of at least 99 %.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 20))]
    pub metrics: Option<Vec<Metric>>,
    /// How the canary is compared with the stable version on what the proxies saw, each second. Absent: enforced with the
    /// defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Who is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 10))]
    pub alerts: Option<Vec<Alert>>,
}

/// By what clients are told apart while a release runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.cookieName) != has(self.headerName)").message("sessionAffinity takes either cookieName or headerName"))]
#[x_kube(validation = Rule::new("!has(self.maxAge) || has(self.cookieName)").message("sessionAffinity.maxAge needs sessionAffinity.cookieName"))]
pub struct SessionAffinity {
    /// Cookie that the proxies set, with `Path=/; HttpOnly; SameSite=Lax`; one of its own for each Canary behind a host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^_?[A-Za-z0-9.~-][A-Za-z0-9._~-]*$"))]
    pub cookie_name: Option<String>,
    /// Seconds that the cookie is kept; 86400 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_536_000))]
    pub max_age: Option<i32>,
    /// Request header that names the user: its value is hashed. Requests without it are split as they come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z0-9-]+$"))]
    pub header_name: Option<String>,
}

/// One measured value and the range it must lie in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.templateRef) || self.name in ['request-success-rate', 'request-duration']").message("metrics[].name must be request-success-rate or request-duration, or templateRef must name a MetricTemplate"))]
#[x_kube(validation = Rule::new("has(self.templateRef) || !has(self.templateVariables)").message("metrics[].templateVariables needs metrics[].templateRef"))]
pub struct Metric {
    /// `request-success-rate` (percent), `request-duration` (milliseconds, 99th percentile), or any name with `templateRef`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Length of the query's window, such as `1m`. Absent: the longest of the analysis interval, four scrape intervals and 10 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9]+(s|m|h)$"))]
    pub interval: Option<String>,
    /// The range in which the value passes, bounds included.
    pub threshold_range: ThresholdRange,
    /// The MetricTemplate that holds the query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_ref: Option<TemplateRef>,
    /// Values for `{{ variables.<key> }}` in the template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_variables: Option<BTreeMap<String, String>>,
}

/// Bounds, each included; at least one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("has(self.min) || has(self.max)").message("thresholdRange needs min, max or both"))]
#[x_kube(validation = Rule::new("!has(self.min) || !has(self.max) || self.min <= self.max").message("thresholdRange.min must be at most thresholdRange.max"))]
pub struct ThresholdRange {
    /// Lowest value that passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// Highest value that passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}

/// Names a MetricTemplate in the Canary's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TemplateRef {
    /// Name of the MetricTemplate.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Who is told about the release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Alert {
    /// For the reader; shown in the status when it cannot be delivered.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Lowest severity that is sent.
    #[serde(default)]
    pub severity: Severity,
    /// The AlertProvider, in the Canary's namespace.
    pub provider_ref: ProviderRef,
}

/// Severity of an alert, in rising order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Begins, steps, promotions.
    #[default]
    Info,
    /// Holds: something is missing, people may want to look.
    Warn,
    /// Rollbacks.
    Error,
}

/// Names an AlertProvider in the Canary's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProviderRef {
    /// Name of the AlertProvider.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The phases, Flagger's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Being set up: pool, routes, hold.
    #[default]
    Initializing,
    /// Set up; nothing has been released yet.
    Initialized,
    /// A new template is held; its release waits (target paused by Git, Canary suspended, stable pods not ready).
    Waiting,
    /// The canary takes traffic, step by step.
    Progressing,
    /// All steps passed; waits for a person's `promote`.
    WaitingPromotion,
    /// The canary serves everything and is being handed over to the Deployment.
    Promoting,
    /// The Deployment owns the judged pods; the old ones are going.
    Finalising,
    /// The last release was promoted.
    Succeeded,
    /// The last release was rolled back; the target stays held until Git changes.
    Failed,
    /// The Canary is being deleted.
    Terminating,
}

/// The journal: written by the operator only, by compare-and-swap.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CanaryStatus {
    /// Generation of the spec that this status speaks of; −1 until the first look.
    #[serde(default = "unobserved")]
    #[schemars(default = "unobserved")]
    pub observed_generation: i64,
    /// Where the release stands.
    #[serde(default)]
    pub phase: Phase,
    /// The canary's share of the traffic in percent, as written to the proxies.
    #[serde(default)]
    pub canary_weight: i32,
    /// For people: `2/4` is the second of four steps; empty when no release runs.
    #[serde(default)]
    pub step: String,
    /// One word: why the Canary stands where it stands.
    #[serde(default)]
    pub reason: String,
    /// One sentence: why the Canary stands where it stands.
    #[serde(default)]
    pub message: String,
    /// Failed checks of this release.
    #[serde(default)]
    pub failed_checks: i32,
    /// When the phase last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<DateTime<Utc>>,
    /// Rises with each write of phase, step or weight, never falls; proxies refuse a route with a lower one.
    #[serde(default)]
    pub counter: i64,
    /// Pod-template hash of the pods that serve as stable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable_revision: Option<String>,
    /// Pod-template hash of the pods under test; of the last ones tested after a release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_revision: Option<String>,
    /// What else the state machine needs to carry on after a restart; not for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "opaque")]
    pub journal: Option<serde_json::Value>,
    /// What the verdict says of the release, or said of the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<VerdictStatus>,
    /// `Ready`, `Reconciling`, `Stalled`, `Promoted`.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

pub(crate) fn opaque(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

fn default_progress_deadline_seconds() -> i32 {
    600
}

fn default_target_api_version() -> String {
    "apps/v1".to_owned()
}

/// `analysis.interval` where it is absent.
#[must_use]
pub fn default_interval() -> String {
    "10s".to_owned()
}

/// `analysis.sessionAffinity.maxAge` where it is absent: Flagger's.
pub const DEFAULT_MAX_AGE_SECONDS: u32 = 86_400;

/// `analysis.threshold` where it is absent.
#[must_use]
pub fn default_threshold() -> i32 {
    5
}

fn unobserved() -> i64 {
    -1
}
