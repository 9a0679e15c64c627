//! The end of a stratum: its counts become evidence, and the next one begins.

use super::{KEPT_STRATA, Open, Trial};
use crate::verdict::advance::SHOWN;
use crate::verdict::buckets::Buckets;
use crate::verdict::config::{CAP, Config, EPOCH_S, LONG_STRATUM_S, STRATUM_REQUESTS};
use crate::verdict::evidence::add;
use crate::verdict::history::History;
use crate::verdict::kernel::{self, Table, mixture};
use crate::verdict::lanes::{CrashStep, ERROR_RATIOS, ErrorStep, QUANTILES, SLO_MULTIPLES, latency_step, multiples};

/// Odds ratio of 4xx that is worth a word.
const CLIENT_ERROR_ODDS: f64 = 2.0;

impl Trial {
    pub(super) fn close_crash(&mut self) {
        if self.crash.canary_n > 0 {
            self.evidence.add_crash(self.crash, &CrashStep::new(self.crash));
        }
        self.crash = Table::default();
        self.crash_since = self.second;
    }

    pub(super) fn close_main(&mut self, config: &Config, buckets: &Buckets, history: &mut History) {
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
}
