//! The evidence that a step needs before the next one: that the canary is *not* worse than tolerated.
//!
//! Its e-processes begin anew at each weight, at level β; absence of alarms is never enough. Besides, the check that
//! traffic is split as it should be.

use serde::{Deserialize, Serialize};

use super::config::Config;
use super::engine::Circumstances;
use super::evidence::add;
use super::kernel::{self, Table, mixture};
use super::lanes::{LATENCY_GRID, LATENCY_RATIOS};

/// Odds ratio that the canary must be shown to stay below, if it is not shown to be within the SLO.
const ODDS: f64 = 2.0;
/// Slowness that the canary must be shown to stay below, as a ratio.
pub(crate) const SLOWNESS: f64 = 1.5;
/// The quantiles at which that is shown, as indices into `QUANTILES`: p50 and p95.
pub(crate) const SHOWN: [usize; 2] = [0, 3];

/// One step: what was seen at this weight.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Step {
    /// Seconds at this weight.
    pub(crate) seconds: u64,
    /// Requests and errors of both arms in closed strata.
    pub(crate) seen: Table,
    within_slo: f64,
    within_odds: f64,
    fast: [[f64; LATENCY_GRID]; SHOWN.len()],
    /// Requests begun, for the check of the split.
    started: [u64; 2],
}

impl Step {
    /// A main stratum's errors; `expected` is stable's failure rate as it was known before the stratum.
    pub(crate) fn add_errors(&mut self, table: Table, config: &Config, expected: f64, dispersion: f64) {
        let slo = config.slo_error_rate;
        let good = expected.clamp(slo / 100.0, slo / 2.0);
        self.within_slo += kernel::one_sample(table.canary_n, table.canary_k, slo, good) / dispersion;
        self.within_odds += kernel::exact(table, ODDS, 1.0) / dispersion;
        self.seen.add(table);
    }

    /// A main stratum's latencies: stable above `u`, the canary above 1.5 u.
    pub(crate) fn add_latency(&mut self, tables: &[Table; SHOWN.len()], dispersion: [f64; SHOWN.len()]) {
        for ((logs, table), dispersion) in self.fast.iter_mut().zip(tables).zip(dispersion) {
            let mut step = [0.0; LATENCY_GRID];
            // Roles exchanged: evidence that *stable* is slow at `u` more often than the canary at 1.5 u.
            kernel::exact_grid(table.swapped(), 1.0, &LATENCY_RATIOS, &mut step);
            step.iter_mut().for_each(|log| *log /= dispersion);
            add(logs, &step, f64::INFINITY);
        }
    }

    /// Requests begun at this weight; evidence (nats) that they are not split by it. The canary has at most that share of
    /// everybody where it has that share of an audience: how many are of it, nobody counts.
    pub(crate) fn split_fault(&mut self, stable: u64, canary: u64, now: Circumstances) -> f64 {
        let Circumstances { weight_percent, audience, elapsed_s: _, canary_pods: _ } = now;
        self.started[0] = self.started[0].saturating_add(stable);
        self.started[1] = self.started[1].saturating_add(canary);
        if weight_percent == 0 || weight_percent >= 100 {
            return 0.0;
        }
        let (share, [stable, canary]) = (f64::from(weight_percent) / 100.0, self.started);
        if audience && canary as f64 <= share * (stable as f64 + canary as f64) {
            return 0.0;
        }
        kernel::sample_ratio(canary, stable, share)
    }

    /// Requests begun by stable and by the canary at this weight.
    pub(crate) const fn started(&self) -> [u64; 2] {
        self.started
    }

    /// Evidence (nats) that the canary's errors are tolerable; alone, where no stable arm is left to compare with.
    pub(crate) fn errors_fine(&self, alone: bool) -> f64 {
        if alone { self.within_slo } else { mixture(&[self.within_slo, self.within_odds]) }
    }

    /// Evidence (nats) that the canary is fast enough at both quantiles.
    pub(crate) fn latency_fine(&self) -> f64 {
        self.fast.iter().map(|logs| mixture(logs)).fold(f64::INFINITY, f64::min)
    }

    /// Canary requests that a step needs in all, if the canary fails as stable does.
    pub(crate) fn requests_needed(config: &Config, expected: f64, alone: bool) -> u64 {
        let slo = config.slo_error_rate;
        let p = expected.clamp(slo / 100.0, slo / 2.0);
        let per_request = p * (p / slo).ln() + (1.0 - p) * ((1.0 - p) / (1.0 - slo)).ln();
        let mean_of_two = if alone { 0.0 } else { std::f64::consts::LN_2 };
        ((mean_of_two - config.beta.ln()) / per_request).ceil() as u64
    }

    /// Canary requests that are missing, from the evidence that is there.
    pub(crate) fn requests_missing(&self, config: &Config, expected: f64, alone: bool) -> u64 {
        let needed = Self::requests_needed(config, expected, alone) as f64;
        let full = -config.beta.ln();
        let missing = (full - self.errors_fine(alone)).clamp(0.0, full);
        (needed * missing / full).ceil() as u64
    }

    /// Whether numbers that came from outside can be used.
    pub(crate) fn is_sound(&self) -> bool {
        let Self { seconds: _, seen, within_slo, within_odds, fast, started: _ } = self;
        seen.canary_k <= seen.canary_n
            && seen.stable_k <= seen.stable_n
            && fast.iter().flatten().chain([within_slo, within_odds]).all(|log| log.is_finite() && *log < 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clean_canary_needs_as_many_requests_as_computed() {
        let config = Config::default();
        let near = |p: f64, wanted: f64| {
            let needed = Step::requests_needed(&config, p, false) as f64;
            assert!((needed / wanted - 1.0).abs() < 0.05, "{p}: {needed}");
        };
        near(0.0001, 390.0);
        near(0.001, 550.0);
        near(0.002, 770.0);
        let strict = Config { slo_error_rate: 0.001, ..config };
        assert!((3_700..4_100).contains(&Step::requests_needed(&strict, 0.00001, false)));
    }

    #[test]
    fn a_canary_that_gets_nothing_is_noticed_after_160_requests() {
        let mut step = Step::default();
        let now = Circumstances { elapsed_s: 1, weight_percent: 10, audience: false, canary_pods: 1 };
        assert!(step.split_fault(140, 0, now) < 1000_f64.ln());
        assert!(step.split_fault(25, 0, now) > 1000_f64.ln());
    }

    #[test]
    fn a_share_of_an_audience_is_at_most_that_share_of_everybody() {
        let now = Circumstances { elapsed_s: 1, weight_percent: 10, audience: true, canary_pods: 1 };
        let mut few = Step::default();
        assert!(few.split_fault(10_000, 3, now) == 0.0);
        let mut many = Step::default();
        assert!(many.split_fault(1_000, 300, now) > 1000_f64.ln());
    }
}
