//! One release on trial: seconds become strata, strata become evidence.
//!
//! Two clocks run: the main stratum (errors, latency, advancing) and the crash stratum (seconds). Both close on totals of
//! requests, never on how many failed. What a second means for the release is decided in `engine`.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::advance::{SHOWN, Step};
use super::alone::Alone;
use super::buckets::Buckets;
use super::config::{
    BURN_IN_S, CAP, CRASH_MAX_S, CRASH_REQUESTS, Config, EPOCH_S, LONG_STRATUM_S, STRATUM_MAX_S, STRATUM_REQUESTS,
    STRATUM_S,
};
use super::counters::Delta;
use super::cuts::{Cuts, Thresholds};
use super::engine::Circumstances;
use super::evidence::{Evidence, add};
use super::history::History;
use super::kernel::{self, Table, mixture};
use super::lanes::{
    CrashStep, ERROR_RATIOS, ErrorStep, LANES, Lane, QUANTILES, SLO_MULTIPLES, latency_step, multiples,
};
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
/// No release lasts longer, in seconds: thirty years.
const LONGEST_S: u64 = 1_000_000_000;
/// Odds ratio of 4xx that is worth a word.
const CLIENT_ERROR_ODDS: f64 = 2.0;

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

    fn close_crash(&mut self) {
        if self.crash.canary_n > 0 {
            self.evidence.add_crash(self.crash, &CrashStep::new(self.crash));
        }
        self.crash = Table::default();
        self.crash_since = self.second;
    }

    fn close_main(&mut self, config: &Config, buckets: &Buckets, history: &mut History) {
        let stratum = self.open;
        let cap = if self.second - stratum.since > LONG_STRATUM_S { 2.0 * CAP } else { CAP };
        self.close_errors(&stratum, cap, config, history);
        self.close_latency(&stratum, cap, history);
        self.stable_n = self.stable_n.saturating_add(stratum.errors.stable_n);
        self.stable_k = self.stable_k.saturating_add(stratum.errors.stable_k);
        self.watch_slo(stratum.errors, config);
        if self.second >= self.next_epoch_s {
            self.evidence.start_epoch(self.second);
            self.alone.start_epoch();
            self.next_epoch_s = (self.second / EPOCH_S + 1) * EPOCH_S;
        }
        self.open = Open { since: self.second, ..Open::default() };
        if self.cuts.is_none() {
            self.set_cuts(config, buckets, history);
        }
    }

    fn close_errors(&mut self, stratum: &Open, cap: f64, config: &Config, history: &History) {
        let table = stratum.errors;
        let phi = self.cluster(table.canary_n, history.correlation(0));
        self.dispersion[0] = phi;
        let expected = self.expected_rate();
        self.evidence.add_errors(table, &ErrorStep::new(table, config, &self.margins, phi), cap);
        self.step.add_errors(table, config, expected, phi);
        self.seen.add(table);
        let mut client = [0.0; 9];
        kernel::exact_grid(stratum.client_errors, CLIENT_ERROR_ODDS, &ERROR_RATIOS, &mut client);
        client.iter_mut().for_each(|log| *log /= phi);
        add(&mut self.client_errors, &client, cap);
        if self.is_alone() {
            self.alone.add(table, self.tolerated_alone(config), phi, cap);
        }
        if table.compares() {
            if self.strata.len() == KEPT_STRATA {
                self.strata.pop_front();
            }
            self.strata.push_back((table, phi));
        }
    }

    fn close_latency(&mut self, stratum: &Open, cap: f64, history: &History) {
        let warm = self.judged_from.is_some_and(|from| stratum.since >= from);
        if !warm || self.cuts.is_none() {
            return;
        }
        let n = stratum.slow[0].canary_n;
        let phi: [f64; QUANTILES.len()] = std::array::from_fn(|i| self.cluster(n, history.correlation(1 + i)));
        self.dispersion[1] = phi[self.evidence.worst_quantile()];
        self.evidence.add_latency(&stratum.slow, &latency_step(&stratum.slow, &phi), cap);
        self.step.add_latency(&stratum.fast, SHOWN.map(|i| phi[i]));
        self.slow_seen.iter_mut().zip(stratum.slow).for_each(|(sum, table)| sum.add(table));
    }

    /// By how much requests of one stratum count as fewer, because those on one pod fail together.
    fn cluster(&self, canary_n: u64, correlation: Option<f64>) -> f64 {
        let per_pod = canary_n as f64 / f64::from(self.canary_pods.max(1));
        1.0 + (per_pod - 1.0).max(0.0) * correlation.unwrap_or(0.0)
    }

    /// Stable's failure rate, as known so far.
    pub(crate) fn expected_rate(&self) -> f64 {
        (self.stable_k as f64 + 0.5) / (self.stable_n as f64 + 1.0)
    }

    /// At full weight: the SLO, or 1.5 times what stable may have had, if that is more.
    fn tolerated_alone(&self, config: &Config) -> f64 {
        let (n, k) = (self.stable_n as f64, self.stable_k as f64);
        let upper = if self.stable_n < STRATUM_REQUESTS { 0.0 } else { (k + 3.0 + 3.0 * (k + 2.0).sqrt()) / n };
        config.slo_error_rate.max(1.5 * upper).min(0.6)
    }

    /// Whether both arms, or stable alone, are above the SLO in the last minutes.
    fn watch_slo(&mut self, table: Table, config: &Config) {
        let minute = |s: u64| s / EPOCH_S;
        let before = self.open.since;
        if minute(self.second) > minute(before) {
            self.recent = [Table::default(), self.recent[0]];
        }
        self.recent[0].add(table);
        let mut recent = self.recent[0];
        recent.add(self.recent[1]);
        let breaches = |table: Table| {
            let mut logs = [0.0; 9];
            multiples(table, config.slo_error_rate, &SLO_MULTIPLES, &mut logs);
            mixture(&logs) >= 20_f64.ln()
        };
        let (canary, stable) = (breaches(recent), breaches(recent.swapped()));
        self.stable_degraded = stable;
        self.degraded_s = if canary && stable { self.degraded_s + (self.second - before) } else { 0 };
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

    /// After a restart: memory is laid out anew, the gap belongs to no stratum.
    pub(crate) fn resume(&mut self, buckets: &Buckets) {
        self.evidence.resume();
        self.latency = [vec![0; buckets.count()], vec![0; buckets.count()]];
        self.strata.reserve(KEPT_STRATA);
        self.discard_open();
    }

    /// A copy small enough for a status.
    pub(crate) fn journalled(&self) -> Self {
        Self {
            evidence: self.evidence.journalled(),
            strata: VecDeque::new(),
            latency: [Vec::new(), Vec::new()],
            ..self.clone()
        }
    }

    /// Whether numbers that came from outside can be used.
    pub(crate) fn is_sound(&self, buckets: &Buckets) -> bool {
        let cuts = self.cuts.iter().all(|cuts| cuts.is_sound(buckets));
        let Margins { error_odds, slo_odds, latency } = &self.margins;
        let margins = [error_odds, slo_odds].into_iter().chain(latency).all(|m| (1.0..=100.0).contains(m));
        let Spread { pods: _, odds, latency } = &self.spread;
        let spread = [odds].into_iter().chain(latency).all(|d| (0.0..=100.0).contains(d));
        let logs = self.client_errors.iter().all(|log| log.is_finite() && *log < 1e6);
        let times =
            [self.second, self.next_epoch_s, self.idle_s, self.suspicious_s, self.degraded_s, self.step.seconds];
        let times = times.into_iter().chain(self.judged_from).all(|second| second <= LONGEST_S);
        let counts = self.stable_k <= self.stable_n && self.weight_percent <= 100 && self.split_fault.is_finite();
        self.alone.is_sound()
            && times
            && cuts
            && margins
            && spread
            && logs
            && counts
            && self.evidence.is_sound()
            && self.step.is_sound()
    }
}
