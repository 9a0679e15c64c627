//! `analysis.verdict`: what a user may choose about the comparison of the two versions, and what the status says of it.
//!
//! Mirrors `rollout::verdict::Config`, which knows the defaults; ranges stand here for the API server to check.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the canary is compared with the stable version (docs/verdict.md). What is absent has its default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.minStepSeconds) || !has(self.maxStepSeconds) || self.minStepSeconds <= self.maxStepSeconds").message("verdict.minStepSeconds must be at most verdict.maxStepSeconds"))]
pub struct Verdict {
    /// `enforce` (default): rolls back, and a step waits for its evidence. `warn`: tells only. `"off"`, in quotes: counts nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<VerdictMode>,
    /// Chance per release that a tolerable canary is rolled back by evidence; 0.01.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.000001, max = 0.2))]
    pub alpha: Option<f64>,
    /// Chance per step that a canary outside the tolerated range goes on; 0.05.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.001, max = 0.5))]
    pub beta: Option<f64>,
    /// Share of requests that may fail; 0.01. It sets how many requests a step needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.00001, max = 0.5))]
    pub slo_error_rate: Option<f64>,
    /// Odds of failing, canary against stable, that are tolerated below the SLO; 1.5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1.0, max = 20.0))]
    pub error_odds: Option<f64>,
    /// How much slower than stable is tolerated, as a share; 0.09.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 5.0))]
    pub latency_margin: Option<f64>,
    /// Milliseconds of slowness that are always tolerated; 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 10_000.0))]
    pub latency_margin_ms: Option<f64>,
    /// Shortest step in seconds; the analysis interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    pub min_step_seconds: Option<i32>,
    /// Step length in seconds after which `weakEvidence` applies; 300, or the shortest step if that is longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    pub max_step_seconds: Option<i32>,
    /// What a step does then that saw enough requests and nothing suspicious; `advance`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weak_evidence: Option<VerdictPolicy>,
    /// Seconds of a standing suspicion after which the canary is taken off; 3600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 604_800))]
    pub suspicion_deadline_seconds: Option<i32>,
    /// Seconds without any request after which `noTraffic` applies; 1800.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86_400))]
    pub no_traffic_seconds: Option<i32>,
    /// What a step without traffic does then; `hold`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_traffic: Option<VerdictPolicy>,
    /// Seconds for which both versions may be above the SLO before the canary is taken off as a precaution; 600, 0: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86_400))]
    pub shared_degradation_seconds: Option<i32>,
}

/// Whether the verdict acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VerdictMode {
    /// It rolls back, and a step waits for its evidence.
    Enforce,
    /// It is told; nothing waits for it.
    Warn,
    /// Nothing is counted.
    Off,
}

/// What happens when time is over and the evidence is still open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VerdictPolicy {
    /// Go on to the next step.
    Advance,
    /// Keep the weight.
    Hold,
    /// Take the canary off.
    Rollback,
}

/// What the verdict says; as of the last write of the status, which is at most a minute old while a release runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerdictStatus {
    /// One word.
    pub reason: String,
    /// One sentence with the numbers.
    pub message: String,
    /// Share of the way to a rollback, such as `4%`.
    pub evidence: String,
    /// Canary requests of this step and how many it needs, such as `212/390`; empty before the first weight.
    #[serde(default)]
    pub needed: String,
    /// The questions that are asked of the canary.
    #[serde(default)]
    pub lanes: Vec<VerdictLane>,
    /// The evidence, for a restarted operator; not for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::canary::opaque")]
    pub journal: Option<serde_json::Value>,
}

/// One question that is asked of the canary.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerdictLane {
    /// `error-rate`, `slo-error`, `crash` or `latency`.
    pub name: String,
    /// Failed or slow requests of the canary among all, such as `18/355`.
    pub canary: String,
    /// The same of the stable version.
    pub stable: String,
    /// Share of the way to a rollback by this lane alone, such as `4%`.
    pub evidence: String,
    /// Tolerated odds of failing, or slowness, as a ratio to the stable version's, widened by how far its pods differ.
    pub margin: f64,
    /// By how much requests count as fewer because those on one pod fail together; 1: not at all.
    pub dispersion: f64,
}
