//! One release on trial: seconds become strata, strata become evidence.
//!
//! Two clocks run: the main stratum (errors, latency, advancing) and the crash stratum (seconds). Both close on totals of
//! requests, never on how many failed: `strata`. What a second means for the release is decided in `engine`, and what is left
//! of a trial after a restart in `restart`.

mod restart;
mod strata;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::advance::{SHOWN, Step};
use super::alone::Alone;
use super::buckets::Buckets;
use super::config::{
    BURN_IN_S, CAP, CRASH_MAX_S, CRASH_REQUESTS, Config, EPOCH_S, STRATUM_MAX_S, STRATUM_REQUESTS, STRATUM_S,
};
use super::counters::Delta;
use super::cuts::{Cuts, Thresholds};
use super::engine::Circumstances;
use super::evidence::{Evidence, add};
use super::history::History;
use super::kernel::{self, Table, mixture};
use super::lanes::{ERROR_RATIOS, LANES, Lane, QUANTILES};
use super::margins::{Margins, Spread};

/// The two versions of a release, as pod-template hashes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Release {
    /// The version that serves users.
    pub stable: String,
    /// The version that is judged.
    pub canary: String,
}

/// Closed strata that are kept to say how much worse a canary is at least.
const KEPT_STRATA: usize = 720;

/// The open main stratum.
#[derive(Clone, Copy, Debug, Default)]
struct Open {
    since: u64,
    errors: Table,
    client_errors: Table,
    slow: [Table; QUANTILES.len()],
    fast: [Table; SHOWN.len()],
}

/// A release on trial. What is skipped by serde is begun anew after a restart of the operator.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Trial {
    pub(crate) release: Release,
    /// Seconds since the release began.
    pub(crate) second: u64,
    pub(crate) weight_percent: u8,
    #[serde(default)]
    pub(crate) audience: bool,
    pub(crate) canary_pods: u32,
    pub(crate) step: Step,
    pub(crate) evidence: Evidence,
    spread: Spread,
    pub(crate) margins: Margins,
    pub(crate) cuts: Option<Cuts>,
    /// Latency of strata that begin earlier is not judged; `None` before the canary's first request.
    judged_from: Option<u64>,
    next_epoch_s: u64,
    /// Stable's requests and errors so far, those of the ten minutes before included.
    stable_n: u64,
    stable_k: u64,
    alone: Alone,
    client_errors: [f64; 9],
    /// Requests and errors since the release began.
    pub(crate) seen: Table,
    pub(crate) slow_seen: [Table; QUANTILES.len()],
    /// Per lane, the evidence as a ratio.
    pub(crate) lanes: [f64; LANES],
    /// Seconds without any request.
    pub(crate) idle_s: u64,
    /// Seconds for which the evidence has been suspicious.
    pub(crate) suspicious_s: u64,
    /// Seconds for which both arms have been above the SLO.
    pub(crate) degraded_s: u64,
    /// Stable is above the SLO by itself.
    pub(crate) stable_degraded: bool,
    pub(crate) split_fault: f64,
    /// Dispersion used in the last main stratum: errors, then latency.
    pub(crate) dispersion: [f64; 2],
    #[serde(skip)]
    open: Open,
    #[serde(skip)]
    crash_since: u64,
    #[serde(skip)]
    crash: Table,
    /// The last one to two minutes.
    #[serde(skip)]
    recent: [Table; 2],
    #[serde(skip)]
    strata: VecDeque<(Table, f64)>,
    /// Latencies since the release began, of stable and of the canary; for words only.
    #[serde(skip)]
    pub(crate) latency: [Vec<u64>; 2],
}

impl Trial {
    pub(crate) fn new(release: Release, config: &Config, history: &History) -> Self {
        let spread = history.spread();
        let (stable_n, stable_k) = history.totals();
        Self {
            release,
            second: 0,
            weight_percent: 0,
            audience: false,
            canary_pods: 0,
            step: Step::default(),
            evidence: Evidence::new(),
            margins: Margins::new(config, &spread, 1),
            spread,
            cuts: None,
            judged_from: None,
            next_epoch_s: EPOCH_S,
            stable_n,
            stable_k,
            alone: Alone::default(),
            client_errors: [0.0; 9],
            seen: Table::default(),
            slow_seen: [Table::default(); QUANTILES.len()],
            lanes: [1.0; LANES],
            idle_s: 0,
            suspicious_s: 0,
            degraded_s: 0,
            stable_degraded: false,
            split_fault: 0.0,
            dispersion: [1.0; 2],
            open: Open::default(),
            crash_since: 0,
            crash: Table::default(),
            recent: [Table::default(); 2],
            strata: VecDeque::with_capacity(KEPT_STRATA),
            latency: [Vec::new(), Vec::new()],
        }
    }

    /// Counts one second. Returns whether the evidence may have moved.
    pub(crate) fn pass(
        &mut self,
        delta: &Delta,
        now: Circumstances,
        config: &Config,
        buckets: &Buckets,
        history: &mut History,
    ) -> bool {
        let before = self.second;
        if (now.weight_percent, now.audience) != (self.weight_percent, self.audience) {
            self.begin_step(now, config, buckets, history);
        }
        self.second += u64::from(now.elapsed_s);
        self.notice_pods(now.canary_pods);
        self.step.seconds += u64::from(now.elapsed_s);
        self.count(delta);
        self.watch_traffic(delta, now);
        let mut moved = false;
        if self.crash.requests() >= CRASH_REQUESTS || self.second - self.crash_since >= CRASH_MAX_S {
            self.close_crash();
            moved = true;
        }
        let on_the_mark = self.second / STRATUM_S > before / STRATUM_S;
        let full = on_the_mark && self.open.errors.requests() >= STRATUM_REQUESTS;
        if full || self.second - self.open.since >= STRATUM_MAX_S {
            self.close_main(config, buckets, history);
            moved = true;
        }
        moved
    }

    /// There is no stable request of the kind that the canary gets, or none that can be told from others.
    pub(crate) const fn is_alone(&self) -> bool {
        self.weight_percent >= 100 || self.audience
    }

    /// Drops what is counted in open strata, for both arms alike.
    pub(crate) fn discard_open(&mut self) {
        self.open = Open { since: self.second, ..Open::default() };
        self.crash = Table::default();
        self.crash_since = self.second;
    }

    /// A new weight: the straddling strata go, the margins follow the canary's size, advancing begins anew.
    fn begin_step(&mut self, now: Circumstances, config: &Config, buckets: &Buckets, history: &mut History) {
        self.step = Step::default();
        self.weight_percent = now.weight_percent;
        self.audience = now.audience;
        self.split_fault = 0.0;
        self.discard_open();
        self.margins = Margins::new(config, &self.spread, now.canary_pods);
        self.set_cuts(config, buckets, history);
    }

    /// Thresholds once set stay; the margins around them may change.
    fn set_cuts(&mut self, config: &Config, buckets: &Buckets, history: &mut History) {
        let known = self.cuts.map(|c| c.near);
        let first = || history.latencies().map(|counts| Thresholds::new(&counts, config, buckets));
        let Some(near) = known.or_else(first) else { return };
        let cuts = Cuts::new(near, &self.margins, config, buckets);
        history.keep(cuts.slow.map(|c| c.stable));
        self.cuts = Some(cuts);
    }

    /// A new pod of the canary is cold for a while; so is the canary at its first request.
    fn notice_pods(&mut self, canary_pods: u32) {
        if canary_pods > self.canary_pods && self.judged_from.is_some() && self.canary_pods > 0 {
            self.judged_from = Some(self.second + BURN_IN_S);
        }
        self.canary_pods = canary_pods;
    }

    fn count(&mut self, delta: &Delta) {
        let (canary, stable) = (&delta.canary, &delta.stable);
        let table = |canary_k, stable_k| {
            Table { canary_n: canary.completed, canary_k, stable_n: stable.completed, stable_k }.sound()
        };
        let errors = table(canary.errors, stable.errors);
        self.crash.add(errors);
        self.open.errors.add(errors);
        self.open.client_errors.add(table(canary.client_errors, stable.client_errors));
        if canary.started + canary.completed > 0 && self.judged_from.is_none() {
            self.judged_from = Some(self.second.saturating_sub(1) + BURN_IN_S);
        }
        for (arm, from) in [stable, canary].into_iter().zip(&mut self.latency) {
            for (bucket, count) in &arm.latency {
                if let Some(total) = from.get_mut(*bucket as usize) {
                    *total += count;
                }
            }
        }
        let Some(cuts) = &self.cuts else { return };
        let pairs = cuts.slow.iter().zip(&mut self.open.slow).chain(cuts.fast.iter().zip(&mut self.open.fast));
        for (cut, table) in pairs {
            for (bucket, count) in &canary.latency {
                table.canary_n += count;
                table.canary_k += if *bucket >= cut.canary { *count } else { 0 };
            }
            for (bucket, count) in &stable.latency {
                table.stable_n += count;
                table.stable_k += if *bucket >= cut.stable { *count } else { 0 };
            }
        }
    }

    fn watch_traffic(&mut self, delta: &Delta, now: Circumstances) {
        let (canary, stable) = (&delta.canary, &delta.stable);
        if canary.started + stable.started + canary.completed + stable.completed == 0 {
            self.idle_s += u64::from(now.elapsed_s);
        } else {
            self.idle_s = 0;
        }
        if canary.started + stable.started > 0 {
            self.split_fault = self.step.split_fault(stable.started, canary.started, now);
        }
    }

    /// Stable's failure rate, as known so far.
    pub(crate) fn expected_rate(&self) -> f64 {
        (self.stable_k as f64 + 0.5) / (self.stable_n as f64 + 1.0)
    }

    /// Recomputes the evidence; as a ratio.
    pub(crate) fn weigh(&mut self) -> f64 {
        self.lanes = Lane::ALL.map(|lane| self.evidence.lane(lane));
        Evidence::total(&self.lanes)
    }

    /// Evidence (nats) against the canary by itself, at full weight.
    pub(crate) fn alone(&self) -> f64 {
        self.alone.log()
    }

    /// Evidence (nats) that the canary answers 4xx more often than stable.
    pub(crate) fn client_errors(&self) -> f64 {
        mixture(&self.client_errors)
    }

    /// The odds ratio of failing that the canary has at least: the largest whose own e-process over the kept strata
    /// exceeds the bound (nats).
    pub(crate) fn odds_at_least(&self, bound: f64) -> f64 {
        const STEPS: [f64; 9] = [1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0];
        let exceeds = |psi0: f64| {
            let mut logs = [0.0; 9];
            for (table, phi) in &self.strata {
                let mut step = [0.0; 9];
                kernel::exact_grid(*table, psi0, &ERROR_RATIOS, &mut step);
                step.iter_mut().for_each(|log| *log /= phi);
                add(&mut logs, &step, CAP);
            }
            mixture(&logs) >= bound
        };
        STEPS.into_iter().rev().find(|psi0| exceeds(*psi0)).unwrap_or(0.0)
    }
}
