//! What the engine says: a decision, its reason, and the numbers behind it.

use serde::{Deserialize, Serialize};

use super::config::Mode;
use super::lanes::{LANES, Lane};
use super::words::{self, Counted, Facts};

/// What is to happen with the canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Decision {
    /// Take it off; stands until the release ends.
    Rollback(Cause),
    /// This step has what it needs.
    Advance(Advance),
    /// Keep the weight.
    Wait(Wait),
}

/// Why a canary is taken off. All but the first two are policies, outside the bound α.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Cause {
    /// The evidence of harm reached 1/α, mostly in this lane.
    Evidence(Lane),
    /// At full weight: too many errors by itself, at a tenth of α.
    Alone,
    /// Suspicious for longer than `suspicionDeadlineSeconds`.
    SuspicionDeadline,
    /// Both arms above the SLO for longer than `sharedDegradationSeconds`.
    SharedDegradation,
    /// `noTraffic: rollback`.
    NoTraffic,
    /// `weakEvidence: rollback`.
    WeakEvidence,
}

/// Why a step may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Advance {
    /// Shown to be no worse than tolerated.
    NonInferior,
    /// Not shown within `maxStepSeconds`, but nothing is suspicious: `weakEvidence: advance`.
    WeakEvidence,
    /// `noTraffic: advance`.
    NoTraffic,
}

/// Why a step goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Wait {
    /// The verdict is off.
    Off,
    /// No release, or weight 0.
    Idle,
    /// Too few requests so far.
    CollectingData,
    /// Evidence of harm of 5 or more.
    Suspicious,
    /// Both arms above the SLO.
    SharedDegradation,
    /// Stable above the SLO by itself.
    StableDegraded,
    /// No request for a while.
    NoTraffic,
    /// The canary has no ready pod.
    NoEndpoints,
    /// The arms' shares of traffic are not those of the weight.
    TrafficSplitMismatch,
    /// Proxies do not report.
    MetricsUnavailable,
    /// Proxies report under an older config only.
    StaleConfig,
    /// A proxy's counters fell or contradict each other.
    BrokenCounters,
    /// The operator's clock jumped.
    ClockJumped,
    /// Canary requests begin and do not end.
    Hanging,
}

impl Decision {
    /// The reason for conditions, Events and columns.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Rollback(cause) => match cause {
                Cause::Evidence(Lane::ErrorRate | Lane::SloError) => "ErrorRateWorse",
                Cause::Evidence(Lane::Crash) => "Crash",
                Cause::Evidence(Lane::Latency) => "LatencyWorse",
                Cause::Alone => "ErrorRateAboveSlo",
                Cause::SuspicionDeadline => "SuspicionDeadline",
                Cause::SharedDegradation => "SharedDegradationDeadline",
                Cause::NoTraffic => "NoTrafficDeadline",
                Cause::WeakEvidence => "WeakEvidenceDeadline",
            },
            Self::Advance(advance) => match advance {
                Advance::NonInferior => "NonInferior",
                Advance::WeakEvidence => "WeakEvidence",
                Advance::NoTraffic => "NoTraffic",
            },
            Self::Wait(wait) => match wait {
                Wait::Off => "Off",
                Wait::Idle => "Idle",
                Wait::CollectingData => "CollectingData",
                Wait::Suspicious => "Suspicious",
                Wait::SharedDegradation => "SharedDegradation",
                Wait::StableDegraded => "StableDegraded",
                Wait::NoTraffic => "NoTraffic",
                Wait::NoEndpoints => "NoEndpoints",
                Wait::TrafficSplitMismatch => "TrafficSplitMismatch",
                Wait::MetricsUnavailable => "MetricsUnavailable",
                Wait::StaleConfig => "StaleConfig",
                Wait::BrokenCounters => "BrokenCounters",
                Wait::ClockJumped => "ClockJumped",
                Wait::Hanging => "CanaryHanging",
            },
        }
    }
}

/// One lane, for the status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LaneReport {
    /// Name as in [`Lane::name`].
    pub name: String,
    /// Failed or slow requests of the canary.
    pub canary: Counted,
    /// The same of stable.
    pub stable: Counted,
    /// Decimal logarithm of the evidence.
    pub evidence_log10: f64,
    /// Share of the way to a rollback by this lane alone, 0 to 100.
    pub share_percent: u8,
    /// By how much requests count as fewer because those on one pod fail together; 1 or more.
    pub dispersion: f64,
    /// Tolerated odds ratio (errors) or slowness (latency), as a ratio.
    pub margin: f64,
}

impl LaneReport {
    /// Nothing was seen yet.
    #[must_use]
    pub fn nothing(lane: Lane) -> Self {
        Self {
            name: lane.name().to_owned(),
            canary: Counted::default(),
            stable: Counted::default(),
            evidence_log10: 0.0,
            share_percent: 0,
            dispersion: 1.0,
            margin: 1.0,
        }
    }
}

/// What the engine says after a second.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// What is to happen.
    pub decision: Decision,
    /// Whether it is to be acted upon.
    pub mode: Mode,
    /// The numbers behind it.
    pub facts: Facts,
    /// Status per lane.
    pub lanes: [LaneReport; LANES],
}

impl Verdict {
    /// Whether the decision is to be acted upon, and not only told.
    #[must_use]
    pub const fn enforced(&self) -> bool {
        matches!(self.mode, Mode::Enforce)
    }

    /// The reason for conditions, Events and columns.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        self.decision.reason()
    }

    /// The line that people read.
    #[must_use]
    pub fn sentence(&self) -> String {
        words::sentence(self.decision, &self.facts, None)
    }

    /// The same, naming the next weight.
    #[must_use]
    pub fn sentence_towards(&self, weight_percent: u8) -> String {
        words::sentence(self.decision, &self.facts, Some(weight_percent))
    }

    /// Share of the way to a rollback, 0 to 100: the column EVIDENCE.
    #[must_use]
    pub const fn evidence_percent(&self) -> u8 {
        self.facts.evidence_percent
    }

    /// Canary requests of this step and how many it needs: the column NEEDED. `None` without a release.
    #[must_use]
    pub const fn needed(&self) -> Option<(u64, u64)> {
        if self.facts.needed.1 == 0 { None } else { Some(self.facts.needed) }
    }

    /// Status per lane.
    #[must_use]
    pub const fn lanes(&self) -> &[LaneReport; LANES] {
        &self.lanes
    }
}
