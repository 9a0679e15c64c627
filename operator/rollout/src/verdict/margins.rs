//! How much worse than stable a canary may be: the configured margins, widened by how much stable's own pods differ.
//!
//! A canary pod on a slower node is not a slower version. Tempering cannot help there, because a standing difference
//! grows with every request; a wider margin can.

use serde::{Deserialize, Serialize};

use super::config::Config;
use super::lanes::QUANTILES;
use super::scatter::explained;

/// Quantiles of which the differences between pods are followed; the first stands for p50 and p75, the second for the
/// higher ones.
pub(crate) const FOLLOWED: [f64; 2] = [0.50, 0.95];
/// Tolerated odds of the SLO lane: above the SLO, less relative damage suffices.
const SLO_ODDS: f64 = 1.25;
/// No margin is widened beyond these factors: pods that differ more must be looked at, not tolerated.
const WIDEST_LATENCY: f64 = 2.0;
const WIDEST_ODDS: f64 = 5.0;

/// Standard deviations between stable's pods, beyond chance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spread {
    /// Pods that this rests on; below 2 nothing can be said.
    pub(crate) pods: u32,
    /// Of the log-odds of failing.
    pub(crate) odds: f64,
    /// Of the logarithms of the followed quantiles.
    pub(crate) latency: [f64; FOLLOWED.len()],
}

/// The margins in force at one step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Margins {
    /// Tolerated odds ratio of the error lane.
    pub(crate) error_odds: f64,
    /// Tolerated odds ratio of the SLO lane.
    pub(crate) slo_odds: f64,
    /// Tolerated slowness per quantile, as a ratio above 1.
    pub(crate) latency: [f64; QUANTILES.len()],
}

impl Margins {
    /// The margins for a canary of `canary_pods`.
    pub(crate) fn new(config: &Config, spread: &Spread, canary_pods: u32) -> Self {
        let widened =
            |deviation, widest: f64| explained(deviation, canary_pods, spread.pods as usize).exp().min(widest);
        let odds = widened(spread.odds, WIDEST_ODDS);
        let slowness = spread.latency.map(|deviation| widened(deviation, WIDEST_LATENCY));
        let configured = 1.0 + config.latency_margin;
        Self {
            error_odds: config.error_odds.max(odds),
            slo_odds: SLO_ODDS.min(config.error_odds).max(odds),
            latency: std::array::from_fn(|quantile| configured.max(slowness[usize::from(quantile >= 2)])),
        }
    }
}
