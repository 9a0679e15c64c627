//! The bounds of one step: from which latency on a request is slow, for each arm and quantile.
//!
//! Harm is looked for above stable's latencies, so that hardly any of them is slow; that the canary is fast is shown at a
//! bound that stable exceeds and a canary like it, half as slow again, does not. Where latencies are wide, both are the
//! bound nearest to the quantile; where they fill one bucket or two far ones, they are not the same.

use serde::{Deserialize, Serialize};

use super::advance::{SHOWN, SLOWNESS};
use super::buckets::{Buckets, Cut, Near, shares_from};
use super::config::Config;
use super::lanes::QUANTILES;
use super::margins::Margins;

/// Bounds near stable's quantiles when the release began; fixed for its whole length.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Thresholds {
    slow: [Near; QUANTILES.len()],
    fast: [Near; SHOWN.len()],
}

/// Of stable's requests above a bound, at most this part may lie above the pair's other one: else a canary like stable
/// could hardly be told from one that is slower.
const TELLS: f64 = 0.8;

impl Thresholds {
    /// From stable's latencies, as counts per bucket.
    pub(crate) fn new(counts: &[u64], config: &Config, buckets: &Buckets) -> Self {
        let shares = shares_from(counts);
        let share = |bound: u32| shares.get(bound as usize).copied().unwrap_or(0.0);
        let slow = QUANTILES.map(|q| {
            let rare = |bound: u32| share(bound) <= (2.0 * (1.0 - q)).min(1.0 - q / 2.0);
            buckets.near(&shares, 1.0 - q, true, rare).unwrap_or(Near::NOWHERE)
        });
        let fast = SHOWN.map(|i| {
            let q = QUANTILES[i];
            let tells = |bound: u32| {
                let cut = buckets.pair(bound, SLOWNESS, config.latency_margin_ms);
                share(bound) >= (1.0 - q) / 2.0
                    && (cut.canary as usize) < buckets.count()
                    && share(cut.canary) <= TELLS * share(bound)
            };
            buckets.near(&shares, 1.0 - q, false, tells).unwrap_or(Near::NOWHERE)
        });
        Self { slow, fast }
    }

    /// Whether numbers that came from outside can be used.
    fn is_sound(&self, buckets: &Buckets) -> bool {
        let within =
            |near: &Near| *near == Near::NOWHERE || (near.from <= near.to && (near.to as usize) < buckets.count());
        self.slow.iter().chain(&self.fast).all(within)
    }
}

/// Bounds at which latencies are compared; fixed for a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cuts {
    pub(crate) near: Thresholds,
    pub(crate) slow: [Cut; QUANTILES.len()],
    pub(crate) fast: [Cut; SHOWN.len()],
}

impl Cuts {
    pub(crate) fn new(near: Thresholds, margins: &Margins, config: &Config, buckets: &Buckets) -> Self {
        let least = config.latency_margin_ms;
        let slow = std::array::from_fn(|i| buckets.cut(near.slow[i], margins.latency[i], least));
        let fast = std::array::from_fn(|shown| {
            buckets.cut(near.fast[shown], margins.latency[SHOWN[shown]].max(SLOWNESS), least)
        });
        Self { near, slow, fast }
    }

    /// Whether numbers that came from outside can be used.
    pub(crate) fn is_sound(&self, buckets: &Buckets) -> bool {
        let width = buckets.count() as u32;
        let within = |cut: &Cut| cut.stable <= width && cut.canary <= width;
        self.near.is_sound(buckets) && self.slow.iter().chain(&self.fast).all(within)
    }
}
