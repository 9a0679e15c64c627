//! What a user may choose (`analysis.verdict`), and the constants of the method that nobody may.
//!
//! Every default comes from the simulations in `docs/verdict.md`; [`Config::validate`] is the only gate, past it every
//! number is in its range.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Whether the engine's findings act.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A rollback is a rollback, and a step waits for its evidence.
    #[default]
    Enforce,
    /// Findings are told, nothing waits for them.
    Warn,
    /// Nothing is counted.
    Off,
}

/// What happens when a policy's time is over and the evidence is still open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Go on to the next step.
    Advance,
    /// Keep the weight.
    Hold,
    /// Take the canary off, named as a policy and not as evidence.
    Rollback,
}

/// `analysis.verdict`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Config {
    /// Whether findings act.
    pub mode: Mode,
    /// Chance per release that a tolerable canary is rolled back by evidence; 0.000001 to 0.2.
    pub alpha: f64,
    /// Chance per step that a canary outside the tolerated range advances; 0.001 to 0.5.
    pub beta: f64,
    /// Share of requests that may fail; 0.00001 to 0.5.
    pub slo_error_rate: f64,
    /// Odds of failing, canary against stable, that are tolerated below the SLO; 1 to 20.
    pub error_odds: f64,
    /// How much slower than stable is tolerated, as a share; 0.01 to 5. Rounded up to bucket bounds.
    pub latency_margin: f64,
    /// Milliseconds of slowness that are always tolerated; 0 to 10,000.
    pub latency_margin_ms: f64,
    /// Shortest step, in seconds; 1 to 86,400.
    pub min_step_seconds: u32,
    /// Step length in seconds after which [`Config::weak_evidence`] applies; `min_step_seconds` to 86,400.
    pub max_step_seconds: u32,
    /// What a step does that lasted `max_step_seconds`, saw enough requests and no suspicion, but lacks its evidence.
    pub weak_evidence: Policy,
    /// Seconds of a standing suspicion (evidence of harm 5 or more, below 1/α) after which the canary is taken off.
    pub suspicion_deadline_seconds: u32,
    /// Seconds without any request after which [`Config::no_traffic`] applies; 1 to 86,400.
    pub no_traffic_seconds: u32,
    /// What a step without traffic does then.
    pub no_traffic: Policy,
    /// Seconds for which both arms may be above the SLO before the canary is taken off as a precaution; 0: for ever.
    pub shared_degradation_seconds: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Enforce,
            alpha: 0.01,
            beta: 0.05,
            slo_error_rate: 0.01,
            error_odds: 1.5,
            latency_margin: 0.09,
            latency_margin_ms: 5.0,
            min_step_seconds: 60,
            max_step_seconds: 300,
            weak_evidence: Policy::Advance,
            suspicion_deadline_seconds: 3_600,
            no_traffic_seconds: 1_800,
            no_traffic: Policy::Hold,
            shared_degradation_seconds: 600,
        }
    }
}

/// A field of [`Config`] that lies outside its range.
#[derive(Clone, Debug, PartialEq, Error)]
#[error("analysis.verdict.{field} must lie between {low} and {high}, not {seen}")]
pub struct ConfigError {
    /// The field, as users write it.
    pub field: &'static str,
    /// Lowest value allowed.
    pub low: f64,
    /// Highest value allowed.
    pub high: f64,
    /// What was given.
    pub seen: f64,
}

impl Config {
    /// Checks every range.
    ///
    /// # Errors
    /// The first field outside its range; not a number is outside every range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let day = 86_400.0;
        let fields = [
            ("alpha", self.alpha, 1e-6, 0.2),
            ("beta", self.beta, 0.001, 0.5),
            ("sloErrorRate", self.slo_error_rate, 1e-5, 0.5),
            ("errorOdds", self.error_odds, 1.0, 20.0),
            ("latencyMargin", self.latency_margin, 0.01, 5.0),
            ("latencyMarginMs", self.latency_margin_ms, 0.0, 10_000.0),
            ("minStepSeconds", f64::from(self.min_step_seconds), 1.0, day),
            ("maxStepSeconds", f64::from(self.max_step_seconds), f64::from(self.min_step_seconds), day),
            ("suspicionDeadlineSeconds", f64::from(self.suspicion_deadline_seconds), 1.0, 7.0 * day),
            ("noTrafficSeconds", f64::from(self.no_traffic_seconds), 1.0, day),
            ("sharedDegradationSeconds", f64::from(self.shared_degradation_seconds), 0.0, day),
        ];
        for (field, seen, low, high) in fields {
            if !(low..=high).contains(&seen) {
                return Err(ConfigError { field, low, high, seen });
            }
        }
        Ok(())
    }

    /// Evidence (nats) at which the canary is rolled back.
    pub(crate) fn bound(&self) -> f64 {
        -self.alpha.ln()
    }
}

/// Main strata close on multiples of this many seconds.
pub(crate) const STRATUM_S: u64 = 5;
/// Requests of both arms that close a main stratum.
pub(crate) const STRATUM_REQUESTS: u64 = 50;
/// A main stratum closes at this age whatever it holds.
pub(crate) const STRATUM_MAX_S: u64 = 60;
/// Requests of both arms that close a crash stratum.
pub(crate) const CRASH_REQUESTS: u64 = 20;
/// A crash stratum closes at this age whatever it holds.
pub(crate) const CRASH_MAX_S: u64 = 10;
/// Most evidence (nats) that one main stratum may add to a lane, up to [`LONG_STRATUM_S`]; twice that beyond. No single
/// slice of time can decide, two can.
pub(crate) const CAP: f64 = 3.5;
/// See [`CAP`].
pub(crate) const LONG_STRATUM_S: u64 = 15;
/// Seconds after the canary's first traffic, and after each new pod of it, whose latency is not judged.
pub(crate) const BURN_IN_S: u64 = 30;
/// Evidence of harm (as a ratio) from which on a step does not advance.
pub(crate) const SUSPICION: f64 = 5.0;
/// Canary requests in a step below which weak evidence never advances it.
pub(crate) const WEAK_REQUESTS: u64 = 50;
/// Evidence (as a ratio) from which on the split of the traffic itself is called wrong.
pub(crate) const SPLIT_FAULT: f64 = 1_000.0;
/// Share of the SLO below which errors are never judged: 0.01 % against 0.03 % is nobody's outage.
pub(crate) const FLOOR_OF_SLO: f64 = 0.2;
/// A new start epoch each so many seconds.
pub(crate) const EPOCH_S: u64 = 60;
/// Seconds of silence after which a proxy counts as silent.
pub(crate) const SILENT_S: u32 = 5;
